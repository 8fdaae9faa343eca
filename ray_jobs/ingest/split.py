"""Where a large file may be cut, so that several tasks read it at once and no record is torn or read twice.

Parquet is cut between row groups and JSON lines after a line. In CSV a line may end inside a quoted field, and whether
one stands inside of quotes at a byte depends on all bytes before. So a first pass counts the quotes of every range, both
ways: as if the range began outside of quotes, and as if inside; the counts of the ranges before say which was right.

This is exact wherever every quote opens a field, closes one or stands doubled in one (RFC 4180). The pass sees where a
file does otherwise; such a file is not cut but streamed by one task.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.sources.files import FilePart, place_of
from perennial.spec.sources import Files, compression_of
from ray_jobs.ingest.raw_files import FileRange, Raw, open_part

SPLIT_BYTES = 128 * 1024 * 1024
_SCANNED_BYTES = 1024 * 1024
_SOUGHT_BYTES = 512 * 1024  # in which a record should end; else the range is read with the one before
_QUOTE = 0x22
_BESIDE_QUOTES = np.isin(np.arange(256), np.frombuffer(b',\n\r"', np.uint8))  # by byte


class QuoteScan(BaseModel, frozen=True):
    """What a range of a CSV file says; pairs: if it begins outside of quotes, and if it begins inside.

    Args:
        quotes: how many there are.
        strays: whether a quote stands where RFC 4180 has none.
        cuts: the first byte behind the first line that ends outside of quotes, if any.
    """

    quotes: int
    strays: tuple[bool, bool]
    cuts: tuple[int | None, int | None]


def split_files(
    lake: Lake, source: Files, parts: Sequence[FilePart], slots: int, split_bytes: int = SPLIT_BYTES
) -> list[FilePart]:
    """The files, those that one task would read for longer than its share cut into ranges of whole records."""
    place = place_of(lake, source.pattern)
    share = sum(part.bytes for part in parts) / slots
    large = [part for part in parts if part.bytes > max(share, 1.5 * split_bytes) and can_be_cut(source, part)]
    scanned = _scan_on_ray(lake, source, [p for p in large if source.format_of(p.path) == "csv"], split_bytes)
    pieces: list[FilePart] = []
    for part in parts:
        ranges: list[tuple[int, int]] | None = None
        if part in large:
            ranges = even_ranges(part.bytes, split_bytes)
            if source.format_of(part.path) == "jsonl":
                ranges = line_ranges(open_part(place, part), ranges)
            elif part.identity in scanned:
                ranges = quote_ranges(scanned[part.identity], part.bytes)
        pieces += cut_ranges(part, ranges) if ranges else [part]
    return pieces


def can_be_cut(source: Files, part: FilePart) -> bool:
    """Whether a file can be read from the middle."""
    return source.format_of(part.path) in ("csv", "jsonl", "parquet") and compression_of(part.path) is None


def _scan_on_ray(lake: Lake, source: Files, parts: Sequence[FilePart], split_bytes: int) -> dict[str, list[QuoteScan]]:
    ranges = [(part, start, end) for part in parts for start, end in even_ranges(part.bytes, split_bytes)]
    if not ranges:
        return {}
    pattern = source.pattern  # the source itself does not travel: its contract is a class of the pipeline's file

    def scan(block: pa.Table) -> pa.Table:
        place = place_of(lake, pattern)
        found = []
        for number in block["item"].to_pylist():
            part, start, end = ranges[number]
            one = scan_quotes(open_part(place, part), start, end, part.bytes)
            found.append({"number": number, "scan": one.model_dump_json()})
        return pa.Table.from_pylist(found)

    tasks = ray.data.from_items(list(range(len(ranges))), override_num_blocks=len(ranges))
    rows = tasks.map_batches(scan, batch_format="pyarrow", batch_size=None, num_cpus=0.5).take_all()
    found = {row["number"]: QuoteScan.model_validate_json(row["scan"]) for row in rows}
    scans: dict[str, list[QuoteScan]] = {part.identity: [] for part in parts}
    for number, (part, _, _) in enumerate(ranges):
        scans[part.identity].append(found[number])
    return scans


def even_ranges(size: int, split_bytes: int) -> list[tuple[int, int]]:
    """Ranges of about `split_bytes` that cover a file: the same for the same size, wherever it is read."""
    count = max(1, round(size / split_bytes))
    edges = [number * split_bytes for number in range(count)] + [size]
    return list(itertools.pairwise(edges))


def cut_ranges(part: FilePart, ranges: Iterable[tuple[int, int]]) -> list[FileRange]:
    """The file as parts of its own."""
    return [FileRange(**part.model_dump(), start=start, end=end) for start, end in ranges]


def line_ranges(raw: Raw, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Even ranges, moved to where lines begin; a range in which none does belongs to the one before."""
    size = ranges[-1][1]
    edges = sorted({0, size, *(_line_after(raw, start, size) for start, _ in ranges[1:])})
    return list(itertools.pairwise(edges))


def _line_after(raw: Raw, start: int, size: int) -> int:
    raw.seek(start)
    while found := raw.read(_SOUGHT_BYTES):
        if (at := found.find(b"\n")) >= 0:
            return raw.tell() - len(found) + at + 1
    return size


def scan_quotes(raw: Raw, start: int, end: int, size: int, chunk_bytes: int = _SCANNED_BYTES) -> QuoteScan:
    """Scan the bytes of a file from `start` to `end`; `size` is the file's."""
    raw.seek(max(0, start - 1))
    before = raw.read(1) if start else b"\n"
    quotes, strays, cuts = 0, [False, False], list[int | None]([None, None])
    at, chunk = start, _read(raw, start, end, chunk_bytes)
    while chunk:
        after_chunk = at + len(chunk)
        following = _read(raw, after_chunk, end, chunk_bytes)
        after = following[:1] or (raw.read(1) if after_chunk < size else b"") or b"\n"
        beside = np.frombuffer(before + chunk + after, np.uint8)
        marks = np.flatnonzero(beside[1:-1] == _QUOTE) if _QUOTE in chunk else np.zeros(0, np.int64)
        opens, closes = _BESIDE_QUOTES[beside[marks]], _BESIDE_QUOTES[beside[marks + 2]]
        if at == 0 and chunk.startswith(b'\xef\xbb\xbf"'):
            opens[0] = True  # behind a byte order mark
        odd = (quotes + np.arange(len(marks))) % 2 == 1
        for inside in (0, 1):
            strays[inside] |= bool((~np.where(odd ^ bool(inside), closes, opens)).any())
            if cuts[inside] is None and at < start + _SOUGHT_BYTES:
                found = _first_end(chunk[:_SOUGHT_BYTES], marks, (quotes + inside) % 2 == 1)
                cuts[inside] = None if found is None else at + found + 1
        quotes, before, at, chunk = quotes + len(marks), chunk[-1:], after_chunk, following
    return QuoteScan(quotes=quotes, strays=(strays[0], strays[1]), cuts=(cuts[0], cuts[1]))


def quote_ranges(scans: Sequence[QuoteScan], size: int) -> list[tuple[int, int]] | None:
    """Ranges of whole records from the scans of a file's ranges, in order; None where it must be read in one piece."""
    edges, inside = [0], 0
    for number, scan in enumerate(scans):
        if scan.strays[inside]:
            return None
        cut = scan.cuts[inside]
        if number and cut is not None and cut < size:
            edges.append(cut)
        inside = (inside + scan.quotes) % 2
    return None if inside else list(zip(edges, [*edges[1:], size], strict=True))


def _read(raw: Raw, at: int, end: int, chunk_bytes: int) -> bytes:
    raw.seek(at)
    return raw.read(min(chunk_bytes, end - at))


def _first_end(chunk: bytes, marks: Any, inside: bool) -> int | None:
    """Where the first line outside of quotes ends in a chunk that begins inside or outside of them."""
    for start, stop in itertools.pairwise([-1, *marks[marks < len(chunk)].tolist(), len(chunk)]):
        if not inside and (at := chunk.find(b"\n", start + 1, stop)) >= 0:
            return at
        inside = not inside
    return None
