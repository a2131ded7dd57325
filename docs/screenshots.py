"""The pictures of a real sweep in docs/monitoring.md: in TensorBoard, in a headless Chromium, and explain.png.
And the page of demo.py in docs/use.md.

python docs/screenshots.py                      train six LeNets first (some minutes on 2 cores)
python docs/screenshots.py --sweep FOLDER       of a sweep that is there
python docs/screenshots.py --report             only report.png: the page of a report, of docs/records/groups
python docs/screenshots.py --demo               only demo.png: the page of demo.py, of a LeNet that it trains on digits

It also keeps the record of curves.png, which docs/make.py draws.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # it is a script in a folder of its own

from datamodules.digits import TEST_IMAGES, read_digits  # noqa: E402
from docs.make import IMAGES, RECORDS, STAMP, digest, table  # noqa: E402
from inference import checkpoints, load_trained  # noqa: E402
from results import figures, report  # noqa: E402
from results.record import write_json  # noqa: E402
from tests.browser import Page, served, tensorboard  # noqa: E402

SWEEP = (
    "-m datamodule=fashion_mnist model=lenet datamodule.batch_size=64,256 optimizer.lr=0.01,0.03,0.1 trainer=fast "
    "trainer.max_epochs=4 +trainer.limit_train_batches=0.3 trainer.log_every_n_steps=10"
).split()
ONE = "batch_size-64_optimizer.lr-0.03"
EXPLAIN = "explain=8"
DEMO = ("trainer=cpu", "trainer.max_epochs=5")  # the training of the network that demo.py shows
REPORT = "groups"  # the records whose report is shown
# What the table of hyperparameters need not show: the rest of what TensorBoard ticks at first.
UNTICK = ("datamodule", "model", "optimizer", "best/f1_macro", "best/loss", "best/top5", "test/f1_macro")

# Of the TIME SERIES tab: without the settings' pane and the tables under the charts, and every point as it is.
SETTINGS = {
    "timeSeriesSettingsPaneOpened": False,
    "stepSelectorEnabled": False,
    "ignoreOutliers": False,
    "scalarSmoothing": 0,
}


@dataclass
class Shot:
    """Args: tags, runs: regular expressions; words, pictures: to wait for; click: on what, then; height: in pixels."""

    tab: str
    height: int
    words: tuple[str, ...]
    pictures: int = 0
    tags: str = ""
    runs: str = ""
    click: tuple[str, ...] = ()


SHOTS = {
    "scalars": Shot("timeseries", 840, ("val/top1",), 0, "^(train|val)/(loss|top1)|^(lr|grad_norm)$", "batch_size-64"),
    "charts": Shot("custom_scalars&_smoothingWeight=0", 480, ("curves", "Matches"), runs="batch_size-64"),
    "images": Shot("images", 1080, ("train/batch",), 4, "train/batch|filters|test/(mistakes|confusion)", ONE),
    "precision_recall": Shot("pr_curves", 700, ("Shirt",), tags="test/precision_recall/Shirt"),
    "hparams": Shot("hparams", 420, ("0.030000",), click=(*UNTICK, "test/top1")),
    "parallel": Shot("hparams", 1000, ("0.030000",), click=(*UNTICK, "test/top1", "PARALLEL COORDINATES VIEW")),
}


def made_from(picture: str) -> str:
    """A hash of the commands and the settings that a picture is taken with."""
    if picture == "report.png":
        return digest(figures.plots(table(REPORT))["report_configurations.png"].data)
    if picture == "demo.png":
        return digest(DEMO)
    name = picture.removeprefix("tensorboard_").removesuffix(".png")
    return digest([SWEEP, ONE, vars(SHOTS[name]) if name in SHOTS else EXPLAIN])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, metavar="FOLDER")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--demo", action="store_true")
    given = parser.parse_args()
    for only, keep_page in ((given.report, keep_report), (given.demo, keep_demo)):
        if only or not (given.report or given.demo):
            keep_page()
    if given.report or given.demo:
        return
    with tempfile.TemporaryDirectory() as scratch:
        sweep = given.sweep or Path(scratch) / "runs" / "lenet"
        if not given.sweep:
            subprocess.run(
                [sys.executable, ROOT / "train.py", *SWEEP, f"hydra.sweep.dir={sweep}"], cwd=ROOT, check=True
            )
        (run,) = sweep.glob(f"*{ONE}")
        keep_curves(run)
        command = [
            sys.executable,
            ROOT / "evaluate.py",
            f"ckpt='{run.resolve()}'",
            EXPLAIN,
            f"hydra.run.dir='{scratch}/scores'",
        ]
        subprocess.run(command, cwd=ROOT, check=True)
        keep(Path(scratch, "scores", "explain.png").read_bytes(), "explain.png")
        with tensorboard(sweep) as address, Page(1400) as page:
            page.settle(address, **SETTINGS)
            for name, shot in SHOTS.items():
                page.resize(1400, shot.height)
                page.open(address, shot.tab, shot.tags, shot.runs)
                page.wait_for(*shot.words, pictures=shot.pictures)
                for text in shot.click:
                    page.click(text)
                time.sleep(3)  # charts are drawn with an animation
                keep(page.driver.get_screenshot_as_png(), f"tensorboard_{name}.png")


def keep_report() -> None:
    """The top of the report of docs/records/groups, as a browser shows it."""
    with tempfile.TemporaryDirectory() as scratch, chdir(ROOT), Page(1400, 1000) as page:
        output = Path(scratch) / "study" / REPORT
        report.write([RECORDS.relative_to(ROOT) / REPORT], output=output)
        page.driver.get((output / "report.html").as_uri())
        keep(page.driver.get_screenshot_as_png(), "report.png")


def keep_demo() -> None:
    """The page of demo.py with the test image of which a LeNet is least certain."""
    with tempfile.TemporaryDirectory() as scratch, Page(900, 540) as page:
        run, file = Path(scratch) / "run", Path(scratch) / "digit.png"
        subprocess.run([sys.executable, ROOT / "train.py", *DEMO, f"hydra.run.dir={run}"], cwd=scratch, check=True)
        images = read_digits()[0][-TEST_IMAGES:].mul(255 / 16).round().byte()  # (382, 8, 8)
        least = load_trained(run)(images.unsqueeze(1)).amax(1).argmin()
        Image.fromarray(images[least].numpy()).save(file)
        with served(ROOT / "demo.py", f"ckpt={run}", "port=0", cwd=scratch) as (_, address):
            page.driver.get(address)
            page.wait_for("Likeliest classes")
            page.drop(file)
            page.wait_for("%", pictures=1)
            time.sleep(6)  # the marks of the answer's progress fade
            keep(page.driver.get_screenshot_as_png(), "demo.png")


def keep_curves(run: Path) -> None:
    """Copy what a run's curves.png shows into docs/records."""
    states = checkpoints.read_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"]
    (history,) = (state["history"] for name, state in states.items() if name.startswith("RunMetrics"))
    epochs, best = max(history["val/top1"], key=lambda point: point[1])
    facts = {"monitor": "val/top1", "best_epoch": round(epochs) - 1, "best": best}
    write_json(RECORDS / "curves.json", {"history": history} | facts)


def keep(png: bytes, name: str) -> None:
    """With the hash of what it was made from; a screenshot with 128 colours, which is a third of the bytes."""
    info = PngInfo()
    info.add_text(STAMP, made_from(name))
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.quantize(128) if name != "explain.png" else picture
    picture.save(IMAGES / name, optimize=True, pnginfo=info)
    print(f"{name}  {(IMAGES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
