"""Fine-tune in two phases: first the head, then the whole network."""

from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn


class BackboneFreezing(BaseFinetuning):
    """Freeze all layers but the head for the first epochs, then train the whole network.

    Frozen layers change neither weights nor batch norm's statistics, and normalise with the statistics. The optimizer
    holds all parameters from the start, so that schedules cover both phases; for a lower learning rate than the
    head's see ``backbone_lr_ratio`` of the Classifier.

    Args:
        frozen_epochs: epochs in which only the head is trained.
    """

    def __init__(self, frozen_epochs: int = 1):
        super().__init__()
        if frozen_epochs < 0:
            raise ValueError(f"frozen_epochs={frozen_epochs}; expected 0 or more")
        self.frozen_epochs = frozen_epochs

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            return
        if self.frozen_epochs and trainer.world_size > 1:
            # DDP averages only gradients of parameters that are trainable when it wraps the network.
            raise ValueError(
                f"frozen_epochs={self.frozen_epochs} on {trainer.world_size} devices: the backbone's gradients "
                "would not be averaged; expected trainer.devices=1, or frozen_epochs=0"
            )
        if trainer.max_epochs and 0 <= trainer.max_epochs <= self.frozen_epochs:
            raise ValueError(
                f"frozen_epochs={self.frozen_epochs} with trainer.max_epochs={trainer.max_epochs}: the backbone would "
                "never be trained; expected fewer frozen_epochs"
            )
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer, pl_module) -> None:
        """Catch up on the start of an epoch, which a run that resumes within the epoch skips."""
        self.finetune_function(pl_module, trainer.current_epoch, trainer.optimizers[0])

    def freeze_before_training(self, pl_module) -> None:
        if self.frozen_epochs:
            self.freeze(self._body(pl_module), train_bn=False)

    def finetune_function(self, pl_module, epoch: int, optimizer) -> None:
        training = epoch >= self.frozen_epochs  # not ==: a run may resume later
        body = self._body(pl_module)
        if training:
            self.make_trainable(body)
        for module in body:
            module.train(training)

    def _body(self, pl_module) -> list[nn.Module]:
        """The layers of the backbone, except the head's."""
        head = getattr(pl_module.backbone, "head", None)
        if head is None:
            raise ValueError(
                f"fine-tuning needs the head of {type(pl_module.backbone).__name__}; expected an attribute `head`"
            )
        head_layers = set(self.flatten_modules(head))
        return [module for module in self.flatten_modules(pl_module.backbone) if module not in head_layers]
