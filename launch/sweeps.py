"""A sweep: the combinations, the names of job folders, checks before the first job, and the report at the end."""

import itertools
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, ListConfig, OmegaConf

from launch import jobs, sweep_folder
from launch.run_names import job_names, key_of
from launch.validation import CONF, first_value, model_conflict, values_of
from results import record as records
from results.errors import ConfigError
from results.record import REPEAT_KEYS, is_main_process, one_line

current: "Sweep | None" = None  # the sweep that this process has started


class Sweep:
    """A sweep whose jobs leave records.

    Args:
        folder: of the sweep.
        metric: sorts the report.
        names: the folder of each job; None if the sweeper chooses the jobs as it goes.
        in_process: whether the jobs run in this process, one after another.
    """

    def __init__(self, folder: Path, metric: str, names: Sequence[str] | None, in_process: bool):
        self.folder, self.metric, self.names, self.in_process = folder, metric, names, in_process

    def count(self) -> Counter[str]:
        """The number of jobs with each status."""
        names = self.names or [path.parent.name for path in self.folder.glob(f"*/{records.FILE}")]
        found = (jobs.read_valid_record(self.folder / name) for name in names)
        return Counter(record["status"] for record in found if record)

    def is_completed(self) -> bool:
        return self.names is not None and self.count()["completed"] == len(self.names)

    def announcement(self) -> str:
        """The first line of a sweep: the number of jobs, and where the output of each goes."""
        jobs_of = f"{len(self.names)} job{'s' * (len(self.names) != 1)}" if self.names else "jobs"
        return f"{jobs_of} in {self.folder}, with the output of each in <job>/train.log"

    def conclude(self, code: int) -> int:
        """Print the report, the path to it, and how to resume an incomplete sweep.

        Returns: the exit code: 1 if a job is incomplete.
        """
        from results import report

        count = self.count()
        try:
            if count:
                print(report.write([self.folder], metric=self.metric))
                print(self.folder / "report.html", flush=True)
        except Exception as error:  # a failed report must not fail the sweep
            print(f"no report in {self.folder}: {one_line(error)}", file=sys.stderr)
        size = len(self.names) if self.names else count.total()
        left = {"failed": count["failed"], "incomplete": size - count["completed"] - count["failed"]}
        text = ", ".join(f"{number} {status}" for status, number in left.items() if number)
        if text and (code in (1, 130, 143) or code == 0 and count):
            print(f"error: {text} of {size} jobs; resume with: {resume_command(self.folder)}", file=sys.stderr)
            return code or 1
        return code


def resume_command(folder: Path) -> str:
    return f"python {sys.argv[0]} {shlex.quote(f'resume={folder}')}"


def prepare(config: DictConfig) -> None:
    """Check a sweep before the first job, and store it in ``current`` for the end.

    Raises:
        ConfigError: the sweep cannot run: no job can, or one cannot with ``impossible=refuse``.
    """
    global current
    overrides, swept = parse_sweep(config)
    _refuse_several_processes(config, overrides)
    if is_grid(config):
        found = combinations(overrides)
        if not found:
            texts = (o.input_line for o in overrides if o.is_sweep_override())
            raise ConfigError(f"{' '.join(texts)}: no values, so no jobs")
        for name in {"output", "grid"} - swept:
            if config.get(name) is not None and len(found) > 1:
                raise ConfigError(
                    f"{name}={config[name]}: {len(found)} jobs would write it; leave it out (each job has a folder)"
                )
        _reject_conflicts(config, found, swept)
    else:
        found = []
        _check_search(config, overrides)
    jobs.claim_folder(config, "hydra.sweep.dir")
    folder = Path(config.hydra.sweep.dir)
    typed = [*jobs.overrides_of(config.hydra), *jobs.overrides_of(config.hydra, "hydra")]
    swept |= sweep_folder.check_same_command(folder, config.hydra.job.config_name, typed, _params(config))
    if is_main_process():
        sweep_folder.store_command(folder, sweep_folder.of_config(config))
    if "monitor" in config:
        named = jobs.is_given(config.hydra, "hydra.sweep.subdir")
        names = job_names(found, swept) if found and not named else None
        current = Sweep(folder, config.monitor, names, runs_in_process(config))
        os.environ[jobs.SIZE] = str(len(found))
    if not runs_in_process(config):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in process, Lightning ends the step first
        paths = [str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # for the workers of a launcher


def _params(config: DictConfig) -> list[str]:
    return [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]


def parse_sweep(config: DictConfig) -> tuple[list[Override], set[str]]:
    """The overrides of a sweep, those in ``hydra.sweeper.params`` first, and the keys that are swept.

    These include keys that an earlier start in the same folder has swept, even if they have one value now.
    """
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # expands glob(…)
    parsed = parser.parse_overrides([*_params(config), *jobs.overrides_of(config.hydra)])
    overrides = list({override.get_key_element(): override for override in parsed}.values())  # typed ones win
    command = sweep_folder.stored_command(Path(config.hydra.sweep.dir))
    return overrides, {o.key_or_group for o in overrides if o.is_sweep_override()} | (
        command.swept() if command else set()
    )


def combinations(overrides: Iterable[Override]) -> list[list[str]]:
    """The overrides of each job of a grid, in the order of the overrides; the last key varies fastest."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([override.input_line])
        elif override.is_discrete_sweep():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ConfigError(f"{override.input_line}: an interval needs a search; add hydra/sweeper=search")
    return [list(job) for job in itertools.product(*choices)]


def is_grid(config: DictConfig) -> bool:
    """Whether a sweep runs every combination; otherwise a search chooses jobs as it goes."""
    return config.hydra.sweeper._target_.endswith("GridSweeper")


def runs_in_process(config: DictConfig) -> bool:
    launcher = config.hydra.launcher
    return launcher._target_.endswith("BasicLauncher") or launcher.get("n_jobs", 0) in (1, None)


def _reject_conflicts(config: DictConfig, found: Sequence[Sequence[str]], swept: set[str]) -> None:
    """Print a line for each combination for which no network can be built.

    Raises: ConfigError: all jobs are impossible, or one is with ``impossible=refuse``.
    """
    refuse = config.get("impossible") == "refuse"
    composed: dict[tuple[str, ...], DictConfig] = {}
    conflict: dict[tuple, str | None] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    for job in found:
        groups = tuple(text for text in job if (CONF / key_of(text)).is_dir())
        values = tuple(text for text in job if key_of(text).startswith(("model.", "datamodule.")))
        if groups not in composed:
            composed[groups] = _compose(config.hydra.job.config_name, job, swept)
        if (groups, values) not in conflict:
            conflict[groups, values] = model_conflict(_updated(composed[groups], values))
        if reason := conflict[groups, values]:
            shown = " ".join(text for text in job if key_of(text) in swept - REPEAT_KEYS)
            reasons[shown, reason] += 1
    count = sum(reasons.values())
    if count == len(found) and len({reason for _, reason in reasons}) == 1:
        raise ConfigError(next(iter(reasons))[1])
    for shown, reason in reasons:
        print(f"impossible: {shown}: {reason}", file=sys.stderr)
    if count and (refuse or count == len(found)):
        hint = "" if count == len(found) else "; impossible=skip runs the rest"
        raise ConfigError(f"{count} of {len(found)} jobs are impossible{hint}")


def _compose(config_name: str, job: Sequence[str], swept: set[str]) -> DictConfig:
    """The config of a job. This takes 0.1 s, so jobs that choose the same options of groups share one.

    Raises: ConfigError: one of these options has no such key.
    """
    try:
        return compose(config_name, list(job))
    except ConfigCompositionException as error:
        options = " ".join(text for text in job if key_of(text) in swept and (CONF / key_of(text)).is_dir())
        raise ConfigError(f"{options}{': ' if options else ''}{one_line(error)}") from error


def _updated(config: DictConfig, values: Sequence[str]) -> DictConfig:
    config = config.copy()
    for override in OverridesParser.create().parse_overrides(list(values)):
        if not override.is_delete():
            OmegaConf.update(config, override.key_or_group, first_value(override), force_add=True)
    return config


def _refuse_several_processes(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Raise a ConfigError if each process of a job would run the whole sweep; a SLURM launcher avoids that."""
    if "LOCAL_RANK" in os.environ:
        raise ConfigError("torchrun cannot start a sweep: each process would run the whole sweep")
    if "submitit" in config.hydra.launcher._target_ or "trainer" not in config:
        return
    for name in ("devices", "num_nodes"):
        swept = [v for o in overrides if o.key_or_group == f"trainer.{name}" for v in values_of(o)]
        for value in swept or [config.trainer.get(name)]:
            count = value if isinstance(value, int) else len(value) if isinstance(value, list | ListConfig) else 1
            if count > 1:
                raise ConfigError(f"trainer.{name}={value}: multi-process jobs can be swept only with a SLURM launcher")


def _check_search(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Raise a ConfigError if a search has nothing to search, or prefers worse values of the metric."""
    if not any(o.is_sweep_override() for o in overrides) and not config.hydra.sweeper.get("custom_search_space"):
        raise ConfigError("a search needs something to search, such as 'optimizer.lr=tag(log, interval(0.001, 0.5))'")
    if "direction" in config.hydra.sweeper:
        direction = getattr(config.hydra.sweeper.direction, "name", config.hydra.sweeper.direction)
        if direction != f"{config.mode}imize":
            raise ConfigError(
                f"hydra.sweeper.direction={direction} with mode={config.mode}; expected {config.mode}imize"
            )
