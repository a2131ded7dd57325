"""The metrics that a run logs: one table for everything that sorts, monitors or prints them."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric is compared and shown.

    Args:
        mode: ``max`` or ``min``: which values are better.
        percent: shown in percent in reports; logged as a fraction.
        in_summary: listed in the score table at the end of a run.
    """

    mode: str
    percent: bool = True
    in_summary: bool = True


# Logged as val/<name> and test/<name>. lit_modules.Classifier computes them, lit_modules.Evaluator computes ece.
METRICS = {
    "loss": Metric("min", percent=False),
    "top1": Metric("max"),
    "top5": Metric("max"),
    "f1_macro": Metric("max"),
    "ece": Metric("min", percent=False, in_summary=False),
}


# Metric names in other projects → names here.
HABITS = dict.fromkeys("acc accuracy acc1 acc@1 top_1".split(), "top1") | {"acc5": "top5", "f1": "f1_macro"}


def known(name: str) -> Metric | None:
    """The metric behind ``val/top1``, ``test/flip/top1`` or ``test/accuracy/cat``; None for one that a user added."""
    parts = name.split("/")
    return Metric("max") if "accuracy" in parts else METRICS.get(parts[-1])


def lower_is_better(name: str) -> bool:
    """Whether smaller values of a metric are better; for an unknown metric, whether the name ends in ``loss``."""
    metric = known(name)
    return metric.mode == "min" if metric else name.endswith("loss")


def is_percentage(name: str) -> bool:
    """Whether reports show a metric in percent."""
    metric = known(name)
    return metric is not None and metric.percent


def check_monitor(monitor: str, mode: str, own: Collection[str] = ()) -> None:
    """Raise a ValueError if this metric cannot select checkpoints, or if ``mode`` would select the worst.

    Args:
        own: names of metrics that the user has added.
    """
    name = monitor.removeprefix("val").lstrip("/_")
    if name in HABITS and not (monitor.startswith("val/") and name in own):
        raise ValueError(f"monitor={monitor}: no such metric; did you mean val/{HABITS[name]}?")
    if not monitor.startswith("val/"):
        raise ValueError(f"monitor={monitor}: expected a validation metric, such as val/top1 or val/loss")
    names = [f"val/{name}" for name in (*METRICS, *own) if name != "ece"]
    if monitor not in names and (near := get_close_matches(monitor, names, n=1, cutoff=0.9)):
        raise ValueError(f"monitor={monitor}: no such metric; did you mean {near[0]}?")
    if mode not in ("min", "max") or mode == wrong_mode(monitor):
        raise ValueError(f"mode={mode} with monitor={monitor}; expected mode=min for a loss, mode=max for a score")


def wrong_mode(name: str) -> str | None:
    """The mode that would prefer the worst values of a metric; None for an unknown metric."""
    metric = known(name)
    mode = metric.mode if metric else "min" if name.endswith("loss") else None
    return {"min": "max", "max": "min", None: None}[mode]
