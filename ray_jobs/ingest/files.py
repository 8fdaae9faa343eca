"""Files of a batch as blocks of rows: many small ones are fetched side by side, large ones are streamed."""

import io
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.objects import AT_ONCE, Objects
from perennial.lakehouse.sources.files import SMALL_BYTES, FilePart, Place, changed_parts, place_of
from perennial.spec.load import contract_columns
from perennial.spec.sources import FileFormat, Files, compression_of
from ray_jobs.ingest.chunks import (
    NOTHING_UNREADABLE,
    Arrived,
    Blocks,
    Chunk,
    Finish,
    PartsUnreadable,
    Span,
    UnreadableFile,
)
from ray_jobs.ingest.json_lines import read_objects
from ray_jobs.ingest.raw_files import FileRange, Raw, open_part
from ray_jobs.ingest.text import HEADER_BYTES, read_csv, read_header, read_lines, split_marked
from ray_jobs.ingest.together import GROUP_BYTES, TEXT_BYTES, SmallText, read_together
from ray_jobs.ingest.typed import finish_typed, read_avro, read_parquet

READ_AHEAD_BYTES = 8 * 1024 * 1024
_BROKEN = (pa.ArrowException, OSError)  # pyarrow's words for bytes that it cannot unpack or parse


def read_files(lake: Lake, source: Files, parts: Sequence[FilePart], block_bytes: int) -> Iterator[Arrived]:
    """Yield blocks of (rows, what is no row).

    Raises:
        PartsUnreadable: after all others were read, the files whose content is not what their format asks for, and
            those that have changed since they were listed.
        OSError: the file system failed.
    """
    place = place_of(lake, source.pattern)
    reading = _Reading(source, block_bytes)
    for part, opening in _fetch(place, parts):
        try:
            yield from reading.add(part, opening.result())
        except FileChanged as changed:
            reading.reasons[part.identity] = str(changed)
        except OSError:
            if not changed_parts(lake, source, [part]):
                raise
            reading.reasons[part.identity] = str(FileChanged())
    yield from reading.end()
    if reading.reasons:
        raise PartsUnreadable(reading.reasons)


class FileChanged(OSError):
    """A file is not what was listed: it was written anew, or taken away."""

    def __init__(self) -> None:
        super().__init__("it has changed since it was listed")


class _Reading:
    """Files on their way to blocks; small texts wait for others that begin alike."""

    def __init__(self, source: Files, block_bytes: int) -> None:
        columns = list(contract_columns(source))
        self.finishes: dict[FileFormat, Finish] = {
            "csv": _finish_csv,
            "jsonl": lambda rows, marked: _finish_lines(rows, marked, columns),
            "parquet": finish_typed,
            "avro": finish_typed,
        }
        self.source, self.block_bytes, self.blocks = source, block_bytes, Blocks(block_bytes)
        self.reasons: dict[str, str] = {}
        self.waiting: list[SmallText] = []
        self.waiting_bytes = 0
        self.waiting_for: tuple[FileFormat, bytes] = ("csv", b"")

    def add(self, part: FilePart, raw: Raw) -> Iterator[Arrived]:
        kind = self.source.format_of(part.path)
        if kind is None:
            self.reasons[part.identity] = "its name does not say what it is; say format= in the pipeline's file"
            return
        text = _small_text(raw, part, kind)
        if text is None:
            yield from self._read_waiting()
            yield from self._read_alone(part, raw, kind)
            return
        if self.waiting and self.waiting_for != (kind, text.header):
            yield from self._read_waiting()
        self.waiting_for = (kind, text.header)
        self.waiting.append(text)
        self.waiting_bytes += len(text.body)
        if self.waiting_bytes > GROUP_BYTES:
            yield from self._read_waiting()

    def end(self) -> Iterator[Arrived]:
        yield from self._read_waiting()
        yield from self.blocks.flush()

    def _read_waiting(self) -> Iterator[Arrived]:
        waiting, self.waiting, self.waiting_bytes = self.waiting, [], 0
        kind, _ = self.waiting_for
        for read in read_together(waiting, kind, self.block_bytes) if waiting else ():
            if isinstance(read, SmallText):
                part, raw = read.origin
                yield from self._read_alone(part, raw, kind)
            else:
                yield from self.blocks.add(*read, self.finishes[kind])

    def _read_alone(self, part: FilePart, raw: Raw, kind: FileFormat) -> Iterator[Arrived]:
        name = f"{part.path}@{part.start}" if isinstance(part, FileRange) and part.start else part.path
        try:
            for first, chunk in _chunks(raw, part, kind, self.block_bytes):
                yield from self.blocks.add(chunk, [Span(name, first, len(chunk.rows))], self.finishes[kind])
        except UnreadableFile as error:
            self.reasons[part.identity] = str(error)


def _small_text(raw: Raw, part: FilePart, kind: FileFormat) -> SmallText | None:
    packed = compression_of(part.path)
    small = part.bytes <= (TEXT_BYTES // 16 if packed else TEXT_BYTES) and not isinstance(part, FileRange)
    if not small or kind not in ("csv", "jsonl"):
        return None
    content = raw.file.read_at(part.bytes, 0)
    if packed:
        try:
            content = pa.CompressedInputStream(pa.BufferReader(content), packed).read()
        except OSError:
            return None  # reading it alone says why
    return SmallText.of(part.path, content, kind, (part, raw))


def _fetch(place: Place, parts: Sequence[FilePart]) -> Iterator[tuple[FilePart, "Future[Raw]"]]:
    """The parts in their order, opened; the next small ones are fetched meanwhile."""
    fetched = partial(_fetched, place, place.objects() if place.objects else None)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        coming = iter(parts)
        waiting = deque((part, pool.submit(fetched, part)) for part in itertools.islice(coming, AT_ONCE))
        while waiting:
            yield waiting.popleft()
            waiting.extend((part, pool.submit(fetched, part)) for part in itertools.islice(coming, 1))


def _fetched(place: Place, objects: Objects | None, part: FilePart) -> Raw:
    if part.bytes > SMALL_BYTES:
        return open_part(place, part)
    if objects is None:
        raw = open_part(place, part)
        return Raw(pa.BufferReader(Raw(raw.file, 0, part.bytes).read()), raw.at, raw.end)
    try:
        content, version = objects.read(place.location(part.path))
    except FileNotFoundError:
        version = ""
    if version != part.etag:
        raise FileChanged
    start, end = (part.start, part.end) if isinstance(part, FileRange) else (0, part.bytes)
    return Raw(pa.BufferReader(content), start, end)


def _chunks(raw: Raw, part: FilePart, kind: FileFormat, block_bytes: int) -> Iterator[tuple[int, Chunk]]:
    """Tables with the number of their first row; errors of the content become `UnreadableFile`."""
    start, end = raw.at, raw.end
    whole = Raw(raw.file, 0, part.bytes)
    if kind == "parquet":
        raw = whole
    try:
        if kind == "parquet":
            fetched = isinstance(raw.file, pa.BufferReader)
            file = raw.file if fetched else pa.PythonFile(raw, mode="r")
            yield from read_parquet(file, block_bytes, start, end)
        elif kind == "avro":
            yield from _numbered(read_avro(io.BufferedReader(raw, READ_AHEAD_BYTES)))
        elif kind == "jsonl":
            yield from _numbered(read_lines(_unpacked(raw, part.path), block_bytes))
        else:
            header = read_header(whole.read(HEADER_BYTES)) if start else None
            yield from _numbered(read_csv(_unpacked(raw, part.path), header, block_bytes))
    except _BROKEN as error:
        if failed := raw.failed or whole.failed:
            raise failed from error
        if isinstance(error, MemoryError):
            raise
        raise UnreadableFile(f"{type(error).__name__}: {error}") from error


def _unpacked(raw: Raw, path: str) -> Any:
    packed = compression_of(path)
    if not packed:
        return raw
    # pyarrow unpacks 64 kB at a time, each a request of its own to S3 if nothing reads ahead
    return pa.CompressedInputStream(pa.BufferedInputStream(pa.PythonFile(raw, mode="r"), READ_AHEAD_BYTES), packed)


def _numbered(chunks: Iterator[Chunk]) -> Iterator[tuple[int, Chunk]]:
    rows = 0
    for chunk in chunks:
        yield rows + 1, chunk
        rows += len(chunk.rows)


def _finish_csv(rows: pl.DataFrame, marked: bool) -> Arrived:
    return split_marked(rows) if marked else (rows, NOTHING_UNREADABLE)


def _finish_lines(rows: pl.DataFrame, marked: bool, columns: list[str]) -> Arrived:
    rows, no_text = _finish_csv(rows, marked)
    reasons: dict[int, str] = {}
    objects = read_objects(rows["line"].cast(pl.Binary).to_list(), columns, reasons)
    numbers = pl.Series(sorted(reasons), dtype=pl.UInt32)
    read = ~pl.Series(range(len(rows)), dtype=pl.UInt32).is_in(numbers.implode())
    failed = pl.Series([[reasons[number]] for number in numbers], dtype=pl.List(pl.String))
    placed = objects.drop("_position", "_failed_checks", strict=False).with_columns(rows.filter(read)["_position"])
    return placed, pl.concat([no_text, rows[numbers].with_columns(_failed_checks=failed)], how="diagonal")
