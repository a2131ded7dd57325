"""The pictures of docs/monitoring.md: a real sweep in TensorBoard, in a headless Chromium.

python docs/screenshots.py                      train six LeNets first (some minutes on 2 cores)
python docs/screenshots.py --sweep FOLDER       of a sweep that is there
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # it is a script in a folder of its own

from tests.browser import Page, tensorboard  # noqa: E402

SWEEP = (
    "-m datamodule=fashion_mnist model=lenet datamodule.batch_size=64,256 optimizer.lr=0.01,0.03,0.1 trainer=fast "
    "trainer.max_epochs=4 +trainer.limit_train_batches=0.3 trainer.log_every_n_steps=10"
).split()
# Name of the picture: tab, regular expression for its tags, words and pictures to wait for.
TABS = {
    "scalars": ("timeseries", "^(train|val)/(loss|top1)|^lr$", ("train", "/loss", "val"), 0),
    "charts": ("custom_scalars", "", ("curves", "Matches"), 0),
    "images": ("images", "train/batch|test/mistakes|test/confusion", ("test/mistakes",), 4),
    "hparams": ("hparams", "", ("Number of matching", "best/top1"), 0),
    "precision_recall": ("pr_curves", "test/precision_recall/(Shirt|Bag)", ("Shirt",), 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sweep = given.sweep or Path(scratch) / "sweep"
        if not given.sweep:
            subprocess.run(
                [sys.executable, ROOT / "train.py", *SWEEP, f"hydra.sweep.dir={sweep}"], cwd=ROOT, check=True
            )
        with tensorboard(sweep) as address, Page(1280, 860) as page:
            for name, (tab, tags, words, pictures) in TABS.items():
                page.open(address, tab, tags)
                page.wait_for(*words, pictures=pictures)
                time.sleep(2)  # charts are drawn with an animation
                keep(page.driver.get_screenshot_as_png(), ROOT / "docs" / "images" / f"tensorboard_{name}.png")


def keep(png: bytes, path: Path) -> None:
    """With 128 colours, which is a third of the bytes."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
