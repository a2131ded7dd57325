"""A run that was killed, stopped or torn goes on in its folder and ends with the bits it would have had."""

import csv
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inference import checkpoints
from launch import checks, resume
from launch.validation import parse
from results import record as records
from tests.killed import SMALL, differences, in_process, script, started, training

WAYS = {
    "workers": ["datamodule.num_workers=2"],
    "accumulation": ["trainer.accumulate_grad_batches=3"],
    "validation in the epoch": ["+trainer.val_check_interval=2"],
    "validation in every second epoch": ["+trainer.check_val_every_n_epoch=2"],
    "one cycle in bf16": [
        "scheduler=one_cycle",
        "trainer.precision=bf16-mixed",
        "lit_module.memory_format=channels_last",
    ],
    "a checkpoint in every third step": ["callbacks.last.every_n_train_steps=3"],
    "mixed images, averaged weights": [
        "datamodule.mixup=0.2",
        "datamodule.cutmix=1.0",
        "+datamodule.augmentation.alternate={_target_:datamodules.AlternatingFlip}",
        "+datamodule.augmentation.erase={_target_:datamodules.RandomErasing}",
        "callbacks=ema",
        "callbacks.ema.decay=0.9",
        "callbacks.ema.update_every_n_steps=2",
    ],
    "gradients accumulated differently in each epoch": [
        "+callbacks.accumulation={_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler}",
        "+callbacks.accumulation.scheduling={0:1,1:2,2:4}",
    ],
    "drop-path, the head first": [
        "callbacks=finetune",
        "model=resnet_cifar",
        "model._target_=models.ResNet",
        "model.depth=8",
        "model.widths=[4,8,16]",
        "model.drop_path=0.5",
    ],
}
# In the first and last step of the training and of an epoch, and in other places.
STEPS = [("step", n) for n in (1, 4, 5, 12)]
PLACES = [("optimizer", 6), ("validation", 2), ("epoch", 2), ("writing", 2), ("writing", 6), ("writing", 14)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function from a way to train to the folder of a run that was never stopped."""
    folders = {}

    def of(*way):
        if way not in folders:
            folders[way] = tmp_path_factory.mktemp("whole")
            assert in_process(training, folders[way], [*SMALL, *way]) == 0
        return folders[way]

    return of


def checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def scalars(folder):
    """Every logged value by its tag and step; what a machine needs for it is not among them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(("watch/throughput/", "watch/memory/"))]
    return {(tag, event.step): event.value for tag in tags for event in events.Scalars(tag)}


def shown(folder):
    """The steps of everything by its tag, as TensorBoard itself has them: pictures and texts are there once."""
    events = plugin_event_accumulator.EventAccumulator(str(folder), tensor_size_guidance={}).Reload()
    return {tag: [event.step for event in events.Tensors(tag)] for tag in events.Tags()["tensors"]}


def assert_same_run(folder, expected, lossy=False):
    for name in ("last", "best"):
        assert differences(checkpoint(folder, name), checkpoint(expected, name)) == []
    ours, theirs = scalars(folder), scalars(expected)
    # Lightning logs an epoch's training metrics after its end's checkpoint; a kill in between, some ms, loses them.
    assert {tag for tag, _ in theirs.keys() - ours.keys()} <= (
        {"train/loss", "train/top1", "epoch"} if lossy else set()
    )
    assert ours == {key: theirs[key] for key in ours}
    assert shown(folder) == shown(expected)
    ours, theirs = records.read(folder), records.read(expected)
    for fact in ("status", "metrics", "epochs", "steps", "best_checkpoint", "params"):
        assert ours[fact] == theirs[fact], fact


def resume_run(folder, *way):
    # TensorBoard reads event files by name: the second, then the process as text. A start takes longer than that.
    names = [file.name for file in folder.rglob("events.out.tfevents.*")]
    while names and int(time.time()) <= max(int(name.split(".")[3]) for name in names):
        time.sleep(0.05)
    return in_process(training, folder, [*SMALL, *way, f"ckpt_path='{folder}/checkpoints/last.ckpt'"])


@pytest.mark.parametrize(("place", "time"), STEPS + PLACES)
def test_killed_anywhere_it_resumes_with_the_same_bits(place, time, whole, tmp_path):
    assert in_process(training, tmp_path, SMALL, (place, time)) == -signal.SIGKILL
    assert records.read(tmp_path)["status"] == "running"
    assert resume_run(tmp_path) == 0
    assert_same_run(tmp_path, whole())


@pytest.mark.parametrize("way", WAYS)
def test_killed_however_it_is_trained(way, whole, tmp_path):
    assert in_process(training, tmp_path, [*SMALL, *WAYS[way]], ("step", 8)) == -signal.SIGKILL
    assert resume_run(tmp_path, *WAYS[way]) == 0
    assert_same_run(tmp_path, whole(*WAYS[way]))


STOP_AT = "+callbacks.stop={{_target_:tests.killed.StopAt,step:{}}}"
EARLY = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=8", "optimizer.lr=0.3"]
STOPPING = [
    "+callbacks.early_stopping={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/top1,mode:max,patience:1}"
]
STOPS = {
    "early stopping": (EARLY, "test", 1, 3),
    "early stopping, before the test": (EARLY, "end", 1, 3),
    "early stopping within an epoch": ([*EARLY, "+trainer.val_check_interval=2"], "test", 1, 2.5),
    "a callback, within an epoch": ([STOP_AT.format(6)], "test", 1, 1.5),
    "a callback that must wait for min_epochs": ([STOP_AT.format(5), "+trainer.min_epochs=2"], "step", 8, 2),
    "max_steps within an epoch": (["+trainer.max_steps=6"], "test", 1, 1.5),
    "averaged weights": (["callbacks=ema", *STOPPING, *EARLY[1:], "callbacks.ema.decay=0.5"], "test", 1, 3),
    "max_epochs": ([], "test", 1, 3),
    "max_epochs, after its results are logged": ([], "closing", 1, 3),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_training_that_was_stopped_stays_stopped(stop, whole, tmp_path):
    way, place, time, epochs = STOPS[stop]
    assert in_process(training, tmp_path, [*SMALL, *way], (place, time)) == -signal.SIGKILL
    assert resume_run(tmp_path, *way) == 0
    assert checkpoint(whole(*way))["callbacks"]["RunMetrics"]["images"] <= epochs * 4 * 32  # it was stopped indeed
    assert_same_run(tmp_path, whole(*way))


def csv_rows(folder):
    """All rows of metrics.csv, in any order, without empty cells and what depends on the machine."""
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    skipped = ("throughput/images_per_second", "memory/peak_mb")
    return sorted(str({k: v for k, v in sorted(row.items()) if v and k not in skipped}) for row in rows)


CSV_KILLS = {
    "in the test": [("test", 1)],
    "twice, the second time right after it resumed": [("step", 8), ("step", 1)],
    "twice": [("step", 3), ("validation", 2)],
}


@pytest.mark.parametrize("kills", CSV_KILLS)
def test_a_resumed_run_keeps_its_rows(kills, whole, tmp_path):
    way = ["logger=csv", "+trainer.val_check_interval=3", "callbacks.last.every_n_train_steps=2"]
    last, resumed = tmp_path / "checkpoints" / "last.ckpt", []
    for kill in CSV_KILLS[kills]:
        assert in_process(training, tmp_path, [*SMALL, *way, *resumed], kill) == -signal.SIGKILL
        steps = [int(row["step"]) for row in csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())]
        assert set(range(checkpoint(tmp_path)["global_step"])) <= set(steps)
        resumed = [f"ckpt_path='{last}'"]
    assert resume_run(tmp_path, *way) == 0
    assert csv_rows(tmp_path) == csv_rows(whole(*way))


def test_a_run_killed_before_its_first_step_resumes(whole, tmp_path):
    in_process(training, tmp_path, SMALL, ("writing", 2))  # the first within the first epoch
    assert checkpoint(tmp_path)["global_step"] == 0
    assert resume_run(tmp_path) == 0
    assert_same_run(tmp_path, whole())


def test_the_comparison_sees_one_bit(whole):
    one, other = checkpoint(whole()), checkpoint(whole())
    assert differences(one, other) == []
    weight = other["state_dict"]["backbone.4.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0))
    assert differences(one, other) == ["/state_dict/backbone.4.weight"]


def test_the_number_of_workers_changes_no_bit(whole):
    assert_same_run(whole("datamodule.num_workers=2"), whole())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Overrides for a training on 90 files, decoded once, in four batches an epoch."""
    folder, generator = tmp_path_factory.mktemp("photographs"), torch.Generator().manual_seed(0)
    for number in range(90):
        pixels = torch.randint(256, (12, 14, 3), generator=generator, dtype=torch.uint8).numpy()
        (folder / str(number % 2)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / str(number % 2) / f"{number}.png")
    own = ("datamodule=synthetic", "datamodule.num_images=150", "datamodule.batch_size=32")
    data = ["datamodule=image_folder", f"datamodule.data_dir={folder}", "datamodule.batch_size=16"]
    return data + [override for override in SMALL if override not in own and "augmentation" not in override]


@pytest.mark.parametrize("workers", [0, 2])
def test_files_decoded_once_give_the_same_bits_with_workers_and_when_killed(workers, photographs, tmp_path):
    way = [*photographs, f"datamodule.num_workers={workers}"]
    assert in_process(training, tmp_path / "whole", [*photographs, "datamodule.num_workers=0"]) == 0
    assert in_process(training, tmp_path / "killed", way, ("step", 7)) == -signal.SIGKILL
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert checkpoint(tmp_path / "killed")["ImageFolder"]["decoded_once"] is True
    assert in_process(training, tmp_path / "killed", [*way, f"ckpt_path='{last}'"]) == 0
    assert differences(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole")) == []


@pytest.mark.parametrize(
    "less",
    [["+trainer.limit_val_batches=0", "callbacks.checkpoint=null"], ["logger=none", "callbacks.optimization=null"]],
)
def test_without_validation_or_logging_the_weights_are_the_same(less, whole):
    one, other = checkpoint(whole(*less)), checkpoint(whole())
    assert differences(one["state_dict"], other["state_dict"]) == []
    assert differences(one["optimizer_states"], other["optimizer_states"]) == []


@pytest.mark.slow
def test_killed_at_thirty_random_moments_it_resumes_with_the_same_bits(whole, tmp_path):
    expected = whole()
    began = time.monotonic()
    in_process(training, tmp_path / "timed", SMALL)
    needed = time.monotonic() - began
    chance = random.Random(0)
    for number in range(30):
        folder, kills = tmp_path / str(number), 0
        for _ in range(20):  # a run may be killed several times
            last = folder / "checkpoints" / "last.ckpt"
            way = [f"ckpt_path='{last}'"] if last.exists() else []
            process = started(training, folder, [*SMALL, *way])
            process.join(chance.uniform(0.2, 1.2) * needed)
            if not process.is_alive():
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode == 0, (number, kills)
        assert_same_run(folder, expected, lossy=True)


# By the command line.


def errors(folder):
    return (folder / "err.txt").read_text()


def stopped(folder, number, *argv, after="checkpoints/last.ckpt", again=False):
    """The exit code of a run that gets a signal once a file is there."""
    process = started(script, folder, argv)
    deadline = time.monotonic() + 60
    while not (folder / "run" / after).exists() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.02)
    os.kill(process.pid, number)
    if again:
        time.sleep(0.3)
        os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


EPOCHS = ["datamodule.num_images=3000", "trainer.max_epochs=4", "callbacks.last.every_n_train_steps=20"]
LONG = [*SMALL, *EPOCHS, "hydra.run.dir=run"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_resume_needs_nothing_but_the_folder(number, code, whole, tmp_path):
    assert stopped(tmp_path, number, *LONG) == code
    run = tmp_path / "run"
    record = records.read(run)
    assert (record["status"], record["error"]) == ("interrupted", f"stopped by {signal.Signals(number).name}")
    step = checkpoint(run)["global_step"]
    assert errors(tmp_path).splitlines()[-1].endswith("train.py resume=run")
    assert (
        f"{signal.Signals(number).name}: saving after this batch; send it again to stop at once"
        in (tmp_path / "out.txt").read_text()
    )

    (tmp_path / "elsewhere").mkdir()
    assert in_process(script, tmp_path / "elsewhere", [f"resume='{run}'"]) == 0, errors(tmp_path / "elsewhere")
    assert f"resuming     from step {step} of last.ckpt" in (tmp_path / "elsewhere" / "out.txt").read_text()
    assert_same_run(run, whole(*EPOCHS))
    assert records.read(run)["overrides"] == [o for o in LONG if not o.startswith("hydra.")]

    before = (run / "result.json").read_bytes()
    assert in_process(script, tmp_path, ["resume=run"]) == 0
    assert "run is completed; there is nothing to resume" in (tmp_path / "out.txt").read_text()
    assert (run / "result.json").read_bytes() == before


def test_a_second_signal_stops_at_once(tmp_path):
    # The batch at which it could save is far.
    slow = [*LONG, "datamodule.num_images=30000", "trainer.accumulate_grad_batches=10000"]
    assert stopped(tmp_path, signal.SIGTERM, *slow, again=True) == -signal.SIGTERM
    assert records.read(tmp_path / "run")["status"] == "running"


def test_resume_refuses_what_would_change_the_run(tmp_path):
    assert stopped(tmp_path, signal.SIGTERM, *LONG) == 143
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for argv, words in {
        ("resume=run", "optimizer.lr=1"): "optimizer.lr=1 would change the run",
        ("resume=run", "trainer.max_epochs=9"): "trainer.max_epochs=9 would change the run",
        ("resume=run", "callbacks.last.minutes=0"): "callbacks.last.minutes=0: expected above 0",
        ("resume=run", "--cfg", "job"): "resume=run composes no config: it uses the one stored in run",
        ("resume=rum",): "resume=rum: no such folder; did you mean run?",
        ("resume=.",): "is not the folder of a run or sweep",
        ("-m", "resume=run"): "resume=run is not a sweep's folder",
    }.items():
        assert in_process(script, tmp_path, argv) == 2
        assert words in errors(tmp_path).splitlines()[-1]
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    assert stopped(tmp_path, signal.SIGTERM, *LONG) == 143
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert in_process(script, tmp_path, [*LONG, "optimizer.lr=1"]) == 2
    line = "error: hydra.run.dir=run already holds a run; expected another folder, or resume=run to resume it"
    assert errors(tmp_path).splitlines()[-1] == line
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    checks.refuse_used_folder(tmp_path / "run", str(tmp_path / "run" / "checkpoints" / "last.ckpt"))  # this resumes it


def test_a_folder_without_a_checkpoint_is_not_resumed(tmp_path):
    assert stopped(tmp_path, signal.SIGTERM, *LONG) == 143
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    assert in_process(script, tmp_path, ["resume=run"]) == 2
    assert errors(tmp_path).splitlines()[-1].startswith("error: resume=run has no checkpoints/last.ckpt")


def test_the_newest_valid_checkpoint_replaces_a_damaged_last_one(whole, tmp_path):
    assert in_process(training, tmp_path, SMALL, ("step", 7)) == -signal.SIGKILL
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert resume_run(tmp_path) == 0
    assert_same_run(tmp_path, whole())
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        last.write_bytes(b"torn")
        checkpoints.load_for_resume(str(last), str(tmp_path / "another"))  # not its own: no other is taken


@pytest.mark.parametrize("path", ["last", "nowhere/last.ckpt"])
def test_a_checkpoint_to_resume_from_must_exist(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"ckpt_path={path}: no such file"):
        checkpoints.load_for_resume(path, str(tmp_path))


def test_a_damaged_config_in_the_folder_is_one_line(tmp_path):
    for name in ("config", "hydra"):
        (tmp_path / "run" / ".hydra").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / ".hydra" / f"{name}.yaml").write_text("a: [")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert in_process(script, tmp_path, ["resume=run"]) == 2
    assert errors(tmp_path).startswith(f"error: {tmp_path}/run/.hydra is damaged") and errors(tmp_path).count("\n") == 1


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    process = started(script, tmp_path, [*LONG, "trainer.max_epochs=1000"])
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.02)
    try:
        assert in_process(script, tmp_path, ["resume=run"]) == 2
        assert "another process is using" in errors(tmp_path)
    finally:
        process.kill()
        process.join()


def data_dir(folder, typed):
    os.chdir(folder)
    Path("data_dir").write_text(resume._load_config(folder.parent / "run", [parse(typed)]).data_dir)


def test_overrides_that_resume_allows_take_effect(tmp_path):
    assert stopped(tmp_path, signal.SIGTERM, *LONG) == 143
    assert "datamodule.num_workers" in resume.ALLOWED
    (tmp_path / "elsewhere").mkdir()
    assert in_process(script, tmp_path / "elsewhere", ["resume=../run", "datamodule.num_workers=1"]) == 0
    assert "num_workers=1" in (tmp_path / "elsewhere" / "out.txt").read_text()
    for typed, path in (
        ("data_dir=images", tmp_path / "elsewhere" / "images"),
        ("data_dir=/images", "/images"),
        ("data_dir=5", tmp_path / "elsewhere" / "5"),
    ):
        assert in_process(data_dir, tmp_path / "elsewhere", typed) == 0
        assert (tmp_path / "data_dir").read_text() == str(path)  # where the run began, which is where it works


# By SLURM, which is played here: its variables, and a `scontrol` that puts a job back as the real one does.

SLURM = {"NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 4711}


def slurm_job(folder, restarts, argv):
    """``train.py`` as ``srun`` starts it, for the n-th time after the first."""
    os.environ |= {f"SLURM_{name}": str(value) for name, value in SLURM.items()} | {"SLURM_JOB_NAME": "train"}
    os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"
    if restarts:
        os.environ["SLURM_RESTART_COUNT"] = str(restarts)
    script(folder, argv)


@pytest.fixture
def scontrol(tmp_path):
    (tmp_path / "bin").mkdir()
    file = tmp_path / "bin" / "scontrol"
    file.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\nkill -TERM $PPID\n')
    file.chmod(0o755)
    return tmp_path / "scontrol.txt"


def test_a_job_that_slurm_requeues_resumes_in_its_folder(scontrol, whole, tmp_path):
    process = started(slurm_job, tmp_path, 0, LONG)
    run = tmp_path / "run"
    while not (run / "checkpoints" / "last.ckpt").exists() and process.is_alive():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGUSR1)
    process.join(60)
    assert process.exitcode == 143, errors(tmp_path)
    assert scontrol.read_text() == "requeue 4711\n"
    assert records.read(run)["status"] == "interrupted"
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt")) in (["last.ckpt"], ["best.ckpt", "last.ckpt"])
    step = checkpoint(run)["global_step"]
    assert 0 < step < 4 * 84  # 3,000 images, a tenth of them for validation: 84 batches of 32 an epoch

    assert in_process(slurm_job, tmp_path, 1, [*LONG, "optimizer.lr=0.5"]) == 2
    assert "run holds a job with nothing more, this one has optimizer.lr=0.5" in errors(tmp_path).splitlines()[-1]
    assert in_process(slurm_job, tmp_path, 1, LONG) == 0, errors(tmp_path)
    assert f"resuming     from step {step} of last.ckpt" in (tmp_path / "out.txt").read_text()
    assert_same_run(run, whole(*EPOCHS))

    before = (run / "result.json").read_bytes()
    assert in_process(slurm_job, tmp_path, 2, LONG) == 0
    assert (tmp_path / "out.txt").read_text().endswith("run is completed; there is nothing to resume\n")
    assert (run / "result.json").read_bytes() == before


def test_a_job_that_slurm_starts_again_needs_its_folder(scontrol, tmp_path):
    assert in_process(slurm_job, tmp_path, 1, SMALL) == 2
    assert "is a new folder with nothing to resume; give the job a fixed folder" in errors(tmp_path).splitlines()[-1]
    assert list(tmp_path.rglob("last.ckpt")) == list(tmp_path.rglob("result.json")) == []
