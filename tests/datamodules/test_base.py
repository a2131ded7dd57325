"""The split, the order of batches and the batch's way to the network."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torchvision.datasets.utils import download_url
from torchvision.transforms.v2 import functional as F

from datamodules import FashionMNIST, RandomCrop, RandomHorizontalFlip, Synthetic, TensorImages
from datamodules.base import download
from datamodules.image_files import ImageFiles
from datamodules.sampling import BatchSampler, assign_folds, random_key, stratified_split


def synthetic(**options):
    options = {"num_classes": 4, "in_channels": 3, "image_size": 16, "num_images": 200, "batch_size": 16} | options
    data = Synthetic(**options)
    data.setup("fit")
    data.setup("test")
    return data


class Probe(LightningModule):
    """Sees the batches as a network would, and keeps them."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_batches, self.val_batches = [], []

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def seen(data, epochs=1, validate=True):
    probe = Probe()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validate else 0,
    )
    trainer.fit(probe, datamodule=data)
    return probe


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_split_is_disjoint_complete_and_stratified(fraction):
    labels = torch.arange(10).repeat_interleave(torch.arange(20, 120, 10))
    labels = labels[torch.randperm(len(labels))]
    first, second = stratified_split(labels, fraction, seed=0)
    together = torch.cat([first, second]).sort().values
    assert torch.equal(together, torch.arange(len(labels)))
    for label in range(10):
        expected = round(fraction * (labels == label).sum().item())
        assert (labels[second] == label).sum() == expected


def test_split_is_a_function_of_the_seed():
    labels = torch.arange(5).repeat(100)
    assert torch.equal(stratified_split(labels, 0.2, 1)[1], stratified_split(labels, 0.2, 1)[1])
    assert not torch.equal(stratified_split(labels, 0.2, 1)[1], stratified_split(labels, 0.2, 2)[1])


def test_split_leaves_a_lonely_image_in_training_and_gives_a_small_class_one():
    first, second = stratified_split(torch.tensor([0, 1, 1, 1, 1, 2, 2]), 0.1, seed=0)
    assert 0 in first
    assert sorted(torch.tensor([0, 1, 1, 1, 1, 2, 2])[second].tolist()) == [1, 2]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(ValueError, match=f"{fraction}"):
        stratified_split(torch.arange(5), fraction, 0)


def test_training_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = BatchSampler(100, 16, seed, training=True, shuffle=True)
        sampler.set_epoch(epoch)
        return [(draw.indices.tolist(), draw.key) for draw in sampler]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)
    batches = [indices for indices, _ in order(0, 0)]
    assert [len(batch) for batch in batches] == [16] * 6
    assert len({i for batch in batches for i in batch}) == 96


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("size", [10, 96, 97, 100])
def test_processes_share_out_every_image_once_in_evaluation(size, world_size):
    samplers = [BatchSampler(size, 3, 0, False, False, rank, world_size) for rank in range(world_size)]
    batches = [[draw.indices for draw in sampler] for sampler in samplers]
    assert {len(b) for b in batches} == {len(samplers[0])}  # as many steps in each, or they would wait forever
    assert all(0 < len(indices) <= 3 for b in batches for indices in b)
    assert sorted(i for b in batches for indices in b for i in indices.tolist()) == list(range(size))


def test_processes_get_equal_shares_in_training_and_the_same_batches_as_one_process():
    one = BatchSampler(100, 8, 0, True, True)
    two = [BatchSampler(100, 4, 0, True, True, rank, 2) for rank in range(2)]
    for whole, *parts in zip(one, *two, strict=True):
        assert torch.equal(whole[0], torch.cat([part.indices for part in parts]))


@pytest.mark.parametrize(("sizes", "folds"), [((50, 50), 5), ((31, 7, 3), 4), ((2, 1), 3), ((900, 100), 10)])
def test_folds_are_disjoint_complete_stratified_and_a_function_of_the_seed(sizes, folds):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    names = [f"{i}.png" for i in range(len(labels))]
    found = assign_folds(names, labels, folds, 0)
    counts = torch.stack([found[labels == label].bincount(minlength=folds) for label in range(len(sizes))])
    assert counts.sum() == sum(sizes)
    assert all(row.max() - row.min() <= 1 for row in [*counts, counts.sum(0)])
    order = torch.randperm(len(labels))
    shuffled = assign_folds([names[i] for i in order], labels[order], folds, 0)
    assert torch.equal(shuffled, found[order]) and torch.equal(assign_folds(names, labels, folds, 0), found)
    assert sum(sizes) < 9 or not torch.equal(assign_folds(names, labels, folds, 1), found)


def test_images_of_a_name_are_in_one_fold_and_there_must_be_a_name_for_each():
    names = [f"patient {i // 3}" for i in range(30)]
    found = assign_folds(names, torch.arange(30) % 2, 5, 0).view(10, 3)
    assert (found == found[:, :1]).all() and found[:, 0].bincount().tolist() == [2] * 5
    with pytest.raises(ValueError, match="folds=11 is more than there are images or groups of images: 10"):
        assign_folds(names, torch.zeros(30), 11, 0)


def test_over_the_folds_each_training_image_is_validated_once_and_the_test_set_stays():
    parts = [synthetic(folds=3, fold=fold).sets for fold in range(3)]
    assert sorted(i for part in parts for i in part["val"].indices.tolist()) == list(range(200))
    for part in parts:
        assert sorted(torch.cat([part["train"].indices, part["val"].indices]).tolist()) == list(range(200))
        assert part["val"].labels.bincount().max() - part["val"].labels.bincount().min() <= 1
        assert torch.equal(part["test"].images, parts[0]["test"].images)


def test_balanced_sampling_is_a_function_of_seed_and_epoch_and_draws_each_class_equally_often():
    labels = (torch.arange(1000) % 10 == 0).long()  # 900 of class 0, 100 of class 1
    data = synthetic(num_classes=2, sampling="balanced")
    data.sets["train"] = TensorImages(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), labels)
    assert data.class_counts().tolist() == [900, 100]
    weights = data.train_dataloader().sampler.weights
    assert weights.unique().tolist() == [1 / 900, 1 / 100] and data.val_dataloader().sampler.weights is None

    def order(epoch, size=20, rank=0, world=1, first=0):
        sampler = BatchSampler(1000, size, 0, True, True, rank, world, epoch=epoch, first=first)
        sampler.weights = weights
        return [(draw.indices.tolist(), draw.key) for draw in sampler]

    drawn = torch.tensor([i for indices, _ in order(0) for i in indices])
    assert len(drawn) == 1000
    assert abs(labels[drawn].sum().item() - 500) < 64  # 4 sigma
    assert order(0) == order(0) != order(1)
    assert order(1, first=7) == order(1)[7:]  # a run that resumes
    halves = [order(0, 10, rank, 2) for rank in range(2)]  # two processes
    assert [a + b for (a, _), (b, _) in zip(*halves, strict=True)] == [indices for indices, _ in order(0)]


def test_keys_differ_between_batches_epochs_and_seeds():
    keys = {random_key(seed, epoch, batch) for seed in range(5) for epoch in range(5) for batch in range(5)}
    assert len(keys) == 125


def test_validation_images_come_from_the_training_set_alone():
    data = synthetic()
    train, val, test = (data.sets[name] for name in ("train", "val", "test"))
    assert set(train.indices.tolist()).isdisjoint(val.indices.tolist())
    assert len(train) + len(val) == 200
    assert train.images.data_ptr() == val.images.data_ptr()
    assert test.images.data_ptr() != train.images.data_ptr()


def test_every_epoch_has_another_order_in_training_and_the_same_in_validation():
    probe = seen(synthetic(), epochs=2)
    per_epoch = len(probe.train_batches) // 2
    first, second = probe.train_batches[:per_epoch], probe.train_batches[per_epoch:]
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    half = len(probe.val_batches) // 2
    for a, b in zip(probe.val_batches[:half], probe.val_batches[half:], strict=True):
        assert torch.equal(a[0], b[0])


def test_training_batches_do_not_depend_on_validation_or_workers():
    shift = {"crop": RandomCrop(2), "flip": RandomHorizontalFlip()}
    plain = seen(synthetic(augmentation=shift), validate=False).train_batches
    validated = seen(synthetic(augmentation=shift)).train_batches
    workers = seen(synthetic(augmentation=shift, num_workers=2)).train_batches
    for a, b, c in zip(plain, validated, workers, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[0], c[0])
        assert torch.equal(a[1], c[1])


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_images_and_labels_are_mixed_by_the_same_share(way):
    plain = seen(synthetic()).train_batches
    probe = seen(synthetic(**{way: 1.0}))
    shares = []
    for (images, labels), (mixed, soft) in zip(plain, probe.train_batches, strict=True):
        partners, partner_labels = images.roll(1, 0), labels.roll(1, 0)
        assert soft.shape == (16, 4) and soft.dtype == torch.float32
        torch.testing.assert_close(soft.sum(1), torch.ones(16))
        different = (labels != partner_labels).nonzero().squeeze(1)
        share = soft[different[0], labels[different[0]]].item()
        expected = share * torch.eye(4)[labels] + (1 - share) * torch.eye(4)[partner_labels]
        torch.testing.assert_close(soft, expected)
        if way == "mixup":
            torch.testing.assert_close(mixed, share * images + (1 - share) * partners)
        else:
            kept, taken = (mixed == images).all(1), (mixed == partners).all(1)  # (16, 16, 16)
            assert (kept | taken).all()
            assert (~kept).float().mean((1, 2)).max().item() == pytest.approx(1 - share, abs=1e-5)
        shares.append(round(share, 4))
    assert len(set(shares)) > 5
    for (images, labels), (others, _) in zip(probe.val_batches, seen(synthetic()).val_batches, strict=True):
        assert labels.ndim == 1 and torch.equal(images, others)


def test_with_both_ways_of_mixing_a_batch_takes_one_and_workers_change_nothing():
    both = seen(synthetic(mixup=0.4, cutmix=1.0), epochs=2).train_batches
    workers = seen(synthetic(mixup=0.4, cutmix=1, num_workers=2), epochs=2).train_batches
    plain = seen(synthetic(), epochs=2).train_batches
    pasted = [((a == b) | (a == b.roll(1, 0))).all().item() for (a, _), (b, _) in zip(both, plain, strict=True)]
    assert 4 < sum(pasted) < len(pasted) - 4
    for a, b in zip(both, workers, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_images_on_a_device_are_drawn_there():
    data, moved = synthetic(), synthetic()
    moved.sets = {name: images.to("meta") for name, images in moved.sets.items()}
    for plain, there in zip(data.train_dataloader(), moved.train_dataloader(), strict=True):
        assert there[0].is_meta and there[1].is_meta
        assert (there[0].shape, there[1].shape, there[2][1:]) == (plain[0].shape, plain[1].shape, plain[2][1:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_holds_the_data_and_gives_the_same_batches():
    data, resident = synthetic(), Synthetic(4, 3, 16, num_images=200, batch_size=16)
    resident.trainer = Trainer(accelerator="gpu", devices=1, logger=False, enable_checkpointing=False)
    resident.setup("fit")
    for plain, there in zip(data.train_dataloader(), resident.train_dataloader(), strict=True):
        assert there[0].is_cuda and there[1].is_cuda
        assert torch.equal(there[0].cpu(), plain[0]) and torch.equal(there[1].cpu(), plain[1])


@pytest.mark.parametrize(("cores", "devices", "workers"), [(2, 1, 1), (64, 1, 16), (64, 8, 7), (1, 1, 1)])
def test_workers_share_the_cores_with_each_other_and_the_main_process(monkeypatch, cores, devices, workers):
    monkeypatch.setattr("lightning.fabric.utilities.data._num_cpus_available", lambda: cores)
    data = synthetic(num_workers=None)
    data.trainer = SimpleNamespace(num_devices=devices, global_rank=0, world_size=devices, overfit_batches=0)
    assert data.train_dataloader().num_workers == 0  # images in memory
    data.sets["train"] = ImageFiles([("", 0)] * 200, 3, data.prepare.fit)
    assert data.train_dataloader().num_workers == workers


def test_only_training_batches_are_augmented():
    def invert(images, generator, draw):
        return 255 - images

    data = synthetic(augmentation={"invert": invert}, shuffle=False)
    probe = seen(data)
    images, labels = probe.train_batches[0]
    indices = data.sets["train"].indices[:16]
    assert torch.equal(labels, data.sets["train"].all_labels[indices])
    torch.testing.assert_close(images, data.normalize(255 - data.sets["train"].images[indices]))
    images, labels = probe.val_batches[0]
    indices = data.sets["val"].indices[: len(labels)]
    torch.testing.assert_close(images, data.normalize(data.sets["val"].images[indices]))


def test_normalisation_is_that_of_torchvision():
    data = type("Coloured", (Synthetic,), {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)})(4, 3, 16)
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    expected = F.normalize(F.to_dtype(images, torch.float32, scale=True), list(data.mean), list(data.std))
    torch.testing.assert_close(data.normalize(images), expected)


def test_grey_images_meet_an_rgb_network_by_repetition_and_colour_a_grey_one_by_luminance():
    grey = torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8)
    rgb = synthetic(in_channels=3).normalize(grey)
    assert rgb.shape == (5, 3, 16, 16)
    assert torch.equal(rgb[:, 0], rgb[:, 2])
    coloured = type("Coloured", (Synthetic,), {"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4)})(4, 1, 16)
    colours = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    luminance = F.to_dtype(F.rgb_to_grayscale(colours), torch.float32, scale=True)
    mean = F.rgb_to_grayscale(torch.tensor((0.1, 0.5, 0.9)).view(3, 1, 1)).item()
    torch.testing.assert_close(coloured.normalize(colours), (luminance - mean) / 0.3, atol=1e-4, rtol=1e-4)
    assert coloured.preprocessing["mean"] == [pytest.approx(mean, abs=1e-3)]
    three = type("Coloured", (Synthetic,), {"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4)})(4, 3, 16)
    assert torch.equal(three.normalize(grey), three.normalize(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 2}, "in_channels=2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"mixup": -0.1}, r"mixup=-0\.1"),
        ({"fold": 2}, "fold=2 needs the number of folds: datamodule.folds=5"),
        ({"folds": 5, "fold": 5}, "fold=5 of folds=5; expected 2 folds or more, numbered from 0 to folds - 1"),
        ({"folds": 1}, "fold=0 of folds=1; expected 2 folds or more"),
        ({"sampling": "equal"}, "sampling=equal is neither null nor balanced"),
        ({"sampling": "balanced", "shuffle": False}, "sampling=balanced draws images at random; expected shuffle=true"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**options)


def test_a_wrong_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"num_classes=7, but FashionMNIST has 10 classes"):
        FashionMNIST(7, 1, 28)


def test_a_batch_larger_than_the_training_set_is_refused_with_the_largest_that_works():
    data = synthetic(batch_size=181)
    with pytest.raises(ValueError, match=r"batch_size=181 .* 180"):
        data.train_dataloader()
    assert len(synthetic(batch_size=180).train_dataloader()) == 1


def test_a_download_is_one_line_and_not_repeated(tmp_path, caplog):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.bin").write_bytes(bytes(1_500_000))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "there"))
    server.handle_error = lambda *_: None  # torchvision first asks for the address alone, and hangs up
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Remote:
        def __init__(self, root, download=False):
            if download:
                download_url(f"http://127.0.0.1:{server.server_port}/a.bin", root)
            elif not (tmp_path / "data" / "a.bin").exists():
                raise RuntimeError("not found")

    caplog.set_level("INFO")
    for _ in range(2):
        download(Remote, str(tmp_path / "data"))
    server.shutdown()
    assert (tmp_path / "data" / "a.bin").stat().st_size == 1_500_000
    assert caplog.messages == [f"downloading  Remote to {tmp_path / 'data'}"]
