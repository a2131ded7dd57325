"""What a run leaves to look at: every curve, picture and text, where and with the values it should have."""

import io
import math
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

import train as script
from callbacks.optimizer_monitor import OptimizerMonitor, gradient_norm
from callbacks.plots import (
    MistakesPlot,
    NetworkPictures,
    confusion_bars,
    confusion_matrix,
    curves_figure,
    filter_grid,
    image_name,
    label_title,
)
from datamodules import RandomHorizontalFlip, Synthetic
from inference import checkpoints
from results import record as records
from results.pictures import GAP, LINE, SIDE
from tests.conftest import compose_in

SMALL = (
    "datamodule=synthetic datamodule.num_images=150 datamodule.batch_size=32 datamodule.image_size=16 trainer=cpu "
    "trainer.max_epochs=3 optimizer.lr=0.02 seed=3 "
    "+datamodule.augmentation={flip:{_target_:datamodules.RandomHorizontalFlip,p:0.5}}"
).split()
CLASSES = tuple(f"band {i}" for i in range(10))
STEPS, EPOCH = 12, 4  # of training; 32 of 135 images a step
LAST = [3, 7, 11]  # the steps that end an epoch, counted from 0
QUIET = "logger=none " + " ".join(
    f"callbacks.{name}=null"
    for name in "optimization pictures curves confusion_matrix mistakes precision_recall".split()
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with everything on: its folder, config, events, and what its optimizer saw in each step."""
    folder, seen, said = tmp_path_factory.mktemp("run"), [], []
    step = torch.optim.SGD.step

    def watched(optimizer, closure=None):
        loss = closure()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = sum((g.double() ** 2).sum().item() for g in gradients) ** 0.5
        seen.append((optimizer.param_groups[0]["lr"], norm, gradients[0].clone()))
        step(optimizer, None)
        return loss

    everything = ["trainer.log_every_n_steps=3", "callbacks.optimization.histograms=2", "callbacks.pictures.graph=true"]
    cfg = compose_in(folder, [*SMALL, *everything], "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", watched)
        patch.setattr("train.cli_overrides", lambda: [*SMALL, *everything])
        patch.setattr(script.log, "info", said.append)
        script.train(cfg)
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)  # all of them
    events = EventAccumulator(str(folder), size_guidance=sizes).Reload()
    return SimpleNamespace(folder=folder, cfg=cfg, events=events, seen=seen, said=said[-1], record=records.read(folder))


def curve(run, tag):
    return [(event.step, event.value) for event in run.events.Scalars(tag)]


def test_there_are_these_curves_and_no_others(run):
    scores = {"loss", "top1", "top5", "f1_macro"}
    assert set(run.events.Tags()["scalars"]) == {
        "train/loss",
        "train/top1",
        *(f"{group}/{name}" for group in ("val", "watch/test", "watch/best") for name in scores),
        *(f"watch/{name}" for name in ("lr", "grad_norm", "throughput/images_per_second", "memory/peak_mb", "epoch")),
    }


def test_training_and_validation_are_at_the_same_steps_and_in_one_chart(run):
    assert len(run.seen) == STEPS
    watched = ("watch/throughput/images_per_second", "watch/memory/peak_mb")
    for name in ("train/loss", "train/top1", "val/loss", "val/top1", *watched):
        assert [step for step, _ in curve(run, name)] == LAST, name
    metrics = run.record["metrics"]
    for name in ("loss", "top1"):
        assert curve(run, f"train/{name}")[-1][1] == pytest.approx(metrics[f"train/{name}"])
    best = max(range(3), key=lambda epoch: curve(run, "val/top1")[epoch][1])
    for name in ("loss", "top1", "top5", "f1_macro"):
        assert curve(run, f"val/{name}")[best][1] == pytest.approx(metrics[f"val/{name}"])
        assert curve(run, f"watch/test/{name}") == [(STEPS, pytest.approx(metrics[f"test/{name}"]))]
    layout = layout_pb2.Layout.FromString(run.events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts == {"loss": ["train/loss", "val/loss"], "top1": ["train/top1", "val/top1"]}


def test_rate_and_gradient_are_those_of_every_third_step_and_each_epochs_last(run):
    steps = [2, 3, 5, 7, 8, 11]
    rates = [0.02 * (1 + math.cos(math.pi * (step - 1) / 11)) / 2 for step in steps]  # after one step of warm-up
    assert curve(run, "watch/lr") == [(s, pytest.approx(rate, rel=1e-5)) for s, rate in zip(steps, rates, strict=True)]
    assert [rate for rate, *_ in run.seen][11] == pytest.approx(rates[-1], rel=1e-5)
    assert curve(run, "watch/grad_norm") == [(step, pytest.approx(run.seen[step][1], rel=1e-5)) for step in steps]


def test_throughput_and_memory_add_up_to_the_records(run):
    speeds = [value for _, value in curve(run, "watch/throughput/images_per_second")]
    seconds = sum(EPOCH * 32 / speed for speed in speeds)
    assert seconds == pytest.approx(run.record["train_seconds"], rel=1e-3)
    peaks = [value for _, value in curve(run, "watch/memory/peak_mb")]
    assert 50 < peaks[0] <= peaks[1] <= peaks[2] <= run.record["peak_memory_mb"] + 0.1


def text(run, tag):
    (event,) = run.events.Tensors(f"{tag}/text_summary")
    assert event.step == 0
    return event.tensor_proto.string_val[0].decode()


def test_config_overrides_and_hyperparameters_are_the_runs(run):
    fence, *lines, end = text(run, "config").split("\n")[:-1] + ["```"]
    assert (fence, end) == ("```yaml", "```")
    found = yaml.safe_load("\n".join(lines))
    expected = OmegaConf.to_container(run.cfg, resolve=True)
    del expected["logger"]  # an address may hold a password
    assert found == expected
    assert found["optimizer"]["lr"] == 0.02
    assert text(run, "overrides").split("\n")[1:-1] == run.record["overrides"]
    content = run.events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert (shown["optimizer.lr"].number_value, shown["seed"].number_value) == (0.02, 3)
    assert shown["model"].string_value == "LeNet"


def picture(run, tag, step):
    (event,) = run.events.Images(tag)
    assert event.step == step
    pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert pixels.shape == (event.height, event.width, 3)
    return pixels


def panel(pixels, number, lines):
    """The image at a place in a grid of five columns, in its own 16 × 16 pixels."""
    top = GAP + number // 5 * (SIDE + LINE * lines + GAP) + LINE * lines
    left = GAP + number % 5 * (SIDE + GAP)
    return pixels[top : top + SIDE, left : left + SIDE][6::12, 6::12]


def test_pictures_are_these(run):
    tags = {"watch/train/batch", "watch/filters/first_layer", "watch/test/confusion_matrix", "watch/test/mistakes"}
    assert set(run.events.Tags()["images"]) == tags
    for tag, name in (("watch/test/confusion_matrix", "confusion_matrix"), ("watch/test/mistakes", "mistakes")):
        assert (picture(run, tag, STEPS) == np.asarray(Image.open(run.folder / f"{name}.png"))).all()
    assert np.asarray(Image.open(run.folder / "curves.png")).std() > 20


def test_the_batch_is_what_the_network_saw(run):
    data = Synthetic(10, 3, 16, num_images=150, batch_size=32, seed=3)
    data.setup("fit")
    images, _, draw, _ = next(iter(data.train_dataloader()))
    flipped = RandomHorizontalFlip(p=0.5)(images, torch.Generator().manual_seed(draw.key), draw)
    assert not torch.equal(flipped, images)
    pixels = picture(run, "watch/train/batch", 0)
    for number in range(25):
        assert (panel(pixels, number, lines=1) == flipped[number].permute(1, 2, 0).numpy()).all(), number
    assert pixels.shape[0] == 5 * (SIDE + LINE + GAP) + GAP  # 25 of the 32


@pytest.fixture(scope="module")
def tested(run):
    """The test images, their labels, and what the best network says of them."""
    data = Synthetic(10, 3, 16, num_images=150, seed=3)
    test = data.load("test")
    return test.images, test.labels, checkpoints.load(run.folder)(test.images)


def test_mistakes_are_the_wrong_answers_the_surest_first(run, tested):
    images, labels, probabilities = tested
    wrong = (probabilities.argmax(1) != labels).nonzero()[:, 0].tolist()
    wrong.sort(key=lambda index: -probabilities[index].max().item())
    assert len(wrong) > 3
    pixels = picture(run, "watch/test/mistakes", STEPS)
    for number, index in enumerate(wrong[:25]):
        assert (panel(pixels, number, lines=3) == images[index].permute(1, 2, 0).numpy()).all(), number


def test_precision_and_recall_are_those_of_a_count_by_hand(run, tested):
    _, labels, probabilities = tested
    for number, name in enumerate(CLASSES):
        (event,) = run.events.Tensors(f"test/precision_recall/{name}")
        rows = np.array(event.tensor_proto.float_val).reshape(6, 127)
        assert event.step == STEPS
        for place in (5, 20, 63):
            said, right = probabilities[:, number] >= place / 126, labels == number
            hits = (said & right).sum().item()
            assert rows[0, place] == hits
            assert rows[4, place] == pytest.approx(hits / max(1, said.sum().item()))
            assert rows[5, place] == pytest.approx(hits / right.sum().item())


def test_filters_are_the_best_networks(run):
    weights = checkpoints.load(run.folder).backbone.conv1.weight.detach()  # (16, 3, 5, 5)
    pixels = picture(run, "watch/filters/first_layer", STEPS)
    scale = 10  # the first multiple of 5 pixels with 48 or more
    assert pixels.shape == (2 * (5 * scale + 2) + 2, 8 * (5 * scale + 2) + 2, 3)
    for number in (0, 9):
        top, left = number // 8 * (5 * scale + 2) + 2, number % 8 * (5 * scale + 2) + 2
        found = pixels[top : top + 5 * scale, left : left + 5 * scale][::scale, ::scale]
        expected = 127.5 + 127.5 * weights[number] / weights[number].abs().max()
        assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() <= 0.51


def test_histograms_are_those_of_every_second_epoch(run):
    names = [name for name, _ in checkpoints.load(run.folder).backbone.named_parameters()]
    tags = run.events.Tags()["histograms"]
    assert set(tags) == {f"watch/{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    (event,) = run.events.Histograms("watch/gradients/conv1.weight")
    assert event.step == LAST[1]
    gradient = run.seen[LAST[1]][2]
    found = event.histogram_value
    assert found.num == gradient.numel()
    assert (found.min, found.max) == (pytest.approx(gradient.min().item()), pytest.approx(gradient.max().item()))
    assert found.sum_squares == pytest.approx((gradient**2).sum().item(), rel=1e-4)


def test_looking_changes_nothing(run, tmp_path):
    assert run.events.Tags()["graph"]
    script.train(compose_in(tmp_path, [*SMALL, *QUIET.split()], "train"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "result.json"]
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (run.folder, tmp_path)
    )
    for name, value in ours["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][name]), name
    generators = [
        next(state["generators"] for name, state in c["callbacks"].items() if "ResumeCheckpoint" in name)
        for c in (ours, theirs)
    ]
    assert torch.equal(generators[0]["torch"], generators[1]["torch"])
    assert generators[0]["python"] == generators[1]["python"]
    assert torch.equal(generators[0]["numpy"][0], generators[1]["numpy"][0])
    assert records.read(tmp_path)["metrics"] == run.record["metrics"]


def test_the_history_behind_the_curves_is_in_the_checkpoint(run):
    state = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    history = next(values["history"] for name, values in state.items() if "RunMetrics" in name)
    for name in ("train/loss", "train/top1", "val/loss", "val/top1"):
        values = [value for _, value in curve(run, name)]
        assert history[name] == [[epoch, pytest.approx(v)] for epoch, v in zip((1, 2, 3), values, strict=True)]


def test_it_ends_with_a_table(run):
    metrics, lines = run.record["metrics"], run.said.splitlines()
    assert lines[0].split() == ["result", "val", "test"]
    for line, name in zip(lines[1:5], ("loss", "top1", "top5", "f1_macro"), strict=True):
        assert line.split() == [name, f"{metrics[f'val/{name}']:.4f}", f"{metrics[f'test/{name}']:.4f}"]


# Of the parts alone.


def optimizer_of(*groups):
    found = []
    for lr, name in groups:
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([3.0, 4.0])
        found.append({"params": [parameter], "lr": lr} | ({"name": name} if name else {}))
    return torch.optim.SGD(found, lr=1.0)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(0.1, None), (0.1, None)], {"lr": 0.1}),
        ([(0.1, "backbone"), (0.1, "backbone_gains"), (0.1, "head"), (0.1, "head_gains")], {"lr": 0.1}),
        (
            [(0.1, "backbone"), (0.1, "backbone_gains"), (0.5, "head"), (0.5, "head_gains")],
            {"lr/backbone": 0.1, "lr/head": 0.5},
        ),
    ],
)
def test_rates_that_differ_are_curves_of_their_own(groups, expected):
    optimizer, monitor = optimizer_of(*groups), OptimizerMonitor()
    monitor.on_train_start(SimpleNamespace(optimizers=[optimizer]), None)
    assert monitor._rates(optimizer) == expected


def test_the_gradient_of_a_scaled_loss_is_scaled_back():
    optimizer = optimizer_of((1, None), (1, None))
    plain = SimpleNamespace(precision_plugin=SimpleNamespace())
    assert gradient_norm(plain, optimizer).item() == pytest.approx(50**0.5)
    scaler = SimpleNamespace(get_scale=lambda: 4.0)
    scaled = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    assert gradient_norm(scaled, optimizer).item() == pytest.approx(50**0.5)  # Lightning has scaled it back
    optimizer.defaults["fused"] = True
    assert gradient_norm(scaled, optimizer).item() == pytest.approx(50**0.5 / 4)


@pytest.mark.parametrize("count", [2, 50])
def test_the_matrix_has_room_for_two_classes_and_for_fifty_with_long_names(count):
    names = [f"a class with a\nvery long name, number {number} of $many" for number in range(count)]
    pixels = confusion_matrix(torch.eye(count, dtype=torch.long), names)
    for edge in (pixels[:, :3], pixels[:, -3:], pixels[:3], pixels[-3:]):
        assert (edge == 255).all()  # nothing is cut off
    assert (pixels != 255).any()


def test_a_cell_is_as_dark_as_its_share_of_the_true_class():
    counts = torch.tensor([[3, 1], [0, 0]])  # of the second class there is no image
    picture, blues, cells = confusion_matrix(counts, ["a", "b"]), matplotlib.colormaps["Blues"], []
    for share in (0.75, 0.25, 0.0):
        cells.append((picture == blues(share, bytes=True)[:3]).all(2).nonzero())  # (rows, columns)
        assert len(cells[-1][0]) > 500
    (top, left), (same, right), (below, _) = ((rows.mean(), columns.mean()) for rows, columns in cells)
    assert left < right and abs(top - same) < 3 and below > top


def bar_widths(pixels):
    """The widths of the bars of a confusion plot, in pixels, from top to bottom."""
    rows = (pixels == (213, 94, 0)).all(2).sum(1)  # (H,)
    return rows[(rows > 0) & (np.r_[0, rows[:-1]] == 0)].tolist()


def test_of_many_classes_the_most_common_confusions_are_bars():
    counts = 5 * torch.eye(100, dtype=torch.long)
    assert bar_widths(confusion_bars(counts, list(map(str, range(100))))) == []
    counts[3, 7], counts[90, 2], counts[1, 0] = 8, 4, 2
    widths = bar_widths(confusion_bars(counts, list(map(str, range(100)))))
    assert [width / widths[0] for width in widths] == [1, pytest.approx(0.5, abs=0.02), pytest.approx(0.25, abs=0.02)]
    assert len(bar_widths(confusion_bars(counts, list(map(str, range(100))), shown=2))) == 2


@pytest.mark.parametrize("epochs", [1, 100])
def test_the_curves_are_over_whole_epochs_and_their_legend_is_below_them(epochs):
    points = [[epoch, 1 / epoch] for epoch in range(1, epochs + 1)]
    history = {f"{split}/{name}": points for split in ("train", "val") for name in ("loss", "top1")}
    figure = curves_figure(history, "val/top1", 0, 1.0)
    figure.canvas.draw()
    for axes in figure.axes:
        assert axes.get_xlim() == (0.5, epochs + 0.5)
        assert all(tick == int(tick) for tick in axes.get_xticks())
        assert axes.get_tightbbox().y0 > figure.legends[0].get_window_extent().y1
        assert axes.get_tightbbox().x0 >= 0


def test_a_mistake_is_named_by_its_file_or_its_number():
    files = SimpleNamespace(samples=[("/photos/cat/1.jpg", 0), (f"/photos/dog/{'x' * 40}.jpg", 1)])
    assert image_name(files, 0) == "1.jpg"
    assert image_name(files, 1) == "x" * 27 + "…"
    assert image_name(Synthetic(10, 3, 16).load("test"), 7) == "image 7"


def test_a_grid_of_few_filters_has_no_empty_places():
    grid = filter_grid(torch.ones(3, 1, 50, 50))
    assert grid.shape == (54, 3 * 52 + 2, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OptimizerMonitor(histograms=0), "histograms=0; expected at least 1 epoch, or null"),
        (lambda: NetworkPictures(count=0), "count=0; expected at least one image"),
        (lambda: MistakesPlot("x", count=0), "count=0; expected at least one image"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_mixed_images_are_named_by_their_shares():
    names = ["coat", "bag", "boot"]
    assert label_title(torch.tensor(1), names) == "bag"
    assert label_title(torch.tensor([0.25, 0.0, 0.75]), names) == "75% boot\n25% coat"
    assert label_title(torch.tensor([0.0, 1.0, 0.0]), names) == "100% bag"
