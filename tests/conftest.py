"""What tests share: composing a config as the scripts do, and running ``train`` on it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"


@pytest.fixture
def composed(tmp_path):
    """A function from overrides to the config that ``train.py`` would get, with its run in ``tmp_path``."""

    def compose_config(*overrides: str, config_name: str = "train") -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config_name, [f"run_dir={tmp_path}", *overrides])

    return compose_config
