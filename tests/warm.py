"""Imported, it has trained for three steps: what is slow only the first time happens before a process forks."""

import tempfile
from pathlib import Path

import torch

from tests.conftest import PLAIN, TINY, compose_in
from train import train

if not torch.cuda.device_count():  # beside a GPU, autograd refuses to work in a fork of a process that has used it
    with tempfile.TemporaryDirectory() as folder:
        train(compose_in(Path(folder), TINY[: -len(PLAIN)], "train"))  # with the figures
