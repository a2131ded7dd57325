"""Every file in conf/ is found on disk, composes, and builds what it names. A new one is covered by being there."""

import re
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, get_method, instantiate
from omegaconf import OmegaConf
from PIL import Image

CONF = Path(__file__).parents[2] / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
FILES = [(path.parent.name, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
MODELS = [name for group, name in FILES if group == "model"]


def needs(group, name, tmp_path):
    """What a choice cannot do without."""
    # There is no folder but the user's.
    of_a_user = "image_folder imagenet photos imagenet_resnet50".split()
    own = name in of_a_user or name.startswith("cats_vs_dogs")
    if name == "hub":
        for kind in ("cat", "dog"):  # as if it had been written there
            (tmp_path / "hub" / "pets_label" / kind).mkdir(parents=True, exist_ok=True)
        return [f"datamodule.data_dir={tmp_path}", "datamodule.dataset=pets"]
    if name.startswith("torchvision"):
        for split in ("train", "valid", "test"):
            for kind in ("cat", "dog"):
                (tmp_path / "country211" / split / kind).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(tmp_path / "country211" / split / kind / "1.png")
        return [f"datamodule.data_dir={tmp_path}", "datamodule.dataset=Country211"]
    table = [f"datamodule.table={tmp_path / 'labels.csv'}"] if name == "table" else []
    return [f"datamodule.data_dir={tmp_path}", *table] if own or table else []


def targets(node):
    if isinstance(node, dict):
        yield from ([node["_target_"]] if "_target_" in node else [])
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_choice_composes_and_its_targets_exist(group, name, composed, tmp_path):
    cfg = composed(f"{group}={name}", *needs(group, name, tmp_path))
    config = OmegaConf.to_container(cfg, resolve=True)
    found = list(targets(config))
    assert found
    for target in found:
        try:
            get_class(target)
        except ValueError:
            get_method(target)


@pytest.mark.parametrize(
    ("name", "datamodule"),
    [(name, "digits") for name in MODELS] + [("lenet", "cifar100"), ("resnet18", "cifar100"), ("resnext50", "cifar10")],
)
def test_every_model_trains_a_step_on_grey_and_on_coloured_images(name, datamodule, composed):
    cfg = composed(f"model={name}", f"datamodule={datamodule}")
    model = instantiate(cfg.model)
    images = torch.randn(2, cfg.datamodule.in_channels, cfg.datamodule.image_size, cfg.datamodule.image_size)
    logits = model(images)
    assert logits.shape == (2, cfg.datamodule.num_classes)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "study"])
def test_every_job_of_every_study_can_be(name, examine):
    sweep = examine([f"study={name}", "impossible=refuse"]).sweep
    text = (CONF / "study" / f"{name}.yaml").read_text()
    said = re.search(rf"python train.py -m study={name} +(\d+) jobs", text)
    assert said and len(sweep.names) == int(said[1])
    assert len(set(sweep.names)) == len(sweep.names)


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_every_optimizer_and_schedule_builds(group, composed):
    for name in (name for g, name in FILES if g == group):
        cfg = composed(f"{group}={name}")
        optimizer = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(2))])
        schedule = instantiate(cfg.scheduler)
        if schedule:
            schedule(optimizer, total_steps=10)
        before = optimizer.param_groups[0]["lr"]
        assert 0 < before <= cfg.optimizer.lr


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "datamodule"])
def test_facts_in_the_config_are_those_of_the_data(name, composed, tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{kind}.png")
    (tmp_path / "labels.csv").write_text("file_name,label\ncat,0\ndog,1\n")
    cfg = composed(f"datamodule={name}", *needs("datamodule", name, tmp_path))
    if name == "imagenet":
        cfg.datamodule.num_classes = 2  # of a thousand
    data = instantiate(cfg.datamodule)
    assert data.num_classes == len(data.class_names)
    assert len(data.mean) == len(data.std)


def test_seed_zero_means_zero(composed):
    assert composed().seed == 0
    assert composed("seed=3").datamodule.seed == 3
