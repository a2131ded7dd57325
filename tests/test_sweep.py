"""Sweeps as they are typed: failures leave the others alone, kills lose nothing, folders are not mixed up."""

import csv
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from datamodules.fashion_mnist import DEBIAN_DIR
from launch import main, resume
from launch.sweep_folder import Command, check_same_command, is_sweep, store_command, stored_command
from results import record as records
from results.errors import ConfigError
from tests.conftest import TINY
from tests.killed import in_process, script, started

ROOT = Path(__file__).parent.parent


def command_line(*args, flags=(), base=TINY):
    return ["-m", *flags, *base, *args, "hydra.sweep.dir=sweep"]


@pytest.fixture
def sweep(forks):
    """A function from what is typed to what came of it."""

    def sweep(*args, cwd, flags=(), base=TINY, **env):
        return forks("train.py", *command_line(*args, flags=flags, base=base), cwd=cwd, timeout=600, **env)

    return sweep


def statuses(folder):
    return {path.parent.name: records.read(path.parent)["status"] for path in (folder / "sweep").glob("*/result.json")}


ODD = """
import os, signal, sys, time
from lightning import Callback

class Interrupts(Callback):  # while what is drawn at the end of training would be drawn
    def on_train_end(self, *args):
        os.kill(os.getpid(), signal.SIGINT)

class Terminates(Callback):
    def on_test_end(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)

class Nothing(Callback):
    pass

class Raises(Callback):
    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("the device fell off")

class Exits(Callback):
    def on_train_start(self, trainer, pl_module):
        sys.exit(3)

class Sleeps(Callback):
    def on_fit_start(self, *args):
        if "AWAY" in os.environ:
            raise OSError("the disk is away")

    def on_train_batch_end(self, *args):
        time.sleep(5)
"""


def test_failures_leave_the_others_alone_and_are_named(sweep, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    args = [
        "+callbacks.odd._target_=odd.Raises,odd.Exits,odd.Sleeps,odd.Nothing",
        "datamodule.image_size=16,12",  # 12 pixels are too few for LeNet
        "trainer.max_time=00:00:00:04",
    ]
    done = sweep(*args, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.code == 1
    found = {name.partition("_target_-odd.")[2]: status for name, status in statuses(tmp_path).items()}
    assert found == {
        "Raises_datamodule.image_size-16": "failed",
        "Exits_datamodule.image_size-16": "failed",
        "Sleeps_datamodule.image_size-16": "interrupted",
        "Nothing_datamodule.image_size-16": "completed",
    } | {f"{name}_datamodule.image_size-12": "failed" for name in ("Raises", "Exits", "Sleeps", "Nothing")}
    report = (tmp_path / "sweep" / "report.md").read_text().replace("\\", "")
    reasons = ("the device fell off", "SystemExit: 3", "out of time: trainer.max_time", "image_size=12 is too small")
    assert all(reason in report for reason in reasons)
    impossible = [line for line in done.err.splitlines() if line.startswith("impossible:")]
    assert len(impossible) == 4
    assert done.err.splitlines()[-1].startswith("error: 6 failed, 1 incomplete of 8 jobs; resume with: python ")
    assert "Traceback" not in done.out + done.err
    assert re.search(r"^job \d of 8  \S+Sleeps_datamodule.image_size-16  interrupted: out of time: ", done.out, re.M)
    log = next((tmp_path / "sweep").glob("*Raises*size-16")) / "train.log"
    assert "Traceback" in log.read_text()

    again = sweep(*args, cwd=tmp_path, PYTHONPATH=str(tmp_path))  # failed jobs are tried again, completed ones not
    assert again.code == 1
    assert again.out.count("was already completed") == 1
    assert again.out.count("  failed: RuntimeError: the device fell off") == 1


@pytest.mark.parametrize(("who", "code"), [("Interrupts", 130), ("Terminates", 143)])
def test_a_signal_after_the_last_batch_is_heard(who, code, sweep, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    done = sweep("seed=0,1", f"+callbacks.odd._target_=odd.{who}", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.code == code, done.err
    assert statuses(tmp_path) == {"seed-0": "interrupted"}


KILLABLE = ("trainer.max_epochs=3", "optimizer.lr=0.01,0.1,1", "datamodule.num_images=256")


def test_a_sweep_that_is_killed_twice_ends_as_one_that_is_not(tmp_path):
    whole, broken, line = tmp_path / "whole", tmp_path / "broken", command_line(*KILLABLE)
    for folder in (whole, broken):
        folder.mkdir()
    assert in_process(script, whole, line) == 0

    completed = []
    for job in ("lr-0.01", "lr-0.1"):
        process = started(script, broken, line)
        deadline = time.monotonic() + 100
        while not list((broken / "sweep").glob(f"*{job}/checkpoints/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.join()
        completed += [name for name, status in statuses(broken).items() if status == "completed"]
    before = {path: path.stat().st_mtime_ns for path in (broken / "sweep").glob("*/checkpoints/*")}
    logs = [path.read_text() for path in (broken / "sweep").glob("*/train.log")]
    (broken / "out.txt").unlink()
    assert in_process(script, broken, ["resume=sweep"]) == 0, (broken / "err.txt").read_text()
    last_said = (broken / "out.txt").read_text()
    assert "resumes from last.ckpt" in "".join(logs) or last_said.count("  resumed") == 1
    for name in completed:  # nothing that was completed is run again
        assert re.search(rf"{re.escape(name)}  val/top1 0\.\d+  was already completed", last_said)
        assert all(path.stat().st_mtime_ns == at for path, at in before.items() if path.parts[-3] == name)
    jobs = sorted(path.parent.name for path in (whole / "sweep").glob("*/result.json"))
    assert len(jobs) == 3
    for job in jobs:
        first, second = (records.read(folder / "sweep" / job) for folder in (whole, broken))
        assert second["status"] == "completed"
        for fact in ("metrics", "epochs", "steps", "params", "overrides", "best_checkpoint"):
            assert first[fact] == second[fact], fact


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_a_real_sweep_killed_three_times_at_random_moments_has_the_table_of_an_undisturbed_one(tmp_path):
    args = (
        "datamodule=fashion_mnist datamodule.batch_size=128 model=resnet_cifar model.block=bottleneck "
        "model.depth=11,20,29 model.groups=1,4 seed=0,1 trainer=cpu trainer.max_epochs=3 "
        "+trainer.limit_train_batches=5 +trainer.limit_val_batches=4 +trainer.limit_test_batches=4"
    ).split()
    line = command_line(base=args)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    began = time.monotonic()
    assert in_process(script, whole, line, timeout=600) == 0
    seconds = time.monotonic() - began
    moments = [random.uniform(0.15, 0.5) * seconds for _ in range(3)]
    print("killed after", moments, "of", seconds, "seconds")
    for moment in moments:
        process = started(script, broken, line)
        time.sleep(moment)
        process.kill()
        process.join()
        print(statuses(broken))
    assert in_process(script, broken, line, timeout=600) == 0
    texts = [(folder / "sweep" / "report.csv").read_text() for folder in (whole, broken)]
    tables = [list(csv.DictReader(text.splitlines())) for text in texts]
    times = ("train_seconds", "train_seconds std", "images_per_second", "images_per_second std")
    first, second = ([{k: v for k, v in row.items() if k not in times} for row in table] for table in tables)
    assert first == second
    assert len(first) == 6 and all(row["completed"] == "2" for row in first)
    logs = [path.read_text() for path in (broken / "sweep").glob("*/train.log")]
    assert [log.count("best epoch") for log in logs] == [1] * 12  # said by a job that is completed


def test_a_folder_of_another_sweep_is_refused_before_anything_runs(sweep, tmp_path):
    job = tmp_path / "sweep" / "seed-0"
    records.write(job, {"status": "completed", "overrides": [*TINY, "seed=0"], "metrics": {}})
    done = sweep("seed=0,1", "datamodule.batch_size=8", cwd=tmp_path)
    assert done.code == 2
    assert "batch_size=16" in done.err and "batch_size=8" in done.err and "hydra.sweep.dir" in done.err
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["seed-0"]


GRID = ["model=resnet18", "seed=0,1", "optimizer.lr=0.1"]


def a_sweep(folder, command=GRID, **facts):
    """A sweep's folder with its command and two completed jobs."""
    facts = {"script": "train", "config_dir": None, "cwd": os.getcwd()} | facts
    store_command(folder, Command(overrides=list(command), **facts))
    for seed in (0, 1):
        job = {"status": "completed", "overrides": ["model=resnet18", f"seed={seed}", "optimizer.lr=0.1"]}
        records.write(folder / f"seed-{seed}", job | {"metrics": {"val/top1": 0.5}})


SAME = [
    GRID,
    ["seed=1,0", "optimizer.lr=0.1", "model=resnet18", "trainer.max_time=00:01:00:00"],
    ["model=resnet18", "seed=2,3", "optimizer.lr=0.1", "hydra/launcher=parallel", "data_dir=/elsewhere"],
    ["model=resnet18", "seed=range(9)", "optimizer.lr=0.1"],
]
OTHER = [
    [],
    ["model=resnet18", "seed=0,1"],
    ["model=resnet18", "seed=0,1", "optimizer.lr=0.2"],
    ["model=resnet18", "seed=0,1", "optimizer.lr=0.1", "datamodule.batch_size=8"],
    ["model=resnet18,resnet34", "seed=0", "optimizer.lr=0.1"],
    ["study=norm"],
]


@pytest.mark.parametrize("stored", ["sweep.json", "multirun.yaml", "records"])
def test_a_sweeps_folder_takes_only_jobs_of_its_command(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_sweep(Path("sweep"))
    if stored != "sweep.json":  # a folder from before there was one; that of a search had no multirun.yaml either
        Path("sweep/sweep.json").unlink()
    if stored == "multirun.yaml":
        job, runtime = {"config_name": "train"}, {"cwd": os.getcwd(), "config_sources": []}
        hydra = {"overrides": {"task": GRID, "hydra": ["hydra.mode=MULTIRUN"]}, "job": job, "runtime": runtime}
        OmegaConf.save({"hydra": hydra}, "sweep/multirun.yaml")
    for typed in SAME:
        check_same_command(Path("sweep"), "train", typed)
    command = "another command: python train.py -m model=resnet18 seed=0,1 optimizer.lr=0.1 hydra.sweep.dir=sweep"
    if stored == "records":
        command = "another sweep: job seed-"
    for typed in OTHER:
        with pytest.raises(ConfigError, match=f"^hydra.sweep.dir=sweep belongs to {command}"):
            check_same_command(Path("sweep"), "train", typed)
    assert sorted(os.listdir("sweep")) == sorted({stored} - {"records"} | {"seed-0", "seed-1"})


def test_another_command_in_a_sweeps_folder_is_one_line_and_one_more_value_has_a_name(
    lean, examine, tmp_path, monkeypatch
):
    a_sweep(tmp_path / "sweep")
    before = sorted(tmp_path.rglob("*"))
    done = lean("train.py", "-m", "hydra.sweep.dir=sweep", cwd=tmp_path)
    command = "python train.py -m model=resnet18 seed=0,1 optimizer.lr=0.1 hydra.sweep.dir=sweep"
    message = f"error: hydra.sweep.dir=sweep belongs to another command: {command}; to resume it: resume=sweep\n"
    assert (done.code, done.out, done.err, done.imported) == (2, "", message, [])
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.chdir(tmp_path)
    more = ["-m", "model=resnet18", "seed=2", "optimizer.lr=0.1", "hydra.sweep.dir=sweep"]
    assert examine(more).sweep.names == ["seed-2"]


def test_a_single_run_has_no_place_in_a_sweeps_folder(examine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_sweep(Path("sweep"))
    for folder in ("sweep", "sweep/seed-0", "sweep/new"):
        error = examine([f"hydra.run.dir={folder}"]).error
        assert error == f"hydra.run.dir={folder} lies in the folder of a sweep; expected another folder"
    error = examine(["-m", "ckpt=a,b", "hydra.sweep.dir=sweep"], "evaluate").error
    assert "belongs to another command: python train.py" in error
    error = examine(["-m", "seed=0,1", "hydra.sweep.dir=sweep/seed-0"]).error
    assert error.startswith("hydra.sweep.dir=sweep/seed-0 holds a single run")


def test_resuming_a_sweep_is_its_own_command(tmp_path, monkeypatch):
    (tmp_path / "started").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    a_sweep(Path("sweep"), [*GRID, "hydra.sweeper.n_trials=2"], config_dir="/my conf")
    flags, rest = ["-m", "--config-dir", "/my conf"], ["model=resnet18", "optimizer.lr=0.1"]

    def resumed(*typed):
        return resume.sweep_arguments(*resume.requested(*main.split_arguments(typed)))

    more = "hydra.sweeper.n_trials=2"
    assert resumed("resume=sweep") == [*flags, *GRID, more, "hydra.sweep.dir=sweep"]
    assert resumed("-m", "resume=sweep", "seed=5,6", "hydra/launcher=parallel") == (
        [*flags, *rest, more, "seed=5,6", "hydra/launcher=parallel", "hydra.sweep.dir=sweep"]
    )
    with pytest.raises(
        ConfigError, match="optimizer.lr=1 would change the sweep; only these may be combined with resume=: data_dir,"
    ):
        resumed("resume=sweep", "optimizer.lr=1")
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "started" / "sweep"
    expected = [*flags, *GRID, more, f"data_dir={tmp_path / 'elsewhere' / 'images'}", f"hydra.sweep.dir={folder}"]
    assert resumed("resume=../started/sweep", "data_dir=images") == expected
    assert Path.cwd() == tmp_path / "started"  # where its relative paths begin
    assert resume.requested(["seed=0"], []) is None
    assert not is_sweep(Path("sweep/seed-0"))


def test_values_that_were_added_to_a_sweep_are_resumed_too(tmp_path):
    for typed, kept in [
        (GRID, "seed=0,1"),
        (["model=resnet18", "seed=1,3", "optimizer.lr=0.1"], "seed=0,1,3"),
        (["model=resnet18", "seed=0", "optimizer.lr=0.1", "data_dir=/x"], "seed=0,1,3"),
        (["model=resnet18", "seed=range(5,7)", "optimizer.lr=0.1"], "seed=0,1,3,5,6"),
    ]:
        store_command(tmp_path, Command("train", typed, None, "/"))
        assert stored_command(tmp_path).overrides == ["model=resnet18", kept, "optimizer.lr=0.1"]
    search = ["seed=0,1", "optimizer.lr=interval(0,1)", "hydra.sweeper.n_trials=2"]
    for trials in (2, 9):
        store_command(
            tmp_path / "search", Command("train", [*search[:2], f"hydra.sweeper.n_trials={trials}"], None, "/")
        )
    assert stored_command(tmp_path / "search").overrides == [*search[:2], "hydra.sweeper.n_trials=9"]


def test_a_completed_sweep_says_so_and_shows_its_table(forks, tmp_path):
    a_sweep(tmp_path / "sweep")  # by a command from another folder
    done = forks("train.py", "resume=sweep", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert (
        done.out.startswith(f"{tmp_path / 'sweep'} is completed; there is nothing to resume\n") and "50.00" in done.out
    )


def test_a_sweep_can_be_extended(sweep, tmp_path):
    records.write(tmp_path / "sweep" / "seed-0", {"status": "completed", "overrides": [*TINY, "seed=0"], "metrics": {}})
    done = sweep("seed=0,1", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "job 1 of 2  seed-0  val/top1 unknown  was already completed\n" in done.out
    assert statuses(tmp_path) == {"seed-0": "completed", "seed-1": "completed"}


def test_tensorboards_hparams_tab_shows_the_swept_keys_beside_the_best_scores(sweep, tmp_path):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    done = sweep("trainer.max_epochs=2", "seed=0,1", cwd=tmp_path)
    assert done.code == 0, done.err
    job = r"job {} of 2  seed-{}  val/top1 0\.\d{{4}}  \d+(\.\d)? s"  # a line each, and nothing else of the job
    first = "\n".join(["2 jobs in sweep, with the .*", job.format(1, 0) + "  about .* left", job.format(2, 1)])
    assert re.match(first + "\n", done.out), done.out
    assert len(done.out.splitlines()) <= 2 * 2 + 9, done.out  # so that of eight jobs is not above 25
    assert done.out.splitlines()[-1] == "sweep/report.html"
    assert "epoch   2/2" in (tmp_path / "sweep" / "seed-1" / "train.log").read_text()
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "sweep")).Reload()
    tab = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(events, str(tmp_path))))
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=10)
    request.allowed_statuses.extend([api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN])
    lines = list_session_groups.Handler(RequestContext(), tab, "", request).run().session_groups
    assert len(lines) == 2
    for line in lines:
        seed = int(line.hparams["seed"].number_value)
        record = records.read(tmp_path / "sweep" / f"seed-{seed}")["metrics"]
        shown = {value.name.tag: value.value for value in line.metric_values}
        assert set(shown) == {
            f"watch/{kind}/{m}" for kind in ("best", "test") for m in ("loss", "top1", "top5", "f1_macro")
        }
        assert shown["watch/best/top1"] == pytest.approx(record["val/top1"])
        assert shown["watch/test/top1"] == pytest.approx(record["test/top1"])
        assert line.hparams["model"].string_value == "LeNet"


def test_a_signal_stops_the_whole_sweep_and_it_goes_on(tmp_path):
    args = ("trainer.max_epochs=500", "seed=0,1")
    process = started(script, tmp_path, command_line(*args))
    deadline = time.monotonic() + 100
    while not list((tmp_path / "sweep").glob("seed-0/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert statuses(tmp_path) == {"seed-0": "interrupted"}
    assert (
        f"error: 2 incomplete of 2 jobs; resume with: python {ROOT / 'train.py'} resume=sweep"
        in (tmp_path / "err.txt").read_text()
    )
    assert records.read(tmp_path / "sweep/seed-0")["error"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trainer=ddp"], "trainer.devices=2: multi-process jobs can be swept only with a SLURM launcher"),
        (["model=resnet", "model.depth=18,34", "model.groups=32"], "groups=32 needs bottleneck blocks"),
        (["model=resnet", "model.depth=18,50", "model.groups=32", "impossible=refuse"], "1 of 2 jobs are impossible"),
        (["seed=0,1", "impossible=maybe"], "impossible=maybe: expected one of skip, refuse"),
    ],
)
def test_what_cannot_be_run_is_refused_before_torch_is_imported(args, message, lean, tmp_path):
    done = lean("train.py", *command_line(*args), cwd=tmp_path)
    assert (done.code, done.imported) == (2, [])
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "sweep").exists()


def test_a_part_of_a_sweep_and_odd_records_are_no_failure(forks, tmp_path):
    for seed in (0, 2):
        done = {"status": "completed", "overrides": [*TINY, f"seed={seed}"], "metrics": {"val/top1": 0.5}}
        records.write(tmp_path / "sweep" / f"seed-{seed}", done)
    for name, text in (("seed-1", "{"), ("other", '{"a": 1}')):
        (tmp_path / "sweep" / name).mkdir()
        (tmp_path / "sweep" / name / "result.json").write_text(text)
    done = forks("train.py", *TINY, "seed=0,1", "hydra.sweep.dir=sweep", "-m", cwd=tmp_path)  # the flag last
    assert done.code == 0, done.err
    assert done.out.count("was already completed") == 1
    assert records.read(tmp_path / "sweep" / "seed-1")["status"] == "completed"  # the torn one
    assert "unreadable record" in done.out


def test_a_sweep_may_be_asked_for_by_hydras_mode(forks, tmp_path):
    done = forks("train.py", *TINY, "seed=0,1", "hydra.mode=MULTIRUN", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.code == 0, done.err
    assert statuses(tmp_path) == {"seed-0": "completed", "seed-1": "completed"}


@pytest.mark.parametrize(
    ("typed", "folders"),
    [
        (["seed=0,1"], {"seed-0", "seed-1"}),
        (["seed=0,0"], {"seed-0"}),
        (["model=glob(resnet?8)"], {"model-resnet18"}),
        (["model=lenet,resnet18", "seed=3"], {"model-lenet", "model-resnet18"}),
        (
            ["seed=range(2)", "+trainer.limit_train_batches=1,2"],
            {f"+trainer.limit_train_batches-{c}_seed-{s}" for c in (1, 2) for s in (0, 1)},
        ),
        (
            ["model=resnet_cifar", "model.widths=[16,32,64],[32,64,128]"],
            {"model.widths-[16,32,64]", "model.widths-[32,64,128]"},
        ),
        (["data_dir=/a,/b"], {"0", "1"}),  # what makes no name
        (["seed=4"], {"0"}),
        (["seed=0,1", "hydra.sweep.subdir=mine${hydra.job.num}"], None),
    ],
)
def test_folders_are_named_by_what_is_swept(typed, folders, examine):
    sweep = examine(["-m", *typed, r"hydra.sweep.dir='it\'s here'"]).sweep
    assert (sweep.names and set(sweep.names)) == folders
    assert sweep.folder == Path("it's here")


def test_configs_from_elsewhere_take_part(sweep, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "small.yaml").write_text("defaults: [lenet]\n")
    done = sweep("model=small", "seed=0,1", cwd=tmp_path, flags=["--config-dir=mine"])
    assert done.code == 0, done.err
    assert statuses(tmp_path) == {"seed-0": "completed", "seed-1": "completed"}


def test_what_ran_out_of_time_goes_on_with_whole_epochs(sweep, tmp_path):
    (tmp_path / "odd.py").write_text(ODD.replace("time.sleep(5)", "time.sleep(0.4)"))
    args = ["+callbacks.odd._target_=odd.Sleeps", "trainer.max_epochs=3", "seed=0,1"]  # 3 batches an epoch
    first = sweep(*args, "trainer.max_time=00:00:00:02", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert first.code == 1
    assert set(statuses(tmp_path).values()) == {"interrupted"}
    away = sweep(*args, cwd=tmp_path, PYTHONPATH=str(tmp_path), AWAY="1")  # before a step: nothing is thrown away
    assert (away.code, away.out.count("failed: the disk is away")) == (1, 2)
    assert set(statuses(tmp_path).values()) == {"interrupted"}
    again = sweep(*args, "trainer.max_time=00:00:01:00", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert again.code == 0, again.err
    assert re.findall(r"^job \d of 2  seed-(\d)  val/top1 0\.\d{4}  \d\.\d s  resumed", again.out, re.M) == ["0", "1"]
    assert {records.read(tmp_path / "sweep" / f"seed-{seed}")["steps"] for seed in (0, 1)} == {9}
