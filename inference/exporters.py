"""Export a trained network to one file without dependencies on this project: write, reopen, compare, then replace.

ONNX and ``.pt2`` are made from a ``torch.export`` program, ``.safetensors`` has the weights alone. Metadata is
JSON text by name.
"""

import copy
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.torch
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
MAX_COMPARED = 64  # images
BATCH_SIZES = (1, 7)  # to compare at, besides all images at once
LARGE = 100  # a logit this large has a float32 spacing of about 1e-5
ONNX_LIMIT = 3 * 2**29  # bytes of weights; above that torch writes a second file, because ONNX is limited to 2 GiB


class Disagreement(RuntimeError):
    """An exported file computes other logits than the network, or has other metadata."""


class ExportModule(nn.Module):
    """The network that is exported.

    Args:
        backbone: maps normalised images to logits.
        prepare: normalises the images inside; None: the input is normalised already.
    """

    def __init__(self, backbone: nn.Module, prepare: Preprocessing | None):
        super().__init__()
        self.backbone, self.prepare = backbone.eval(), prepare

    def forward(self, images: Tensor) -> Tensor:
        """``(N, in_channels, size, size)`` float32 → logits ``(N, num_classes)`` float32.

        With ``prepare``, the input is ``(N, 1 or 3, size, size)`` uint8, for any ``in_channels``.
        """
        return self.backbone(images if self.prepare is None else self._normalized(images))

    def _normalized(self, images: Tensor) -> Tensor:
        channels = images.shape[1]  # 1 or 3, known only when the file is used: no `if`
        coloured = images[:, torch.arange(3).clamp(max=channels - 1)]  # (N, 3, size, size), grey three times
        normalized = self.prepare.normalize(coloured)
        if self.prepare.in_channels == 1:  # converting a grey image to grey again would round it down
            plain = self.prepare.normalize(images[:, :1])
            normalized = torch.where(torch.scalar_tensor(channels) == 1, plain, normalized)
        return normalized


def trace(network: ExportModule, like: Tensor) -> ExportedProgram:
    """The network as a graph for any number of images.

    Args:
        like: an example of the input; three channels if the network normalises the images.
    """
    dimensions = {0: Dim("batch")} | ({1: Dim("channels", min=1, max=3)} if network.prepare else {})
    example = torch.zeros(2, *like.shape[1:], dtype=like.dtype)
    program = torch.export.export(network, (example,), dynamic_shapes={INPUT: dimensions})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def write_onnx(network: ExportModule, like: Tensor, metadata: Metadata, file: Path) -> None:
    """Raises: ValueError: the weights are too large for one file."""
    program = trace(network, like)
    size = sum(weight.nbytes for weight in program.state_dict.values())
    if size > ONNX_LIMIT:
        raise ValueError(f"{size:,} bytes of weights are too many for one ONNX file; format=torch_export has no limit")
    for name in ("onnxscript", "onnx_ir"):  # they log every step
        logging.getLogger(name).setLevel(logging.WARNING)
    exported = torch.onnx.export(program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False)
    for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
        for axis, name in enumerate(("batch", "channels")):
            if not isinstance(value.shape[axis], int):
                value.shape[axis] = name  # instead of s77
    exported.model.metadata_props.update(metadata)
    exported.save(file, external_data=False)


def open_onnx(file: Path, backbone: nn.Module) -> tuple[Network, Metadata]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def network(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])

    return network, session.get_modelmeta().custom_metadata_map


def write_torch_export(network: ExportModule, like: Tensor, metadata: Metadata, file: Path) -> None:
    program = trace(network, like)
    content = BytesIO()  # when writing to a full disk, torch raises "unexpected pos 64 vs 0"
    torch.export.save(program, content, extra_files=metadata)
    file.write_bytes(content.getbuffer())


def open_torch_export(file: Path, backbone: nn.Module) -> tuple[Network, Metadata]:
    metadata = dict.fromkeys(METADATA, "")  # filled in by load
    program = torch.export.load(file, extra_files=metadata)
    return program.module(), metadata


def write_weights(network: ExportModule, like: Tensor, metadata: Metadata, file: Path) -> None:
    """Write the backbone's weights under torchvision's names."""
    weights = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in network.backbone.state_dict().items()
    }
    safetensors.torch.save_file(weights, file, metadata)


def open_weights(file: Path, backbone: nn.Module) -> tuple[Network, Metadata]:
    network = copy.deepcopy(backbone)
    for tensor in network.state_dict().values():
        tensor.zero_()  # so that every weight comes from the file
    network.load_state_dict(safetensors.torch.load_file(file))
    with safetensors.safe_open(file, "pt") as opened:
        return network, opened.metadata()


# Format → the functions that write a file, and open it (for a network like the given one).
FORMATS = {
    "onnx": (write_onnx, open_onnx),
    "torch_export": (write_torch_export, open_torch_export),
    "weights": (write_weights, open_weights),
}


def save(
    path: Path, form: str, backbone: nn.Module, pixels: Tensor, facts: dict[str, Any], tolerance: float
) -> tuple[float, str]:
    """Write a network to a temporary file, reopen and compare it, and move it to ``path`` only if it agrees.

    Args:
        form: one of ``FORMATS``.
        backbone: maps normalised images to logits.
        pixels: images to compare on, ``(N, 1 or 3, image_size, image_size)`` uint8.
        facts: the metadata: plain values by the names in ``METADATA``.
        tolerance: allowed difference of a logit; grows in proportion if logits exceed ``LARGE``.

    Returns:
        The largest difference, as a number and in words.

    Raises:
        Disagreement: the difference is larger, or the metadata differs. An earlier file at ``path`` is kept.
    """
    write, reopen = FORMATS[form]
    metadata = {name: json.dumps(facts[name], ensure_ascii=False) for name in METADATA}
    prepare, inside = Preprocessing(**facts["preprocessing"]), facts["preprocessing_inside"]
    network, pairs = ExportModule(backbone, prepare if inside else None), input_pairs(pixels, prepare, inside)
    with replacing(path) as temporary:
        write(network, pairs[-1][0], metadata, temporary)
        reopened, stored = reopen(temporary, network.backbone)
        if stored != metadata:
            raise Disagreement(f"format={form} wrote different metadata; the file is discarded")
        difference, largest = compare(reopened, network.backbone, pairs)
        result = f"logits of up to {largest:.1f} differ by up to {difference:.1e}"
        if not difference <= tolerance * max(1, largest / LARGE):  # also if it is NaN
            raise Disagreement(
                f"format={form} wrote a different network: {result}; {tolerance=}; the file is discarded"
            )
    return difference, result


def input_pairs(pixels: Tensor, prepare: Preprocessing, inside: bool) -> list[tuple[Tensor, Tensor]]:
    """The same images as inputs of (the file, the backbone); with preprocessing inside, grey and coloured ones."""
    if not inside:
        return [(prepare.normalize(pixels), prepare.normalize(pixels))]
    grey = pixels[:, :1]
    # Equal colours for a grey network: a mix of different ones may be rounded to another grey level than in torch.
    coloured = (grey if prepare.in_channels == 1 else pixels).expand(-1, 3, -1, -1)
    return [(images, prepare.normalize(images)) for images in (grey, coloured)]


@torch.no_grad()
def compare(network: Network, original: Network, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """(largest difference of two networks' logits, largest logit); NaN if a logit is NaN.

    Args:
        pairs: the same images ``(N, …)``, as input for each of the two networks; compared in batches of 1, 7 and N.
    """
    differences, sizes = [], []
    for images, original_images in pairs:
        for size in (*BATCH_SIZES, len(images)):
            batch = torch.arange(size) % len(images)
            logits = original(original_images[batch])
            differences.append((network(images[batch]) - logits).abs().max())
            sizes.append(logits.abs().max())
    return torch.stack(differences).max().item(), torch.stack(sizes).max().item()


def real_images(checkpoint: dict[str, Any], files: Sequence[str], trust: Iterable[str]) -> tuple[Tensor, str]:
    """(up to 64 images at a network's size, ``(N, 1 or 3, image_size, image_size)`` uint8; their source, for the log).

    Args:
        files: image files; if empty, the test images of the checkpoint's data are used.
    """
    preprocessing = checkpoint["preprocessing"]
    if files:
        files = files[:: -(-len(files) // MAX_COMPARED)]  # evenly spread: the first may belong to one class
        fit = Preprocessing(**preprocessing).fit
        return torch.stack([fit(read_image(file)) for file in files]), f"{len(files)} of the given images"
    try:
        data = checkpoints.build_datamodule(checkpoint, OmegaConf.create(), trust)
        data.as_test_set("test", preprocessing, checkpoint["class_names"])
        data.prepare_data()
        data.setup("test")
    except OSError as error:
        raise FileNotFoundError(f"{error}; images=PATH compares on other images") from error
    count = min(MAX_COMPARED, len(data.test_images))
    spread = torch.linspace(0, len(data.test_images) - 1, count).long()
    return data.pixels(spread), f"{count} test images of {type(data).__name__}"
