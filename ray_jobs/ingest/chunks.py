"""What the readers of files hand on: tables straight from a file, put together to blocks large enough to be checked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

Arrived = tuple[pl.DataFrame, pl.DataFrame]
"""Rows with `_position`; and what could not be read as rows: as it arrived, with `_position` and `_failed_checks`."""


class UnreadableFile(ValueError):
    """A file's content is not what its format asks for. The file is at fault, not the way to it."""


class PartsUnreadable(ValueError):
    """Parts of a batch cannot be read, by `reasons`: identity of the part, and what is wrong with it.

    Rows of theirs may have been read before that was seen, so nothing of what was read beside them may be published.
    """

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"{part}: {reason}" for part, reason in reasons.items()))
        self.reasons = reasons


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, in their order; texts that are no rows, each with where it stood and the reason.

    `marked`: there may be bytes that are no UTF-8 among the rows' texts.
    """

    rows: pa.Table
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    marked: bool = False


class Span(NamedTuple):
    """Rows that stand together in a file: its name, the number of the first, how many."""

    name: str
    first: int
    rows: int


Finish = Callable[[pl.DataFrame, bool], Arrived]
"""Makes rows of the tables of one format, whole blocks at a time; the flag is `Chunk.marked`."""


class Blocks:
    """Puts tables together until they are worth a check, which costs the same for ten rows and for ten thousand."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self._start(None)

    def _start(self, kind: tuple[object, ...] | None) -> None:
        self.kind = kind
        self.bytes = 0
        self.tables: list[pa.Table] = []
        self.spans: list[Span] = []
        self.unreadable: list[tuple[str, str, str]] = []
        self.marked = False
        self.finish: Finish | None = None

    def add(self, chunk: Chunk, spans: Sequence[Span], finish: Finish) -> Iterator[Arrived]:
        """Add a table and where its rows stood; yield a block when there is enough, or when this has other columns."""
        kind = (finish, *sorted((column.name, str(column.type)) for column in chunk.rows.schema))
        if self.kind is not None and kind != self.kind:
            yield from self.flush()
        if self.kind is None:
            self._start(kind)
        self.finish = finish
        self.tables.append(chunk.rows.select(self.tables[0].column_names) if self.tables else chunk.rows)
        self.spans += spans
        self.unreadable += [(text, f"{spans[0].name}#{where}", reason) for text, where, reason in chunk.unreadable]
        self.marked = self.marked or chunk.marked
        self.bytes += chunk.rows.nbytes
        if self.bytes >= self.block_bytes:
            yield from self.flush()

    def flush(self) -> Iterator[Arrived]:
        """What is left, if anything."""
        if self.finish is None:
            return
        table = pa.concat_tables(self.tables).combine_chunks()
        rows, broken = self.finish(pl.DataFrame(pl.from_arrow(table)).with_columns(self._positions()), self.marked)
        texts = [
            {"line": text, "_position": where, "_failed_checks": [reason]} for text, where, reason in self.unreadable
        ]
        self._start(None)
        yield rows, pl.concat([pl.DataFrame(texts, schema=_UNREADABLE), broken], how="diagonal")

    def _positions(self) -> pl.Series:
        lengths = [span.rows for span in self.spans]
        starts = np.cumsum([0, *lengths[:-1]]) - np.array([span.first for span in self.spans])
        numbers = pl.Series(np.arange(sum(lengths)) - np.repeat(starts, lengths), dtype=pl.Int64)
        names = pl.Series([f"{span.name}#" for span in self.spans], dtype=pl.String)
        return (names.gather(np.repeat(np.arange(len(lengths)), lengths)) + numbers.cast(pl.String)).alias("_position")


_UNREADABLE: dict[str, pl.DataType | type[pl.DataType]] = {
    "line": pl.String,
    "_position": pl.String,
    "_failed_checks": pl.List(pl.String),
}
NOTHING_UNREADABLE = pl.DataFrame(schema={"_position": pl.String, "_failed_checks": pl.List(pl.String)})
