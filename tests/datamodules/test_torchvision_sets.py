"""Data sets of torchvision, from archives that are made here; nothing is downloaded."""

import gzip
import hashlib
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from datamodules import TorchvisionFiles, TorchvisionTensors
from datamodules.torchvision_sets import open_split
from results.record import one_line

GREY = {"num_classes": 10, "in_channels": 1, "image_size": 28, "mean": [0.13], "std": [0.31]}
COLOUR = GREY | {"in_channels": 3, "image_size": 32}


def ready(data):
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["MNIST", "KMNIST"])
def test_archives_by_hand_need_no_network(name, tmp_path, monkeypatch):
    folder, source, made, resources = tmp_path / name / "raw", getattr(datasets, name), {}, []
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        made[part] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", made[part]), ("labels-idx1", labels)):
            path = folder / f"{part}-{kind}-ubyte.gz"
            head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
            path.write_bytes(gzip.compress(head + values.tobytes()))
            resources.append((path.name, md5(path)))
    monkeypatch.setattr(source, "resources", resources)
    monkeypatch.setattr(source, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    data = ready(TorchvisionTensors(name, data_dir=str(tmp_path), **GREY))
    assert np.array_equal(data.sets["test"].images[:, 0].numpy(), made["t10k"])
    assert np.array_equal(data.sets["train"].images[:, 0].numpy(), made["train"])
    assert [len(data.sets[split]) for split in ("train", "val", "test")] == [50, 10, 20]  # one of each six
    assert data.sets["test"].labels.tolist() == [*range(10)] * 2
    assert data.class_names[:2] == {"MNIST": ("0 - zero", "1 - one"), "KMNIST": ("o", "ki")}[name]


def test_svhn_is_read_and_its_label_ten_is_a_nought(tmp_path, monkeypatch):
    scipy = pytest.importorskip("scipy.io")
    splits = {}
    for split, count in (("train", 40), ("test", 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        path = tmp_path / f"{split}_32x32.mat"
        scipy.savemat(path, {"X": pixels, "y": labels})
        splits[split] = ["http://127.0.0.1:9/x", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", splits)
    data = ready(TorchvisionTensors("SVHN", data_dir=str(tmp_path), **COLOUR))
    assert data.sets["test"].labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    assert np.array_equal(data.sets["test"].images[7].numpy(), pixels[..., 7].transpose(2, 0, 1))
    assert data.class_names == tuple("0123456789")


def test_files_of_a_data_set_are_unpacked_and_keep_its_splits(tmp_path, monkeypatch):
    scipy = pytest.importorskip("scipy.io")
    base = tmp_path / "flowers-102"
    (tmp_path / "jpg").mkdir()
    base.mkdir()
    for number in range(1, 409):  # four of each of the 102 classes
        Image.new("RGB", (12, 10), (number % 256, 0, 0)).save(tmp_path / "jpg" / f"image_{number:05d}.jpg")
    with tarfile.open(base / "102flowers.tgz", "w:gz") as archive:
        archive.add(tmp_path / "jpg", "jpg")
    numbers = np.arange(1, 409)
    scipy.savemat(base / "imagelabels.mat", {"labels": (numbers - 1) % 102 + 1})
    scipy.savemat(base / "setid.mat", {"trnid": numbers[:204], "valid": numbers[204:306], "tstid": numbers[306:]})
    files = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    sums = {key: (name, md5(base / name)) for key, name in files.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", sums)
    data = ready(TorchvisionFiles(str(tmp_path), "Flowers102", image_size=8, num_workers=0))
    assert [len(data.sets[split]) for split in ("train", "val", "test")] == [204, 102, 102]
    assert data.class_names[:2] == ("pink primrose", "hard-leaved pocket orchid") and data.num_classes == 102
    path, label = data.sets["val"].samples[3]
    assert (path, label) == (f"{base}/jpg/image_00208.jpg", (208 - 1) % 102)
    assert not data.splits_by_name


def test_a_split_that_torchvision_lacks_is_set_aside(tmp_path):
    for kind in ("Forest", "River"):
        (tmp_path / "eurosat" / "2750" / kind).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8)).save(tmp_path / "eurosat" / "2750" / kind / f"{number}.jpg")
    data = ready(TorchvisionFiles(str(tmp_path), "EuroSAT", image_size=8, num_workers=0))
    assert data.splits_by_name == ("val", "test") and data.class_names == ("Forest", "River")
    paths = [path for images in data.sets.values() for path, _ in images.samples]
    assert len(paths) == len(set(paths)) == 40


def test_a_data_set_without_arrays_is_decoded_to_one_size(tmp_path, monkeypatch):
    class Photos:
        def __init__(self, root, split="train"):
            if split not in ("trainval", "test"):
                raise ValueError(f"Unknown value '{split}' for argument split.")
            self.count = {"trainval": 6, "test": 2}[split]

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            return Image.new("L", (20 + index, 10), 40 * index), index % 2

    monkeypatch.setattr(datasets, "GTSRB", Photos)
    data = ready(TorchvisionTensors("GTSRB", data_dir=str(tmp_path), **COLOUR | {"num_classes": 2}))
    assert data.sets["train"].images.shape == (6, 3, 32, 32)
    assert data.sets["train"].images[:, 0, 5, 5].tolist() == [0, 40, 80, 120, 160, 200]
    assert data.class_names == ("0", "1") and len(data.sets["val"]) == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MNIST", "put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
                  "t10k-labels-idx1-ubyte.gz into {folder}/MNIST/raw"),
        ("SVHN", "put train_32x32.mat, test_32x32.mat into {folder}"),
        ("CIFAR10", "put cifar-10-python.tar.gz into {folder}"),
        ("Flowers102", "run the same command on a machine with one, and copy {folder} from there"),
    ],
)  # fmt: skip
def test_without_a_network_one_line_says_what_to_do(name, hint, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(OSError) as caught:
        open_split(name, str(tmp_path), "train")
    said = one_line(caught.value)
    assert said.startswith(f"{name} is missing from datamodule.data_dir={tmp_path} or damaged")
    assert said.endswith(f"; without a network, {hint.format(folder=tmp_path)}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: TorchvisionFiles(d, "Flowers"), "datamodule.dataset=Flowers is not a .*; did you mean Flowers102?"),
        (lambda d: TorchvisionFiles(d, "MNIST"), "use datamodule=torchvision_tensors datamodule.dataset=MNIST"),
        (lambda d: TorchvisionTensors("MNSIT", **GREY), "dataset=MNSIT is not a data set of .*; did you mean MNIST?"),
        (lambda d: TorchvisionTensors("MNIST", **GREY | {"num_classes": 5}), "num_classes=5, but .* has 10 classes"),
        (lambda d: open_split("EMNIST", d, "train"), "torchvision's EMNIST has no split train or trainval"),
    ],
)
def test_what_cannot_be_is_one_line(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(str(tmp_path))
