"""What a person sees: TensorBoard on a sweep of two jobs, in a real browser."""

import json
import re

import pytest

from tests import browser

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "")
SWEEP = (
    "-m datamodule=synthetic datamodule.num_classes=100 datamodule.num_images=1000 datamodule.batch_size=64,128 "
    "trainer=cpu trainer.max_epochs=2 hydra.sweep.dir=sweep"
).split()
JOBS = ("datamodule.batch_size-64", "datamodule.batch_size-128")
SCORES = ("best/top1", "test/top1")
REST = "lr grad_norm throughput/images_per_second memory/peak_mb test/top1 best/top1".split()
PICTURES = "train/batch filters/first_layer test/confusion_matrix test/mistakes".split()


@pytest.fixture(scope="module")
def page():
    with browser.Page(height=2400) as page:  # the charts that a window does not reach are not drawn
        yield page


@pytest.fixture(scope="module")
def sweep(forks, tmp_path_factory):
    """The folder of a sweep of two jobs over the batch size, with a hundred classes."""
    folder = tmp_path_factory.mktemp("browser")
    done = forks("train.py", *SWEEP, cwd=folder, timeout=300)
    assert done.code == 0, done.err
    return folder / "sweep"


@pytest.fixture(scope="module")
def address(sweep):
    with browser.tensorboard(sweep) as address:
        yield address


def test_it_opens_on_loss_and_accuracy_of_training_and_validation(page, address):
    page.driver.get(address)  # as a person does: no tab, no tags
    found = page.wait_for(*JOBS, "watch\n", "train/loss\n", "val/top1\n")
    charts = re.findall(r"^((?:train|val|watch)/\S+)$", found, re.MULTILINE)
    assert charts == ["train/loss", "train/top1", "val/f1_macro", "val/loss", "val/top1", "val/top5"]
    # The rest is in a group to unfold: 13 curves, none for each class, and 4 pictures of each job.
    assert re.findall(r"^(\w+)\n(\d+) cards$", found, re.MULTILINE) == [("train", "2"), ("val", "4"), ("watch", "21")]


def test_the_rest_is_found_by_its_name(page, address):
    page.open(address, "timeseries", f"^watch/({'|'.join(REST)})$")
    page.wait_for(f"{len(REST)} cards", *(f"\nwatch/{name}\n" for name in REST))
    page.open(address, "images")
    page.wait_for(*JOBS, *PICTURES, pictures=2 * len(PICTURES))
    page.open(address, "text")
    page.wait_for("config/text_summary", "overrides/text_summary", "datamodule.batch_size=128")


def test_hparams_shows_what_was_swept_and_the_scores_without_a_click(sweep, page, address):
    page.open(address, "hparams")
    rows = []
    for job, size in zip(JOBS, ("64.000", "128.00"), strict=True):
        metrics = json.loads((sweep / job / "result.json").read_text())["metrics"]
        rows.append([job, size, *(f"{metrics[name]:#.5g}" for name in ("val/top1", "test/top1"))])
    found = page.wait_for("Number of matching session groups: 2", *(word for row in rows for word in row))
    assert "hp_metric" not in found
    table = found.partition("Show Metrics\n")[2].split("\n")  # five settings and five scores
    assert (table[0], *table[5:7]) == ("datamodule.batch_size", *SCORES)
    for row in rows:
        cells = table[table.index(row[0]) :]
        assert [cells[0], cells[1], *cells[6:8]] == row
