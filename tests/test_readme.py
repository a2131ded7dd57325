"""The README's and the docs' commands compose, and the two recipes for extending work as printed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch import validation
from results import record as records

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"python (?:train|evaluate|predict|export)\.py[^`#\n…]*", page.replace("\\\n", " "))
    }
)
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXTENSIONS = re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", EXTENDING, re.DOTALL)


def test_it_opens_with_the_two_commands_of_the_set_up():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert blocks[:2] == ["pip install -e . && python train.py\n", "pip install -e '.[dev]' && pytest\n"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "tiny" not in c and "stripes" not in c])
def test_every_command_is_one_that_the_scripts_accept(command, examine, monkeypatch, tmp_path):
    if "hydra/launcher=" in command or "hydra/sweeper=" in command:  # its plugin may not be installed
        monkeypatch.setattr(validation, "find_spec", lambda name: True)
    script, *args = shlex.split(command + "some" if command.endswith("=") else command)[1:]  # where an ellipsis was
    if args and args[0].startswith("resume="):
        return  # what it needs is a run
    args = [re.sub(r"^(datamodule\.data_dir)=.*", rf"\1={tmp_path}", argument) for argument in args]  # is there
    answer = examine(args, script.removesuffix(".py"))
    assert answer.code == 0, answer.lines


def test_it_names_every_file_that_an_extension_needs():
    assert [name for name, _ in EXTENSIONS] == [
        "models/tiny.py",
        "conf/model/tiny.yaml",
        "datamodules/stripes.py",
        "conf/datamodule/stripes.yaml",
    ]


def test_following_the_steps_adds_a_backbone_and_a_data_set(tmp_path):
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".git", "runs", "data", "tests", "*.egg-info"))
    for name, content in EXTENSIONS:
        assert not (project / name).exists()
        (project / name).write_text(content)
    command = [sys.executable, "train.py", "model=tiny", "model.width=16", "datamodule=stripes", "trainer=cpu"]
    done = subprocess.run([*command, "hydra.run.dir=run"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = records.read(project / "run")
    assert record["metrics"]["test/top1"] > 0.9
    assert record["params"] == (1 * 9 * 16 + 16) + (256 * 2 + 2)
    own = "trust=[models.tiny.Tiny,datamodules.stripes.Stripes]"
    command = [sys.executable, "evaluate.py", "ckpt=run", own, "trainer=cpu", "hydra.run.dir=again"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_new_dataset_and_backbone_take_a_dozen_lines_each():
    sizes = {name: sum(bool(line.strip()) for line in content.splitlines()) for name, content in EXTENSIONS}
    assert all(size <= 14 for size in sizes.values()), sizes
