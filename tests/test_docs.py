"""The tables and pictures of the docs are those that the records make."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from results import record as records

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
SPEC = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)


@pytest.fixture(scope="module")
def plots():
    return make.pictures()


def test_every_picture_is_shown_and_made_from_what_is_there_now(plots):
    """A picture that fails here is stale: python docs/make.py draws it, docs/screenshots.py those of a sweep."""
    from docs import screenshots

    expected = {name: make.digest(plot.data) for name, plot in plots.items()}
    for name in ("explain.png", "report.png", "demo.png", *(f"tensorboard_{shot}.png" for shot in screenshots.SHOTS)):
        expected[name] = screenshots.made_from(name)
    assert {path.name: make.stamp(path) for path in make.IMAGES.iterdir()} == expected
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(expected) == set(re.findall(r"\(images/([^)]+)\)", text))


def test_a_record_that_has_changed_makes_its_picture_stale(plots, tmp_path, monkeypatch):
    shutil.copytree(make.RECORDS, tmp_path / "records")
    monkeypatch.setattr(make, "RECORDS", tmp_path / "records")
    path = tmp_path / "records" / "residual" / "model.depth-56_model.residual-False_seed-0" / "result.json"
    record = json.loads(path.read_text())
    record["metrics"]["val/top1"] += 0.001
    path.write_text(json.dumps(record))
    changed = {
        name for name, plot in make.pictures().items() if make.digest(plot.data) != make.digest(plots[name].data)
    }
    assert changed == {"residual_depth.png"}


def test_a_digest_is_the_same_on_machines_that_round_otherwise():
    assert make.digest({"a": [0.1 + 0.2, float("nan")]}) == make.digest({"a": (0.3, float("nan"))})
    assert make.digest([0.3]) != make.digest([0.3001])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_made_from_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert make.filled(text) == text


def test_a_changed_number_is_seen():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    changed, count = re.subn(r"\d\d\.\d\d ±", "99.99 ±", text)
    assert count and make.filled(changed) == text


def test_the_mean_of_an_experiment_by_another_route():
    found = [json.loads(path.read_text()) for path in (make.RECORDS / "fashion_mnist_lenet").rglob("result.json")]
    scores = [100 * record["metrics"]["test/top1"] for record in found]
    assert len({record["seed"] for record in found}) == len(found) >= 3
    (line,) = [line for line in make.results() if "experiment=fashion_mnist_lenet" in line]
    assert f"| {sum(scores) / len(scores):.2f} ± " in line


@pytest.mark.parametrize("bar, met", [("≤ 1.3", "no"), ("≤ 1.5", "yes"), ("≥ 1.3", "no"), ("≥ 1.25", "yes")])
def test_a_bar_is_met_where_all_of_its_rows_meet_it(bar, met, monkeypatch):
    rows = [{"what": "LeNet, a", "ratio": 1.4}, {"what": "LeNet, b", "ratio": 1.25}, {"what": "another", "ratio": 9.0}]
    tables = [{"rows": [{"what": "LeNet"}]}, {"rows": rows}]
    monkeypatch.setattr(make, "written", lambda name: {"tables": tables})
    monkeypatch.setitem(make.BARS, "cpu", [("a ratio", bar, "some", "LeNet*", "ratio")])
    assert list(make.bars("cpu"))[-1] == f"| a ratio | {bar} | 1.250 to 1.400 | {met} |"


def test_every_link_and_picture_is_there():
    for page in [*PAGES, ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert "://" in target or target.endswith("report.csv") or (page.parent / target).exists(), (page, target)


def test_kept_records_are_whole_and_hold_no_home():
    paths = sorted(make.RECORDS.rglob("result.json"))
    assert paths
    for path in paths:
        assert records.read(path.parent)["status"] == "completed", path
        assert not re.search(r"/(home|root|Users)/", path.read_text(encoding="utf-8")), path
