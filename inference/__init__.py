"""Use a trained network in a program.

from inference import load_trained
network = load_trained("runs/digits_lenet/2026-11-25_10-00-00")
network("cat.jpg")         # or a list of files, or (N, C, h, w) uint8 → probabilities (N, len(network.class_names))
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.checkpoints import TrainedClassifier

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("datamodules", "models", "results")  # the packages that opening a checkpoint imports


def check_imports() -> None:
    """Raise an ImportError if another package in the program shadows one of this project's."""
    for name in NEEDED:
        found = sys.modules.get(name) or find_spec(name)
        file = getattr(found, "__file__", None) or getattr(found, "origin", None)
        folders = getattr(found, "__path__", None) or getattr(found, "submodule_search_locations", None)
        other = file or next(iter(folders or ()), None)
        if other and (file is None or Path(file).resolve().parent != ROOT / name):
            raise ImportError(
                f"inference needs the package {name} in {ROOT}, but 'import {name}' finds {other}; rename that "
                "package, or load the network in a program without it"
            )


check_imports()


def load_trained(path: str | Path, trust: Iterable[str] = ()) -> "TrainedClassifier":
    """The network of a checkpoint file, or of the best checkpoint in a run's folder, on the CPU.

    Args:
        trust: further networks that a checkpoint may build, such as ``["models.tiny.Tiny"]``.
    """
    from inference.checkpoints import load

    check_imports()
    return load(path, trust)
