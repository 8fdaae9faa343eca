"""CSV and JSON lines as tables of text, block by block; the lines that are no rows are kept beside the rows."""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from ray_jobs.ingest.chunks import Chunk, UnreadableFile

HEADER_BYTES = 1024 * 1024
_SLICE_BYTES = 1024 * 1024  # decoded at a time: text may take four times its bytes in memory
# Bytes that are no UTF-8 travel as characters that no text holds, because pyarrow gives a block up for one of them.
_MARKS = {0xDC00 + byte: chr(0x10FF00 + byte) for byte in range(0x80, 0x100)}
_MARK = "[\U0010ff80-\U0010ffff]"


class Utf8(io.RawIOBase):
    """A stream of text on its way to pyarrow.

    `marked`: it had bytes that are no UTF-8; `quotes`: how many it had; `last`: the last byte that ends no line.
    """

    def __init__(self, inner: Any) -> None:
        self.inner, self.rest, self.ready, self.at = inner, b"", b"", 0
        self.marked, self.quotes, self.last = False, 0, b""

    def readable(self) -> bool:
        return True

    def peek(self) -> bytes:
        """The first bytes, which are read again; none where there are none."""
        if not self.ready:
            self._fill(HEADER_BYTES)
        return self.ready

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, which pyarrow relies on; none at the end."""
        if self.at == len(self.ready):
            self._fill(size)
        start, self.at = self.at, len(self.ready) if size < 0 else min(self.at + size, len(self.ready))
        return self.ready[start : self.at]

    def _fill(self, size: int) -> None:
        read = self.inner.read(size) if size >= 0 else self.inner.read()
        self.ready, self.at = self._checked(self.rest + read if self.rest else read, final=not read), 0
        if read and not self.ready:
            self._fill(size)  # no whole character yet
        self.quotes += self.ready.count(b'"')
        self.last = self.ready[-64:].rstrip(b"\r\n")[-1:] or self.last

    def _checked(self, text: bytes, final: bool) -> bytes:
        view, done, marked = memoryview(text), 0, []
        while done < len(text):
            piece, last = view[done : done + _SLICE_BYTES], final and done + _SLICE_BYTES >= len(text)
            try:
                used = codecs.utf_8_decode(piece, "strict", last)[1]
                plain = bytes(piece[:used]) if self.marked else b""
            except UnicodeDecodeError:
                if not self.marked:
                    self.marked, marked = True, [text[:done]]
                found, used = codecs.utf_8_decode(piece, "surrogateescape", last)
                plain = found.translate(_MARKS).encode()
            if self.marked:
                marked.append(plain)
            done += used
            if not used:  # a character goes on in the next piece
                break
        self.rest = text[done:]
        return b"".join(marked) if self.marked else text[:done]


def read_csv(stream: Any, names: list[str] | None, block_bytes: int) -> Iterator[Chunk]:
    """Yield a CSV file's rows: every field as text, null where empty and not quoted.

    Args:
        names: the columns, where the stream has no header.

    Raises:
        UnreadableFile: no header, or one that names a column twice; a quote that is never closed; a row larger than a
            block.
    """
    text = Utf8(stream)
    start = text.peek()
    if not names and len(start) < HEADER_BYTES and not _has_rows(start):
        read_header(start)
        return
    columns, end = names or read_header(start), ""
    for chunk in _tables(text, columns, names, pc.ParseOptions(newlines_in_values=True), block_bytes, "csv:columns"):
        if len(chunk.rows):
            end = chunk.rows.column(len(columns) - 1)[-1].as_py() or ""
        end += "".join(line for line, *_ in chunk.unreadable[-1:])
        yield chunk
    # pyarrow takes a field that is never closed to be closed where the file ends, whatever it has swallowed
    if text.quotes % 2 and ("\n" in end or "\r" in end) and text.last != b'"':
        raise UnreadableFile("a quoted field is opened near its end and never closed")


def read_lines(stream: Any, block_bytes: int) -> Iterator[Chunk]:
    """Yield the lines of a text, in a column `line`; empty ones are left out."""
    whole = pc.ParseOptions(delimiter="\x01", quote_char=False)  # a control character, which JSON does not hold
    yield from _tables(Utf8(stream), ["line"], ["line"], whole, block_bytes, "jsonl:control_character")


def read_header(start: bytes) -> list[str]:
    """The columns that the first line of a CSV file names."""
    text = start.decode("utf-8-sig", errors="replace")
    names = next((row for row in csv.reader(io.StringIO(text, newline="")) if row), [])
    if not names or len(set(names)) < len(names):
        raise UnreadableFile(f"its first line must name every column once; it reads {names}")
    return names


def split_marked(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of text; and those with bytes that are no UTF-8, which are written as \\xNN there."""
    texts = [name for name in rows.columns if name != "_position"]
    marked = rows.select(pl.any_horizontal(pl.col(texts).str.contains(_MARK)).fill_null(False)).to_series()
    readable = {mark: f"\\x{ord(mark) - 0x10FF00:02x}" for mark in _MARKS.values()}
    shown = pl.col(texts).str.replace_many(list(readable), list(readable.values()))
    return rows.filter(~marked), rows.filter(marked).with_columns(shown, _failed_checks=pl.lit(["text:not UTF-8"]))


def _has_rows(start: bytes) -> bool:
    body = start.strip(b"\r\n")
    return b"\n" in body or b"\r" in body


def _tables(
    text: Utf8, columns: list[str], names: list[str] | None, parse: pc.ParseOptions, block_bytes: int, reason: str
) -> Iterator[Chunk]:
    unreadable: list[tuple[str, str, str]] = []
    numbers = itertools.count(1)

    def keep(row: pc.InvalidRow) -> str:
        found = f"{reason}(expected {row.expected_columns}, found {row.actual_columns})"
        unreadable.append((row.text, f"unreadable {next(numbers)}", found))
        return "skip"

    if not text.peek():
        return
    parse.invalid_row_handler = keep
    reader = pc.open_csv(
        pa.PythonFile(text, mode="r"),
        read_options=pc.ReadOptions(block_size=block_bytes, use_threads=False, column_names=names),
        parse_options=parse,
        convert_options=pc.ConvertOptions(
            column_types={name: pa.string() for name in columns},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            check_utf8=False,  # Utf8 has
        ),
    )
    for batch in reader:
        yield Chunk(pa.Table.from_batches([batch]), list(unreadable), text.marked)
        unreadable.clear()
    if unreadable:
        yield Chunk(reader.schema.empty_table(), unreadable, text.marked)
