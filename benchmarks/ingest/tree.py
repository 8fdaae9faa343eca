"""What a contender and all that it started use: CPU, and memory as the kernel counts it, shared pages once."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLED_SECONDS = 0.25


@dataclass
class Used:
    """CPU and wall seconds, and the highest sum of memory in bytes that was seen."""

    cpu: float = 0.0
    wall: float = 0.0
    peak: int = 0
    idle_share: float = 0.0


def cpu_seconds(root: int) -> float:
    """CPU of a process and of all below it, those that ended and were waited for among them."""
    total = 0.0
    for process in _tree(root):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended between the list and the question
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_bytes(root: int) -> int:
    """Proportional set size of a process and of all below it: pages that several share count once."""
    total = 0
    for process in _tree(root):
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total


def idle_share(root: int, seconds: float = 4) -> float:
    """CPU seconds per second that the tree takes while it does nothing."""
    before = cpu_seconds(root)
    time.sleep(seconds)
    return (cpu_seconds(root) - before) / seconds


@contextmanager
def measured(root: int, idle: float = 0.0) -> Iterator[Used]:
    """What the tree uses inside of the `with`, less what it takes idle."""
    used, done = Used(idle_share=idle), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLED_SECONDS):
            used.peak = max(used.peak, memory_bytes(root))

    watcher = threading.Thread(target=watch)
    cpu, started = cpu_seconds(root), time.perf_counter()
    watcher.start()
    try:
        yield used
    finally:
        used.wall = time.perf_counter() - started
        used.cpu = cpu_seconds(root) - cpu - idle * used.wall
        done.set()
        watcher.join()


def stop_tree(root: int) -> None:
    """End a process and all below it, if they have not ended."""
    for process in _tree(root):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _tree(root: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(root)
        below = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process, *below]
