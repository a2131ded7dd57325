"""How far the logits of an exported file are from the checkpoint's, on test images, at a batch of 1, 7 and 64.

The networks are trained on the digits, by train.py; with random weights the same is in tests/test_export.py.

python -m benchmarks.export
"""

import argparse
import tempfile
from pathlib import Path

import checkpoints
import exported
from benchmarks import common
from datamodules import Preprocessing

NETWORKS = {
    "LeNet, 32 px": ["model=lenet"],
    "ResNet-18, 32 px": ["model=resnet18"],
    "ResNet-50, 32 px": ["model=resnet50", "optimizer.lr=0.005"],
    "ResNeXt-50, 32 px": ["model=resnext50", "optimizer.lr=0.005"],
}


def differences(name: str, overrides: list[str], epochs: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        data = ["datamodule=digits", "datamodule.image_size=32", f"trainer.max_epochs={epochs}", "trainer=cpu"]
        common.train(*data, *overrides, f"hydra.run.dir={folder}")
        file, checkpoint, backbone = checkpoints.opened(folder, ())
        backbone.eval()
        pixels, _ = exported.real_images(checkpoint, [], ())
        preprocessing = checkpoint["preprocessing"]
        facts = {"class_names": checkpoint["class_names"], "preprocessing": preprocessing}
        facts |= {"preprocessing_inside": False, "checkpoint": str(file)}
        shown = exported.as_taken(pixels, Preprocessing(**preprocessing), False)
        row = {"network": name, "largest logit": exported.compare(backbone, backbone, shown)[1]}
        for form in exported.FORMATS:
            farthest, _ = exported.save(Path(folder, "exported"), form, backbone, pixels, facts, tolerance=1e-4)
            row[form] = f"{farthest:.1e}" if farthest else "0"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2, help="of training")
    parser.add_argument("--only", choices=NETWORKS)
    common.add_output(parser)
    args = parser.parse_args()
    chosen = {args.only: NETWORKS[args.only]} if args.only else NETWORKS
    rows = [differences(name, overrides, args.epochs) for name, overrides in chosen.items()]
    common.table("Largest difference of a logit by format", rows, args)


if __name__ == "__main__":
    main()
