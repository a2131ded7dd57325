"""Score a trained network: test metrics and the calibration of the confidence."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lit_modules.classifier import Classifier

TTA = (None, "flip")


class Evaluator(Classifier):
    """A Classifier for testing only.

    Logs the test metrics of ``Classifier`` and ``test/ece``, the expected calibration error. With ``tta=flip`` it logs
    them, except the accuracy per class, a second time as ``test/flip/…``, computed from the mean probabilities of each
    image and the mirrored image.

    Args:
        tta: test-time augmentation: None or ``flip``.
        bins: number of confidence bins of equal width, for the calibration error.
        options: as in ``Classifier``.

    Attributes:
        logits, probabilities: ``(N, num_classes)`` float32, without augmentation, in the order of the data, on the CPU.
        labels: ``(N,)`` int64.
    """

    logits: Tensor
    probabilities: Tensor
    labels: Tensor

    def __init__(self, *args: Any, tta: str | None = None, bins: int = 15, **options: Any):
        super().__init__(*args, optimizer=None, **options)
        if tta not in TTA:
            raise ValueError(f"tta={tta} is neither null nor flip")
        if bins < 1:
            raise ValueError(f"bins={bins}; expected at least 1")
        self.tta, self.bins = tta, bins
        self.flip_metrics = self.test_metrics.clone(prefix="test/flip/") if tta else None
        self._seen: list[tuple[Tensor, ...]] = []

    def setup(self, stage: str) -> None:
        self.compile_backbone()

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._seen = []
        if self.flip_metrics:
            self.log_dict(self.flip_metrics)

    def test_step(self, batch, batch_idx: int) -> Tensor:
        logits, labels = super().test_step(batch, batch_idx), batch[1]
        seen = [labels, logits.float()]
        if self.flip_metrics:
            mean = (logits.float().softmax(1) + self(batch[0].flip(3)).float().softmax(1)) / 2
            losses = -mean.gather(1, labels[:, None]).clamp(min=1e-30).log()
            self.flip_metrics.update(preds=mean, target=labels, total=losses.sum(), images=len(labels))
            seen.append(mean)
        self._seen.append(tuple(seen))
        return logits

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.labels, self.logits, *flipped = (torch.cat(parts).cpu() for parts in zip(*self._seen, strict=True))
        self.probabilities = self.logits.softmax(1)
        self.log("test/ece", self._calibration_error(self.probabilities))
        for probabilities in flipped:
            self.log("test/flip/ece", self._calibration_error(probabilities))

    def _calibration_error(self, probabilities: Tensor) -> Tensor:
        probabilities = probabilities.clamp(max=1 - 2**-24)  # torchmetrics would put 1.0 in an extra bin
        return multiclass_calibration_error(probabilities, self.labels, self.num_classes, n_bins=self.bins)
