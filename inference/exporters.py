"""A trained network as a file that needs nothing of this project: written, opened again, compared with the original.

Every format is made of one ``torch.export`` program, and is one file. Metadata are JSON texts by name.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from datamodules import Preprocessing
from datamodules.decoding import read_image
from inference import checkpoints
from results.record import replacing

Metadata = dict[str, str]
Network = Callable[[Tensor], Tensor]
INPUT, OUTPUT = "images", "logits"
METADATA = ("class_names", "preprocessing", "preprocessing_inside", "checkpoint")
COMPARED = 64  # images at most
BATCHES = (1, 7)  # at which an opened file is compared, beside all images at once
LARGE = 100  # of such a logit, 1e-4 are a dozen of the steps that float32 makes there
ONNX_LIMIT = 3 * 2**29  # bytes of weights; of more, torch makes a second file, for ONNX ends at 2 GiB


class Disagreement(RuntimeError):
    """A file computes something else than the network it was made of."""


class Exported(nn.Module):
    """A network as the file has it.

    Args:
        backbone: from normalised images to logits, in evaluation mode.
        prepare: normalises images inside; None: they come normalised.
    """

    def __init__(self, backbone: nn.Module, prepare: Preprocessing | None):
        super().__init__()
        self.backbone, self.prepare = backbone.eval(), prepare

    def forward(self, images: Tensor) -> Tensor:
        """``(N, in_channels, size, size)`` float32 → logits ``(N, num_classes)`` float32.

        With ``prepare`` from ``(N, 1 or 3, size, size)`` uint8, whatever the network's own channels are.
        """
        return self.backbone(images if self.prepare is None else self._normalized(images))

    def _normalized(self, images: Tensor) -> Tensor:
        channels = images.shape[1]  # 1 or 3 is known only when the file is used: there can be no `if`
        coloured = images[:, torch.arange(3).clamp(max=channels - 1)]  # (N, 3, size, size), grey three times
        normalized = self.prepare.normalize(coloured)
        if self.prepare.in_channels == 1:  # what is grey is not turned grey again, which would round it down
            plain = self.prepare.normalize(images[:, :1])
            normalized = torch.where(torch.scalar_tensor(channels) == 1, plain, normalized)
        return normalized


def trace(network: Exported, like: Tensor) -> ExportedProgram:
    """The network as a graph for any number of images.

    Args:
        like: images as it takes them, at least one; of three channels where it normalises them itself.
    """
    dimensions = {0: Dim("batch")} | ({1: Dim("channels", min=1, max=3)} if network.prepare else {})
    example = torch.zeros(2, *like.shape[1:], dtype=like.dtype)
    program = torch.export.export(network, (example,), dynamic_shapes={INPUT: dimensions})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # else the file would name folders of this machine
    return program


def write_onnx(program: ExportedProgram, metadata: Metadata, file: Path) -> None:
    """Raises: ValueError: there are too many weights for one file."""
    size = sum(weight.nbytes for weight in program.state_dict.values())
    if size > ONNX_LIMIT:
        raise ValueError(f"{size:,} bytes of weights are too many for one ONNX file; format=torch_export has no limit")
    for name in ("onnxscript", "onnx_ir"):  # they tell of every step
        logging.getLogger(name).setLevel(logging.WARNING)
    made = torch.onnx.export(program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False)
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        for axis, name in enumerate(("batch", "channels")):
            if not isinstance(value.shape[axis], int):
                value.shape[axis] = name  # instead of s77
    made.model.metadata_props.update(metadata)
    made.save(file, external_data=False)


def open_onnx(file: Path) -> tuple[Network, Metadata]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def network(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])

    return network, session.get_modelmeta().custom_metadata_map


def write_torch_export(program: ExportedProgram, metadata: Metadata, file: Path) -> None:
    content = BytesIO()  # straight to a full disk, torch would say "unexpected pos 64 vs 0"
    torch.export.save(program, content, extra_files=metadata)
    file.write_bytes(content.getbuffer())


def open_torch_export(file: Path) -> tuple[Network, Metadata]:
    metadata = dict.fromkeys(METADATA, "")  # filled in by load
    program = torch.export.load(file, extra_files=metadata)
    return program.module(), metadata


# By format: what writes it, and what opens it.
FORMATS = {"onnx": (write_onnx, open_onnx), "torch_export": (write_torch_export, open_torch_export)}


def save(
    path: Path, form: str, backbone: nn.Module, pixels: Tensor, facts: dict[str, Any], tolerance: float
) -> tuple[float, str]:
    """Write a network, and put it into its place once it is opened again and agrees with the original.

    Args:
        form: one of ``FORMATS``.
        backbone: from normalised images to logits.
        pixels: to compare on: ``(N, 1 or 3, image_size, image_size)`` uint8.
        facts: the metadata, as plain values, one for each of ``METADATA``.
        tolerance: how far logits may be from the original's; in proportion farther where some are above ``LARGE``.

    Returns:
        How far they are, as a number and in words.

    Raises:
        Disagreement: farther than that, or the metadata are others. What was at ``path`` before is still there.
    """
    write, open_again = FORMATS[form]
    metadata = {name: json.dumps(facts[name], ensure_ascii=False) for name in METADATA}
    prepare, inside = Preprocessing(**facts["preprocessing"]), facts["preprocessing_inside"]
    network, shown = Exported(backbone, prepare if inside else None), as_taken(pixels, prepare, inside)
    with replacing(path) as temporary:
        write(trace(network, shown[-1][0]), metadata, temporary)
        opened, found = open_again(temporary)
        if found != metadata:
            raise Disagreement(f"format={form} gave a file with other metadata; it is not kept")
        farthest, largest = compare(opened, network.backbone, shown)
        said = f"logits of up to {largest:.1f} differ by up to {farthest:.1e}"
        if not farthest <= tolerance * max(1, largest / LARGE):  # nor where it is NaN
            raise Disagreement(f"format={form} gave another network: {said}; tolerance={tolerance}; it is not kept")
    return farthest, said


def as_taken(pixels: Tensor, prepare: Preprocessing, inside: bool) -> list[tuple[Tensor, Tensor]]:
    """(as a file takes them, as the backbone does) of the images; of preprocessing inside, as grey and as coloured."""
    if not inside:
        return [(prepare.normalize(pixels), prepare.normalize(pixels))]
    grey = pixels[:, :1]
    # A grey network is shown equal colours: of others a mix may round to a grey level more or less than torch's.
    coloured = (grey if prepare.in_channels == 1 else pixels).expand(-1, 3, -1, -1)
    return [(images, prepare.normalize(images)) for images in (grey, coloured)]


@torch.no_grad()
def compare(network: Network, original: Network, shown: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """How far two networks' logits are from each other at most, and how large they are; NaN where one is no number.

    Args:
        shown: the same images ``(N, …)`` as the one and as the other takes them; compared at a batch of 1, 7 and N.
    """
    differences, sizes = [], []
    for its, others in shown:
        for size in (*BATCHES, len(its)):
            batch = torch.arange(size) % len(its)
            logits = original(others[batch])
            differences.append((network(its[batch]) - logits).abs().max())
            sizes.append(logits.abs().max())
    return torch.stack(differences).max().item(), torch.stack(sizes).max().item()


def real_images(checkpoint: dict[str, Any], files: Sequence[str], trust: Iterable[str]) -> tuple[Tensor, str]:
    """Up to 64 images as a network sees them, ``(N, 1 or 3, image_size, image_size)`` uint8, and whose they are.

    Args:
        checkpoint: the network's; without ``files``, the test images of its data.
    """
    preprocessing = checkpoint["preprocessing"]
    if files:
        files = files[:: -(-len(files) // COMPARED)]  # from all over, for the first may be of one class
        fit = Preprocessing(**preprocessing).fit
        return torch.stack([fit(read_image(file)) for file in files]), f"{len(files)} of the images given"
    try:
        data = checkpoints.build_datamodule(checkpoint, OmegaConf.create(), trust)
        data.as_test_set("test", preprocessing, checkpoint["class_names"])
        data.prepare_data()
        data.setup("test")
    except OSError as error:
        raise FileNotFoundError(f"{error}; images=PATH takes others to compare on") from error
    count = min(COMPARED, len(data.test_images))
    spread = torch.linspace(0, len(data.test_images) - 1, count).long()
    return data.pixels(spread), f"{count} test images of {type(data).__name__}"
