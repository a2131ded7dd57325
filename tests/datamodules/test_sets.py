"""Each data set: what it loads, and from where."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import datasets
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules import (
    CIFAR10,
    CIFAR100,
    Digits,
    FashionMNIST,
    ImageFolder,
    ImageNet,
    Synthetic,
    fashion_mnist,
    image_files,
)
from datamodules.decoding import read_image
from datamodules.digits import read_digits
from datamodules.fashion_mnist import DEBIAN_DIR
from datamodules.sampling import BatchKey
from results.errors import is_user_error
from results.record import one_line


def test_digits_are_the_published_ones_and_the_test_set_is_the_last_fifth():
    images, labels = read_digits()
    assert images.shape == (1797, 8, 8) and images.sum() == 561718
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    data = Digits(10, 1, 32)
    data.setup("fit")
    data.setup("test")
    train, val, test = (data.sets[name] for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1275, 140, 382)
    assert test.images.shape == (382, 1, 32, 32)
    assert torch.equal(test.labels, labels[-382:])
    assert torch.equal(test.labels[:30], torch.arange(10).repeat(3))  # as each sheet begins
    assert torch.equal(train.all_labels, labels[:-382])
    pixels = Digits(10, 1, 8).load("test").images
    assert torch.equal(pixels[:, 0].double(), (images[-382:].double() * 255 / 16).round())


@pytest.mark.parametrize("module", [Digits])
def test_mean_and_deviation_are_those_of_the_training_images(module):
    pixels = module(10, 1, 32).load("train").images.float() / 255
    assert pixels.mean().item() == pytest.approx(module.mean[0], abs=0.005)
    assert pixels.std().item() == pytest.approx(module.std[0], abs=0.005)


@pytest.fixture
def published(monkeypatch):
    """A function that writes small files in place of Fashion-MNIST's, whose sums it makes the expected ones."""

    def write(folder, ending, train=100, test=20):
        rng, made = np.random.default_rng(0), {}
        folder.mkdir(parents=True, exist_ok=True)
        for name, count in (("train", train), ("t10k", test)):
            images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            for kind, values in (("images-idx3", images), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
                content = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
                content += values.tobytes()
                file = f"{name}-{kind}-ubyte"
                (folder / (file + ending)).write_bytes(gzip.compress(content) if ending else content)
                monkeypatch.setitem(fashion_mnist.PUBLISHED, file, hashlib.sha256(content).hexdigest())
                made[f"{name}-{kind[:6]}"] = values
        return made

    return write


def test_fashion_mnist_reads_debians_files(published, tmp_path, monkeypatch):
    made = published(tmp_path, ".gz")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path)
    data = FashionMNIST(10, 1, 28, data_dir=str(tmp_path / "none"))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert np.array_equal(data.sets["train"].images[:, 0].numpy(), made["train-images"])
    assert np.array_equal(data.sets["test"].labels.numpy(), made["t10k-labels"])
    assert (len(data.sets["train"]), len(data.sets["val"]), len(data.sets["test"])) == (90, 10, 20)


def test_the_data_folder_comes_before_debians(published, tmp_path, monkeypatch):
    made = published(tmp_path / "FashionMNIST" / "raw", "", train=30)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "none")
    data = FashionMNIST(10, 1, 28, data_dir=str(tmp_path))
    data.prepare_data()
    assert np.array_equal(data.load("train").images[:, 0].numpy(), made["train-images"])


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("change", ["a bit", "cut short", "empty", "appended"])
def test_a_file_that_is_not_what_was_published_is_named(ending, change, published, tmp_path, monkeypatch):
    folder = tmp_path if ending else tmp_path / "FashionMNIST" / "raw"
    published(folder, ending)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path)
    path = folder / f"train-labels-idx1-ubyte{ending}"
    content = bytearray(gzip.decompress(path.read_bytes()) if ending else path.read_bytes())
    if change == "a bit":
        content[50] ^= 1  # packed anew, so that gzip's own checksum is right
    content = gzip.compress(content) if ending else bytes(content)
    content = {"cut short": content[:-20], "empty": b"", "appended": content + b"x"}.get(change, content)
    path.write_bytes(content)
    data = FashionMNIST(10, 1, 28, data_dir=str(tmp_path))
    assert len(data.load("test")) == 20
    with pytest.raises(ValueError, match=rf"train-labels-idx1-ubyte{ending} differs from the published file"):
        data.load("train")


def test_torchvisions_archives_hold_what_is_published(tmp_path, monkeypatch):
    """Debian packed the files anew; with the file's name and date in the header, its archives are torchvision's."""
    if not DEBIAN_DIR.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    for name, md5 in datasets.FashionMNIST.resources:
        packed = (DEBIAN_DIR / name).read_bytes()
        date = struct.pack("<I", 1504176627 - 21 * name.startswith("train"))  # 31 August 2017
        original = b"\x1f\x8b\x08\x08" + date + b"\0\x03" + name.removesuffix(".gz").encode() + b"\0" + packed[10:]
        assert hashlib.md5(original).hexdigest() == md5
        assert hashlib.sha256(gzip.decompress(original)).hexdigest() == fashion_mnist.PUBLISHED[name[:-3]]


@pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_whole_and_its_mean_and_deviation_are_right():
    data = FashionMNIST(10, 1, 28)
    train, test = data.load("train"), data.load("test")
    assert train.images.shape == (60000, 1, 28, 28)
    assert torch.equal(test.labels.bincount(), torch.full((10,), 1000))
    pixels = train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(data.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(data.std[0], abs=5e-5)


def cifar_archive(folder, module, monkeypatch):
    """An archive of the real format with 50 training and 10 test images, and torchvision's hashes to match."""
    source = module.source
    coarse = "fine_labels" if module is CIFAR100 else "labels"
    base, made = folder / "made" / source.base_folder, {}
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    train_list = []
    for name, _ in source.train_list:
        count = 50 // len(source.train_list)
        made[name] = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        train_list.append(write(name, {"data": made[name], coarse: [i % 10 for i in range(count)]}))
    test_name = source.test_list[0][0]
    test_list = [write(test_name, {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), coarse: [*range(10)]})]
    key = source.meta["key"]
    meta = write(source.meta["filename"], {key: list(module.class_names)})
    archive = folder / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, source.base_folder)
    monkeypatch.setattr(source, "train_list", train_list)
    monkeypatch.setattr(source, "test_list", test_list)
    monkeypatch.setattr(source, "meta", {"filename": meta[0], "key": key, "md5": meta[1]})
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return np.concatenate(list(made.values()))


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100])
def test_cifar_is_unpacked_and_read(module, tmp_path, monkeypatch):
    pixels = cifar_archive(tmp_path, module, monkeypatch)
    classes = len(module.class_names)
    assert classes == {CIFAR10: 10, CIFAR100: 100}[module]
    data = module(classes, 3, 32, data_dir=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    images = data.sets["train"].images
    assert images.shape == (50, 3, 32, 32)
    assert np.array_equal(images.numpy().reshape(50, -1), pixels)
    assert data.sets["test"].labels.tolist() == list(range(10))


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100])
def test_a_changed_file_of_cifars_is_not_opened(module, tmp_path, monkeypatch):
    """They are pickles, which can run code: torchvision compares their sums at each load."""
    cifar_archive(tmp_path, module, monkeypatch)
    data = module(len(module.class_names), 3, 32, data_dir=str(tmp_path))
    data.prepare_data()
    file = tmp_path / module.source.base_folder / module.source.test_list[0][0]

    class Bad:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    file.write_bytes(pickle.dumps({"data": Bad(), "labels": []}))
    with pytest.raises(RuntimeError, match="corrupted"):
        data.load("test")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("kind", ["..", "absolute", "link"])
def test_a_hostile_archive_writes_nothing_outside_its_folder(kind, known, tmp_path, monkeypatch):
    """Its sum is compared before it is unpacked; were it the expected one, its paths could not leave the folder."""
    folder, outside = tmp_path / "data", tmp_path / "outside"
    folder.mkdir()
    archive = folder / CIFAR10.source.filename
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo({"..": "../outside", "absolute": str(outside), "link": "link"}[kind])
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(member)
            member = tarfile.TarInfo("link/outside")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"bad"))
    if known:
        monkeypatch.setattr(CIFAR10.source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    else:
        monkeypatch.setattr(CIFAR10.source, "url", (tmp_path / "nowhere").as_uri())  # it would be downloaded again
    with pytest.raises(Exception) as caught:
        CIFAR10(10, 3, 32, data_dir=str(folder)).prepare_data()
    assert is_user_error(caught.value) and "CIFAR10 is missing from datamodule.data_dir" in one_line(caught.value)
    assert list(tmp_path.iterdir()) == [folder]
    assert known or list(folder.iterdir()) == [archive]


def test_cifar_class_names_are_torchvisions_order():
    assert sorted(CIFAR100.class_names) == list(CIFAR100.class_names)
    assert sorted(CIFAR10.class_names) == list(CIFAR10.class_names)
    assert datasets.CIFAR10 is CIFAR10.source


def test_synthetic_images_show_their_class():
    data = Synthetic(5, 3, 20, num_images=100)
    images = data.load("train")
    brightest = images.images.float().mean((1, 3)).view(100, 5, 4).mean(2).argmax(1)
    assert torch.equal(brightest, images.labels)


def image_tree(folder, classes=("cat", "dog"), count=10, size=(40, 30)):
    """Class folders of JPEGs in a colour of their class."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (250 * label, 10 * i, 128)).save(folder / name / f"{i}.jpg")
    return folder


def ready(data):
    data.setup("fit")
    data.setup("test")
    return data


def test_a_plain_folder_is_split_in_three(tmp_path):
    folder = image_tree(tmp_path / "pets", ("dog", "cat", "mouse"), 200)
    data = ready(ImageFolder(str(folder), image_size=16, val_fraction=0.25, test_fraction=0.2, num_workers=0))
    assert data.class_names == ("cat", "dog", "mouse")
    assert data.num_classes == 3
    paths = {name: [path for path, _ in part.samples] for name, part in data.sets.items()}
    assert len({path for part in paths.values() for path in part}) == 600
    for name, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        part = data.sets[name]
        assert all(abs(count - 200 * share) < 25 for count in part.labels.bincount().tolist())  # 4 sigma
        assert all(path.split("/")[-2] == data.class_names[label] for path, label in part.samples)


@pytest.mark.parametrize("parts", [("train",), ("train", "test"), ("train", "val"), ("train", "val", "test")])
def test_given_parts_are_kept(tmp_path, parts):
    sizes = {"train": 20, "val": 4, "test": 6}
    for part in parts:
        image_tree(tmp_path / part, count=sizes[part])
    data = ready(ImageFolder(str(tmp_path), image_size=16, num_workers=0, val_fraction=0.25, test_fraction=0.2))
    folders = {name: {path.split("/")[-3] for path, _ in part.samples} for name, part in data.sets.items()}
    for name in sizes:
        assert folders[name] == ({name} if name in parts else {"train"})
    paths = [path for part in data.sets.values() for path, _ in part.samples]
    assert len(paths) == len(set(paths)) == sum(2 * sizes[part] for part in parts)


def test_a_class_may_be_called_like_a_part(tmp_path):
    folder = image_tree(tmp_path / "vehicles", ("bus", "test", "train"), 20)
    data = ready(ImageFolder(str(folder), image_size=16, num_workers=0))
    assert data.class_names == ("bus", "test", "train")
    assert sum(map(len, data.sets.values())) == 60


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("training", "valid", "testing"), ("train", "validation")])
def test_parts_under_other_usual_names(names, tmp_path, caplog):
    for name, count in zip(names, (20, 4, 6), strict=False):
        image_tree(tmp_path / name, ("cat", "dog") if name != "Val" else ("cat",), count=count)
    data = ready(ImageFolder(str(tmp_path), image_size=16, num_workers=0))
    assert data.class_names == ("cat", "dog")
    assert {path.split("/")[-3] for path, _ in data.sets["val"].samples} == {names[1]}
    assert len(data.sets["train"]) == 40 - (0 if len(names) == 3 else len(data.sets["test"]))
    assert [m.endswith("Val has no images of the class dog") for m in caplog.messages] == [True] * (names[1] == "Val")


def test_folders_beside_the_parts_are_named(tmp_path, caplog):
    for name in ("train", "dev", "test_set"):
        image_tree(tmp_path / name, count=20)
    data = ready(ImageFolder(str(tmp_path), image_size=16, num_workers=0))
    assert sum(map(len, data.sets.values())) == 40
    assert [m.split(maxsplit=1)[-1] for m in caplog.messages] == [
        f"in {tmp_path}: dev, test_set; expected train, val and test"
    ]


def test_a_contests_files_are_no_classes(tmp_path):
    for name in ("train", "test1"):
        image_tree(tmp_path / name, ("",))
    with pytest.raises(FileNotFoundError, match=r"train has no class folders.*datamodule=cats_vs_dogs"):
        ImageFolder(str(tmp_path))


def test_a_folder_can_be_scored_as_a_whole(tmp_path):
    data = ImageFolder(str(image_tree(tmp_path / "pets", count=20)), image_size=16, num_workers=0, test_fraction=1)
    data.setup("test")
    assert len(data.sets["test"]) == 40 and not data.sets["test"].training


def test_two_folders_for_one_part_are_refused(tmp_path):
    for name in ("train", "val", "valid"):
        image_tree(tmp_path / name)
    with pytest.raises(ValueError, match="has the folders val and valid; expected one of them"):
        ImageFolder(str(tmp_path), image_size=16)


def test_a_training_folder_without_classes_is_said_so(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "1.jpg")
    with pytest.raises(FileNotFoundError, match=r"train has no class folders; expected .*train/<class>/<image>"):
        ImageFolder(str(tmp_path), image_size=16)


def test_files_that_other_programs_leave_are_no_images(tmp_path):
    folder = image_tree(tmp_path / "pets")
    for left in ("cat/._0.jpg", "dog/.ipynb_checkpoints/0-checkpoint.jpg", "dog/__MACOSX/0.jpg"):
        (folder / left).parent.mkdir(exist_ok=True)
        (folder / left).write_bytes(b"no image")
    for suffix in (".gif", ".JFIF", ".jpeg"):
        (folder / "cat" / "more").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "cat" / "more" / f"1{suffix}")
    data = ready(ImageFolder(str(folder), image_size=16, num_workers=0))
    names = {os.path.relpath(path, folder) for part in data.sets.values() for path, _ in part.samples}
    assert names == {
        *(f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(10)),
        *(f"cat/more/1{suffix}" for suffix in (".gif", ".JFIF", ".jpeg")),
    }
    for split, part in data.sets.items():
        data.fetch(split, torch.arange(len(part)))


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    folder = image_tree(tmp_path / "pets")
    os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"has a class folder 'caf\\udce9', whose name is not UTF-8; rename it"):
        ImageFolder(str(folder), image_size=16)


def test_files_become_uint8_batches_and_training_crops_are_keyed(tmp_path):
    data = ready(ImageFolder(str(image_tree(tmp_path / "pets")), image_size=16, num_workers=0))
    train = data.sets["train"]
    batch = BatchKey(torch.arange(4), key=11)
    images, labels, *_ = train[batch]
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [label for _, label in train.samples[:4]]
    before = torch.get_rng_state()
    assert torch.equal(images, train[batch][0])
    assert torch.equal(before, torch.get_rng_state())


def test_imagenets_validation_images_are_the_test_set(tmp_path):
    for part, count in {"train": 20, "val": 6}.items():
        image_tree(tmp_path / part, count=count)
    data = ready(ImageNet(str(tmp_path), image_size=16, num_workers=0, val_fraction=0.25))
    assert len(data.sets["test"]) == 12 and len(data.sets["train"]) + len(data.sets["val"]) == 40
    assert {path.split("/")[-3] for path, _ in data.sets["test"].samples} == {"val"}
    assert {path.split("/")[-3] for path, _ in data.sets["val"].samples} == {"train"}


def test_image_transforms_change_training_images_each_by_itself_and_no_others(tmp_path):
    tree = str(image_tree(tmp_path / "pets"))
    erasing = {"erase": v2.RandomErasing(p=1.0, scale=(0.1, 0.2), value=0), "none": None}
    plain, changed = (
        ready(ImageFolder(tree, image_size=16, num_workers=0, image_transforms=chosen)) for chosen in (None, erasing)
    )
    draw = BatchKey(torch.arange(4), key=3)
    before, after = (data.sets["train"][draw][0] for data in (plain, changed))
    erased = (before != after).any(1)  # (4, 16, 16)
    assert all(0.05 < share < 0.3 for share in erased.float().mean((1, 2)).tolist())
    assert len({tuple(mask.flatten().tolist()) for mask in erased}) == 4
    assert torch.equal(after, changed.sets["train"][draw][0])
    first = BatchKey(torch.arange(1))
    assert torch.equal(plain.sets["val"][first][0], changed.sets["val"][first][0])


def test_evaluation_crops_the_centre(tmp_path):
    picture = Image.new("RGB", (90, 30))  # red, green and blue thirds
    for third, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        picture.paste(colour, (30 * third, 0, 30 * third + 30, 30))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            picture.save(tmp_path / name / f"{i}.png")
    data = ready(ImageFolder(str(tmp_path), image_size=16, resize_ratio=1.0, num_workers=0))
    images, *_ = data.sets["test"][BatchKey(torch.arange(1))]
    assert images[0, :, 3:13, 3:13].float().mean((1, 2)).tolist() == [0, 255, 0]


def photo(width, height):
    """Coloured waves, so that every pixel's place shows."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 7 + y / 3), np.cos(y / 5), np.sin(x / 11)], axis=-1)
    return Image.fromarray((127 * (waves + 1)).astype(np.uint8))


def pil(path):
    """The reference: PIL's decoding, upright, ``(3, h, w)`` uint8."""
    return pil_to_tensor(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


@pytest.mark.parametrize("turned", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    path = tmp_path / "turned.jpg"
    photo(40, 24).save(path, exif=exif)
    assert read_image(str(path)).shape == ((3, 24, 40) if turned < 5 else (3, 40, 24))
    assert torch.equal(read_image(str(path)), pil(path))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_decoded_as_by_pil(tmp_path, mode):
    path = tmp_path / "x.jpg"
    photo(50, 30).convert(mode).save(path)
    assert torch.equal(read_image(str(path)), pil(path))
    path.write_bytes(path.read_bytes() + b"what some cameras append")
    assert torch.equal(read_image(str(path)), pil(path))


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_odd_modes_are_read(tmp_path, mode):
    path = tmp_path / "x.png"
    Image.new(mode, (8, 8)).save(path)
    assert read_image(str(path)).shape == (3, 8, 8)
    assert torch.equal(read_image(str(path)), pil(path))


def test_a_grey_network_sees_the_grey_values_of_grey_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (16, 16), 50 * i + 7).save(tmp_path / name / f"{i}.png")
    data = ready(ImageFolder(str(tmp_path), in_channels=1, image_size=16, resize_ratio=1.0, num_workers=0))
    part = data.sets["train"]
    images, *_ = part[BatchKey(torch.arange(len(part)))]
    assert images.shape[1] == 1  # of RGB, grey again, they would be a value lower
    assert images.amax((1, 2, 3)).tolist() == [50 * int(Path(path).stem) + 7 for path, _ in part.samples]


def test_folders_of_other_programs_are_no_classes(tmp_path):
    for name in ("__background__", "cat", "dog", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert ImageFolder(str(tmp_path)).class_names == ("__background__", "cat", "dog")


@pytest.mark.parametrize("part", ["val", "test"])
def test_parts_without_images_are_refused(tmp_path, part):
    image_tree(tmp_path / "train")
    for name in ("cat", "dog"):
        (tmp_path / part / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"no images for {part}"):
        ready(ImageFolder(str(tmp_path), image_size=16))


def test_val_and_test_folders_without_train_are_no_classes(tmp_path):
    image_tree(tmp_path / "val")
    image_tree(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match="none named train"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize("statistics", [{"std": (0.2, 0.0, 0.2)}, {"mean": (0.5,)}, {"mean": (), "std": ()}])
def test_impossible_statistics_are_refused(tmp_path, statistics):
    image_tree(tmp_path)
    with pytest.raises(ValueError, match="a mean and a positive deviation per channel"):
        ImageFolder(str(tmp_path), **statistics)


def test_a_broken_image_that_a_worker_met_is_named_in_one_short_line(tmp_path):
    data = ready(ImageFolder(str(image_tree(tmp_path)), image_size=16, num_workers=1, batch_size=2))
    path = data.sets["val"].samples[0][0]
    Path(path).write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        list(data.val_dataloader())
    assert one_line(caught.value).startswith(f"{path} cannot be read as an image: ")


@pytest.mark.parametrize("module", [CIFAR10, FashionMNIST])
def test_a_download_that_fails_names_the_data_and_the_folder(module, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "none")
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fail)
    classes = len(module.class_names)
    expected = f"{module.__name__} is missing from datamodule.data_dir={tmp_path} or damaged, and the download"
    with pytest.raises(OSError, match=expected):
        module(classes, 1, 32, data_dir=str(tmp_path)).prepare_data()


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_broken_image_is_named(tmp_path, damage):
    folder = image_tree(tmp_path / "pets", size=(200, 200))
    data = ready(ImageFolder(str(folder), image_size=16, num_workers=0))
    path = Path(data.sets["val"].samples[0][0])
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": content[: len(content) // 2]}[damage])
    with pytest.raises(ValueError, match=rf"{path} cannot be read as an image: .*\(datamodule.broken=skip leaves such"):
        data.sets["val"][BatchKey(torch.arange(len(data.sets["val"])))]


def test_broken_images_are_named_and_left_out_where_that_is_wanted(tmp_path, caplog):
    folder = image_tree(tmp_path / "pets", count=30)
    broken = [f"cat/{number}.jpg" for number in range(11)] + ["dog/7.jpg"]
    for name in broken:
        (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    data = ready(ImageFolder(str(folder), image_size=16, num_workers=0, broken="skip"))
    found = {os.path.relpath(path, folder) for part in data.sets.values() for path, _ in part.samples}
    assert found == {f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(30)} - set(broken)
    for split, part in data.sets.items():
        data.fetch(split, torch.arange(len(part)))
    (said,) = caplog.messages
    first, *lines, last = said.splitlines()
    assert first == f"broken       12 of 60 files in {folder}, left out" and last == "  and 2 more"
    assert len(lines) == 10 and all("cannot be read as an image" in line for line in lines)
    for number in range(30):
        (folder / "dog" / f"{number}.jpg").write_bytes(b"hello")
    with pytest.raises(FileNotFoundError, match="has no images of the class dog"):
        ready(ImageFolder(str(folder), image_size=16, num_workers=0, broken="skip"))


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        ImageFolder(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"has no class folders"):
        ImageFolder(str(tmp_path))
    image_tree(tmp_path / "train")
    image_tree(tmp_path / "test", ("cat", "cow"))
    with pytest.raises(ValueError, match=r"cow.* train folder lacks"):
        ImageFolder(str(tmp_path))


def test_a_large_folder_is_read_with_a_line_now_and_then(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(image_files, "LOG_SECONDS", 0.0)
    caplog.set_level("INFO")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(120):
            (tmp_path / name / f"{number}.png").write_bytes(b"x")
    (tmp_path / "a" / "notes.txt").write_text("no image, but a file")
    ready(ImageFolder(str(tmp_path), image_size=16, num_workers=0))
    found = [f"{count} files found in {tmp_path}" for count in (100, 200)]
    assert caplog.messages == found + [f"{count} of 240 images of {tmp_path} examined" for count in (100, 200)]
