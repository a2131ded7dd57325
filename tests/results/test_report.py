"""A sweep's report says what its records say."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from results import figures, report, table
from results.record import KEYS

ROOT = Path(__file__).parents[2]


def put(folder, *overrides, status="completed", metrics=None, **facts):
    """Write an invented record."""
    record = dict.fromkeys(KEYS) | {"status": status, "overrides": list(overrides), "metrics": metrics or {}} | facts
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(record))


def scores(top1, loss=1.0):
    return {"val/top1": top1, "test/top1": top1 - 0.01, "val/loss": loss, "test/loss": loss + 0.1}


@pytest.fixture
def sweep(tmp_path):
    """Depth × groups × 3 seeds: depth 8 with 4 groups fails, one seed is interrupted, 20 with 4 was not run."""
    rng, job = np.random.default_rng(0), 0
    for depth in (8, 14, 20):
        for groups in (1, 2, 4):
            for seed in (1, 2, 3):
                typed = ["datamodule=digits", f"model.depth={depth}", f"++model.groups={groups}", f"seed={seed}"]
                folder, job = tmp_path / "runs" / "digits" / str(job), job + 1
                facts = {
                    "seed": seed, "params": 1000 * depth // groups, "flops_per_image": 10**6 * depth,
                    "train_seconds": 10 + rng.random(), "images_per_second": 5000 + 100 * rng.random(),
                    "device": "a CPU", "versions": {"torch": "2.8"}, "git_commit": "abc",
                }  # fmt: skip
                if (depth, groups) == (8, 4):
                    put(folder, *typed, status="failed", error="4 | does\nnot divide", seed=seed)
                elif (depth, groups, seed) == (14, 2, 3):
                    put(folder, *typed, status="running", metrics={"val/top1": 0.999}, seed=seed)
                elif (depth, groups) != (20, 4):
                    put(folder, *typed, metrics=scores(0.9 + depth / 400 - groups / 100 + rng.random() / 100), **facts)
    return tmp_path / "runs" / "digits"


def test_what_was_not_typed_is_what_the_jobs_config_has(tmp_path):
    """So that a default beside the same value typed is one configuration, and another default is said."""
    for name, typed, model in (
        ("seed-0", ["seed=0"], "lenet"),
        ("lr-0.1", ["optimizer.lr=0.1", "seed=0"], "lenet"),
        ("lr-5e-2", ["optimizer.lr=5e-2", "seed=1"], "lenet"),
        ("deep", ["model=resnet", "model.depth=50", "seed=0"], "resnet"),
    ):
        put(tmp_path / name, *typed, metrics=scores(0.5))
        (tmp_path / name / ".hydra").mkdir()
        config = (
            f"optimizer: {{lr: {0.1 if '0.1' in name else 0.05}}}\nmodel: {{{'depth: 50' if name == 'deep' else ''}}}"
        )
        (tmp_path / name / ".hydra" / "config.yaml").write_text(config)
        (tmp_path / name / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{choices: {{model: {model}}}}}}}")
    found = table_of(tmp_path)
    for damage in ("", "a: [", "[1]", "\x00"):
        (tmp_path / "seed-0" / ".hydra" / "hydra.yaml").write_text(damage)
        assert len(table.read_jobs([tmp_path])) == 4
    assert sorted((found.name(row), row.jobs) for _, row in found.rows.iterrows()) == [
        ("model lenet, depth –, lr 0.1", 1),
        ("model lenet, depth –, lr 5e-2", 2),
        ("model resnet, depth 50, lr 5e-2", 1),
    ]


def rows_of(folder):
    with open(folder / "report.csv", newline="") as file:
        return list(csv.DictReader(file))


def table_of(folder, metric="val/top1"):
    return table.tabulate(table.read_jobs([folder]), metric)


def test_means_and_deviations(sweep):
    report.write([sweep], plots=False)
    records = [json.loads(path.read_text()) for path in sweep.rglob("result.json")]
    rows = rows_of(sweep)
    assert len(rows) == 8
    for row in rows:
        wanted = {f"model.depth={row['depth']}", f"++model.groups={row['groups']}"}
        jobs = [r for r in records if wanted <= set(r["overrides"]) and r["status"] == "completed"]
        assert (int(row["seeds"]), int(row["completed"])) == (len(jobs), len(jobs))
        for name in ("val/top1", "test/top1", "train_seconds", "images_per_second"):
            numbers = np.array([r["metrics"].get(name, r.get(name)) for r in jobs], dtype=float)
            if len(jobs):
                assert float(row[name]) == pytest.approx(numbers.mean(), rel=1e-12)
                assert float(row[f"{name} std"]) == pytest.approx(numbers.std(ddof=1), rel=1e-9)
            else:
                assert row[name] == row[f"{name} std"] == ""
        assert {r["params"] for r in jobs} <= {float(row["params"] or 0)}


def test_columns_are_what_differs(sweep):
    report.write([sweep], plots=False)
    assert list(rows_of(sweep)[0])[:4] == ["depth", "groups", "val/top1", "val/top1 std"]
    text = (sweep / "report.md").read_text()
    assert "| depth | groups | val/top1 (%) |" in text
    assert "overrides: `datamodule=digits`" in text and "seeds: 1, 2, 3" in text and "torch 2.8" in text


def test_titles_and_absent_keys(tmp_path):
    put(tmp_path / "0", "model.name=a=b", "data.name=x", "+model.params=1", metrics=scores(0.5))
    put(tmp_path / "1", "model.name=c", "data.name=y", metrics=scores(0.6))
    assert table_of(tmp_path).keys == {key: key for key in ("model.name", "data.name", "model.params")}
    report.write([tmp_path], plots=False)
    best, other = rows_of(tmp_path)
    assert (best["model.name"], best["model.params"], best["val/top1 std"]) == ("c", "", "")
    assert (other["model.name"], other["model.params"]) == ("a=b", "1")
    assert "| c | y | – |" in (tmp_path / "report.md").read_text()


def test_sorted_by_the_validation_metric(tmp_path):
    for name, val, test in (("a", 0.7, 0.9), ("b", 0.9, 0.1), ("c", 0.8, 0.5)):
        put(tmp_path / name, f"model={name}", metrics={"val/top1": val, "test/top1": test, "val/loss": val})
    put(tmp_path / "d", "model=d", status="failed", metrics={"val/top1": 1.0})
    put(tmp_path / "e", "model=e", metrics={"val/top1": None})
    assert list(table_of(tmp_path).rows["model"]) == ["b", "c", "a", "e", "d"]
    assert list(table_of(tmp_path, "val/loss").rows["model"]) == ["a", "c", "b", "e", "d"]
    with pytest.raises(ValueError, match=r"val/top5: .*test/top1, val/loss, val/top1"):
        report.write([tmp_path], metric="val/top5")
    with pytest.raises(ValueError, match="test set"):
        report.write([tmp_path], metric="test/top1")


@pytest.mark.parametrize(("losses", "first"), [((475.0, 150.0), "0.2"), ((150.0, 475.0), "0.1"), ((1.0, 1.0), "0.1")])
def test_equal_means_are_sorted_by_the_lower_validation_loss(losses, first, tmp_path):
    for lr, loss in zip(("0.1", "0.2"), losses, strict=True):
        for seed in (0, 1):
            put(tmp_path / f"{lr}-{seed}", f"optimizer.lr={lr}", f"seed={seed}", metrics=scores(0.5, loss))
    assert table_of(tmp_path).rows["lr"].iloc[0] == first


def test_folds_of_a_cross_validation_are_aggregated_as_seeds_are(tmp_path):
    for fold, top1 in enumerate((0.5, 0.7, 0.6)):
        for seed in (0, 1):
            typed = ["model=lenet", "datamodule.folds=3", f"datamodule.fold={fold}", f"seed={seed}"]
            put(tmp_path / f"{fold}{seed}", *typed, metrics=scores(top1 + 0.01 * seed), seed=seed)
    found = table_of(tmp_path)
    (row,) = found.rows.to_dict("records")
    assert not found.keys and found.repeated() == 0
    assert (row["val/top1 n"], row["val/top1"]) == (6, pytest.approx(0.605))
    assert list(found.scores.index) == [f"{seed} fold {fold}" for seed in (0, 1) for fold in range(3)]
    assert dict(report.shared(found))["overrides"] == "`model=lenet`, `datamodule.folds=3`"


def test_only_seeds(tmp_path):
    for seed, top1 in ((1, 0.5), (10, 0.7), (2, 0.6)):
        put(tmp_path / str(seed), "model=lenet", f"seed={seed}", metrics=scores(top1))
    text = report.write([tmp_path])
    assert "60.00 ± 10.00" in text and len(text.splitlines()) == 2
    panel = figures.panels(table_of(tmp_path), "seed")[""]
    assert (list(panel.index), list(panel["mean"])) == (["1", "2", "10"], [0.5, 0.6, 0.7])
    assert {path.name for path in tmp_path.glob("*.png")} == {"report_seed.png"}


def test_failures_are_named(sweep):
    (sweep / "torn").mkdir()
    (sweep / "torn" / "result.json").write_text('{"status": "comp')
    (sweep / "foreign").mkdir()
    (sweep / "foreign" / "result.json").write_text('{"accuracy": 1}')
    put(sweep / "nan", "datamodule=digits", "model.depth=8", "++model.groups=1", "seed=4", metrics={"val/top1": None})
    text = report.write([sweep], plots=False)
    markdown = (sweep / "report.md").read_text()
    assert "| 6 | 8 | 4 | 1 | failed | 4 \\| does not divide |" in markdown
    assert "| 14 | 14 | 2 | 3 | running | started; no end recorded |" in markdown
    assert "| nan | 8 | 1 | 4 | completed | no finite val/top1 recorded |" in markdown
    assert "| torn | – | – | – | unreadable record | JSONDecodeError" in markdown
    assert "| foreign | – | – | – | unreadable record | no status |" in markdown
    assert "foreign: unreadable record: no status" in text.splitlines()
    status = {(row["depth"], row["groups"]): row["status"] for row in rows_of(sweep)}
    assert (status["8", "4"], status["14", "2"], status["20", "2"]) == ("failed", "2 of 3 completed", "completed")
    assert len(status) == 8


def test_numbers_of_any_size(tmp_path):
    for seed, loss in (("1", 1e200), ("2", 2e200)):
        put(tmp_path / seed, "model=lenet", f"seed={seed}", metrics={"val/loss": loss})
    assert report.write([tmp_path], metric="val/loss", plots=False)
    (row,) = rows_of(tmp_path)
    assert float(row["val/loss"]) == pytest.approx(1.5e200)


def test_nothing_but_failures(tmp_path):
    put(tmp_path / "0", "model=a", status="failed", error="no")
    assert "0: failed: no" in report.write([tmp_path])
    assert "No job has a result." in (tmp_path / "report.md").read_text()


def put_models(folder, **values):
    """A configuration for each model, with these scores of seeds 0, 1, …; None is a job that failed."""
    for model, numbers in values.items():
        for seed, value in enumerate(numbers):
            facts = {"status": "failed"} if value is None else {"metrics": scores(value)}
            put(folder / f"{model}{seed}", f"model={model}", f"seed={seed}", seed=seed, **facts)


WEAK = "Weak evidence: only 2 shared seeds; use 4 or more to gauge the noise."


@pytest.mark.parametrize(
    ("models", "said"),
    [  # differences -4, -5, -6, -5 points: t = -12.25, p = 0.0012
        ({"a": [0.9] * 4, "b": [0.86, 0.85, 0.84, 0.85]}, ["Worse than the best, beyond seed noise: model b."]),
        (  # differences 1, -3, -2, 0: mean -1, deviation 1.826, t = -1.095, p = 0.353; (2.80 × 1.826)² + 1.92 = 28.1
            {"a": [0.9] * 4, "b": [0.91, 0.87, 0.88, 0.90]},
            [
                "Not distinguished from the best: model b. Distinguishing them would probably take about 29 seeds each "
                "(column: seeds needed)."
            ],
        ),
        (  # differences 0, -2: mean -1, deviation 1.414; 6 pairs: (3.48 × 1.414)² + 2.64² / 2 = 27.7
            {"a": [0.91, 0.93], "b": [0.91, 0.91], "c": [0.5, None], "d": [0.6]},
            [
                "Not distinguished from the best: 1 of 3 (model b). Distinguishing them would probably take about 28 "
                "seeds each (column: seeds needed).",
                "Not tested, because fewer than two seeds are shared with the best: 2 of 3 (model d; model c). The "
                "seed noise is unknown there.",
                WEAK,
            ],
        ),
        ({"a": [0.9, 0.8], "b": [0.9, 0.8]}, ["Not distinguished from the best: model b.", WEAK]),
    ],
)
def test_the_verdict(tmp_path, models, said):
    put_models(tmp_path, **models)
    best, *rest = report.verdict(table_of(tmp_path))
    assert best.startswith("Best by val/top1: model a, with ") and rest == said
    assert report.write([tmp_path], plots=False).splitlines()[-len(said) :] == said


def test_a_lucky_best_is_not_called_better_than_what_beats_it_on_the_seeds_they_share(tmp_path):
    put_models(tmp_path, a=[0.70, 0.71, 0.70, 0.72, 0.99, 0.99, 0.99], b=[0.80, 0.81, 0.80, 0.82, None, None, None])
    assert list(table_of(tmp_path).rows["verdict"]) == ["best", "not distinguished"]


def test_new_columns_follow_the_old_ones(tmp_path):
    put_models(tmp_path, a=[0.9] * 4, b=[0.91, 0.87, 0.88, 0.90])
    report.write([tmp_path], plots=False)
    best, other = rows_of(tmp_path)
    assert list(best)[-8:] == ["status", *table.COMPARED]
    assert [best[name] for name in table.COMPARED] == [""] * 6 + ["best"]
    assert (other["shared seeds"], other["seeds needed"], other["verdict"]) == ("4.0", "29.0", "not distinguished")
    found = [float(other[name]) for name in table.COMPARED[:3]]
    margin = 3.1824 * 1.8257 / 2 / 100  # t for 3 degrees of freedom
    assert found == pytest.approx([-0.01, -0.01 - margin, -0.01 + margin], abs=1e-5)
    assert float(other["p corrected"]) == pytest.approx(0.3534, abs=1e-4)
    line = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| b "))
    assert line.endswith("| completed | -1.00 \\[-3.91, +1.91] | 0.353 | 29 | not distinguished |")


def test_the_command_that_repeats_a_sweep(tmp_path):
    for lr in ("0.1", "1e-2"):
        for seed in (0, 1):
            typed = ["study=x", f"+optimizer.lr={lr}", f"seed={seed}", f"verbose={seed}"]
            put(tmp_path / f"{lr}-{seed}", *typed, metrics=scores(0.5))
    wanted = "python train.py -m study=x +optimizer.lr=1e-2,0.1 seed=0,1"
    assert report.repeat_command(table_of(tmp_path)) == wanted
    report.write([tmp_path], plots=False)
    assert f"Repeat with `{wanted}`." in (tmp_path / "report.md").read_text()
    put(tmp_path / "another", "study=x", "+optimizer.lr=5", "seed=0", metrics=scores(0.5))  # 5 of 6 jobs
    assert report.repeat_command(table_of(tmp_path)) == ""


def test_joined_sweeps(tmp_path):
    put(tmp_path / "a" / "one" / "0", "model=x", "seed=1", metrics=scores(0.5))
    put(tmp_path / "b" / "two" / "0", "model=x", "seed=2", metrics=scores(0.6))
    put(tmp_path / "b" / "two" / "1", "model=y", "seed=2", status="interrupted", error="SystemExit: 1")
    both = [tmp_path / "a" / "one", tmp_path / "b" / "two"]
    with pytest.raises(ValueError, match="--output"):
        report.write(both)
    text = report.write(both, output=tmp_path / "c", plots=False)
    assert "b/two/1: interrupted: SystemExit: 1" in text and "55.00 ± 7.07" in text
    assert f"--output {tmp_path / 'c'}" in (tmp_path / "c" / "report.md").read_text()
    assert len(table.read_jobs([tmp_path / "a", tmp_path / "a" / "one"])) == 1  # a job counts once
    put(tmp_path / "a" / "one" / "1", "model=x", "seed=1", metrics=scores(0.5))
    report.write(both, output=tmp_path / "c", plots=False)
    assert "1 jobs repeat a configuration and a seed" in (tmp_path / "c" / "report.md").read_text()


def test_plots_are_drawn_and_stale_ones_removed(sweep):
    report.write([sweep])
    names = {f"report_{name}.png" for name in ("configurations", "depth", "groups", "heatmap", "cost")}
    assert {path.name for path in sweep.glob("*.png")} == names
    assert set(re.findall(r"\]\((report_\w+\.png)\)", (sweep / "report.md").read_text())) == names
    for name in names:
        pixels = np.asarray(Image.open(sweep / name).convert("L"))
        assert pixels.shape[1] > 500 and 0.005 < (pixels < 200).mean() < 0.9, name
    (sweep / "report_mine.png").write_bytes(b"not ours")
    for path in list(sweep.glob("*/result.json")):
        if "++model.groups=1" not in path.read_text():
            path.unlink()
    report.write([sweep])
    left = {f"report_{name}.png" for name in ("configurations", "depth", "cost", "mine")}
    assert {path.name for path in sweep.glob("*.png")} == left
    assert not [path.name for path in sweep.iterdir() if path.name.startswith(".report.") and path.suffix != ".lock"]


def test_what_the_panels_show(sweep):
    shown = table_of(sweep)
    found = figures.panels(shown, "model.depth")
    assert list(found) == ["groups 1", "groups 2", "groups 4"]
    assert [list(panel.index) for panel in found.values()] == [["8", "14", "20"], ["8", "14", "20"], ["14"]]
    records = [json.loads(path.read_text()) for path in sweep.rglob("result.json")]
    grid = figures.key_figure(shown, "model.depth").axes
    for (label, panel), axes in zip(found.items(), grid, strict=True):
        assert axes.get_title() == label
        segments = axes.containers[0].lines[2][0].get_segments()
        dots = axes.collections[0].get_offsets()
        for (x, row), ends in zip(panel.iterrows(), segments, strict=True):
            wanted = {f"model.depth={x}", f"++model.groups={label.split()[1]}"}
            jobs = [r for r in records if wanted <= set(r["overrides"]) and r["status"] == "completed"]
            numbers = np.array([job["metrics"]["val/top1"] for job in jobs])
            assert (row["mean"], row["std"]) == pytest.approx((numbers.mean(), numbers.std(ddof=1)))
            assert list(ends[:, 0]) == [float(x)] * 2
            assert list(ends[:, 1]) == pytest.approx([100 * (row["mean"] + s * row["std"]) for s in (-1, 1)])
            assert sorted(dots[dots[:, 0] == float(x), 1]) == pytest.approx(sorted(100 * numbers))


def test_more_than_twelve_panels_become_one_of_means(tmp_path):
    rng = np.random.default_rng(1)
    values = {(lr, wd): rng.random() for lr in ("0.001", "0.1") for wd in range(13)}
    for (lr, wd), value in values.items():
        put(tmp_path / f"{lr}-{wd}", f"optimizer.lr={lr}", f"wd={wd}", metrics=scores(value))
    shown = table_of(tmp_path)
    found = figures.panels(shown, "optimizer.lr")
    assert list(found) == [""] and list(found[""].index) == ["0.001", "0.1"]
    for x, row in found[""].iterrows():
        part = [value for (lr, _), value in values.items() if lr == x]
        assert (row["mean"], row["std"]) == pytest.approx((np.mean(part), np.std(part, ddof=1)))
        assert sorted(row["dots"]) == sorted(part)
    figure = figures.key_figure(shown, "optimizer.lr")
    (axes,) = figure.axes
    assert "all wd" in figure.get_suptitle() and "dots: configurations" in figure.get_supxlabel()
    assert axes.get_xscale() == "log" and [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.1"]
    by_decay = figures.panels(shown, "wd")
    assert len(by_decay) == 2 and by_decay["lr 0.1"]["std"].isna().all()  # one seed


@pytest.mark.parametrize(
    ("values", "places", "joined"),
    [
        (("8", "14", "20"), [8, 14, 20], True),
        (("0", "1e-5", "1"), [0, 1, 2], True),  # the first two labels would overlap
        (("batch", "group"), [0, 1], False),
    ],
)
def test_lines_join_only_numbers(tmp_path, values, places, joined):
    for value in values:
        put(tmp_path / value, f"model.x={value}", metrics=scores(0.5))
    (axes,) = figures.key_figure(table_of(tmp_path), "model.x").axes
    assert list(axes.get_xticks()) == places
    assert axes.containers[0].lines[0].get_linestyle() == ("-" if joined else "None")


def test_the_paired_differences_are_drawn(tmp_path):
    put_models(tmp_path, a=[0.9] * 4, b=[0.91, 0.87, 0.88, 0.90])
    left, right = figures.configurations_figure(table_of(tmp_path)).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["1. model a", "2. model b"]
    assert list(left.collections[0].get_offsets()[1::2, 0]) == pytest.approx([91, 87, 88, 90])
    assert list(right.collections[0].get_offsets()[1::2, 0]) == pytest.approx([1, -3, -2, 0])
    assert list(right.collections[1].get_segments()[1][:, 0]) == pytest.approx([-3.905, 1.905], abs=1e-3)


def test_learning_curves_are_means_over_seeds_as_far_as_all_got(tmp_path):
    histories = {0: [[1, 0.2], [2, 0.4], [3, 0.5]], 1: [[1, 0.4], [2, None]], 2: [[1, 0.6], [2, 0.8], [3, 0.9]]}
    for seed, points in histories.items():
        put(tmp_path / f"a{seed}", "model=a", f"seed={seed}", metrics=scores(0.5), history={"val/top1": points})
    put(tmp_path / "b", "model=b", "seed=0", metrics=scores(0.4))  # a record of an earlier version
    assert figures.curves(table_of(tmp_path)) == {}  # of one epoch there is no curve
    put(tmp_path / "a1", "model=a", "seed=1", metrics=scores(0.5), history={"val/top1": [[1, 0.4], [2, 0.6]]})
    (curve,) = figures.curves(table_of(tmp_path)).values()
    assert dict(curve) == pytest.approx({1: 0.4, 2: 0.6})
    assert "report_curves.png" in figures.plots(table_of(tmp_path))
    left, right = figures.curves_figure(table_of(tmp_path)).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([40, 60])
    assert len(right.lines) == 4  # the seeds and the mean of two configurations


@pytest.mark.parametrize("configurations", [2, 40])
def test_plots_of_few_and_many_configurations(tmp_path, configurations):
    for i in range(configurations):
        for seed in (0, 1):
            history = {"val/top1": [[1, 0.1], [2, 0.5 + i / 100]]}
            facts = {"params": 1000 * (i + 1), "flops_per_image": 10**6, "train_seconds": 90 * (i + 1)}
            typed = (f"model.width={i}", f"seed={seed}")
            put(tmp_path / f"{i}-{seed}", *typed, metrics=scores(0.5 + i / 100), history=history, **facts)
    plots = figures.plots(table_of(tmp_path))
    assert set(plots) == {f"report_{name}.png" for name in ("configurations", "curves", "width", "cost")}
    drawn = [plot.figure() for plot in plots.values()]
    assert sum(len(figures.to_png(figure)) for figure in drawn) < 1e6  # of the 5 MB that report.html may have
    for figure in drawn:
        for axes in figure.axes:
            for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
                boxes = [text.get_window_extent() for text in labels if text.get_text() and text.get_visible()]
                flat = not labels or labels[0].get_rotation() == 0
                assert not flat or not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))


def test_axes(tmp_path):
    for i, value in enumerate(("16", "2", "–", "auto")):
        put(tmp_path / str(i), *([f"model.groups={value}"] if value != "–" else []), metrics=scores(0.5))
    assert table.ordered(table_of(tmp_path).rows["groups"]) == ["2", "16", "auto", "–"]
    axes = figures.key_figure(table_of(tmp_path), "model.groups").axes[0]
    assert axes.get_xscale() == "linear" and list(axes.get_xticks()) == [0, 1, 2, 3]
    for odd in ("$x$ ${y}", "a|b_c"):
        put(tmp_path / "odd", f"model.groups={odd}", metrics=scores(0.5))
        report.write([tmp_path])


def test_what_the_heat_map_shows(sweep):
    report.write([sweep], plots=False)
    wanted = {(row["depth"], row["groups"]): row["val/top1"] for row in rows_of(sweep)}
    texts = [text.get_text() for text in figures.heatmap_figure(table_of(sweep)).axes[0].texts]  # depth by depth
    assert (len(texts), texts[2], texts[8]) == (9, "failed", "not run")
    assert texts[4] == f"{100 * float(wanted['14', '2']):.2f}\nn = 2"


@pytest.mark.parametrize("lower", [True, False])
def test_the_pareto_front(lower):
    rng = np.random.default_rng(2)
    for _ in range(50):
        costs, values = pd.Series(rng.integers(0, 8, 12)), pd.Series(rng.integers(0, 8, 12))
        pairs = list(zip(costs, -values if lower else values, strict=True))
        beaten = {i for i, (c, g) in enumerate(pairs) if any(d <= c and h >= g and (d, h) != (c, g) for d, h in pairs)}
        assert set(figures.pareto_front(costs, values, lower)) == set(range(12)) - beaten


def test_the_cost_plot_draws_the_front(sweep):
    rows = table_of(sweep).measured
    front = rows.loc[figures.pareto_front(rows["params"], rows["val/top1"], lower=False)]
    panel = figures.cost_figure(table_of(sweep)).axes[0]
    drawn = next(line for line in panel.lines if line.get_drawstyle() == "steps-post")
    assert list(drawn.get_xdata()) == list(front["params"] / 1000)
    assert panel.get_xlabel() == "parameters (k)" and panel.get_xscale() == "linear"
    assert not panel.texts  # names are beside the plot, where nothing crosses them
    named = {text.get_text().partition(". ")[2] for text in panel.figure.legends[0].get_texts()}
    assert {table_of(sweep).name(row) for _, row in front.iterrows()} <= named


def test_the_terminal_table_is_short(tmp_path):
    for i in range(40):
        put(tmp_path / str(i), f"model.width={i}", metrics=scores(i / 100))
        put(tmp_path / f"f{i}", f"model.width={i}", status="failed", error="no")
    lines = report.write([tmp_path], plots=False).splitlines()
    assert lines[0].split()[0] == "width" and lines[1].split()[:2] == ["39", "39.00"]
    assert lines[13] == "… and 28 more in report.html" and lines[14] == "f0: failed: no"
    assert len({len(line) for line in lines[:13]}) == 1
    assert len(lines) == 29  # with the verdict


@pytest.mark.parametrize(
    ("value", "said"), [(269722, "0.27 M"), (41e6, "41 M"), (4.089e9, "4.09 G"), (61706, "61.7 k"), (999.9e6, "1 G")]
)
def test_numbers_for_people(value, said):
    assert table.human(value) == said


def script(*args, cwd):
    command = [sys.executable, str(ROOT / "report.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_script(sweep):
    runs = sweep.parent
    done = script("digits", "--no-plots", "--metric", "val/loss", cwd=runs)
    assert done.returncode == 0 and done.stdout.splitlines()[0].split()[2] == "val/loss"
    assert "`python report.py digits --metric val/loss`" in (sweep / "report.md").read_text()
    (runs / "empty").mkdir()
    for args, said in [
        (["digit"], "error: digit: no such folder; did you mean digits?"),
        (["digits/report.md"], "error: digits/report.md: not a folder"),
        (["empty"], "error: empty: no result.json below it; expected a sweep's folder"),
        (["digits", "digits/0"], "error: 2 folders: add --output"),
        (["digits", "--metric", "val/f1"], "error: val/f1: no completed job has this metric; there are: test/loss"),
    ]:
        done = script(*args, cwd=runs)
        assert done.returncode == 2 and done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1
    assert not (runs / "digit").exists() and not list((runs / "empty").iterdir())


def test_a_table_needs_neither_torch_nor_matplotlib():
    code = "import sys, results.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
