"""Imported, it has drawn a figure and composed a config: what is slow only the first time, before a process forks."""

import io
from pathlib import Path

import hydra
from matplotlib.figure import Figure

figure = Figure()
figure.subplots().plot([0, 1], label="x")
figure.legend()
figure.savefig(io.BytesIO())

with hydra.initialize_config_dir(str(Path(__file__).parent.parent / "conf"), version_base="1.3"):
    hydra.compose("train", ["run_dir=x"])
