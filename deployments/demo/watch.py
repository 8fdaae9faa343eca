"""How much memory and time each step takes, over every process of the stack and the demo itself."""

import os
import threading
import time
from dataclasses import dataclass

import psutil

from deployments.stack.parts import PART_NAMES
from deployments.stack.processes import owned_processes
from flows.settings import Settings

EVERY_SECONDS = 2.0


@dataclass
class Step:
    """One line of the account."""

    name: str
    detail: str
    seconds: float
    peak_bytes: int


class MemoryWatch:
    """Samples the memory that only the stack's processes have (resident less shared) and keeps the peak."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def restart(self) -> None:
        """Forget the peak: another step begins."""
        self._peak = self._now()

    @property
    def peak_bytes(self) -> int:
        """The most seen since the step began."""
        return self._peak

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_SECONDS):
            self._peak = max(self._peak, self._now())

    def _now(self) -> int:
        own = psutil.Process(os.getpid())
        total = 0
        for process in [own, *owned_processes(self._settings.home, PART_NAMES)]:
            try:
                memory = process.memory_info()
                total += memory.rss - memory.shared
            except psutil.NoSuchProcess:
                continue  # it ended between the listing and the look
        return total


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._start
