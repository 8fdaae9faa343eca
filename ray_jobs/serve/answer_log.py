"""Answered rows beside the replica: on disk before the answer leaves, on S3 some seconds later.

One segment is one file, held under a lock for as long as its process lives; a segment without a living holder is
shipped by whoever finds it. A process that is killed loses nothing it answered; a node that is lost, its last seconds.
"""

import fcntl
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import ship_segment

logger = logging.getLogger("ray.serve")
SUFFIX = ".arrows"
SEGMENT_BYTES = 32 << 20
TOLD_SECONDS = 30.0  # between two lines that say the same of every request


class LogFull(RuntimeError):
    """The node takes no more rows: too many wait for S3, or its disk is full. What cannot be written is not answered."""


@dataclass
class _Segment:
    """An open file and the lock that says somebody lives who will ship it."""

    path: Path
    descriptor: int
    schema: pa.Schema
    size: int = 0

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)


@dataclass
class AnswerLog:
    """The log of one replica, safe from any thread.

    Args:
        folder: where all replicas of this pipeline on this node keep their segments.
        maximum_bytes: what may wait on the node for S3, over all replicas; beyond it nothing is answered.
    """

    lake: Lake
    pipeline: str
    folder: Path
    maximum_bytes: int
    shipped_rows: int = 0
    problem: str | None = None
    _current: _Segment | None = None
    _closed: list[_Segment] = field(default_factory=list)
    _waiting_bytes: int = 0
    _tell_again: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _shipping: threading.Lock = field(default_factory=threading.Lock)

    def append(self, rows: pa.Table, share: float = 1.0) -> None:
        """Hand the rows to the operating system before this returns: a killed process keeps them.

        Args:
            share: of the room, which these rows may not fill further; answers that nobody heard leave the rest to others.

        Raises:
            LogFull: S3 has been away for too long, or the disk takes nothing.
        """
        batch = rows.combine_chunks().to_batches()[0]
        message = batch.serialize()
        with self._lock:
            if self._waiting_bytes + message.size > share * self.maximum_bytes:
                raise self._full(
                    f"{self._waiting_bytes:,} bytes of answers of {self.pipeline} wait in {self.folder} for S3, "
                    f"of {self.maximum_bytes:,} allowed; nothing was answered. Shipping said: {self.problem}"
                )
            try:
                segment = self._segment_for(batch.schema)
                _write(segment, message)
            except OSError as error:
                raise self._full(
                    f"answers of {self.pipeline} cannot be written to {self.folder}; nothing was answered. Make room on "
                    f"this disk. It said: {error}"
                ) from error
            self._waiting_bytes += message.size

    def _full(self, why: str) -> LogFull:
        now = time.monotonic()
        if now >= self._tell_again:
            self._tell_again = now + TOLD_SECONDS
            logger.error("%s", why)
        return LogFull(why)

    def ship(self) -> int:
        """Move what waits to S3; return how many rows went. What cannot go now stays, and `problem` says why."""
        with self._shipping:
            return self._ship_all()

    def _ship_all(self) -> int:
        with self._lock:
            waiting = self._closed + ([self._current] if self._current else [])
            self._closed, self._current = [], None
        waiting += self._orphans()
        shipped = 0
        try:
            while waiting:
                shipped += self._ship(waiting[0])
                waiting.pop(0)
            self.problem = None
        except Exception as error:  # whatever it was: a segment forgotten here stays locked, and nobody ships it
            self.problem = f"{type(error).__name__}: {error}"
            logger.warning("prediction log of %s: %d segments stay here: %s", self.pipeline, len(waiting), self.problem)
        size = self._measure()
        with self._lock:
            self._closed = waiting + self._closed
            self._waiting_bytes = size
        return shipped

    def close(self) -> None:
        """Ship what is left, then let go of it: whatever could not be shipped is the next replica's."""
        self.ship()
        for segment in self._closed:
            os.close(segment.descriptor)
        self._closed = []

    def _segment_for(self, schema: pa.Schema) -> _Segment:
        current = self._current
        if current is not None and current.schema == schema and current.size <= SEGMENT_BYTES:
            return current
        opened = self._current = _open_segment(self.folder, schema)
        if current is not None:
            self._closed.append(current)
        return opened

    def _ship(self, segment: _Segment) -> int:
        rows = read_segment(segment.path)
        if len(rows):
            ship_segment(self.lake, self.pipeline, segment.name, rows)
        segment.path.unlink(missing_ok=True)
        os.close(segment.descriptor)  # only now: until it is gone, nobody else may take it for an orphan
        self.shipped_rows += len(rows)
        return len(rows)

    def _orphans(self) -> list[_Segment]:
        """Segments of processes that are dead: their lock can be had. One's own are locked like anybody's."""
        return [taken for path in sorted(self.folder.glob(f"*{SUFFIX}")) if (taken := _take(path)) is not None]

    def _measure(self) -> int:
        size = 0
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                size += path.stat().st_size
            except FileNotFoundError:
                continue  # its replica has just shipped it
        return size


def read_segment(path: Path) -> pa.Table:
    """All whole batches of a segment. A batch cut off by a kill belongs to a request that was never answered."""
    with pa.OSFile(str(path)) as source:
        try:
            reader = pa.ipc.open_stream(source)
        except (pa.ArrowInvalid, OSError):
            return pa.table({})
        batches = []
        while True:
            try:
                batches.append(reader.read_next_batch())
            except (StopIteration, pa.ArrowInvalid, OSError):
                return pa.Table.from_batches(batches, reader.schema)


def _open_segment(folder: Path, schema: pa.Schema) -> _Segment:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}{SUFFIX}"
    # Locked before it has its name, so that no other replica sees it without its holder.
    unnamed = path.with_suffix(".new")
    descriptor = os.open(unnamed, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    segment = _Segment(path, descriptor, schema)
    try:
        _write(segment, schema.serialize())
        unnamed.rename(path)
    except OSError:
        os.close(descriptor)
        unnamed.unlink(missing_ok=True)
        raise
    return segment


def _take(path: Path) -> _Segment | None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # else its holder shipped and unlinked it while we waited at the door
            return _Segment(path, descriptor, pa.schema([]))
    except BlockingIOError:
        pass  # its holder lives
    os.close(descriptor)
    return None


def _write(segment: _Segment, message: pa.Buffer) -> None:
    # One write: a kill between two would leave half a batch behind an answered request's.
    written = os.write(segment.descriptor, message)
    if written != message.size:
        os.ftruncate(segment.descriptor, segment.size)
        raise OSError(f"{segment.path} took {written} of {message.size} bytes: the disk is full.")
    segment.size += written
