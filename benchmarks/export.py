"""How exact the files of export.py are: the largest difference of a logit from the checkpoint's, on test images.

The networks are trained on the digits by train.py; tests/test_export.py tests random weights.

python -m benchmarks.export
"""

import argparse
import tempfile

import hydra

from benchmarks import common
from export import FORMATS, export

NETWORKS = {
    "LeNet, 32 px": ["model=lenet"],
    "ResNet-18, 32 px": ["model=resnet18"],
    "ResNet-50, 32 px": ["model=resnet50", "optimizer.lr=0.005"],
    "ResNeXt-50, 32 px": ["model=resnext50", "optimizer.lr=0.005"],
}


def differences(name: str, overrides: list[str], epochs: int) -> dict:
    row = {"network": name}
    with tempfile.TemporaryDirectory() as folder:
        data = ["datamodule=digits", "datamodule.image_size=32", f"trainer.max_epochs={epochs}", "trainer=cpu"]
        common.train(*data, *overrides, f"hydra.run.dir={folder}")
        for form, (ending, _) in FORMATS.items():
            given = [f"ckpt={folder}", f"format={form}", f"output={folder}/network{ending}", f"run_dir={folder}"]
            row[form] = f"{export(hydra.compose('export', given)):.1e}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2, help="training epochs")
    parser.add_argument("--only", choices=NETWORKS)
    common.add_output(parser)
    args = parser.parse_args()
    chosen = {args.only: NETWORKS[args.only]} if args.only else NETWORKS
    rows = [differences(name, overrides, args.epochs) for name, overrides in chosen.items()]
    common.table("Largest difference of a logit by format", rows, args)


if __name__ == "__main__":
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        main()
