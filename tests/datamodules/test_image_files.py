"""Folders of image files: class order, splits by name, files and entries that cannot be used, wrong transforms."""

import os
import socket
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from datamodules import CatsVsDogs, ImageFolder, ImageNet, PerImage, PredictImages, Preprocessing, image_paths
from datamodules.image_files import scan_files
from datamodules.preprocessing import without_ends
from datamodules.sampling import BatchKey, name_hash, split_by_name
from results.record import one_line


def write_images(folder, counts, size=(12, 10), suffix="jpg"):
    """``counts`` images in each class folder, in the colour of the class."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", size, (40 * label % 256, 2 * number % 256, 128)).save(folder / name / f"{number}.{suffix}")
    return folder


def folder_data(folder, module=ImageFolder, **options):
    data = module(str(folder), **{"image_size": 16, "num_workers": 0, **options})
    data.setup("fit")
    data.setup("test")
    return data


def split_names(data):
    """Of each split, the names of its files in ``data_dir``."""
    return {split: {os.path.relpath(path, data.root) for path, _ in part.samples} for split, part in data.sets.items()}


@pytest.mark.parametrize(
    "names",
    [
        [str(n) for n in range(12)],
        [str(n) for n in range(1, 13)],
        [f"{n:02}" for n in range(1, 13)],
        [f"img{n}" for n in range(1, 21)],
        ["cat", "cat2", "cat10", "catfish", "dog"],
        ["1_fish", "2_cat", "10_dog"],
        ["2", "10", "cat", "cat 2", "cat 10"],
        ["-30", "-5", "0", "5", "10"],
        ["0.25", "0.5", "10.5"],
        ["Zebra", "apple", "ärger"],
        ["01", "1", "2", "10"],
    ],
    ids=" ".join,
)
def test_classes_are_in_natural_order_and_so_are_their_labels(names, tmp_path):
    for name in reversed(names):
        write_images(tmp_path, {name: 3})
    data = folder_data(tmp_path)
    assert list(data.class_names) == names
    for part in data.sets.values():
        assert all(Path(path).parent.name == names[label] for path, label in part.samples)


def test_a_checkpoints_order_is_taken_over_if_the_classes_are_the_same(tmp_path):
    write_images(tmp_path, dict.fromkeys(["1", "2", "10"], 3))
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    data.order_classes(["1", "2", "3"])
    assert data.class_names == ("1", "2", "10")
    data.order_classes(["1", "10", "2"])
    data.setup("fit")
    assert {Path(path).parent.name: label for path, label in data.sets["train"].samples} == {"1": 0, "10": 1, "2": 2}


def test_the_order_is_logged_if_it_is_not_that_of_plain_sorting(tmp_path, caplog):
    caplog.set_level("INFO")
    folder_data(write_images(tmp_path / "a", {"2": 4, "10": 4}))
    assert caplog.messages == ["classes      in this order: 2, 10"]
    caplog.clear()
    folder_data(write_images(tmp_path / "b", {"1": 4, "2": 4}))
    assert caplog.messages == []


@pytest.mark.parametrize("module", [ImageFolder, ImageNet, CatsVsDogs])
def test_adding_or_removing_files_moves_no_other(module, tmp_path):
    parts = ("train", "val") if module is ImageNet else ("train",)
    for part in parts:
        write_images(tmp_path / part, {"cat": 60, "dog": 50})
    before = split_names(folder_data(tmp_path, module))
    for number in (7, 20, 33):
        (tmp_path / "train" / "cat" / f"{number}.jpg").unlink()
    for number in range(100, 140):
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / "dog" / f"{number}.jpg")
    after = split_names(folder_data(tmp_path, module))
    assert len(after["val"] - before["val"]) > 0  # of the forty new ones
    for split, names in before.items():
        for other in before.keys() - {split}:
            assert not names & after[other]


def test_the_split_depends_on_seed_and_names_alone(tmp_path):
    write_images(tmp_path / "one", {"cat": 40, "dog": 40})
    write_images(tmp_path / "two" / "train", {"dog": 40, "cat": 40})
    (one, two) = (split_names(folder_data(tmp_path / name)) for name in ("one", "two"))
    assert one == {split: {name.removeprefix("train/") for name in names} for split, names in two.items()}
    wider = split_names(folder_data(tmp_path / "one", val_fraction=0.4))
    assert wider["test"] == one["test"] and wider["val"] > one["val"]
    other = split_names(folder_data(tmp_path / "one", seed=1))
    assert other["test"] != one["test"] and other["val"] != one["val"]


def test_the_hash_is_that_of_seed_part_and_name():
    digest = blake2b(b"3/test/cat/1.jpg", digest_size=6).digest()
    assert name_hash("cat/1.jpg", 3, "test") == int.from_bytes(digest, "big") / 2**48
    drawn = torch.tensor([name_hash(f"{n}.jpg", 0, "val") for n in range(10_000)])
    assert abs(drawn.mean() - 0.5) < 0.01 and drawn.min() >= 0 and drawn.max() < 1


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_no_class_is_without_a_split_if_it_has_images_for_all(fraction, count):
    for seed in range(20):
        names, labels = [f"{n}" for n in range(count)], torch.zeros(count, dtype=torch.int64)
        rest, test = split_by_name(names, labels, fraction, seed, "test", rest=2)
        train, val = split_by_name([names[i] for i in rest], labels[rest], fraction, seed, "val")
        assert sorted([*rest.tolist(), *test.tolist()]) == list(range(count)) and len(train) + len(val) == len(rest)
        sizes = [len(train), len(test), len(val)]
        assert all(sizes[: min(count, 3)]) and sum(sizes) == count


ODD = {  # name → (how it is made, what is said of it)
    "dangling.jpg": (lambda path: path.symlink_to("nothing.jpg"), "a broken link"),
    "loop.jpg": (lambda path: path.symlink_to("loop.jpg"), "symbolic links"),
    "gone": (lambda path: path.symlink_to("nothing"), "is a broken link"),
    "pipe.png": (os.mkfifo, "not a regular file"),
    "socket.png": (lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)), "not a regular file"),
    "folder.jpg": (lambda path: path.mkdir(), "is a folder with the name of an image file"),
    "up": (lambda path: path.symlink_to(".."), "is a link to a folder that contains it"),
    "self": (lambda path: path.symlink_to("."), "is a link to a folder that contains it"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_entry_is_named_and_only_that_is_left_out(name, tmp_path, caplog):
    write_images(tmp_path, {"cat": 8, "dog": 8})
    make, message = ODD[name]
    path = tmp_path / "cat" / name
    make(path)
    with pytest.raises(OSError, match=message) as caught:
        folder_data(tmp_path)
    assert str(path) in one_line(caught.value) and "broken=skip" in one_line(caught.value)
    data = folder_data(tmp_path, broken="skip")
    assert sum(map(len, split_names(data).values())) == 16
    assert data.sets["train"].labels.bincount().numel() == 2
    (line,) = caplog.messages
    assert line.startswith("broken       1 of ") and f"{path} " in line and message in line
    found: list[str] = []
    _, names = image_paths.find_images(str(tmp_path), found)  # in prediction, entries without a suffix are no rows
    assert len(names) in (16, 17) and len(names) + len(found) == 17 - (name == "self")  # nothing is lost there


def test_a_class_whose_link_leads_nowhere_is_missed(tmp_path):
    write_images(tmp_path, {"cat": 8, "dog": 8})
    (tmp_path / "cow").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="cow is a broken link"):
        folder_data(tmp_path)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch, caplog):
    write_images(tmp_path, {"cat": 8, "dog": 8, "dog/more": 4})
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OSError, match="dog/more cannot be read: Permission denied"):
        folder_data(tmp_path)
    with pytest.raises(OSError, match="dog/more cannot be read: Permission denied"):
        image_paths.find_images(str(tmp_path))
    assert sum(map(len, split_names(folder_data(tmp_path, broken="skip")).values())) == 16
    assert "dog/more cannot be read: Permission denied" in caplog.text
    found: list[str] = []
    assert len(image_paths.find_images(str(tmp_path), found)[1]) == 16 and len(found) == 1


def test_the_same_file_counts_once(tmp_path, caplog):
    write_images(tmp_path, {"cat": 8, "dog": 8})
    os.link(tmp_path / "cat" / "1.jpg", tmp_path / "cat" / "1 again.jpg")
    (tmp_path / "dog" / "cat.jpg").symlink_to(tmp_path / "cat" / "2.jpg")
    (tmp_path / "dog" / "dogs").symlink_to(tmp_path / "dog")
    (tmp_path / "cat" / "dogs").symlink_to(tmp_path / "dog")  # the dogs stay dogs
    data = folder_data(tmp_path, broken="skip")
    names = split_names(data)
    assert sum(map(len, names.values())) == 16
    assert "duplicate files, left out: " in caplog.text
    assert len({os.path.realpath(tmp_path / name) for part in names.values() for name in part}) == 16


def test_the_same_file_in_two_splits_stays_in_the_one_that_is_scored(tmp_path, caplog):
    write_images(tmp_path / "train", {"cat": 8, "dog": 8})
    write_images(tmp_path / "test", {"cat": 2, "dog": 2})
    os.link(tmp_path / "test" / "cat" / "0.jpg", tmp_path / "train" / "cat" / "leak.jpg")
    names = split_names(folder_data(tmp_path))
    assert len(names["test"]) == 4
    assert "train/cat/leak.jpg" not in names["train"] | names["val"]
    assert f"left out: 1 in {tmp_path}/train, the first {tmp_path}/train/cat/leak.jpg" in caplog.text


def test_duplicates_are_found_by_device_and_inode(tmp_path, monkeypatch):
    identities = [(1, 5), (1, 6), (2, 5), (1, 6), (1, 5), (1, 6), (1, 0), (1, 0)]
    paths = [str(tmp_path / f"{n}.jpg") for n in range(8)]
    status = dict(zip(paths, identities, strict=True))
    samples, stat = [(path, 0) for path in paths], os.stat

    def fake(path, **options):
        return os.stat_result((0o100644, status[path][1], status[path][0], *[9] * 7)) if path in status else stat(path)

    monkeypatch.setattr(os, "stat", fake)
    known = {}
    first = scan_files(samples, tmp_path, known)
    assert first.duplicates == {paths[n]: paths[kept] for n, kept in {3: 1, 4: 0, 5: 1}.items()}
    assert list(first.sizes) == [paths[n] for n in (0, 1, 2, 6, 7)]
    again = scan_files(samples, tmp_path, {(1, 6): "b", (1, 5): "a"})
    assert again.duplicates == {paths[n]: name for n, name in {0: "a", 1: "b", 3: "b", 4: "a", 5: "b"}.items()}


def test_of_several_names_the_file_stays_and_links_go(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "z.png")
    for name in ("a.png", "b.png"):
        (tmp_path / name).symlink_to("z.png")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "z.png")]
    scan = scan_files([(path, 0) for path in paths], tmp_path, {})
    assert list(scan.sizes) == paths[2:] and set(scan.duplicates) == set(paths[:2])


def test_a_very_long_image_is_cropped_before_it_is_resized():
    prepare = Preprocessing(3, 32, (0.5,) * 3, (0.2,) * 3, 1.143)
    for long in (1_000, 99_999):
        image = torch.zeros(3, 1, long, dtype=torch.uint8)
        image[0, :, long // 2 - 3 : long // 2 + 4] = 200  # red in the middle
        for turned in (image, image.transpose(1, 2)):
            assert max(without_ends(turned).shape) <= 17
            assert prepare.fit(turned).unique(dim=1).flatten(1)[:, 0].tolist() == [200, 0, 0]
    images = torch.randint(256, (2, 3, 20, 300), dtype=torch.uint8)
    assert without_ends(images) is not None and torch.equal(without_ends(images), images)
    whole = Preprocessing(3, 32, (0.5,) * 3, (0.2,) * 3)
    assert whole.fit(torch.full((3, 10**7, 1), 7, dtype=torch.uint8)).unique().tolist() == [7]  # not 10**7 rows of 32


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A folder of two classes in which bringing one file, ``cat/odd.png``, to the network's size takes too much."""
    write_images(tmp_path, {"cat": 8, "dog": 8})
    Image.new("RGB", (77, 30)).save(tmp_path / "cat" / "odd.png")
    fit = Preprocessing.fit

    def fails(self, images):
        if images.shape[-1] == 77:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000000 bytes."
            )
        return fit(self, images)

    monkeypatch.setattr(Preprocessing, "fit", fails)
    return tmp_path


def test_a_file_that_fails_only_when_it_is_transformed_is_named_and_left_out(failing, caplog):
    message = f"{failing}/cat/odd.png (77×30 pixels) cannot be transformed: out of memory: no room for 8.4 GiB"
    data = folder_data(failing, test_fraction=0.9)
    with pytest.raises(ValueError) as caught:
        for split, part in data.sets.items():
            part.training = False
            data.fetch(split, torch.arange(len(part)))
    assert one_line(caught.value).startswith(message)
    assert sum(map(len, split_names(folder_data(failing, broken="skip")).values())) == 16
    assert message in caplog.text
    paths = [str(failing / "cat" / name) for name in ("1.jpg", "odd.png", "2.jpg")]
    read = PredictImages(paths, {"in_channels": 3, "image_size": 16, "mean": [0.5], "std": [0.5]}, num_workers=0)
    images, indices, _, broken = read.read(torch.arange(3))
    assert (len(images), indices.tolist(), [index for index, _ in broken]) == (2, [0, 2], [1])
    assert broken[0][1].startswith(message)


TRANSFORMS = {
    "ToDtype": (v2.ToDtype(torch.float32, scale=True), "returns float32 of (3, 16, 16)"),
    "Normalize": (v2.Normalize([0.5], [0.5]), "fails for uint8 of (3, 16, 16): "),
    "ToTensor": (transforms.ToTensor(), "fails for uint8 of (3, 16, 16): "),
    "Grayscale": (v2.Grayscale(1), "returns uint8 of (1, 16, 16)"),
    "Resize": (v2.Resize(20), "returns uint8 of (3, 20, 20)"),
    "CenterCrop": (v2.CenterCrop(8), "returns uint8 of (3, 8, 8)"),
    "ToPILImage": (v2.ToPILImage(), "returns a Image"),
    "RandomApply": (v2.RandomApply([v2.ToDtype(torch.float32)], p=0.9), "returns float32 of (3, 16, 16)"),
    "NoneType": (lambda image: None, "returns a NoneType"),
    "ToImage": (v2.ToImage(), None),
    "Same": (v2.Resize(16), None),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_with_a_wrong_output_is_named_before_anything_is_read(name, tmp_path):
    transform, message = TRANSFORMS[name]
    write_images(tmp_path, {"cat": 8, "dog": 8})
    chosen = {"flip": v2.RandomHorizontalFlip(), "last": transform}
    before = torch.get_rng_state()
    if message is None:
        train = folder_data(tmp_path, image_transforms=chosen).sets["train"]
        images = train[BatchKey(torch.arange(4))][0]
        assert type(images) is torch.Tensor and images.dtype == torch.uint8 and images.shape == (4, 3, 16, 16)
    else:
        with pytest.raises(ValueError) as caught:
            ImageFolder(str(tmp_path), image_size=16, image_transforms=chosen)
        assert one_line(caught.value).startswith(f"image_transforms.last ({type(transform).__name__}) {message}")
    assert torch.equal(before, torch.get_rng_state())
    if name not in ("ToTensor", "ToPILImage", "RandomApply"):
        batch = {"flip": PerImage(v2.RandomHorizontalFlip()), "last": PerImage(transform)}
        data = folder_data(tmp_path, batch_size=4, augmentation=batch)
        if message is None:
            data.train_dataloader()
        else:
            with pytest.raises(ValueError, match=r"augmentation.last \(PerImage\) (returns|fails for)"):
                data.train_dataloader()


def test_torchvisions_transform_as_a_batch_transform_is_named(tmp_path):
    write_images(tmp_path, {"cat": 8, "dog": 8})
    data = folder_data(tmp_path, batch_size=4, augmentation={"flip": v2.RandomHorizontalFlip()})
    with pytest.raises(ValueError, match=r"augmentation.flip \(RandomHorizontalFlip\) returns a tuple; .*; .*PerImage"):
        data.train_dataloader()


def test_a_wrong_transform_that_acts_seldom_names_itself_and_skips_nothing(tmp_path):
    write_images(tmp_path, {"cat": 8, "dog": 8})

    def seldom(image):
        return image if image.float().std() > 60 else image.float()  # noise is checked first

    data = folder_data(tmp_path, image_transforms={"seldom": seldom})
    with pytest.raises(ValueError, match=r"^image_transforms.seldom \(function\) returns float32 of \(3, 16, 16\)"):
        data.fetch("train", torch.arange(2))
    with pytest.raises(ValueError, match=r"^image_transforms.seldom \(function\) returns float32"):
        folder_data(tmp_path, image_transforms={"seldom": seldom}, broken="skip")


@pytest.mark.parametrize("part", ["test", "val", "Testing", "validation"])
@pytest.mark.parametrize("below", ["", "unknown"])
def test_a_part_without_class_folders_is_left_aside(part, below, tmp_path, caplog):
    write_images(tmp_path / "train", {"cat": 20, "dog": 20})
    write_images(tmp_path / part, {below: 5})
    data = folder_data(tmp_path)
    names = split_names(data)
    assert sum(map(len, names.values())) == 40 and all(names.values())
    (line,) = caplog.messages
    assert line.startswith(f"unused       {tmp_path / part}, which has no class folders; expected ")
