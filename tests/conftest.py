"""What tests share: composing a config as the scripts do, and running ``train`` on it."""

import importlib
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image

# Two workers with two threads each would wait for one another, and a process whose threads have run cannot be forked.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
# Without figures: they take two thirds of a short run's time.
PLAIN = [f"callbacks.{name}=null" for name in ("curves", "confusion_matrix", "mistakes", "pictures")]
# A run of a third of a second: three batches of training, one epoch.
TINY = "datamodule=synthetic datamodule.num_images=64 datamodule.batch_size=16 trainer=cpu trainer.max_epochs=1".split()
TINY += PLAIN
SCORED = ["trainer=cpu", *(f"callbacks.{name}=null" for name in ("confusion_matrix", "reliability", "mistakes"))]


def compose_in(folder: Path, overrides, config_name: str) -> DictConfig:
    importlib.import_module("launch.run_names")  # registers the resolvers that conf/ uses
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, [f"run_dir={folder}", *overrides])


@pytest.fixture
def composed(tmp_path):
    """A function from overrides to the config that ``train.py`` would get, with its run in ``tmp_path``."""
    return lambda *overrides, config_name="train": compose_in(tmp_path, overrides, config_name)


@pytest.fixture
def examine(tmp_path, monkeypatch, capsys):
    """A function that checks a command line without running it.

    Returns: ``code``, the exit code; ``error``, what follows ``error: ``; ``sweep``, for a sweep that would start.
    """
    from launch import checks, main, sweeps

    def examined(args, config_name="train", check=None):
        def stopping(method):
            def stop(self, config, **options):
                method(self, config, **options)
                raise SystemExit(0)

            return stop

        GlobalHydra.instance().clear()
        with monkeypatch.context() as patch:
            for name in ("on_run_start", "on_multirun_start"):
                patch.setattr(checks.LaunchChecks, name, stopping(getattr(checks.LaunchChecks, name)))
            for name in ("HYDRA_FULL_ERROR", "SHOW_TRACEBACKS", "SWEEP_SIZE"):
                patch.setenv(name, "0")
            patch.setattr(sys, "argv", [f"{config_name}.py", *args])
            patch.setattr(sweeps, "current", None)
            if Path.cwd() == ROOT:
                patch.chdir(tmp_path)
            patch.setattr(logging.root, "handlers", [])  # Hydra's write to the stdout that is captured here
            patch.setattr(logging.root, "level", logging.WARNING)
            capsys.readouterr()
            with pytest.raises(SystemExit) as end:
                main.run(lambda cfg: None, config_name, check)
            sweep = sweeps.current
        lines = capsys.readouterr().err.splitlines()
        error = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
        return SimpleNamespace(code=end.value.code, error=error, sweep=sweep, lines=lines)

    return examined


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run: two epochs of LeNet on digits, so that it knows something and makes mistakes."""
    from train import train

    folder = tmp_path_factory.mktemp("runs") / "digits"
    plain_images = ["datamodule.augmentation=null", "datamodule.batch_size=64"]
    train(compose_in(folder, ["trainer=cpu", "trainer.max_epochs=2", *plain_images, *PLAIN], "train"))
    return folder


def picture(rng, dog: int) -> Image.Image:
    """Stripes and noise: lying on a cat, upright on a dog; the colours, the stripes' width and the size say nothing."""
    height, width = rng.integers(64, 100, 2)
    place = np.arange(width)[None, :] if dog else np.arange(height)[:, None]
    stripes = np.sin(2 * np.pi * (place / rng.uniform(8, 16) + rng.random()))[..., None]  # (1 or h, 1 or w, 1)
    colour = rng.choice([-60, 60], 3) * rng.uniform(0.5, 1, 3)
    pixels = 128 + stripes * colour + rng.normal(0, 15, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def contest(tmp_path_factory):
    """A contest as Kaggle hands it out: ``folder`` with ``train/cat.0.jpg`` … and ``test1/1.jpg`` … without labels.

    ``labels`` has what nobody is told: of each id in ``test1`` whether it is a dog (1) or a cat (0). A mistake shows:
    there are 130 cats and 90 dogs to learn from, 11 cats and 24 dogs to tell apart, without a pattern in their ids;
    the files were not written in the ids' order, and by name 10.jpg comes before 2.jpg.
    """
    folder, rng = tmp_path_factory.mktemp("contest"), np.random.default_rng(0)
    for part in ("train", "test1"):
        (folder / part).mkdir()
    for name, dog, count in (("dog", 1, 90), ("cat", 0, 130)):
        for number in range(count):
            picture(rng, dog).save(folder / "train" / f"{name}.{number}.jpg", quality=90)
    labels = dict(enumerate(rng.permutation(11 * [0] + 24 * [1]).tolist(), start=1))
    for number in rng.permutation(35) + 1:
        picture(rng, labels[number]).save(folder / "test1" / f"{number}.jpg", quality=90)
    return SimpleNamespace(folder=folder, labels=labels)


@pytest.fixture(scope="session")
def contest_run(contest, tmp_path_factory):
    """The folder of a run of the contest's experiment: its recipe, and its network with a quarter of the channels."""
    from train import train

    folder = tmp_path_factory.mktemp("runs") / "contest"
    data = "image_size=64 batch_size=16 test_fraction=0.25 val_fraction=0.2 num_workers=0".split()
    others = "optimizer.lr=0.02 trainer.max_epochs=7 trainer.accelerator=cpu model.widths=[16,32,64,128]".split()
    overrides = ["experiment=cats_vs_dogs_resnet34", f"datamodule.data_dir={contest.folder}", *others, *PLAIN]
    train(compose_in(folder, [*overrides, *(f"datamodule.{value}" for value in data)], "train"))
    return folder


@pytest.fixture(scope="session")
def forks():
    """``tests.forks.Forks`` with all imported: a function from a script and its arguments to what came of it."""
    from tests.forks import ALL, Forks

    forked = Forks(*ALL)
    yield forked
    forked.close()


@pytest.fixture(scope="session")
def lean():
    """The same, of a process that has not imported torch."""
    from tests.forks import Forks

    forked = Forks()
    yield forked
    forked.close()
