"""One JSON line for each request: its id, client, version, status and time. Never a value that was sent.

Lines gather in memory and go to the file once a second, and at the end: a line a request through `logging` would cost
more than the checks do.
"""

import errno
import logging
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

logger = logging.getLogger("ray.serve")
FILE_BYTES = 64 << 20
FILES = 16  # of a pipeline, on one node: each replica has two at most, and every roll-out brings new replicas


class RequestLog:
    """The request log of one replica, safe from any thread. At most two files of 64 MB: this one and the one before.

    Args:
        path: where it lies, `<home>/logs/requests/<pipeline>-<replica>.jsonl`; of a pipeline's files the oldest go.
    """

    problem: str | None = None

    def __init__(self, path: Path, pipeline: str) -> None:
        self._path, self._pipeline = path, pipeline
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add(self, requests: Sequence[dict[str, Any]]) -> None:
        """Note requests that were answered or refused."""
        at = datetime.now(UTC).isoformat()
        lines = [orjson.dumps({"at": at, "pipeline": self._pipeline, **request}) for request in requests]
        with self._lock:
            self._lines += lines

    def flush(self) -> None:
        """Write what has gathered. Lines that the disk does not take are lost, and `problem` says so: no answer waits."""
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._write(b"\n".join([*lines, b""]))
            self.problem = None
        except OSError as error:
            if self.problem is None:
                logger.warning("lines of the request log of %s are lost from now on: %s", self._pipeline, error)
            self.problem = f"lines are lost: {error}"

    def _write(self, text: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size > FILE_BYTES:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        if not self._path.exists():
            self._make_room()
        descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, text) < len(text):
                os.ftruncate(descriptor, size)  # half a line would spoil the one that comes after it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(descriptor)

    def _make_room(self) -> None:
        files = sorted(self._path.parent.glob(f"{self._pipeline}-*.jsonl"), key=_modified, reverse=True)
        for old in files[FILES - 1 :]:
            old.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another replica has removed it
        return 0.0
