"""What a person sees: TensorBoard on a run and on a sweep, in a real browser."""

import json

import pytest

from tests import browser

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "")
SMALL = (
    "datamodule=synthetic datamodule.num_images=150 datamodule.batch_size=32 trainer=cpu trainer.max_epochs=2"
).split()
SCALARS = (
    "train/loss train/top1 val/loss val/top1 lr grad_norm throughput/images_per_second memory/peak_mb test/top1".split()
)
PICTURES = "train/batch filters/first_layer test/confusion_matrix test/mistakes".split()


@pytest.fixture(scope="module")
def page():
    with browser.Page(height=2400) as page:  # the charts that a window does not reach are not drawn
        yield page


def table_row(run) -> list[str]:
    """What HPARAMS says of a run, as it rounds."""
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    return [f"{metrics[name]:#.5g}" for name in ("val/loss", "val/top1", "test/f1_macro")]


def test_a_run(forks, page, tmp_path):
    assert forks("train.py", *SMALL, "optimizer.lr=0.02", "hydra.run.dir=run", cwd=tmp_path).code == 0
    with browser.tensorboard(tmp_path / "run") as address:
        page.open(address, "timeseries", f"^({'|'.join(SCALARS)})$")
        page.wait_for(f"{len(SCALARS)} cards", *(f"\n{name}\n" for name in SCALARS))
        page.open(address, "images", "|".join(PICTURES))
        page.wait_for(*PICTURES, pictures=len(PICTURES))
        page.open(address, "hparams")
        one = "Number of matching session groups: 1"
        columns = ("optimizer.lr", "best/loss", "best/top1", "test/top1", "test/f1_macro")
        found = page.wait_for(one, *columns, "32.000", *table_row(tmp_path / "run"))  # 32 images a batch, in the table
        assert "hp_metric" not in found
        page.open(address, "text")
        page.wait_for("config/text_summary", "overrides/text_summary", "optimizer.lr=0.02")


def test_a_sweep(forks, page, tmp_path):
    options = ["datamodule.batch_size=16,64", "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    assert forks("train.py", "-m", *SMALL, *options, cwd=tmp_path, timeout=120).code == 0
    names = ("datamodule.batch_size-16", "datamodule.batch_size-64")
    with browser.tensorboard(tmp_path / "sweep") as address:
        page.open(address, "timeseries", "val/top1")
        page.wait_for(*names, "\nval/top1\n")
        page.open(address, "images")
        page.wait_for(*names, "filters/first_layer", pictures=2)
        page.open(address, "hparams")
        two = "Number of matching session groups: 2"
        rows = [word for name in names for word in table_row(tmp_path / "sweep" / name)]
        found = page.wait_for(two, "datamodule.batch_size", "best/top1", "test/top1", "16.000", "64.000", *rows)
        assert "hp_metric" not in found
