"""Attribution maps by captum: which parts of an image support the prediction."""

import warnings
from collections import Counter
from pathlib import Path

import torch
from lightning import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from results.pictures import class_labels, picture_grid, save_png

METHODS = ("occlusion", "gradcam")
FOR, AGAINST = (215.0, 25.0, 28.0), (44.0, 123.0, 182.0)  # red and blue, distinguishable for colour-blind readers


class ExplanationPlot(Callback):
    """After an Evaluator's test, write ``explain.png``: images, each next to a map of what supports the prediction.

    Half are the most confident errors (or all errors, if fewer), the rest random correct predictions.

    Args:
        dirpath: the folder to write to.
        count: number of images; 0 draws no picture.
        by: ``occlusion``: how far the prediction's log-probability falls if a window is covered; for any network.
            ``gradcam`` (Selvaraju et al. 2017): one pass forward and one back, but as coarse as the last feature map.
        seed: of the random choice.
    """

    def __init__(self, dirpath: str, count: int = 0, by: str = "occlusion", seed: int = 0):
        if by not in METHODS:
            raise ValueError(f"explain_by={by}; expected one of {', '.join(METHODS)}")
        self.dirpath, self.count, self.by, self.seed = Path(dirpath), count, by, seed

    def on_test_start(self, trainer, pl_module) -> None:
        if self.count and self.by == "gradcam":  # report an error before the test, not after it
            last_feature_map(pl_module.backbone, self._shown(trainer, pl_module, torch.tensor([0])))

    def on_test_end(self, trainer, pl_module) -> None:
        if not self.count or not trainer.is_global_zero:
            return
        indices = chosen(pl_module.probabilities, pl_module.labels, self.count, self.seed)
        answers = pl_module.probabilities[indices].argmax(1)
        with torch.inference_mode(False):  # Grad-CAM needs gradients: create tensors outside of it
            images = self._shown(trainer, pl_module, indices).clone()
            maps = explained(pl_module.backbone, images, answers.to(images.device, copy=True), self.by)
        pixels, names, titles = trainer.datamodule.pixels(indices), class_labels(pl_module.class_names), []
        for index, answer in zip(indices.tolist(), answers.tolist(), strict=True):
            confidence = pl_module.probabilities[index, answer].item()
            titles.append(f"true: {names[pl_module.labels[index]]}\npred: {names[answer]} ({confidence:.1%})")
            titles.append(f"red: for {names[answer]}" + ("\nblue: against it" if self.by == "occlusion" else ""))
        pairs = torch.stack([pixels.expand(-1, 3, -1, -1), overlaid(pixels, maps.cpu())], 1)  # (n, 2, 3, h, w)
        save_png(picture_grid(pairs.flatten(0, 1).numpy(), titles, columns=4), self.dirpath / "explain.png")

    def _shown(self, trainer, pl_module, indices: Tensor) -> Tensor:
        """The backbone's input for these images."""
        pixels = trainer.datamodule.pixels(indices).to(pl_module.device)
        return trainer.datamodule.normalize(pixels).contiguous(memory_format=pl_module.memory_format)


def chosen(probabilities: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of ``count`` images: half the most confident errors, or all errors; then random correct predictions."""
    confidence, predicted = probabilities.max(1)
    order = confidence.argsort(descending=True, stable=True)
    right, wrong = (predicted == labels).nonzero()[:, 0], order[(predicted != labels)[order]]
    wrong = wrong[: max(count // 2, count - len(right))]
    drawn = torch.randperm(len(right), generator=torch.Generator().manual_seed(seed))
    return torch.cat([wrong, right[drawn[: count - len(wrong)]]])


def explained(backbone: nn.Module, images: Tensor, classes: Tensor, by: str) -> Tensor:
    """How much each pixel supports a class, negative if it speaks against it: ``(N, h, w)`` float32.

    Args:
        backbone: in evaluation mode.
        images: ``(N, c, h, w)``, normalised.
        classes: ``(N,)``.
        by: one of ``METHODS``.
    """
    from captum.attr import LayerGradCam, Occlusion  # an extra

    channels, *size = images.shape[1:]
    if by == "gradcam":
        layer = last_feature_map(backbone, images[:1])
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting (forward|backward|full)")  # about captum's own hooks
            # backbone.forward: compiled code would not run captum's hooks
            gradcam = LayerGradCam(backbone.forward, layer)
            maps = gradcam.attribute(images.requires_grad_(), classes, relu_attributions=True)
        return F.interpolate(maps.detach().float(), size, mode="bilinear").squeeze(1)
    # Cover a window of a fifth of the side, moved by half of that, with 0, the data's mean colour.
    window, step = ([channels, *(max(1, side // share) for side in size)] for share in (5, 10))
    occlusion = Occlusion(lambda covered: backbone.forward(covered).float().log_softmax(1))
    batch = max(1, 64 // len(images))  # windows at a time
    maps = occlusion.attribute(images, tuple(window), tuple(step), target=classes, perturbations_per_eval=batch)
    return maps[:, 0].float()  # the same in all channels


def last_feature_map(backbone: nn.Module, image: Tensor) -> nn.Module:
    """The layer for Grad-CAM: the last module with a map of the size of the last convolution's.

    That is before pooling and after a residual sum. A module that is used several times is ambiguous and skipped.

    Raises: ValueError: the network has no such layer, or the map has only one pixel.
    """
    calls: list[tuple[nn.Module, torch.Size | None]] = []

    def note(module, _, output) -> None:
        calls.append((module, output.shape[2:] if isinstance(output, Tensor) and output.ndim == 4 else None))

    hooks = [module.register_forward_hook(note) for module in backbone.modules() if module is not backbone]
    try:
        with torch.no_grad():
            backbone.forward(image)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(id(module) for module, _ in calls)
    size = next((size for module, size in reversed(calls) if size and isinstance(module, nn.Conv2d)), None)
    layers = [module for module, map_size in calls if map_size == size and uses[id(module)] == 1]
    if size is None or size.numel() == 1 or not layers:
        reason = f"the last one is {size[0]}×{size[1]}" if size else "this one has no convolution"
        raise ValueError(
            f"explain_by=gradcam needs a network with a feature map, but {reason}; use explain_by=occlusion"
        )
    return layers[-1]


def overlaid(pixels: Tensor, maps: Tensor) -> Tensor:
    """Grey images, red where a map is above 0 and blue below, in proportion to the map's largest value.

    Args:
        pixels: ``(N, 1 or 3, h, w)`` uint8.
        maps: ``(N, h, w)``.

    Returns: ``(N, 3, h, w)`` uint8.
    """
    grey = pixels.float().mean(1, keepdim=True)  # (N, 1, h, w)
    strength = (maps / maps.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)).unsqueeze(1)
    colours = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (FOR, AGAINST))
    colour = torch.where(strength > 0, *colours)
    return (grey + 0.7 * strength.abs() * (colour - grey)).round().to(torch.uint8)
