"""One JSON line for each request: its id, client, version, status and time. Never a value that was sent.

Lines gather in memory and go to the file once a second, and at the end: a line a request through `logging` would cost
more than the checks do.
"""

import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

FILE_BYTES = 64 << 20


class RequestLog:
    """The request log of one replica, safe from any thread. At most two files of 64 MB: this one and the one before.

    Args:
        path: where it lies, `<home>/logs/requests/<pipeline>-<replica>.jsonl`.
    """

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
        """Write what has gathered."""
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        if self._path.exists() and self._path.stat().st_size > FILE_BYTES:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        with os.fdopen(os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "ab") as file:
            file.write(b"\n".join([*lines, b""]))
