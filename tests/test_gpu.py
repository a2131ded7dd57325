"""What only a CUDA device can show; skipped without one.

That it scores and predicts the same is beside the tests of those scripts.
"""

import signal

import pytest
import torch
from lightning import Callback

from tests.killed import SMALL, differences, in_process, training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ON_GPU = [part for part in SMALL if part != "trainer=cpu"] + ["trainer=gpu"]
EVERYTHING = [
    "trainer.precision=bf16-mixed",
    "lit_module.memory_format=channels_last",
    "datamodule.mixup=0.2",
    "+datamodule.augmentation.erase={_target_:datamodules.RandomErasing}",
    "+datamodule.augmentation.alternate={_target_:datamodules.AlternatingFlip}",
    "callbacks=ema",
    "callbacks.ema.decay=0.9",
]
RECIPES = {"as by default": [], "with everything on": EVERYTHING}


class Impatient(Callback):
    """What waits for the device raises, from an epoch's third batch to its 49th; with the 50th losses are looked at."""

    watched = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 48:
            torch.cuda.set_sync_debug_mode("default")
            Impatient.watched += 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_of_a_training_waits_for_the_device(recipe, composed):
    from train import train

    Impatient.watched = 0
    small = "datamodule=synthetic datamodule.num_images=2000 datamodule.batch_size=32 model=resnet_cifar model.depth=8"
    watching = ["+callbacks.impatient._target_=tests.test_gpu.Impatient", "trainer.log_every_n_steps=50"]
    cfg = composed(*small.split(), "trainer=gpu", "trainer.max_epochs=2", *RECIPES[recipe], *watching)
    try:
        train(cfg)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert Impatient.watched == 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_on_a_gpu_it_goes_on_with_the_very_same_bits(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    overrides = [*ON_GPU, *RECIPES[recipe], "+trainer.deterministic=true"]
    assert in_process(training, whole, overrides) == 0
    assert in_process(training, killed, overrides, ("step", 7)) == -signal.SIGKILL
    assert in_process(training, killed, [*overrides, f"ckpt_path='{killed}/checkpoints/last.ckpt'"]) == 0
    for name in ("last", "best"):
        theirs, ours = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True, map_location="cpu")
            for folder in (whole, killed)
        )
        assert differences(ours, theirs) == []


def test_a_compiled_network_learns_and_its_checkpoint_has_clean_keys(composed, tmp_path):
    from train import train

    small = "datamodule=digits model=resnet_cifar model.depth=8 model.widths=[8,16,32] trainer.max_epochs=5"
    assert train(composed(*small.split(), "trainer=fast", "trainer.accelerator=gpu")) > 0.4
    weights = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in weights)
