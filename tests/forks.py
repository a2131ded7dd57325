"""A process that imports once, and forks for each command line: a script then costs a tenth of a second.

    forks = Forks("torch", "lightning")
    done = forks("evaluate.py", "ckpt=best.ckpt", cwd=folder)    # code, out, err, imported

What is said in ``modules`` is there in every fork; with none, a fork shows whether a script has imported torch.
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import hydra

ROOT = Path(__file__).parent.parent
# What a script needs once its config is found to be good.
ALL = (
    "torch",
    "lightning",
    "torchvision",
    "datamodules",
    "lit_modules",
    "callbacks",
    "inference.exporters",
    "tests.warm",
)


class Forks:
    """Args: modules: that every fork has imported, beside the scripts' own."""

    def __init__(self, *modules: str):
        command = [sys.executable, __file__, *modules]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __call__(self, script: str, *argv: str, cwd: Path, timeout: float = 60, **env: str) -> SimpleNamespace:
        """What came of ``python script argv`` in ``cwd``; its output is kept outside of that folder."""
        asked = {"script": script, "argv": argv, "cwd": str(cwd), "timeout": timeout, "env": env}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        done = SimpleNamespace(**json.loads(self.process.stdout.readline()))
        assert done.code is not None, f"{script} {argv} hangs: {done.out} {done.err}"
        return done

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


def serve(modules: list[str]) -> None:
    for name in ("train", "evaluate", "predict", "export", *modules):
        importlib.import_module(name)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):  # Hydra is slow only the first time
        for name in ("train", "evaluate", "predict", "export"):
            hydra.compose(name, ["run_dir=x"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes there
    for line in sys.stdin:
        asked = json.loads(line)
        files = [os.memfd_create(name) for name in ("out", "err", "facts")]
        child = os.fork()
        if not child:
            _run(asked, *files)
        deadline = time.monotonic() + asked["timeout"]
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        hangs = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        if hangs:
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out, err, facts = (os.pread(file, 10**7, 0).decode(errors="replace") for file in files)
        for file in files:
            os.close(file)
        answer = {"code": None if hangs else code, "out": out, "err": err, "imported": facts.split()}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # there is nothing to put in order


def _run(asked: dict, out: int, err: int, facts: int) -> None:
    """In the fork: what Python does with a script, and a word on what it had imported."""
    os.setsid()
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(file, number)
    os.chdir(asked["cwd"])
    os.environ.update(asked["env"])
    sys.path[1:1] = filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [str(ROOT / asked["script"]), *asked["argv"]]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    os.write(facts, " ".join(name for name in ("torch", "lightning") if name in sys.modules).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1:])
