"""What a person sees: TensorBoard on a run and on a sweep, in a real browser."""

import pytest

from tests import browser

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "")
SMALL = (
    "datamodule=synthetic datamodule.num_images=150 datamodule.batch_size=32 trainer=cpu trainer.max_epochs=2"
).split()
CARDS = {"^(train|val)/": ("train\n", "/loss", "/top1", "val\n"), "^(lr|grad_norm)": ("lr\n", "grad_norm\n")} | {
    "^(throughput|memory)/": ("/images_per_second", "/peak_mb")  # a card shows its tag's last part under its group
}
PICTURES = "train/batch filters/first_layer test/confusion_matrix test/accuracy_per_class test/mistakes".split()


@pytest.fixture(scope="module")
def page():
    with browser.Page() as page:
        yield page


def test_a_run(forks, page, tmp_path):
    assert forks("train.py", *SMALL, "optimizer.lr=0.02", "hydra.run.dir=run", cwd=tmp_path).code == 0
    with browser.tensorboard(tmp_path / "run") as address:
        for tags, cards in CARDS.items():
            page.open(address, "timeseries", tags)
            page.wait_for(*cards)
        page.open(address, "images", "|".join(PICTURES))
        page.wait_for(*PICTURES, pictures=len(PICTURES))
        page.open(address, "hparams")
        one = "Number of matching session groups: 1"
        found = page.wait_for(one, "optimizer.lr", "best/top1", "test/top1", "32.000")  # the batch size, in the table
        assert "hp_metric" not in found
        page.open(address, "text")
        page.wait_for("config/text_summary", "overrides/text_summary", "optimizer.lr=0.02")


def test_a_sweep(forks, page, tmp_path):
    options = ["datamodule.batch_size=16,64", "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    assert forks("train.py", "-m", *SMALL, *options, cwd=tmp_path, timeout=120).code == 0
    names = ("datamodule.batch_size-16", "datamodule.batch_size-64")
    with browser.tensorboard(tmp_path / "sweep") as address:
        page.open(address, "timeseries", "val/top1")
        page.wait_for(*names, "val\n", "/top1")
        page.open(address, "images")
        page.wait_for(*names, "filters/first_layer", pictures=2)
        page.open(address, "hparams")
        two = "Number of matching session groups: 2"
        found = page.wait_for(two, "datamodule.batch_size", "best/top1", "test/top1", "16.000", "64.000")
        assert "hp_metric" not in found
