"""Image files of any kind become 8 bits a channel, upright and on white; the others are named."""

import importlib.util
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules import decoding
from datamodules.decoding import read_image


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
    monkeypatch.setattr(torch.ops.image, "decode_image", lambda *_: pytest.fail("it was decoded"))
    for name, content in {
        "a.png": png_that_claims(50_000, 50_000),
        "a.jpg": jpeg_that_claims(50_000, 50_000, tmp_path / "a.jpg"),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} cannot be read as an image: .*decompression bomb"):
            read_image(str(path))


def test_a_large_one_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    Image.new("L", (8, 8)).save(tmp_path / "x.bmp")
    spec = importlib.util.spec_from_file_location("again", decoding.__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec.loader.exec_module(again := importlib.util.module_from_spec(spec))
        assert again.read_image(str(tmp_path / "x.bmp")).shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_pil_reads_the_same_where_torchvision_has_no_decoder_any_more(tmp_path, name, monkeypatch):
    path = tmp_path / name
    Image.fromarray(slope()).convert("RGB").save(path)
    quick = read_image(str(path))
    monkeypatch.setattr(torch.ops, "image", object())
    assert decoding._is_simple(path.read_bytes())
    assert torch.equal(read_image(str(path)), quick)
