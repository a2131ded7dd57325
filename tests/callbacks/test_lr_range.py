"""The learning-rate range test: what it reads from losses, and that it leaves a picture."""

import numpy as np
import pytest

from callbacks.lr_range import diverging_rate, steepest_rate
from train import train

RATES = [10.0**power for power in (-5, -4, -3, -2, -1, 0, 1)]


@pytest.mark.parametrize(
    ("losses", "steepest", "diverging"),
    [
        ([2.3, 2.3, 2.2, 1.5, 1.0, 2.0, 5.0], 1e-2, 10.0),  # central differences: (2.2 - 1.0) / 2 at 1e-2
        ([2.3, 2.2, 2.1, 1.2, 0.9, 0.8, 0.8], 1e-2, None),
    ],
)
def test_the_steepest_and_the_diverging_rate(losses, steepest, diverging):
    assert steepest_rate(RATES, losses) == pytest.approx(steepest)
    assert diverging_rate(RATES, losses) == diverging


def test_debug_lr_range_reports_a_rate_and_leaves_a_picture(composed, tmp_path, caplog):
    caplog.set_level("INFO")
    tiny = "datamodule=synthetic datamodule.num_images=64 datamodule.batch_size=16 datamodule.image_size=16".split()
    train(composed("debug=lr_range", *tiny, "trainer=cpu", "logger=none", "trainer.max_steps=40"))
    (line,) = [record.message for record in caplog.records if record.message.startswith("lr range")]
    rate = float(line.rpartition("optimizer.lr=")[2])
    assert 1e-6 < rate < 10 and np.isfinite(rate)
    assert (tmp_path / "lr_range.png").read_bytes().startswith(b"\x89PNG")
