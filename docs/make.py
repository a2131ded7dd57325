"""Write the tables and plots of docs/ from the records in docs/records/.

python docs/make.py                                     the tables, and the plots whose records have changed
python docs/make.py --keep runs/NAME/DATE lenet         first keep a run's or a sweep's records under a name

It draws all of docs/images but the pictures of a real sweep, tensorboard_*.png and explain.png, which
`python docs/screenshots.py` takes (it also keeps the record of curves.png). Every picture holds a hash of what it was
made from; tests/test_docs.py fails if that has changed since. To draw a plot in a new style, delete it first.

A page says where a table belongs by two comments:

<!-- table norm train/loss -->  the configurations of the records called norm, as in a sweep's report, and more metrics;
                                the seconds of training only if images/s is among these
<!-- results -->                 a line for each experiment, of the records that are named like one
<!-- chance -->                  the cases of docs/chance.py
<!-- benchmark monitoring -->    what a script in benchmarks/ wrote by --json docs/records/benchmarks/monitoring.json
<!-- bars cpu -->                what these records say of the bars that were set, on a CPU or a GPU
<!-- end -->
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # it is a script in a folder of its own

from results import figures, report  # noqa: E402
from results.record import FILE, write_json  # noqa: E402
from results.table import SweepTable, human, job_folders, read_jobs, tabulate  # noqa: E402

STAMP = "Made from"  # the key of a PNG's text with the hash
RECORDS, IMAGES = ROOT / "docs" / "records", ROOT / "docs" / "images"
BLOCK = re.compile(r"(<!-- (table|results|chance|benchmark|bars)((?: [\w/=.]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
SECONDS = ("train s", "images/s")  # shown only where asked for: elsewhere the machine had other work
# Top-1 of the test set that others report, in percent, and where from.
PUBLISHED = {
    "fashion_mnist_lenet": "87.6 to 93.2, 92.5 below 100 k parameters (two convolutions; the data's own list)",
    "fashion_mnist_resnet20": "95.61, with erasing 95.98 (Zhong et al. 2017); on today's files 95.18, 95.55 "
    "(a user of its code: zhunzhong07/Random-Erasing, issue 10)",
    "fashion_mnist_resnet18": "94.9 (the data's own list)",
}
# (what, bar, benchmark, a pattern for its rows, column)
BARS = {
    "cpu": [
        ("LeNet epoch, Trainer ÷ bare loop", "≤ 1.05", "trainer_overhead", "LeNet, batches of 128", "trainer ÷ bare"),
        ("the same, batches of 512", "≤ 1.05", "trainer_overhead", "LeNet, batches of 512", "trainer ÷ bare"),
        ("ResNet-18 epoch, Trainer ÷ bare loop", "≤ 1.02", "trainer_overhead", "ResNet-18*", "trainer ÷ bare"),
        ("our step ÷ torchvision's", "≤ 1.02", "torchvision", "*", "ours ÷ torchvision"),
        ("usual loading ÷ ours, an epoch of LeNet, bf16", "≥ 4", "data", "an epoch of LeNet, bf16*", "usual ÷ ours"),
        ("the same in fp32, where the network takes longer", "≥ 4", "data", "an epoch of LeNet, fp32*", "usual ÷ ours"),
        ("torchvision's ImageFolder ÷ ours, 224 px crops", "≥ 1.3", "folder", "*", "usual ÷ ours"),
        ("LeNet, cats and dogs at 64 px, decoding each epoch ÷ once", "≥ 3", "cache", "cats and dogs, LeNet", "A ÷ B"),
        ("CIFAR-10 epoch of LeNet, files decoded once ÷ in memory", "≤ 1.05", "cache", "CIFAR*", "A ÷ B"),
        ("predict.py ÷ bare loop, torchvision's decoding", "≤ 1.1", "predict", "LeNet*torchvision", "ours ÷ plain"),
        ("the same, our decoding", "≤ 1.1", "predict", "LeNet*our decoding", "ours ÷ plain"),
        ("default ÷ trainer=fast, LeNet", "≥ 1.7", "fast", "LeNet*", "default ÷ fast"),
        ("default ÷ trainer=fast, CIFAR ResNet-20", "≥ 1.7", "fast", "*ResNet-20*", "default ÷ fast"),
        ("default ÷ trainer=fast, ResNeXt-50 at 224 px", "≥ 1.7", "fast", "*224 px", "default ÷ fast"),
        ("the same at 32 px", "≥ 1.7", "fast", "*32 px", "default ÷ fast"),
        ("seconds that a job of a sweep adds to its training", "≤ 0.5", "sweep", "*", "beyond it, s a job"),
        ("MiB of a LeNet run beyond the libraries and the images", "≤ 300", "start_up", "beyond them", "MiB"),
    ],
    "gpu": [
        ("our loader ÷ a compiled ResNet-18 at 32 px", "≥ 20", "accelerator", "our loader*", "÷ network"),
        ("torchvision's step of ResNet-50 at 224 px ÷ ours, eager", "≥ 1", "accelerator", "torchvision", "peer ÷ ours"),
        ("timm's step of ResNet-50 at 224 px ÷ ours, eager", "≥ 1", "accelerator", "timm", "peer ÷ ours"),
        ("ResNet-18 at 32 px, Trainer ÷ bare loop", "≤ 1.03", "accelerator", "as in train.py", "trainer ÷ bare"),
        ("the same without checkpoints", "≤ 1.03", "accelerator", "without checkpoints", "trainer ÷ bare"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs=2, metavar=("FOLDER", "NAME"), help="copy the records below a folder first")
    given = parser.parse_args()
    if given.keep:
        keep(Path(given.keep[0]), given.keep[1])
    for path in sorted((ROOT / "docs").glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))
    for name, plot in pictures().items():
        if stamp(IMAGES / name) != digest(plot.data):
            plot.figure().savefig(IMAGES / name, dpi=120, metadata={STAMP: digest(plot.data)})
            print((IMAGES / name).relative_to(ROOT))


def pictures() -> dict[str, figures.Plot]:
    """The plots that the pages show, under their files' names."""
    from callbacks.plots import curves_figure
    from docs.pictures import NORMS, axes_figure, gradients_figure

    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    found = {}
    for name in dict.fromkeys(re.findall(r"<!-- table ([\w/]+)", text)):
        for plot_name, plot in figures.plots(table(name)).items():
            picture = plot_name.replace("report", name.replace("/", "_"), 1)
            if f"images/{picture}" in text:
                found[picture] = plot
    norms = json.loads((RECORDS / "gradients.json").read_text(encoding="utf-8"))["gradient_norms"]
    curves = json.loads((RECORDS / "curves.json").read_text(encoding="utf-8"))
    found["gradients.png"] = figures.Plot(norms, partial(gradients_figure, norms))
    found["norm_axes.png"] = figures.Plot(list(NORMS), axes_figure)
    found["curves.png"] = figures.Plot(curves, partial(curves_figure, **curves))
    return found


def digest(data: Any) -> str:
    """A hash of what a picture shows; numbers count to six digits, which all machines agree on."""

    def rounded(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(key): rounded(value) for key, value in part.items()}
        if isinstance(part, list | tuple):
            return [rounded(value) for value in part]
        return f"{part:.6g}" if isinstance(part, float) else part

    return hashlib.sha256(json.dumps(rounded(data)).encode()).hexdigest()[:16]


def stamp(path: Path) -> str | None:
    """The hash of what a picture was made from; None if there is no such picture, or it has none."""
    if not path.exists():
        return None
    with Image.open(path) as picture:
        return picture.info.get(STAMP)


def keep(folder: Path, name: str) -> None:
    """Copy the records below a folder, without what only that machine knows."""
    for job in job_folders([folder]):
        record = json.loads((job / FILE).read_text(encoding="utf-8"))
        part = job.name if job != folder.resolve() else f"seed-{record['seed']}"
        (RECORDS / name / part).mkdir(parents=True, exist_ok=True)
        write_json(RECORDS / name / part / FILE, record)


def filled(text: str) -> str:
    """A page with its tables made anew."""

    def block(match: re.Match) -> str:
        opening, kind, options, end = match.groups()
        makers = {"table": configurations, "results": results, "chance": chance, "benchmark": benchmark, "bars": bars}
        lines = makers[kind](*options.split())
        return "\n".join([opening.rstrip("\n"), "", *lines, "", end])

    return BLOCK.sub(block, text)


def table(name: str, *more: str) -> SweepTable:
    return tabulate(read_jobs([RECORDS / name]), "val/top1", more)


def configurations(name: str, *more: str) -> Iterator[str]:
    """The table of a sweep with more metrics, and what its jobs share."""
    metrics = [name for name in more if name not in SECONDS]
    made = table(name, *metrics)
    shown = report.cells(made, metrics)
    shown = shown.drop(columns=["status", *(title for title in SECONDS if title not in more)])
    yield from report.grid(list(shown), shown.to_numpy().tolist(), left=len(made.keys))
    yield ""
    yield "; ".join(f"{fact} {value}" for fact, value in report.shared(made) if fact != "overrides") + "."


def results() -> Iterator[str]:
    """A line for each experiment of which there are records, over its seeds."""
    head = ["command", "test top-1 (%)", "published (%)", "params", "FLOPs/image", "training", "device"]
    rows, versions = [], set()
    for folder in sorted(
        path for path in RECORDS.iterdir() if (ROOT / "conf/experiment" / f"{path.name}.yaml").exists()
    ):
        made = table(folder.name)
        for _, row in made.rows.iterrows():
            jobs = made.jobs_of(row)
            record = jobs.iloc[0].record
            device, seconds = record["device"], row["train_seconds"]
            versions.add(", ".join(f"{package} {version}" for package, version in record["versions"].items()))
            cells = [f"`{command(jobs)}`", f"{report.with_spread(row, 'test/top1')} (n = {row['completed']})"]
            cells += [PUBLISHED.get(folder.name, ""), human(row["params"]), human(row["flops_per_image"])]
            rows.append([*cells, f"{seconds / 60:.1f} min a seed", device])
    for line in report.grid(head, rows, left=1):
        yield re.sub(r"(`.*`)", lambda code: code[1].replace("\\", ""), line.replace("\\`", "`"))
    yield ""
    yield f"Mean ± sample standard deviation over the n seeds; {'; '.join(sorted(versions))}."


def chance() -> Iterator[str]:
    """A line for each case, over its seeds."""
    found: dict[str, list[dict]] = {}
    for path in sorted((RECORDS / "chance").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(record["case"], []).append(record)
    rows = []
    for records in sorted(found.values(), key=lambda records: mean(record["test"] for record in records)):
        scores = [f"{100 * record['test']:.1f}" for record in records]
        commonest, train = (mean(record[key] for record in records) for key in ("commonest_answer", "train"))
        rows.append([records[0]["what"], ", ".join(scores), f"{100 * commonest:.0f}", f"{100 * train:.1f}"])
    head = ["what is done", "test top-1 of each seed (%)", "answers of the commonest class (%)", "train top-1 (%)"]
    yield from report.grid(head, rows, left=1)
    yield ""
    first = next(iter(found.values()))[0]
    versions = ", ".join(f"{package} {version}" for package, version in first["versions"].items())
    yield f"`python docs/chance.py`; {first['device']}; {versions}."


def written(name: str) -> dict:
    """What a script in benchmarks/ has written, its tables in one list."""
    found = json.loads((RECORDS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    sections = found.get("sections", {}).values()  # only of a script that measures in several
    return {"tables": [table for part in sections for table in part["tables"]]} | found


def benchmark(name: str) -> Iterator[str]:
    """The tables of a script in benchmarks/, as it prints them."""
    found = written(name)
    for made in found["tables"]:
        rows = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in made["rows"]]
        yield from [made["title"] + ":", "", *report.grid(list(made["rows"][0]), rows, left=1), ""]
    run = re.sub(r" --json \S+", "", found["command"])
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    yield f"`{run}` on {found['device']}; {versions}."


def bars(device: str) -> Iterator[str]:
    """A line for each bar: the least and the most of the rows that it is about, and whether all of them meet it."""
    lines = []
    for what, bar, name, pattern, column in BARS[device]:
        rows = [row for made in written(name)["tables"] for row in made["rows"] if column in row]
        found = sorted(round(row[column], 3) for row in rows if fnmatchcase(next(iter(row.values())), pattern))
        sign, limit = bar.split()
        met = found[-1] <= float(limit) if sign == "≤" else found[0] >= float(limit)
        shown = [f"{value:.3f}" if value < 100 else f"{value:.0f}" for value in (found[0], found[-1])]
        lines.append([what, bar, " to ".join(dict.fromkeys(shown)), "yes" if met else "no"])
    return report.grid(["ratio", "bar", "measured", "met"], lines, left=1)


def command(jobs: pd.DataFrame) -> str:
    """The command that runs all of these jobs."""
    values = {key: value for key, value in jobs.iloc[0].overrides.items() if key != "seed"}
    seeds = sorted(set(jobs.seed), key=int)
    sweep = ["-m"] if len(seeds) > 1 else []
    given = [f"{key}={value}" for key, value in values.items()]
    return " ".join(["python train.py", *sweep, *given, f"seed={','.join(seeds)}"])


if __name__ == "__main__":
    main()
