"""Sales of 30 days as CSV: seeded, about 140 bytes a row, one in a hundred bad in one of eleven known ways."""

import itertools
from pathlib import Path

import polars as pl

from benchmarks.ingest.job import COLUMNS, COUNTRIES, DAYS, UNREAD

FILES = 10
CHUNK_ROWS = 500_000
KINDS = 11  # of bad rows
_WORDS = ["left at the door", "gift wrap, please", "call before", "second floor", "no bell", "leave with a neighbour"]


def write_sales(folder: Path, rows: int, files: int = FILES) -> list[Path]:
    """Write the files, unless they are there already; the same for the same numbers of rows and files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"sales-{number:05}.csv" for number in range(files)]
    if paths[-1].exists():
        return paths
    edges = [rows * number // files for number in range(files + 1)]
    chunk, begins = sales(0, 0), 0
    for path, (first, last) in zip(paths, itertools.pairwise(edges), strict=True):
        with path.open("wb") as file:
            file.write(",".join(COLUMNS).encode() + b"\n")
            while first < last:
                if first == begins + len(chunk):
                    chunk, begins = sales(first, min(first + CHUNK_ROWS, rows)), first
                part = chunk[first - begins : last - begins]
                part.write_csv(file, include_header=False)
                first += len(part)
    return paths


def sales(first: int, last: int) -> pl.DataFrame:
    """The rows from number `first` up to `last`, every field as text. Days do not follow each other: a file has all."""
    n = pl.col("n")
    draw = n.hash(7)
    kind = pl.when(n.hash(5) % 100 == 0).then(n.hash(8) % KINDS)  # null for good rows

    def pick(words: list[str], seed: int) -> pl.Expr:
        return pl.lit(pl.Series(words)).gather(n.hash(seed) % len(words))

    def unless(bad: int | list[int], instead: str | None, value: pl.Expr) -> pl.Expr:
        return pl.when(kind.is_in(bad if isinstance(bad, list) else [bad])).then(pl.lit(instead)).otherwise(value)

    second = (n.hash(9) % (DAYS * 86_400)).cast(pl.Int64) * 1_000_000
    moment = pl.lit("2026-06-01").str.to_datetime(time_unit="us") + second.cast(pl.Duration("us"))
    email = pl.lit("user") + (n.hash(3) % 1_000_000).cast(pl.String) + pick(["@example.org", "@example.com"], 10)
    columns = {
        "sale_id": unless(0, "-1", (n + 1).cast(pl.String)),
        "product": unless([1, 10], "abc", pick(["ABC-", "XYZ-", "QQQ-"], 1) + (1000 + draw % 9000).cast(pl.String)),
        "country": unless([2, 10], "XX", pick(list(COUNTRIES), 2)),
        "pieces": unless(8, UNREAD, unless(3, "501", (1 + n.hash(11) % 500).cast(pl.String))),
        "cents": unless(4, None, (n.hash(12) % 100_000).cast(pl.String)),
        "discount": pl.when(draw % 3 != 0).then(((draw % 100).cast(pl.Float64) / 100).cast(pl.String)),
        "email": unless(5, "nobody", email),
        "currency": unless(6, "USD", pl.lit("EUR")),
        "channel": unless(7, "test", pick(["web", "shop"], 4)),
        "sold_at": unless(9, UNREAD, moment.dt.strftime("%Y-%m-%dT%H:%M:%SZ")),
        "note": pick(_WORDS, 13) + "; " + pick(_WORDS, 15) + "; ref " + (n.hash(14) % 1_000_000).cast(pl.String),
    }
    assert tuple(columns) == COLUMNS
    return pl.int_range(first, last, eager=True).alias("n").to_frame().select(**columns)
