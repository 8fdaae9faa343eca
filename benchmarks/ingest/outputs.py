"""What a contender has made, as a few figures: a time counts only where they are those of the others."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import read_snapshot

_FIGURES = ["sold_at", "total_cents", "net_euros", "email_domain"]


@dataclass(frozen=True)
class Output:
    """Rows and sums of what is good, by day and by derived column; reasons of what is bad."""

    rows: int
    bad_rows: int
    total_cents: int
    net_euros: float
    days: dict[str, int]
    domains: dict[str, int]
    reasons: dict[str, int]

    def differences(self, other: "Output") -> list[str]:
        """Where two outputs differ; sums of floats may in the last digits, by the order in which they are added."""
        found = [
            f"{name}: {mine} and {theirs}"
            for name, mine in vars(self).items()
            if name != "net_euros" and mine != (theirs := getattr(other, name))
        ]
        if not math.isclose(self.net_euros, other.net_euros, rel_tol=1e-9):
            found.append(f"net_euros: {self.net_euros} and {other.net_euros}")
        return found


def of_folder(folder: Path) -> Output:
    """The output of a contender that writes `good/` by days and `bad` with the `reasons` of each row."""
    good = pl.scan_parquet(folder / "good/**/*.parquet", hive_partitioning=True, extra_columns="ignore")
    bad = pl.scan_parquet(folder / "bad*" if (folder / "bad.parquet").is_file() else folder / "bad*/**/*.parquet")
    assert len(list((folder / "good").glob("day=*"))) == good.select(pl.col("day").n_unique()).collect().item()
    return _output(good.select(_FIGURES), bad.select("reasons"))


def of_tables(lake: Lake) -> Output:
    """Our output: the tables, by a reader of Iceberg."""
    good = read_snapshot(lake, lake.table("bench", "raw_sales"), columns=_FIGURES)
    bad = read_snapshot(lake, lake.table("bench", "quarantine"), columns=["failed_checks"])
    frames = (pl.DataFrame(pl.from_arrow(rows)) for rows in (good, bad))
    rows, kept = (frame.lazy() for frame in frames)
    return _output(rows, kept.rename({"failed_checks": "reasons"}))


def plain_rows(folder: Path) -> int:
    """Rows of the loop that checks nothing."""
    return int(pl.scan_parquet(folder / "good/*.parquet").select(pl.len()).collect().item())


def _output(good: pl.LazyFrame, bad: pl.LazyFrame) -> Output:
    sums = good.select(pl.len(), pl.col("total_cents", "net_euros").sum()).collect().row(0)
    days = good.group_by(pl.col("sold_at").dt.date().cast(pl.String)).len().collect()
    domains = good.group_by("email_domain").len().collect()
    reasons = bad.collect()["reasons"]
    if reasons.dtype == pl.String:  # Dask's frames hold no lists
        reasons = reasons.str.strip_suffix("\n").str.split("\n")
    told = Counter(reasons.explode().to_list())
    return Output(
        sums[0],
        len(reasons),
        int(sums[1]),
        float(sums[2]),
        dict(days.iter_rows()),
        dict(domains.iter_rows()),
        dict(told),
    )
