"""Console output: the config of a run, and tables of results."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from results.metrics import METRICS
from results.run_folder import short

# Settings of the Trainer that no run changes.
HIDDEN = ("default_root_dir", "enable_model_summary", "plugins", "use_distributed_sampler")
NO_PROFILER = "NullProfiler"
SCORES = tuple(name for name, metric in METRICS.items() if metric.in_summary)  # the rows of a table
WIDTH, LABEL = 80, 13  # in characters: a line, and the label that starts it
MAX_CLASSES = 30  # with more classes, a table shows those with the lowest accuracy


def summary(config: Mapping[str, Any]) -> str:
    """The composed config, one paragraph per part.

    Args:
        config: resolved, as plain dicts.
    """
    lines = [paragraph("seed", str(config["seed"]))]
    for part in ("datamodule", "model", "lit_module", "optimizer", "scheduler", "trainer"):
        values = config.get(part) or {}
        name = values.get("_target_", "none").rpartition(".")[2]
        shown = [
            f"{key}={_short(value)}"
            for key, value in values.items()
            if value is not None and not key.startswith("_") and key not in HIDDEN and _short(value) != NO_PROFILER
        ]
        lines.append(paragraph(part, " ".join([name, *shown])))
    callbacks = [name for name, values in (config.get("callbacks") or {}).items() if values is not None]
    lines.append(paragraph("callbacks", " ".join(callbacks) or "none"))
    return "\n".join(lines)


def paragraph(label: str, text: str) -> str:
    """A label followed by a text, wrapped without breaking words."""
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, WIDTH, initial_indent=f"{label:<{LABEL}}", subsequent_indent=" " * LABEL, **options)


def _short(value: Any) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        return str(value["_target_"]).rpartition(".")[2]
    if isinstance(value, dict):
        return "{" + ",".join(str(key) for key, entry in value.items() if entry is not None) + "}"
    return value if isinstance(value, str) else str(value).replace(" ", "")


def result(record: Mapping[str, Any], monitor: str, best_epoch: int | None, run_dir: str) -> str:
    """The last lines of a run: scores of the best epoch and the test, diagnosis, folder, how to view the curves."""
    metrics = record["metrics"]
    splits = [split for split in ("val", "test") if f"{split}/loss" in metrics]
    lines = [f"{'result':<12}" + "".join(f" {split:>9}" for split in splits)]
    own = [name.partition("/")[2] for name in metrics if name.startswith("val/")]
    for name in dict.fromkeys([*SCORES, *own]):
        values = [metrics[f"{split}/{name}"] for split in splits if f"{split}/{name}" in metrics]
        if values:
            lines.append(f"  {name:<10}" + "".join(f" {value:>9.4f}" for value in values))
    if best_epoch is not None:
        lines.append(f"best epoch   {best_epoch + 1} of {record['epochs']}  ({monitor} {metrics[monitor]:.4f})")
    if record["images_per_second"]:
        speed = f"{record['images_per_second']:,.0f} images/s"
        lines.append(f"training     {record['train_seconds']:.1f} s, {speed}, on {record['device']}")
    lines += [paragraph("finding", text) for text in record["findings"] or ()]
    folder = short(run_dir)
    lines.append(f"run          {folder}")
    if any(Path(run_dir).glob("events.out.tfevents.*")):
        logdir = "runs" if folder.startswith("runs" + os.sep) else quote(folder)
        lines.append(f"curves       tensorboard --logdir {logdir}")
    return "\n".join(lines)


def scores(facts: Mapping[str, Any], metrics: Mapping[str, float], counts: Mapping[str, int], run_dir: str) -> str:
    """The tables of an evaluation: scores with and without test-time augmentation, and the accuracy of each class.

    Args:
        facts: about the data, as in metrics.json.
        metrics: by full name, such as ``test/top1``, ``test/flip/top1``, ``test/accuracy/<class>``.
        counts: images of each class; classes without images are left out.
    """
    split = facts["split"]
    seen = " ".join(f"{key}={_short(facts['preprocessing'][key])}" for key in ("in_channels", "image_size"))
    lines = [f"{'data':<12} {facts['data']}, {split}: {facts['images']:,} images, seen with {seen}"]
    if facts["folder"]:
        lines.append(f"{'folder':<12} {facts['folder']}")
    if calibration := facts.get("calibration"):
        changes = [f"{n} {calibration['before'][n]:.4f} → {metrics[n]:.4f}" for n in (f"{split}/ece", f"{split}/loss")]
        source = f"temperature {calibration['temperature']:.3f} from {calibration['images']:,} val images"
        lines.append(f"{'calibrated':<12} {source}: {', '.join(changes)}")
    if members := [member["metrics"][f"{split}/top1"] for member in facts.get("members", ())]:
        each = " ".join(f"{value:.4f}" for value in members)
        lines.append(f"{'members':<12} top1 {each}, mean {sum(members) / len(members):.4f}")
    columns = {"plain": f"{split}/"} | ({"flip": f"{split}/flip/"} if f"{split}/flip/top1" in metrics else {})
    lines.append(f"{'scores':<12}" + "".join(f" {title:>9}" for title in columns))
    own = [name.partition("/")[2] for name in metrics]
    for name in dict.fromkeys([*METRICS, *(name for name in own if "/" not in name)]):
        if f"{split}/{name}" in metrics:
            lines.append(f"  {name:<10}" + "".join(f" {metrics[prefix + name]:>9.4f}" for prefix in columns.values()))
    rows = [(name, metrics[f"{split}/accuracy/{name}"], count) for name, count in counts.items() if count]
    title = "class"
    if len(rows) > MAX_CLASSES:
        title = f"the {MAX_CLASSES} of {len(rows)} classes with the lowest accuracy"
        rows = sorted(rows, key=lambda row: row[1])[:MAX_CLASSES]
    width = max(12, len(title), *(len(name) + 2 for name, _, _ in rows))
    lines.append(f"{title:<{width}}  accuracy  images")
    lines += [f"  {name:<{width - 2}}  {value:>8.4f}  {count:>6}" for name, value, count in rows]
    lines.append(f"{'run':<12} {short(run_dir)}")
    return "\n".join(lines)


def predictions(seconds: float, images: int, counts: Mapping[str, int], broken: Sequence[str], output: Path) -> str:
    """The last lines of a prediction: number of images, speed, classes, and files that could not be read.

    Args:
        counts: images of each predicted class; empty for features.
        broken: a message for each unreadable file.
    """
    lines = [f"{'predicted':<12} {images:,} images in {seconds:.1f} s, {images / seconds:,.0f} images/s"]
    if 0 < len(counts) <= MAX_CLASSES:
        parts = [f"{name} {count:,}".replace(" ", "\0") for name, count in counts.items()]
        lines.append(paragraph("classes", "  ".join(parts)).replace("\0", " "))  # keeps a name and a number together
    if broken:
        lines.append(f"{'broken':<12} {len(broken):,} left out")
        lines += [f"  {' '.join(message.split())}" for message in broken[:10]]
        lines += [f"  and {len(broken) - 10:,} more"] if len(broken) > 10 else []
    lines.append(f"{'output':<12} {short(output)}")
    return "\n".join(lines).encode(errors="backslashreplace").decode()  # a file name may not be valid UTF-8
