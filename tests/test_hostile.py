"""Checkpoints that mean harm: whatever opens them runs nothing of theirs, and says so in one line."""

import ast
import io
import os
import pickle
import shutil
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from PIL import Image

from evaluate import evaluate
from export import export
from inference import checkpoints
from models.pretrained import read_plain
from predict import predict
from results.errors import is_user_error
from results.record import one_line
from tests.conftest import TINY, compose_in
from train import train

ROOT = Path(__file__).parent.parent
# Three steps of a small ResNet.
SMALL = [*TINY, *"datamodule.image_size=16 model=resnet_cifar model.depth=8 model.widths=[4,4,4]".split()]


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


class Quiet(Harm):
    """The same, by a function that no list of dangerous names has."""

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.canary)],)


def put(*keys, harm=Harm, **options):
    """A file with code in one place of a checkpoint."""

    def write(content, canary, path):
        place = content
        for key in keys[:-1]:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        place[keys[-1]] = harm(canary)
        torch.save(content, path, **options)

    return write


def bare(content, canary, path):
    path.write_bytes(pickle.dumps(Harm(canary)))


def by_hand(content, canary, path):
    path.write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())


def objects(content, canary, path):
    with open(path, "wb") as file:
        np.savez(file, state_dict=np.array([Harm(canary)], dtype=object))


def old_archive(content, canary, path):
    """torch's format of before 2017."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Harm(canary))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def script_module(content, canary, path):
    """A program: torch.load would hand it to torch.jit.load."""
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


PICKLES = {
    "weights": put("state_dict", "backbone.conv1.weight"),
    "a weight's name": lambda content, canary, path: torch.save(content | {Harm(canary): 0}, path),
    "the optimizer's state": put("optimizer_states", 0, "state", 0),
    "a schedule's state": put("lr_schedulers", 0, "last_epoch"),
    "a callback's state": put("callbacks", "RunMetrics", "best"),
    "the random generators": put("callbacks", "ResumeCheckpoint", "generators", "python"),
    "the loops' progress": put("loops", "fit_loop", "state_dict", "x"),
    "hyperparameters": put("hyper_parameters", "x"),
    "the data module's state": put("Synthetic", "epoch"),
    "the model's config": put("model", "depth"),
    "the data's config": put("datamodule", "augmentation"),
    "class names": put("class_names", 0),
    "the preprocessing": put("preprocessing", "mean"),
    "a quiet function": put("extra", harm=Quiet),
    "torch's format of before 1.6": put("extra", _use_new_zipfile_serialization=False),
    "torch's format of before 2017": old_archive,
    "a bare pickle": bare,
    "a pickle by hand": by_hand,
    "a NumPy archive of objects": objects,
    "a program": script_module,
}
SOME = ("weights", "torch's format of before 1.6")  # for each way to open a file


@pytest.fixture(scope="module")
def run(forks, tmp_path_factory):
    """The folder of a run, as the command line leaves it."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    done = forks("train.py", *SMALL, "hydra.run.dir=run", cwd=folder.parent)
    assert done.code == 0, done.err
    Image.new("L", (16, 16)).save(folder.parent / "image.png")
    return folder


@pytest.fixture
def content(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


def configs(folder, run, path):
    """Every way of a script's to open ``path``: (the script's function, its config)."""
    image = f"images={run.parent / 'image.png'}"
    ckpt = [f"ckpt={path}"]
    return {
        "evaluate": (evaluate, compose_in(folder, [*ckpt, "trainer=cpu"], "evaluate")),
        "predict": (predict, compose_in(folder, [*ckpt, "trainer=cpu", image], "predict")),
        "export": (export, compose_in(folder, [*ckpt, "format=torch_export"], "export")),
        "ckpt_path": (train, compose_in(folder, [*SMALL, f"ckpt_path={path}"], "train")),
        "weights": (train, compose_in(folder, [*SMALL, f"model.weights={path}"], "train")),
    }


@pytest.fixture(scope="module")
def opening(run, tmp_path_factory):
    """A file's path, and by name the functions that open it, composed once."""
    folder = tmp_path_factory.mktemp("opening")
    path = folder / "some.ckpt"
    return path, configs(folder / "run", run, path) | {"load": (checkpoints.load, path), "read": (read_plain, path)}


PLACES = ("evaluate", "predict", "export", "ckpt_path", "weights", "load", "read")


def refused(task, argument) -> str:
    """What ``task(argument)`` says in one line, for the user to mend."""
    with pytest.raises((ValueError, OSError, InstantiationException)) as caught:
        task(argument.copy() if hasattr(argument, "copy") else argument)
    assert is_user_error(caught.value), caught.value
    return one_line(caught.value)


@pytest.mark.filterwarnings("ignore:.*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
@pytest.mark.parametrize("payload", PICKLES)
def test_opening_a_file_runs_nothing_in_it(payload, content, canary, opening, monkeypatch):
    """By both functions that read a file for all payloads, by every script for some."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, places = opening
    PICKLES[payload](content, canary, path)
    for place in PLACES if payload in SOME else ("load", "read"):
        line = refused(*places[place])
        assert str(path) in line and ("holds code" in line or "not a complete checkpoint" in line), (place, line)
        assert not canary.exists(), place


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("payload", [name for name in PICKLES if name != "a program"])
def test_each_of_these_files_would_have_run_its_code(payload, content, canary, tmp_path):
    path = tmp_path / "some.ckpt"
    PICKLES[payload](content, canary, path)
    with suppress(Exception):
        torch.load(path, weights_only=False)
    with suppress(Exception):
        np.load(path, allow_pickle=True)["state_dict"]
    assert canary.exists()


def lines(run, path):
    """Every command line that opens ``path``."""
    image = f"images={run.parent / 'image.png'}"
    return [
        ["evaluate.py", f"ckpt={path}", "trainer=cpu"],
        ["predict.py", f"ckpt={path}", image, "trainer=cpu"],
        ["export.py", f"ckpt={path}", "format=torch_export"],
        ["train.py", *SMALL, f"ckpt_path={path}"],
        ["train.py", *SMALL, f"model.weights={path}"],
    ]


def assert_one_line(done, *words):
    assert done.code == 2, (done.code, done.err)
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert all(word in done.err for word in words), done.err


def test_every_command_line_ends_in_one_line(content, run, canary, forks, tmp_path):
    path = tmp_path / "some.ckpt"
    PICKLES["weights"](content, canary, path)
    for line in lines(run, path):
        assert_one_line(forks(*line, cwd=tmp_path, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"), str(path))
        assert not canary.exists(), line


@pytest.fixture
def broken_off(run, tmp_path):
    """A copy of the run as if it had been killed, without its best checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "best.ckpt").unlink()
    return folder


def test_resuming_a_folder_runs_nothing_in_its_checkpoint(content, broken_off, canary, forks):
    PICKLES["weights"](content, canary, broken_off / "checkpoints" / "last.ckpt")
    done = forks("train.py", "resume=run", cwd=broken_off.parent, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert_one_line(done, "last.ckpt ")
    assert not canary.exists()


def test_a_config_file_of_a_run_is_read_as_plain_yaml(broken_off, canary, forks):
    (broken_off / ".hydra" / "config.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch {canary}']\n")
    assert_one_line(forks("train.py", "resume=run", cwd=broken_off.parent), ".hydra is damaged")
    assert not canary.exists()


# What a checkpoint's config may name, and a list of dangerous names may lack: each would write a file, or run one.
TARGETS = {
    "a command": {"_target_": "os.system", "command": "touch CANARY"},
    "a process": {"_target_": "subprocess.run", "args": ["touch", "CANARY"]},
    "positional": {"_target_": "os.mkdir", "_args_": ["CANARY"]},
    "a file": {"_target_": "builtins.open", "file": "CANARY", "mode": "w"},
    "a file, elsewhere named": {"_target_": "io.open", "file": "CANARY", "mode": "w"},
    "code": {"_target_": "builtins.exec", "_args_": ["open('CANARY', 'w')"]},
    "a pickle": {"_target_": "torch.load", "f": "PICKLE", "weights_only": False},
    "Lightning's way to a pickle": {
        "_target_": "lightning.LightningModule.load_from_checkpoint",
        "checkpoint_path": "PICKLE",
        "weights_only": False,
    },
    "a repository": {"_target_": "torch.hub.load", "repo_or_dir": "HUB", "model": "harm", "source": "local"},
    "Hydra's instantiate": {
        "_target_": "hydra.utils.instantiate",
        "config": {"_target_": "os.mkdir", "path": "CANARY"},
    },
    "Hydra's get_method": {"_target_": "hydra.utils.get_method", "path": "os.system"},
    "by a module of ours": {"_target_": "models.pretrained.os.mkdir", "path": "CANARY"},
    "a function of ours": {"_target_": "models.pretrained.read_plain", "file": "PICKLE"},
    "a download of ours": {"_target_": "models.pretrained.download", "name": "resnet18", "weights": "DEFAULT"},
    "a partial": {"_target_": "os.mkdir", "_partial_": True, "path": "CANARY"},
    "a class of torch": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
    "a list of names": {"_target_": ["models.ResNet", "os.mkdir"]},
}
# Where: the whole, an argument, deep inside.
DEPTHS = {
    "itself": lambda config, harm: harm,
    "an argument": lambda config, harm: config | {"norm": harm, "augmentation": harm},
    "deep inside": lambda config, harm: config | {"widths": [4, {"x": [[harm]]}], "augmentation": {"x": [{"y": harm}]}},
}


# (target, depth): each target at one depth, one target at each depth.
HARMS = [*((target, "deep inside") for target in TARGETS), *(("a command", depth) for depth in DEPTHS)]


@pytest.mark.parametrize(("target", "depth"), dict.fromkeys(HARMS))
def test_nothing_is_built_but_what_is_on_the_list(target, depth, content, canary, opening, tmp_path):
    """By every script for one target, by those that build each part with the least work for the others."""
    path, places = opening
    scripts = {"model": ["load"], "datamodule": ["export"]}
    if target == "a command":
        scripts = {"model": ["evaluate", "predict", "export", "load"], "datamodule": ["evaluate", "export"]}
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(f"open({str(canary)!r}, 'w')\ndef harm(): pass\n")
    bare(content, canary, tmp_path / "pickle")
    text = repr(TARGETS[target]).replace("CANARY", str(canary)).replace("HUB", str(tmp_path / "hub"))
    harm = ast.literal_eval(text.replace("PICKLE", str(tmp_path / "pickle")))
    for part, of in scripts.items():
        torch.save(content | {part: DEPTHS[depth](content[part], harm)}, path)
        for place in of:
            line = refused(*places[place])
            assert f"the checkpoint's {part} names " in line and "not on the allow-list" in line, (place, line)
            assert not canary.exists(), (part, place)


def test_a_training_is_built_from_its_own_config_only(content, canary, run, forks):
    path = run.parent / "described.ckpt"
    harm = {"_target_": "os.mkdir", "path": str(canary)}
    torch.save(content | {"model": harm, "datamodule": harm}, path)
    for key in ("ckpt_path", "model.weights"):
        done = forks("train.py", *SMALL, "trainer.max_epochs=2", f"{key}={path}", cwd=run.parent)
        assert done.code == 0, done.err
    assert not canary.exists()


@pytest.mark.parametrize("weights", ["http://localhost:9/x.pth", "PICKLE", "DEFAULT"])
def test_a_checkpoint_brings_no_weights_from_elsewhere(weights, content, canary, tmp_path):
    bare(content, canary, tmp_path / "pickle")
    content["model"]["weights"] = weights.replace("PICKLE", str(tmp_path / "pickle"))
    torch.save(content, tmp_path / "some.ckpt")
    checkpoints.load(tmp_path / "some.ckpt")
    assert not canary.exists()


def name_file(content, key, path):
    """Make a checkpoint say that ``path`` is one of its run's checkpoints. Returns: the state that says so."""
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("BestCheckpoint"))
    state.update(kth_best_model_path="", last_model_path="", best_k_models={})
    state[key] = {path: torch.tensor(0.0)} if key == "best_k_models" else path
    return state


@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"])
@pytest.mark.parametrize("path", ["../kept", "http://localhost:9/kept"])
def test_a_checkpoint_names_no_file_to_be_deleted(key, path, content, tmp_path):
    """Lightning deletes the checkpoint that was the best, by the path that stands in the checkpoint."""
    name_file(content, key, path)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="last.ckpt names .*kept as a checkpoint of the run"):
        checkpoints.load_for_resume(str(tmp_path / "last.ckpt"), str(tmp_path))


@pytest.mark.parametrize("key", ["kth_best_model_path", "last_model_path", "best_k_models"])
@pytest.mark.parametrize("folder", ["/x", "", "{folder}"])
def test_nor_one_outside_its_folder_by_calling_that_moved(key, folder, content, tmp_path):
    state = name_file(content, key, str(tmp_path / "kept"))
    content["folder"] = state["dirpath"] = folder.format(folder=state["dirpath"])
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="last.ckpt names .*kept as a checkpoint of the run"):
        checkpoints.load_for_resume(str(tmp_path / "last.ckpt"), str(tmp_path))


@pytest.mark.parametrize(("folder", "refused"), [("/x", True), ("/", False)])
def test_resuming_such_a_checkpoint_deletes_no_file(folder, refused, content, broken_off, forks):
    kept = broken_off / "kept"
    kept.touch()
    content["folder"] = name_file(content, "best_k_models", str(kept))["dirpath"] = folder
    torch.save(content, broken_off / "checkpoints" / "last.ckpt")
    done = forks("train.py", "resume=run", cwd=broken_off.parent)
    if refused:
        assert_one_line(done, "last.ckpt names", "kept", "as a checkpoint of the run")
    assert kept.exists()  # also below /, which is not a run's folder: none of the file's paths takes effect


def test_a_folder_that_is_no_text_is_one_line(content, broken_off, forks):
    torch.save(content | {"folder": 3}, broken_off / "checkpoints" / "last.ckpt")
    assert_one_line(forks("train.py", "resume=run", cwd=broken_off.parent), "has an invalid folder")


def test_an_address_is_no_path(run, forks, tmp_path):
    kinds = ["http://localhost:9/a.ckpt", "file:///tmp/a.ckpt", "s3://a/b.ckpt"]
    for number, line in enumerate([*lines(run, "ADDRESS"), ["train.py", "resume=ADDRESS"]]):
        address = kinds[number % 3]
        assert_one_line(forks(*(word.replace("ADDRESS", address) for word in line), cwd=tmp_path), address)
    for address in kinds:
        with pytest.raises(ValueError, match="is a URL"):
            checkpoints.load(address)


def calls(tree):
    """(name, keywords) of every call in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_every_call_that_opens_a_checkpoint_says_that_it_is_to_be_plain():
    found = []
    for path in ROOT.rglob("*.py"):
        if "tests" in path.parts or any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        for name, words in calls(ast.parse(path.read_text())):
            owner, _, method = name.rpartition(".")
            opens = name == "torch.load" or method == "load_from_checkpoint"
            runs = owner.rpartition(".")[2].endswith("trainer") and method in ("fit", "test", "validate", "predict")
            if opens or runs:
                found.append((path.name, name))
                assert words.get("weights_only") == "True", (path, name)
            assert name not in ("pickle.load", "pickle.loads", "joblib.load", "torch.jit.load", "np.load"), path
    assert {("pretrained.py", "torch.load"), ("train.py", "trainer.fit"), ("evaluate.py", "trainer.test")} <= set(found)
