"""The checkpoint of the best epoch, which is tested and reported."""

import inspect
import math
import os
from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks.training_position import resumes_own_run
from results.run_folder import LAST

# Options of ModelCheckpoint that neither add files nor write at other times than right after a validation.
ALLOWED = {"verbose", "auto_insert_metric_name", "every_n_epochs", "enable_version_counter"}
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
MORE = "'+callbacks.more={_target_:lightning.pytorch.callbacks.ModelCheckpoint,save_top_k:-1}'"


class BestCheckpoint(ModelCheckpoint):
    """Keep one checkpoint: that of the validation with the best ``monitor`` and, among equal ones, the lowest loss.

    Lightning's ``ModelCheckpoint`` keeps the first of several equal scores, whatever the losses. It also stores
    absolute paths; here they are names in ``dirpath``, so that a run's folder can be moved.

    Args:
        dirpath: the folder to write to.
        monitor: the metric that decides, the same as the run's.
        mode: ``max`` or ``min``.
        filename: without ``.ckpt``.
        options: of ``ModelCheckpoint``. Options that write further files, or at other times than right after a
            validation, are rejected: the reported scores would not be those of the tested file.
    """

    def __init__(self, dirpath: str, monitor: str, mode: str, filename: str = "best", **options: Any):
        parameters = inspect.signature(ModelCheckpoint).parameters
        for name, value in options.items():
            if name in parameters and name not in ALLOWED and value not in (None, parameters[name].default):
                raise ValueError(
                    f"callbacks.checkpoint.{name}={value}: this callback keeps one file, the best, which is tested and "
                    f"reported; for further checkpoints add a callback: {MORE}"
                )
        if f"{filename}.ckpt" == LAST:
            raise ValueError(f"callbacks.checkpoint.filename={filename}: {LAST} is the checkpoint to resume from")
        super().__init__(dirpath, filename, monitor, mode=mode, **options | {"enable_version_counter": False})
        self.best_loss = math.inf
        self._other_run = False

    @property
    def state_key(self) -> str:
        """Without ``every_n_epochs``, so that a run can resume with another value."""
        return f"{type(self).__name__}{dict(monitor=self.monitor, mode=self.mode)}"

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether the last validation is the best so far."""
        loss = float(trainer.callback_metrics.get("val/loss", math.nan))
        better = super().check_monitor_top_k(trainer, current)
        if not better and current is not None and self.best_model_score is not None:
            tied = bool(current == self.best_model_score) and (loss < self.best_loss)
            better = trainer.strategy.reduce_boolean_decision(tied)
        if better:
            self.best_loss = math.inf if math.isnan(loss) else loss
        return better

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {"best_loss": self.best_loss, "dirpath": ""}
        return _with_paths(state, os.path.basename)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Accept the state of Lightning's ``ModelCheckpoint`` from an older run; later ties do not replace the best."""
        self._other_run = not resumes_own_run(trainer)
        states, earlier = checkpoint["callbacks"], super().state_key.replace(type(self).__name__, "ModelCheckpoint", 1)
        if earlier in states:
            states.setdefault(self.state_key, {"best_loss": -math.inf} | states[earlier])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._other_run:  # the best file of another run is not in this folder
            state = _with_paths(state_dict, lambda path: os.path.join(self.dirpath, os.path.basename(path)))
            super().load_state_dict(state | {"dirpath": self.dirpath})
            self.best_loss = state_dict["best_loss"]


def _with_paths(state: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The state of a ``ModelCheckpoint`` with every path changed."""
    paths = {key: change(state[key]) for key in PATHS if state.get(key)}
    return state | paths | {"best_k_models": {change(path): score for path, score in state["best_k_models"].items()}}
