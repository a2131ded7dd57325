"""What a run says on the console: what it will do, and what came of it."""

import logging
import os
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

from studies.record import is_main_process

# Warnings of Lightning and torch about things that are meant, or that a user cannot mend.
NOISE = (
    r".*LeafSpec",  # torch's pytree, used by Lightning
    r".*does not have many workers",  # batches of indices into memory need none
    r".*is smaller than the logging interval",
    r".*exists and is not empty",  # a resumed run's checkpoints
    r".*treespec",
)
# Settings that no run changes.
UNSAID = ("default_root_dir", "enable_model_summary", "plugins", "use_distributed_sampler")


def quiet_lightning() -> None:
    """Leave Lightning's warnings to Hydra's logging, and leave out what only repeats the config.

    With several processes, only the first one speaks.
    """
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    if not is_main_process():
        logging.disable(logging.INFO)


def summary(config: Mapping[str, Any]) -> str:
    """The composed config, a paragraph a part.

    Args:
        config: resolved, as plain dicts.
    """
    lines = [f"seed         {config['seed']}"]
    for part in ("datamodule", "model", "lit_module", "optimizer", "scheduler", "trainer"):
        values = config.get(part) or {}
        name = values.get("_target_", "none").rpartition(".")[2]
        shown = [
            f"{key}={_short(value)}"
            for key, value in values.items()
            if value is not None and not key.startswith("_") and key not in UNSAID
        ]
        text = textwrap.fill(f"{name}  {' '.join(shown)}", 96, subsequent_indent=" " * 13)
        lines.append(f"{part:<12} {text}")
    return "\n".join(lines)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return "{" + ",".join(key for key, entry in value.items() if entry is not None) + "}"
    return str(value).replace(" ", "")


def result(record: Mapping[str, Any], monitor: str, best_epoch: int | None, run_dir: str) -> str:
    """The last lines of a run: the scores, the folder, and where to look."""
    metrics = record["metrics"]
    scores = [f"{name} {metrics[name]:.4f}" for name in ("test/top1", "test/top5", "test/f1_macro") if name in metrics]
    lines = [f"result       {'  '.join(scores)}"]
    if best_epoch is not None:
        lines.append(f"best epoch   {best_epoch + 1} of {record['epochs']}  ({monitor} {metrics[monitor]:.4f})")
    if record["images_per_second"]:
        speed = f"{record['images_per_second']:,.0f} images a second"
        lines.append(f"training     {record['train_seconds']:.1f} s, {speed}, on {record['device']}")
    folder = run_dir.removeprefix(os.getcwd() + os.sep)
    lines.append(f"run          {folder}")
    lines.append(f"look at it   tensorboard --logdir {'runs' if folder.startswith('runs' + os.sep) else folder}")
    return "\n".join(lines)
