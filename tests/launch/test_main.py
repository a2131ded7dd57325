"""The command line: fast, without torch, and one line for a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import run_names, validation

ROOT = Path(__file__).parent.parent.parent


def script(*args, cwd=None, **env):
    """Run ``train.py`` as a user would."""
    command = [sys.executable, str(ROOT / "train.py"), *args]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | env, timeout=300, check=False
    )


# What is typed → what is said; many more, from a process that imports once, in test_bad_inputs.py.
MISTAKES = {
    ("model=resent50",): "model=resent50: no such option; did you mean resnet50 or resnext50?",
    ("ckpt_path=last",): "ckpt_path=last: no such file; expected a checkpoint to resume from",
    ("-m", "model=resnet", "model.dept=18,34"): "model.dept: no such key; did you mean model.depth?",
}


@pytest.mark.parametrize("args", [("--cfg", "job"), ("-m", "hydra/launcher=slurm", "seed=0,1")])
def test_images_may_be_missing_where_nothing_runs(args, examine, monkeypatch):
    monkeypatch.setattr(validation, "find_spec", lambda name: True)  # slurm's plugin may not be installed
    answer = examine([*args, "datamodule=image_folder", "datamodule.data_dir=nowhere"])
    assert answer.code == 0, answer.lines


@pytest.mark.parametrize("args", MISTAKES)
def test_a_mistake_is_answered_in_one_line(args, tmp_path):
    done = script(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert MISTAKES[args] in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args",
    [
        ("trainer.devices=auto",),
        ("trainer.precision=16",),
        ("lit_module.compile=auto",),
        ("lit_module.compile=reduce-overhead",),
        ("trainer.profiler=simple",),
        ("trainer.profiler=null",),
        ("model=resnet50", "model.groups=32", "model.width_per_group=4"),
        ("datamodule.augmentation=null",),
        ("~datamodule.augmentation.affine",),
        ("trainer.gradient_clip_val=1.0",),
        ("+trainer.inference_mode=true",),
        ("++trainer.inference_mode=true",),
        ("trainer.devices=[0]",),
        ("trainer.max_epochs=1e1",),
        ("-m", "model=glob(resnet1*)"),
        ("datamodule.seed=${seed}",),
        ("optimizer.lr=1",),
        ("-m", "model=lenet,resnet18", "seed=range(3)"),
    ],
)
def test_what_is_meant_passes(args, examine):
    answer = examine(args)
    assert answer.code == 0, answer.lines


def test_the_full_error_is_there_for_who_asks(tmp_path):
    done = script("model=resent50", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_composing_imports_no_torch():
    check = "launch.validation.check_overrides('train', ['model=resnet', 'model.depth=34'], multirun=False)"
    code = f"import sys, train, launch.validation; {check}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("args", [("--cfg", "job"), ("--help",)])
def test_asking_is_not_importing_torch(args, tmp_path):
    probe = f"import sys, runpy; sys.argv = ['train.py', *{args!r}]\n"
    probe += f"try: runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    probe += "except SystemExit as end: assert not end.code, end.code\n"
    probe += "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    command = [sys.executable, "-c", probe]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "datamodules.Digits" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "digits_lenet"),
        (["model=resnet18", "datamodule=cifar10"], "cifar10_resnet18"),
        (["model=resnet", "model.depth=34", "optimizer.lr=1e-3"], "digits_resnet_depth-34_lr-1e-3"),
        (["experiment=fashion_mnist_lenet", "seed=1"], "fashion_mnist_lenet_seed-1"),
        (["+logger.wandb.api_key=abc", "model.token_dim=8"], "digits_lenet_token_dim-8"),
        (["+datamodule.token=abc", "+datamodule.token_length=16"], "digits_lenet_token_length-16"),
        (["model=resnet18,resnet50", "model.groups=1,32"], "digits_resnet18-resnet50_groups-1-32"),
        (["datamodule=image_folder", "datamodule.data_dir=/home/me/cats"], "image_folder_lenet"),
        (["experiment=cats_vs_dogs_resnet34", "datamodule.data_dir=/home/me/cats"], "cats_vs_dogs_resnet34"),
    ],
)
def test_folders_say_what_was_run(overrides, expected):
    choices = {"model": "lenet", "datamodule": "digits", "experiment": None}
    choices |= {o.split("=")[0]: o.split("=")[1] for o in overrides if "," not in o and "." not in o.split("=")[0]}
    assert run_names.run_name(None, choices, overrides) == expected
    assert run_names.run_name("mine", choices, overrides) == "mine"


def test_a_long_name_ends_with_a_whole_override():
    overrides = [f"datamodule.a_long_option_{number}=a_long_value" for number in range(9)]
    name = run_names.run_name(None, {"model": "lenet", "datamodule": "digits"}, overrides)
    assert name == "digits_lenet_" + "_".join(f"a_long_option_{number}-a_long_value" for number in range(3))
    assert len(run_names.run_name(None, {"model": "m" * 200, "datamodule": "digits"}, [])) <= 100


def test_imports_are_made_without_the_garbage_collector_and_then_left_alone():
    code = """
import gc, sys
from launch import main
before = gc.get_freeze_count()
with main.imports_without_gc():
    assert not gc.isenabled()
    import callbacks, datamodules, lit_modules
    datamodules.Digits(10, 1, 32).load("train")
    kept = [[] for _ in range(1000)]
assert gc.isenabled() and gc.get_freeze_count() > before + 1000
frozen = gc.get_freeze_count()
more = [[] for _ in range(1000)]
with main.imports_without_gc():  # a sweep's second job: what it left is still to be collected
    assert gc.isenabled()
assert gc.get_freeze_count() == frozen
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
