"""The stack's processes: started in a session of their own, marked, found again and stopped, exactly these.

Every process we start carries `PERENNIAL_STACK_PART=<home>:<part>` in its environment, and so do all of its children,
whatever session they move to. The mark, not a pid file, says what is ours: it is there from the first instant (a killed
`up` has lost no child), and a pid that the system gave to a stranger does not carry it. `ray stop` would end every Ray
on the machine; this does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MARK = "PERENNIAL_STACK_PART"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Record:
    """What was started for a part: enough to tell it from a later process with the same pid."""

    part: str
    pid: int
    created_at: float
    argv: list[str]


def start_process(home: Path, part: str, argv: Sequence[str], environment: Mapping[str, str]) -> Record:
    """Start a part's process, detached from this terminal, its output in `<home>/logs/<part>.log`."""
    with (home / "logs" / f"{part}.log").open("wb") as log:
        started = subprocess.Popen(  # noqa: S603 - our own command lines, no shell
            argv,
            cwd=ROOT,
            env={**environment, MARK: f"{home}:{part}"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = Record(part, started.pid, psutil.Process(started.pid).create_time(), list(argv))
    path = _record_path(home, part)
    path.with_suffix(".new").write_text(json.dumps(asdict(record)))
    path.with_suffix(".new").replace(path)
    return record


def read_record(home: Path, part: str) -> Record | None:
    """The part's record, or None where there is none or a killed `up` left half of one."""
    try:
        return Record(**json.loads(_record_path(home, part).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def forget_process(home: Path, part: str) -> None:
    """Remove a part's record."""
    _record_path(home, part).unlink(missing_ok=True)


def is_alive(record: Record) -> bool:
    """Whether the very process that was started is still running; a reused pid is not."""
    try:
        process = psutil.Process(record.pid)
        return abs(process.create_time() - record.created_at) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def owned_processes(home: Path, parts: Iterable[str]) -> list[psutil.Process]:
    """Every living process of these parts: those that carry the mark, and their sessions' other members.

    Some of Ray's agents overwrite their environment; they stay in the session of a process that has not.
    """
    marks = {f"{home}:{part}" for part in parts}
    living = [p for p in psutil.process_iter() if _uid(p) == os.getuid() and p.pid != os.getpid()]
    marked = [p for p in living if _mark(p) in marks]
    sessions = {_session(p) for p in marked} - {os.getsid(0), None}
    found = {p.pid: p for p in marked}
    found |= {p.pid: p for p in living if _session(p) in sessions}
    return [p for p in found.values() if not _has_ended(p)]


def stop_processes(home: Path, parts: Sequence[str], grace_seconds: float) -> int:
    """Ask the parts' processes to end, end those that do not, and return how many there were."""
    first = owned_processes(home, parts)
    for process in first:
        _signal(process, kill=False)
    _wait_for(first, grace_seconds)
    for _ in range(20):  # a dying raylet may have started one more worker
        left = owned_processes(home, parts)
        if not left:
            break
        for process in left:
            _signal(process, kill=True)
        _wait_for(left, 2.0)
    for part in parts:
        forget_process(home, part)
    return len(first)


def _record_path(home: Path, part: str) -> Path:
    return home / "run" / f"{part}.json"


def _wait_for(processes: Sequence[psutil.Process], seconds: float) -> None:
    # psutil.wait_procs waits for zombies too, and in a container nobody may reap ours.
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(_has_ended(process) for process in processes):
        time.sleep(0.05)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        pass  # it ended by itself


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None  # gone, or not ours to read


def _uid(process: psutil.Process) -> int | None:
    try:
        return int(process.uids().real)
    except psutil.Error:
        return None


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
