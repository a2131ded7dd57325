"""A run's record, ``result.json``: sweeps, reports and ``resume=`` read nothing else."""

import json
import math
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# `metrics` is flat: `val/top1`, `test/loss`, …; accuracies are fractions from 0 to 1. Seconds count training alone,
# memory is in MiB (without a GPU, of the whole process, which includes earlier jobs of a sweep), FLOPs are for one
# forward pass of one image, paths are relative to the run's folder. `findings` is the diagnosis, one sentence each.
# `history` has (epochs so far, value) pairs of each metric of training and validation, to six digits.
KEYS = (
    "status error overrides seed metrics params flops_per_image train_seconds images_per_second peak_memory_mb "
    "epochs steps best_checkpoint findings history versions device git_commit"
).split()
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core")
FILE = "result.json"
# Overrides that do not change a result: runs that differ only in these are the same.
RESULT_NEUTRAL_KEYS = {"data_dir", "datamodule.num_workers", "impossible", "name", "trainer.max_time", "verbose"}
# Overrides that repeat a configuration: reports aggregate over them.
REPEAT_KEYS = {"seed", "datamodule.fold"}
# password=…, aws_secret_access_key='…', {api-key: …}; https://user:password@host
WORD = r"(?:token|passw(?:or)?d|secret|api[_-]?key|private_?key|credential)s?(?:_\w*)?(?![a-z])"
SECRET_NAME = re.compile(rf"[\w.]*{WORD}", re.IGNORECASE)
SECRET = re.compile(
    rf"""({SECRET_NAME.pattern}["']?\s*[=:]\s*)("[^"]*"|'[^']*'|\[[^\]]*\]|[^\s,}}\]]+)""", re.IGNORECASE
)
ACCOUNT = re.compile(r"(\w://)[^/\s@]+@")
NUMBERS = re.compile(r"\[\n[\d\s.,eE+\-\[\]nul]*\]")  # a list of numbers, nulls or pairs of them, to be put on one line
STOPPED = {130: "stopped by SIGINT", 143: "stopped by SIGTERM"}


class OutOfTime(ValueError):
    """``trainer.max_time`` ended a run before training was complete."""


@contextmanager
def recording(run_dir: str | Path, **facts: Any) -> Iterator[dict[str, Any]]:
    """Write the run's record when the block begins and when it ends, however it ends.

    Yields the record for the run to fill in. ``status`` is ``running`` until it becomes ``completed``, ``failed`` (an
    error or an exit, described in ``error``) or ``interrupted`` (a signal, or out of time). A run that is killed leaves
    it at ``running``.
    """
    record = dict.fromkeys(KEYS) | {"status": "running", "metrics": {}}
    record |= {"versions": versions(), "git_commit": git_commit()} | facts
    record["overrides"] = list(map(redact_override, record["overrides"] or ()))
    if is_main_process():
        write(run_dir, record)
    try:
        yield record
        record["status"] = "completed"
    except BaseException as error:
        stopped = signal_code(error) or isinstance(error, OutOfTime)
        message = STOPPED.get(signal_code(error)) or one_line(error)
        record |= {"status": "interrupted" if stopped else "failed", "error": redact(message)}
        raise
    finally:
        if is_main_process():
            try:
                write(run_dir, record)
            except OSError:
                if record["status"] == "completed":  # otherwise the earlier error is more important
                    raise


def redact(value: Any, secret: bool = False, network: bool = False) -> Any:
    """A copy for records and loggers: secrets become ``***``, the home folder becomes ``~``.

    Text is secret if the key has a secret-like name, as in ``api_key=…``; so is the account in a URL. Numbers and
    booleans are not secret: ``token_length=16`` stays. Neither is anything in the config of the network.

    Args:
        value: a text, or plain dicts and lists with texts.
        secret: whether the value's key has a secret-like name.
        network: whether the value belongs to the network.
    """
    if isinstance(value, dict):
        return {
            key: redact(part, not network and (secret or bool(SECRET_NAME.search(str(key)))), network or key == "model")
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [redact(part, secret, network) for part in value]
    if not isinstance(value, str):
        return value
    if secret:
        return "***"
    if not network:
        value = SECRET.sub(lambda found: found[0] if _is_plain(found[2]) else f"{found[1]}***", value)
    value = ACCOUNT.sub(r"\1***@", value)
    home = re.escape(os.path.expanduser("~").rstrip("/"))
    return re.sub(rf"(?:(?<![\w./-])|(?<=://)){home}(?![\w.-])", "~", value) if home else value


def redact_override(typed: str) -> str:
    """An override for records and loggers; the value of a secret becomes ``***``."""
    return f"{typed.partition('=')[0]}=***" if is_secret(typed) else redact(typed, network=_of_network(typed))


def is_secret(override: str) -> bool:
    """Whether an override gives a key with a secret-like name a value other than plain numbers."""
    key, equals, value = override.partition("=")
    return bool(equals and SECRET_NAME.search(key)) and not _of_network(key) and not _is_plain(value)


def _of_network(override: str) -> bool:
    return override.lstrip("+~").startswith("model.")


def _is_plain(value: str) -> bool:
    """Whether a typed value is empty or consists only of numbers, booleans and null."""
    for part in filter(None, re.split(r"[\s\[\](),]+", value)):
        try:
            float(part)
        except ValueError:
            if part.lower() not in ("true", "false", "null"):
                return False
    return True


def signal_code(error: BaseException) -> int | None:
    """The exit code after a signal (130 for SIGINT, 143 for SIGTERM); None if no signal caused the error."""
    if type(error).__name__ == "SIGTERMException":
        return 143
    # Lightning turns a KeyboardInterrupt into an exit.
    return 130 if any(isinstance(e, KeyboardInterrupt) for e in (error, error.__context__)) else None


def is_main_process() -> bool:
    """Whether this is the first of the processes that a launcher (Lightning, torchrun, SLURM) started."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    # In an interactive SLURM job, SLURM_PROCID is 0 in all processes, which Lightning starts itself.
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "LOCAL_RANK"))


def write(run_dir: str | Path, record: dict[str, Any]) -> None:
    """Replace ``run_dir/result.json`` atomically: readers see the old file or the new one, never half of one."""
    unknown = set(record) - set(KEYS)
    assert not unknown, f"not keys of a record: {unknown}"
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, record)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that atomically replaces ``path``, unless the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file atomically. NaN and infinite numbers become null, because JSON has neither.

    A list of numbers is put on one line.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = NUMBERS.sub(lambda found: " ".join(found[0].split()), text)
    try:
        with replacing(path) as temporary:
            # Bytes of a file name that are not valid UTF-8 arrive as \udc80 to \udcff.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(run_dir: str | Path) -> dict[str, Any]:
    """Read a run's record.

    Raises: OSError, ValueError: it is missing, damaged, or written by another program.
    """
    text = (Path(run_dir) / FILE).read_text(encoding="utf-8")
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"RecursionError: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        raise ValueError("no status")
    typed, metrics = record.get("overrides") or [], record.get("metrics") or {}
    if not isinstance(metrics, dict) or not (isinstance(typed, list) and all(isinstance(part, str) for part in typed)):
        raise ValueError("overrides are not a list of text, or metrics not a mapping")
    return record | {"overrides": typed, "metrics": metrics}


def one_line(error: BaseException) -> str:
    """An error's message on one line; for an error that only wraps another, the inner message."""
    if error.__cause__ is not None and type(error).__name__ == "InstantiationException":
        return one_line(error.__cause__)
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename} is a file, or below one; expected a folder"
    text = str(error)
    if not text.strip() and error.__cause__ is not None:
        return one_line(error.__cause__)
    if text.startswith("Caught ") and "Original Traceback" in text:  # from a worker of a DataLoader
        text = text.rstrip().rpartition(f"{type(error).__name__}: ")[2]
    text = " ".join(text.split())
    if (wanted := out_of_memory(error)) is not None:
        return f"out of memory{wanted}; reduce datamodule.batch_size or datamodule.image_size"
    readable = isinstance(error, ValueError | OSError) or type(error).__module__.startswith(("hydra.", "omegaconf."))
    readable = readable or type(error).__name__ == "MisconfigurationException"
    return text if readable and text else f"{type(error).__name__}: {text}"


def out_of_memory(error: BaseException) -> str | None:
    """For torch's out-of-memory errors, the amount requested, for a message; None for any other error."""
    text = str(error)
    if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in text:
        return None
    wanted = re.search(r"tried to allocate ([\d.]+) (\w+)", text, re.IGNORECASE)
    if not wanted:
        return ""
    amount, unit = wanted.groups()
    return f": no room for {f'{int(amount) / 2**30:,.1f} GiB' if unit == 'bytes' else f'{amount} {unit}'}"


@cache
def versions() -> dict[str, str]:
    def find(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    return {package: find(package) for package in PACKAGES}


@cache  # the code that was imported, not later edits
def git_commit() -> str | None:
    """The commit of this project's checkout, with ``-dirty`` if files have been changed; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
