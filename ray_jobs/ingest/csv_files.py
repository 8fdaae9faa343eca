"""CSV as it arrived: every field as text, block by block, and the lines that are no rows kept beside the rows."""

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

HEADER_BYTES = 1024 * 1024


class NoHeader(ValueError):
    """A CSV file without a header line, or with the same column twice."""


def read_csv(stream: Any, path: str, block_bytes: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield blocks of (rows, unreadable lines).

    Rows have the file's columns as text, null where empty, and `_position`: path and number of the row. Unreadable
    lines have too few or too many fields; they have `line`, `_position` and `_failed_checks`.

    Raises:
        NoHeader: the file is empty, or its header cannot be one.
    """
    start = stream.read(HEADER_BYTES)
    names = _header(start, path)
    unreadable: list[dict[str, Any]] = []
    numbers = itertools.count(1)  # across blocks: a position names one line of a file

    def keep(row: pc.InvalidRow) -> str:
        unreadable.append(
            {
                "line": row.text,
                "_position": f"{path}#unreadable {next(numbers)}",
                "_failed_checks": [f"csv:columns(expected {row.expected_columns}, found {row.actual_columns})"],
            }
        )
        return "skip"

    if b"\n" not in start.strip(b"\r\n"):
        return  # a header and no row
    reader = pc.open_csv(
        pa.PythonFile(_Chained(start, stream), mode="r"),
        read_options=pc.ReadOptions(block_size=block_bytes, use_threads=False),
        parse_options=pc.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pc.ConvertOptions(
            column_types={name: pa.string() for name in names},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    number = 0
    for batch in reader:
        rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
        positions = pl.int_range(number + 1, number + len(rows) + 1, eager=True).cast(pl.String)
        number += len(rows)
        yield rows.with_columns(_position=pl.lit(f"{path}#") + positions), _unreadable(unreadable)
        unreadable.clear()
    if unreadable:
        yield pl.DataFrame(schema={**dict.fromkeys(names, pl.String), "_position": pl.String}), _unreadable(unreadable)


def _unreadable(lines: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        list(lines), schema={"line": pl.String, "_position": pl.String, "_failed_checks": pl.List(pl.String)}
    )


def _header(start: bytes, path: str) -> list[str]:
    names = next(csv.reader(io.StringIO(start.decode("utf-8-sig", errors="replace"))), [])
    if not names or len(set(names)) < len(names):
        raise NoHeader(
            f"{path}: the first line must name every column once; it reads {names}. Nothing was published. Correct the "
            "file and run ingest again."
        )
    return names


class _Chained(io.RawIOBase):
    """The bytes already read for the header, then the rest of the stream."""

    def __init__(self, start: bytes, rest: Any) -> None:
        self.start, self.rest = io.BytesIO(start), rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.start.read(size) or self.rest.read(size if size >= 0 else None)
