"""Image files of any kind become 8 bits a channel, upright and on white; the others are named."""

import struct
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules import decoding
from datamodules.decoding import read_image
from tests.killed import in_process


def slope(height=6, width=256):
    """``(height, width)`` uint8, every value from 0 to 255 once a row."""
    return np.tile(np.arange(256, dtype=np.uint8)[:width], (height, 1))


def pil(path, mode="RGB"):
    return pil_to_tensor(ImageOps.exif_transpose(Image.open(path)).convert(mode))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight_and_are_not_clipped(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(slope().astype(np.uint16) * 257).save(path)
    assert Image.open(path).mode.startswith("I")
    assert np.array_equal(read_image(str(path))[0].numpy(), slope())
    assert np.array_equal(read_image(str(path), 1)[0].numpy(), slope())


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (slope().astype(np.int32) * 257, "I"),
        (slope().astype(np.int32), "I"),
        (slope().astype(np.int32) * 9000, "I"),
        (slope().astype(np.float32) / 255, "F"),
        (slope().astype(np.float32), "F"),
        (slope().astype(np.float32) - 300, "F"),
    ],
)
def test_so_do_whole_numbers_and_fractions_by_their_range(tmp_path, values, mode):
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    assert Image.open(path).mode == mode
    assert np.abs(read_image(str(path))[0].numpy().astype(int) - slope()).max() <= 1


def test_a_constant_image_of_many_bits_is_no_division_by_zero(tmp_path):
    Image.fromarray(np.full((4, 4), -7, np.float32)).save(tmp_path / "flat.tif")
    assert read_image(str(tmp_path / "flat.tif")).unique().tolist() == [0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_what_is_transparent_is_white(tmp_path, mode, suffix):
    image = Image.fromarray(slope(8, 8) + 90).convert(mode)
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, :3], alpha[:, 3] = 255, 51  # opaque, a fifth opaque, and nothing
    image.putalpha(Image.fromarray(alpha))
    path = tmp_path / f"x.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    row = read_image(str(path), 1)[0, 0].tolist()
    assert row == [90, 91, 92, pytest.approx(255 - 162 / 5, abs=1), 255, 255, 255, 255]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_so_is_a_palettes_transparent_colour(tmp_path, mode):
    image = Image.new(mode, (4, 2), 0 if mode != "RGB" else (9, 0, 0))
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0])
    white = {"P": 0, "L": 0, "RGB": (9, 0, 0)}[mode]
    image.putpixel((0, 0), {"P": 1, "L": 7, "RGB": (200, 0, 0)}[mode])
    image.save(tmp_path / "x.png", transparency=white)
    found = read_image(str(tmp_path / "x.png"))
    assert found[:, 0, 1:].unique().tolist() == [255] and found[:, 1].unique().tolist() == [255]
    assert found[:, 0, 0].tolist() == ([7, 7, 7] if mode == "L" else [200, 0, 0])


def test_of_several_frames_it_is_the_first(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 10, 10), (10, 10, 200))]
    for suffix in ("gif", "webp", "png", "tif"):
        path = tmp_path / f"moving.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert Image.open(path).n_frames == 2
        red, _, blue = read_image(str(path)).float().mean((1, 2)).tolist()
        assert red > 190 and blue < 20, suffix


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_exif_rotation_is_undone_in_every_kind_of_file(tmp_path, turned, suffix):
    exif = Image.Exif()
    exif[0x0112] = turned
    path = tmp_path / f"turned.{suffix}"
    image = Image.fromarray(np.arange(24 * 40, dtype=np.uint32).reshape(24, 40).astype(np.uint8) // 4 * 3)
    image.save(path, exif=exif)
    found = read_image(str(path))
    assert found.shape == ((3, 24, 40) if turned < 5 else (3, 40, 24))
    assert torch.equal(found, pil(path))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_grey_jpeg_keeps_its_grey_values(tmp_path, options):
    path = tmp_path / "grey.jpg"
    Image.fromarray(slope()).save(path, **options)
    assert torch.equal(read_image(str(path), 1), pil(path, "L"))
    assert torch.equal(read_image(str(path), 3), pil(path, "L").expand(3, -1, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.97])
def test_a_file_that_is_cut_off_is_named(tmp_path, kind, part):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind.lower()}"
    Image.fromarray(noise).save(path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=f"^{path} cannot be read as an image: ."):
        read_image(str(path))


def test_so_is_a_folder_and_what_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(ValueError, match=f"^{path} cannot be read as an image: "):
            read_image(str(path))


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg_that_claims(width, height, path):
    Image.new("L", (8, 8)).save(path)
    content = path.read_bytes()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def test_a_file_that_would_fill_the_memory_is_named_and_never_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "fast_decoder", lambda: lambda *_, **options: pytest.fail("it was decoded"))
    for name, content in {
        "a.png": png_that_claims(50_000, 50_000),
        "a.jpg": jpeg_that_claims(50_000, 50_000, tmp_path / "a.jpg"),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} cannot be read as an image: .*decompression bomb"):
            read_image(str(path))


def read_without_a_warning(path):
    Image.MAX_IMAGE_PIXELS = 40
    with warnings.catch_warnings(record=True) as seen:
        assert read_image(str(path)).shape == (3, 8, 8)
    assert seen == []


def test_a_large_image_causes_no_warning(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.bmp")
    assert in_process(read_without_a_warning, tmp_path / "x.bmp") == 0  # where pytest has set no filters


def by_torchcodec():
    return partial(pytest.importorskip("torchcodec.decoders").decode_image, output_dtype="auto")


def by_torchvision():
    return partial(pytest.importorskip("torchvision.io").decode_image, apply_exif_orientation=True)


def png(colour, bits, raw):
    """A PNG of 16×1 pixels that PIL cannot write; ``raw`` are its bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 1, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + raw)) + chunk(b"IEND", b"")


def noise(mode, turned=1):
    values = np.random.default_rng(0).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turned
    return Image.fromarray(values).convert(mode), exif


SHARED = {  # file → the options of a format that a fast decoder may take, or the content
    "plain.jpg": {"quality": 90},
    "low.jpg": {"quality": 5},
    "444.jpg": {"subsampling": 0},
    "422.jpg": {"subsampling": 1},
    "progressive.jpg": {"progressive": True},
    "restarts.jpg": {"restart_marker_blocks": 3},
    "plain.png": {},
    "bits1.png": png(0, 1, b"\xa5\x3c"),
    "bits2.png": png(0, 2, bytes(range(27, 31))),
    "bits4.png": png(0, 4, bytes(range(17, 25))),
    "bits16.png": png(0, 16, bytes(range(32))),
    "rgb16.png": png(2, 16, bytes(range(96))),
}


@pytest.mark.parametrize("decoder", [by_torchcodec, by_torchvision])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SHARED)
def test_every_decoder_gives_the_same_pixels(name, channels, mode, decoder, tmp_path, monkeypatch):
    decode, path, options = decoder(), tmp_path / name, SHARED[name]
    for turned in (1, 6) if isinstance(options, dict) and mode != "CMYK" else (1,):
        if isinstance(options, bytes):
            path.write_bytes(options)
        else:
            image, exif = noise("RGB" if mode == "CMYK" and name.endswith("png") else mode, turned)
            image.save(path, exif=exif, **options)
        monkeypatch.setattr(decoding, "fast_decoder", lambda: decode)
        fast = read_image(str(path), channels)
        monkeypatch.setattr(decoding, "fast_decoder", lambda: None)
        assert torch.equal(fast, read_image(str(path), channels))


def test_a_fast_decoder_is_used_for_ordinary_files_alone(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(decoding, "fast_decoder", lambda: lambda path, **options: used.append(path) or torch.zeros(1))
    for name, mode in {
        "a.jpg": "RGB",
        "b.jpg": "L",
        "c.png": "RGB",
        "d.png": "RGBA",
        "e.png": "P",
        "f.webp": "RGB",
    }.items():
        Image.new(mode, (4, 4)).save(tmp_path / name)
        read_image(str(tmp_path / name))
    assert [Path(path).name for path in used] == ["a.jpg", "b.jpg", "c.png"]
