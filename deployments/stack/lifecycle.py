"""Up, down and status: idempotent, parallel, and never half done."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from deployments.stack.checks import StackProblem, check_disk, check_external_s3, check_ports
from deployments.stack.environment import prepare_home, ray_folder
from deployments.stack.health import S3Refused, clear_leftovers
from deployments.stack.parts import PART_NAMES, Part, stack_parts
from deployments.stack.processes import Record, is_alive, owned_processes, read_record, start_process, stop_processes
from flows.settings import Settings

START_SECONDS = 180.0
STOP_SECONDS = 5.0
Say = Callable[[str], None]


def up(settings: Settings, only: Sequence[str] = PART_NAMES, say: Say = print) -> None:
    """Bring every part up and return when all do their work. What runs already, and well, is left alone.

    Raises:
        StackProblem: a part cannot run; what this call started is stopped again, and the message says what to do.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with _alone(settings.home):
        try:
            prepare_home(settings)
            check_disk(settings)
            parts = stack_parts(settings)
            working = [part for part in parts if _works(settings, part)]
            wanted = [part for part in parts if part.name in only]
            missing = [part for part in wanted if part not in working]
            for part in wanted:
                if part not in missing:
                    say(_line(part.name, "runs", None, part.url))
            _check_needs(wanted, missing, working)
            _clear(settings, missing, say)
            check_ports(missing)
            if not settings.embedded_s3:
                check_external_s3(settings)
        except (S3Refused, OSError, LookupError) as error:
            raise StackProblem(f"{error} Nothing was started.") from error
        start_parts(settings, missing, say)


def down(settings: Settings, only: Sequence[str] = PART_NAMES, say: Say = print) -> None:
    """Stop what `up` started, the worker first so that it can still report, and nothing else."""
    if not settings.home.is_dir():
        say("The stack is not up.")
        return
    with _alone(settings.home):
        stopped = stop_processes(settings.home, [p for p in only if p == "worker"], STOP_SECONDS)
        stopped += stop_processes(settings.home, [p for p in only if p != "worker"], STOP_SECONDS)
        if "ray" in only and settings.ray_address is None:
            shutil.rmtree(ray_folder(settings), ignore_errors=True)  # outside home, so not left behind
    say(f"Stopped {stopped} processes. The data stays in {settings.home}." if stopped else "The stack is not up.")


def status(settings: Settings, say: Say = print) -> bool:
    """Say how each part is; true when all do their work."""
    healthy = True
    for part in stack_parts(settings) if settings.home.is_dir() and (settings.home / "secrets").is_dir() else []:
        record = read_record(settings.home, part.name)
        if record is None or not is_alive(record):
            problem: str | None = "not running"
        else:
            problem = part.probe(settings)
        healthy = healthy and problem is None
        say(_line(part.name, problem or "runs", None, "" if problem else part.url))
    if not (settings.home / "secrets").is_dir():
        say("The stack has never been up here. Start it with `make up`.")
        return False
    return healthy


def refuse_while_up(settings: Settings) -> None:
    """Raise StackProblem while any process of the stack runs: its data must not go from under it."""
    running = owned_processes(settings.home, PART_NAMES)
    if running:
        raise StackProblem(f"{len(running)} processes of the stack run on {settings.home}. Run `make down` first.")


def start_parts(settings: Settings, parts: Sequence[Part], say: Say) -> None:
    """Start these parts side by side and wait until each works; the first failure stops them all.

    Raises:
        StackProblem: a part ended, or did not work in time.
    """
    _Start(settings, parts, say).run()


class _Start:
    """One start of several parts, side by side; the first failure stops them all."""

    def __init__(self, settings: Settings, parts: Sequence[Part], say: Say) -> None:
        self.settings, self.parts, self.say = settings, parts, say
        self.names = [part.name for part in parts]
        self.give_up = threading.Event()
        self.ready: dict[str, Future[None]] = {}

    def run(self) -> None:
        pool = ThreadPoolExecutor(max_workers=max(1, len(self.parts)))
        try:
            for part in self.parts:  # a part comes after those it needs
                self.ready[part.name] = pool.submit(self._bring_up, part)
            problems = [e for e in (f.exception() for f in self.ready.values()) if e is not None]
            if problems:
                raise next((p for p in problems if isinstance(p, StackProblem)), problems[0])
        except BaseException:  # also Ctrl-C: nothing is left half started
            self.give_up.set()
            pool.shutdown(wait=True, cancel_futures=True)
            stop_processes(self.settings.home, self.names, STOP_SECONDS)
            raise
        pool.shutdown()

    def _bring_up(self, part: Part) -> None:
        try:
            for need in part.needs:
                if need in self.ready:
                    self.ready[need].result()
            if part.name == "worker":
                self._clear_leftovers()
            began = time.monotonic()
            self._wait(part, start_process(self.settings.home, part.name, part.argv, part.environment))
            self.say(_line(part.name, "ready", time.monotonic() - began, part.url))
        except BaseException:
            self.give_up.set()
            raise

    def _clear_leftovers(self) -> None:
        try:
            clear_leftovers(self.settings)
        except (HTTPException, OSError) as error:
            log = self.settings.home / "logs" / "prefect.log"
            raise StackProblem(f"the Prefect server does not do its work: {error}. Its log: {log}") from error

    def _wait(self, part: Part, record: Record) -> None:
        log = self.settings.home / "logs" / f"{part.name}.log"
        deadline = time.monotonic() + START_SECONDS
        while True:
            reason = part.probe(self.settings)
            if not is_alive(record):  # asked after the probe: what answered may have been a stranger on our port
                raise StackProblem(f"{part.name} ended while starting; its last words: {_tail(log)} (log: {log})")
            if reason is None:
                return
            if self.give_up.wait(0.1):
                raise RuntimeError(f"{part.name} was not waited for: another part failed")
            if time.monotonic() > deadline:
                raise StackProblem(f"{part.name} does not work after {START_SECONDS:.0f} s: {reason}. Its log: {log}")


def _works(settings: Settings, part: Part) -> bool:
    record = read_record(settings.home, part.name)
    if record is None or not is_alive(record) or record.argv != part.argv:
        return False  # not ours, gone, or started under other settings
    return part.probe(settings) is None


def _check_needs(wanted: Sequence[Part], missing: Sequence[Part], working: Sequence[Part]) -> None:
    # Without this a worker alone would join whatever Prefect server listens on the port, somebody else's too.
    ours = {part.name for part in [*wanted, *working]}
    for part in missing:
        for need in part.needs:
            if need not in ours:
                raise StackProblem(f"{part.name} needs {need}, which is not up. Start it too. Nothing was started.")


def _clear(settings: Settings, missing: Sequence[Part], say: Say) -> None:
    """Stop what an interrupted start, a crash or other settings have left of the parts to be started."""
    left = [part.name for part in missing if owned_processes(settings.home, [part.name])]
    if left:
        say(f"  Stopping what is left of an earlier start: {', '.join(left)}")
        stop_processes(settings.home, left, STOP_SECONDS)
    if any(part.name == "ray" for part in missing):
        for session in ray_folder(settings).iterdir():  # logs and spilled objects of heads that are gone
            shutil.rmtree(
                session, ignore_errors=True
            ) if session.is_dir() and not session.is_symlink() else session.unlink()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time on one home; the lock goes with the process, however it ends."""
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise StackProblem(
                f"another `make up` or `make down` (pid {lock.read().strip()}) is at work on {home}. Wait for it."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "(none)"


def _line(name: str, state: str, seconds: float | None, url: str) -> str:
    return f"  {name:<9}{state:<8}{f'{seconds:5.1f} s' if seconds is not None else '       '}  {url}".rstrip()
