"""A harness that trains in processes of their own, kills them where it is told to, and compares what they leave.

The processes are forked from one that has imported everything, so that each costs a second, not five.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

import torch
from lightning import Callback
from torch import nn

ROOT = Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["train", "datamodules", "lit_modules", "callbacks.plots", "lit_modules.numerics", "tests.killed", "tests.warm"]
)

# Four batches an epoch, the last of them with images left over; every random generator and every hook in use.
SMALL = (
    "datamodule=synthetic datamodule.num_images=150 datamodule.batch_size=32 datamodule.image_size=8 model=lenet "
    "model._target_=tests.killed.Dropout trainer=cpu trainer.max_epochs=3 trainer.log_every_n_steps=1 "
    "callbacks.last.every_n_train_steps=1 callbacks.confusion_matrix=null callbacks.curves=null "
    "callbacks.mistakes=null +datamodule.augmentation={flip:{_target_:datamodules.RandomHorizontalFlip,p:0.5}}"
).split()


class Dropout(nn.Sequential):
    """A network that draws from the global generator in each step, with statistics of batch norm."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__(
            nn.Conv2d(in_channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * image_size**2, num_classes),
        )


class Mortal(Dropout):
    """The process whose rank is in ``MORTAL`` dies by SIGKILL in the 20th forward pass of its training."""

    passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if self.passes == 20 and os.environ.get("MORTAL") == os.environ.get("LOCAL_RANK", "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class StopAt(Callback):
    """Requests to stop after a step; keeps nothing of it."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


def in_process(task, *args, timeout=120) -> int:
    """The exit code of ``task(*args)`` in a process of its own."""
    process = started(task, *args)
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{task.__name__} hangs")
    return process.exitcode


def started(task, *args):
    """A process of its own that does ``task(*args)``, with one thread: their number changes the bits."""
    process = CONTEXT.Process(target=_run, args=(task, args))
    process.start()
    return process


def _run(task, args):
    multiprocessing.set_start_method("fork", force=True)  # of loading workers, which end when their parent has died
    torch.set_num_threads(1)
    task(*args)


def training(folder: Path, overrides, kill: tuple[str, int] | None = None) -> None:
    """Train in ``folder``; die by SIGKILL at the n-th time that a place is reached."""
    from tests.conftest import compose_in
    from train import train

    if kill:
        _die_at(*kill)
    train(compose_in(folder, overrides, "train"))


def script(folder: Path, argv) -> None:
    """``train.py`` with these arguments, from ``folder``, where ``out.txt`` and ``err.txt`` have what it says."""
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    sys.argv = [str(ROOT / "train.py"), *argv]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _die_at(place: str, time: int) -> None:
    from callbacks.atomic_checkpoint import AtomicCheckpointIO
    from callbacks.tensorboard import TensorBoard
    from lit_modules import Classifier

    seen = 0

    def at(owner, name, die):
        method = getattr(owner, name)

        def counting(*args, **options):
            nonlocal seen
            seen += 1
            if seen == time:
                die(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args, **options)

        setattr(owner, name, counting)

    def half_written(io, checkpoint, path, *_):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        whole = Path(path).with_name("whole")
        torch.save(checkpoint, whole)
        content = whole.read_bytes()
        whole.unlink()
        Path(path).with_name(f".{Path(path).name}.writing").write_bytes(content[: len(content) // 2])

    nothing = lambda *_: None  # noqa: E731
    places = {
        "step": (Classifier, "training_step", lambda module, batch, _: module(batch[0]).sum().backward()),
        "optimizer": (torch.optim.SGD, "step", nothing),
        "validation": (Classifier, "validation_step", nothing),
        "writing": (AtomicCheckpointIO, "save_checkpoint", half_written),
        "epoch": (Classifier, "on_train_epoch_end", nothing),
        "end": (Classifier, "on_train_end", nothing),
        "test": (Classifier, "test_step", nothing),
        "closing": (TensorBoard, "close", lambda logger: logger.save()),
    }
    at(*places[place])


def differences(a, b, path="") -> list[str]:
    """Where two checkpoints differ, in any bit; seconds and paths left out."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if type(a) is not type(b):
        return [f"{path}: {a!r} and {b!r}"]
    if isinstance(a, dict):
        if list(map(str, a)) != list(map(str, b)):
            return [f"{path}: keys {set(a) ^ set(b)}"]
        skipped = (
            "train_seconds",
            "num_workers",
            "run_dir",
            "dirpath",
            "folder",
            "best_model_path",
            "last_model_path",
            "best_k_models",
            "current_score",  # of the last validation that was written; Lightning does not restore it
        )
        return [
            d
            for key in a
            if key not in (*skipped, "kth_best_model_path")
            for d in differences(a[key], b[key], f"{path}/{key}")
        ]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} long"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a!r} and {b!r}"]
