"""What tests share: composing a config as the scripts do, and running ``train`` on it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"


def compose_in(folder: Path, overrides, config_name: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, [f"run_dir={folder}", *overrides])


@pytest.fixture
def composed(tmp_path):
    """A function from overrides to the config that ``train.py`` would get, with its run in ``tmp_path``."""
    return lambda *overrides, config_name="train": compose_in(tmp_path, overrides, config_name)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run: two epochs of LeNet on digits, so that it knows something and makes mistakes."""
    from train import train

    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(compose_in(folder, ["trainer=cpu", "trainer.max_epochs=2"], "train"))
    return folder
