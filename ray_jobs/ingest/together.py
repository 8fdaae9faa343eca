"""Small files of text that begin alike, parsed at once: to start a parser costs as much as to read hundreds of rows."""

import codecs
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from perennial.spec.sources import FileFormat
from ray_jobs.ingest.chunks import Chunk, Span, UnreadableFile
from ray_jobs.ingest.text import read_csv, read_header, read_lines

TEXT_BYTES = 256 * 1024  # of one file
GROUP_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class SmallText:
    """A file in which every line is a row, as far as one can see. `header`: its first line, of CSV."""

    name: str
    header: bytes
    body: bytes
    origin: Any

    @staticmethod
    def of(name: str, content: bytes, kind: FileFormat, origin: Any) -> "SmallText | None":
        """None where lines may be other than rows: fields that go on in the next line, lines that end in `\\r` alone."""
        header, _, body = content.partition(b"\n") if kind == "csv" else (b"", b"", content)
        if kind == "jsonl":
            body = body.removeprefix(codecs.BOM_UTF8)  # the parser takes away the first file's only
        quoted = kind == "csv" and b'"' in content
        # an even number in each line, and a last line that ends: a field that is never closed would swallow its end
        if quoted and (content[-1:] != b"\n" or any(line.count(b'"') % 2 for line in content.split(b"\n"))):
            return None
        if content.count(b"\r") != content.count(b"\r\n") or not body:
            return None
        return SmallText(name, header, body if body.endswith(b"\n") else body + b"\n", origin)


def read_together(
    texts: Sequence[SmallText], kind: FileFormat, block_bytes: int
) -> Iterator[tuple[Chunk, list[Span]] | SmallText]:
    """Yield tables of many files; and by itself every file in which some line is no row, to be read alone."""
    lines = [text.body.count(b"\n") for text in texts]
    chunks = _parsed(texts, kind, block_bytes)
    # a line is a row, part of one or none, never two, so that equal numbers mean: each is one
    if chunks is not None and sum(len(chunk.rows) for chunk in chunks) == sum(lines):
        rows = pa.concat_tables([chunk.rows for chunk in chunks])
        yield Chunk(rows), [Span(text.name, 1, count) for text, count in zip(texts, lines, strict=True)]
    elif len(texts) == 1:
        yield texts[0]
    else:
        middle = len(texts) // 2
        yield from read_together(texts[:middle], kind, block_bytes)
        yield from read_together(texts[middle:], kind, block_bytes)


def _parsed(texts: Sequence[SmallText], kind: FileFormat, block_bytes: int) -> list[Chunk] | None:
    stream = io.BytesIO(b"".join(text.body for text in texts))
    try:
        names = read_header(texts[0].header) if kind == "csv" else None
        chunks = list(read_csv(stream, names, block_bytes) if names else read_lines(stream, block_bytes))
    except (UnreadableFile, pa.ArrowException):
        return None
    return chunks if chunks and not any(chunk.unreadable or chunk.marked for chunk in chunks) else None
