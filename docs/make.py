"""Write the tables and plots of docs/ from the records in docs/records/.

python docs/make.py                                     all of them anew
python docs/make.py --keep runs/NAME/DATE lenet         first keep a run's or a sweep's records under a name

A page says where a table belongs by two comments:

<!-- table lenet -->        the configurations of the records called lenet, as in a sweep's report
<!-- results -->            a line for each experiment, of the records that are named like one
<!-- end -->
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # it is a script in a folder of its own

from studies import figures, page, report  # noqa: E402
from studies.record import FILE, write_json  # noqa: E402
from studies.table import Job, Table, human, tabulate  # noqa: E402

RECORDS, IMAGES = ROOT / "docs" / "records", ROOT / "docs" / "images"
BLOCK = re.compile(r"(<!-- (table|results)((?: [\w/=.]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
# Top-1 of the test set that others report, in percent, and where from.
PUBLISHED = {
    "fashion_mnist_lenet": "87.6 to 91.6 (two convolutions; the data's own list of results)",
    "fashion_mnist_resnet20": "95.18, 95.55 with random erasing (Zhong et al. 2017)",
    "fashion_mnist_resnet18": "94.9 (the data's own list of results)",
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
        for name in re.findall(r"<!-- table ([\w/]+)", after):
            for plot, picture in figures.draw(table(name)).items():
                picture_name = plot.replace("report", name.replace("/", "_"), 1)
                if f"images/{picture_name}" in after:
                    (IMAGES / picture_name).write_bytes(picture)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


def keep(folder: Path, name: str) -> None:
    """Copy the records below a folder, without what only that machine knows."""
    for job in report.find([folder]):
        record = json.loads((job / FILE).read_text(encoding="utf-8"))
        part = job.name if job != folder.resolve() else f"seed-{record['seed']}"
        (RECORDS / name / part).mkdir(parents=True, exist_ok=True)
        write_json(RECORDS / name / part / FILE, record)


def filled(text: str) -> str:
    """A page with its tables made anew."""

    def block(match: re.Match) -> str:
        opening, kind, options, end = match.groups()
        lines = results() if kind == "results" else configurations(*options.split())
        return "\n".join([opening.rstrip("\n"), "", *lines, "", end])

    return BLOCK.sub(block, text)


def table(name: str, metric: str = "val/top1") -> Table:
    return tabulate(report.read([RECORDS / name]), metric)


def configurations(name: str, metric: str = "val/top1") -> Iterator[str]:
    """The table of a sweep, and what its jobs share."""
    made = table(name, metric)
    yield from page.grid(page.headings(made)[:-1], [page.cells(made, row)[:-1] for row in made.rows], len(made.keys))
    yield ""
    yield "; ".join(f"{fact} {value}" for fact, value in page.shared(made)) + "."


def results() -> Iterator[str]:
    """A line for each experiment of which there are records, over its seeds."""
    head = ["command", "test top-1 (%)", "published (%)", "params", "FLOPs/image", "training", "device"]
    rows, versions = [], set()
    for folder in sorted(
        path for path in RECORDS.iterdir() if (ROOT / "conf/experiment" / f"{path.name}.yaml").exists()
    ):
        for row in table(folder.name).rows:
            record = row.jobs[0].record
            device, seconds = record["device"], row.mean("train_seconds")
            versions.add(", ".join(f"{package} {version}" for package, version in record["versions"].items()))
            cells = [f"`{command(row.jobs)}`", f"{page.with_spread(row, 'test/top1')} (n = {row.completed})"]
            cells += [PUBLISHED.get(folder.name, ""), human(row.mean("params")), human(row.mean("flops_per_image"))]
            rows.append([*cells, f"{seconds / 60:.1f} min a seed", device])
    yield from page.grid(head, rows, left=1)
    yield ""
    yield f"Mean ± sample standard deviation over the n seeds; {'; '.join(sorted(versions))}."


def command(jobs: Sequence[Job]) -> str:
    """What runs all of these jobs."""
    values = {key: value for key, value in jobs[0].overrides.items() if key != "seed"}
    seeds = sorted({job.seed for job in jobs}, key=int)
    sweep = ["-m"] if len(seeds) > 1 else []
    given = [f"{key}={value}" for key, value in values.items()]
    return " ".join(["python train.py", *sweep, *given, f"seed={','.join(seeds)}"])


if __name__ == "__main__":
    main()
