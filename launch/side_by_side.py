"""Jobs at the same time on one machine: each process has its share of the cores, a GPU of its own, and no orphans."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

_slot: list[Any] = []  # this process's number and the lock that stands for it; a process may run several jobs


def settle(sweep_dir: str, count: int) -> int:
    """Take one of ``count`` slots before torch is imported, and keep to it until this process ends.

    Args:
        sweep_dir: the sweep's folder; who holds which slot is known from locks there, which end with their process.
        count: jobs at a time; below 1, that many less than the cores, as joblib counts: -1 is all of them.

    Returns:
        The slot's number.
    """
    if _slot:
        return _slot[0]
    if count < 1:
        count = max(1, (os.cpu_count() or 1) + 1 + count)
    end_with_parent()
    from filelock import FileLock, Timeout

    while True:  # a process that was killed a moment ago may still hold the last one
        for number in range(count):
            lock = FileLock(Path(sweep_dir) / f".slot{number}")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _slot.extend((number, lock))
            take_share(number, count)
            return number
        time.sleep(0.2)


def take_share(number: int, count: int) -> None:
    """Keep this process to its part of the cores, and to one of the GPUs."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
        if count > len(cores):
            mine = [cores[number % len(cores)]]
        os.sched_setaffinity(0, mine)
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(len(mine))
    if visible := gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)]


def gpus() -> list[str]:
    """The GPUs that this process may use, without asking torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def end_with_parent() -> None:
    """Stop when the process that started this one is gone; a killed sweep would leave its workers behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)  # a run in progress leaves its record
        time.sleep(30)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()
