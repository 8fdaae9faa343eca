"""History features and as-of joins, offline: the rules a build uses beside a Polars script written by hand for this case.

Events of keys, eight history features over three windows, two as-of joins with tolerance. Both work in memory on the same
frame; a round counts only if the outputs are equal. Run it with `make bench-features` (ROWS=10000000 for the full size).
"""

import resource
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl

from perennial.rules.history import add_history
from perennial.rules.joins import join_known
from perennial.rules.versions import Versions
from perennial.spec import Files, History, UtcMicroseconds

ROUNDS = 3
DAYS = 90
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)


class Payment(pa.DataFrameModel):
    """Grain: one payment."""

    payment: int
    account: int
    at: UtcMicroseconds
    cents: float


PAYMENTS = Files("payments", "payments/*.csv", contract=Payment, key=["payment"], event_time="at", same_key="violation")
FEATURES = [
    History("count_1h", "payments", "count", by="account", window=HOUR),
    History("sum_1h", "payments", "sum", "cents", by="account", window=HOUR),
    History("count_1d", "payments", "count", by="account", window=DAY),
    History("mean_1d", "payments", "mean", "cents", by="account", window=DAY),
    History("max_1d", "payments", "max", "cents", by="account", window=DAY),
    History("sum_7d", "payments", "sum", "cents", by="account", window=WEEK),
    History("std_7d", "payments", "std", "cents", by="account", window=WEEK),
    History("min_7d", "payments", "min", "cents", by="account", window=WEEK),
]


def payments(rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Payments of a hundredth as many accounts, in their order, and what is measured of accounts now and then."""
    rng = np.random.default_rng(7)
    instants = pl.Datetime("us", "UTC")
    span = DAYS * 86_400_000_000
    at = np.sort(
        rng.choice(span, rows, replace=False) if rows < 100_000 else np.unique(rng.integers(0, span, rows * 2))[:rows]
    )
    account = rng.integers(0, max(1, rows // 100), len(at))
    frame = pl.DataFrame(
        {"payment": np.arange(len(at)), "account": account, "at": at, "cents": rng.integers(1, 10_000, len(at)) / 4}
    )
    checks = frame.gather_every(10).select("account", at=pl.col("at") + 1, score=pl.col("cents") * 2)
    return tuple(f.with_columns(pl.col("at").cast(instants)).with_columns(_known_at="at") for f in (frame, checks))  # type: ignore[return-value]


def ours(frame: pl.DataFrame, checks: pl.DataFrame) -> pl.DataFrame:
    """As a build does it."""
    rows = frame.select("payment", "account", "_known_at")
    for prefix, tolerance in (("day", DAY), ("week", WEEK)):
        rows = join_known(rows, checks, {"account": "account"}, prefix, "at", tolerance)
    return add_history(rows, Versions(frame, PAYMENTS), FEATURES)


def by_hand(frame: pl.DataFrame, checks: pl.DataFrame) -> pl.DataFrame:
    """As one would write it in Polars for this one case: one time, no corrections, no late rows."""
    ordered = frame.sort("account", "at")
    cents = pl.col("cents")
    windows: dict[str, list[Any]] = {
        "1h": [pl.len().cast(pl.Int64).alias("count_1h"), cents.sum().alias("sum_1h")],
        "1d": [pl.len().cast(pl.Int64).alias("count_1d"), cents.mean().alias("mean_1d"), cents.max().alias("max_1d")],
        "7d": [cents.sum().alias("sum_7d"), cents.std().alias("std_7d"), cents.min().alias("min_7d")],
    }
    parts = [
        ordered.rolling("at", period=period, group_by="account").agg(*aggregates).drop("account", "at")
        for period, aggregates in windows.items()
    ]
    found = pl.concat([ordered, *parts], how="horizontal").sort("at")
    for prefix, tolerance in (("day", DAY), ("week", WEEK)):
        right = checks.select("account", "at", pl.col("score").alias(f"{prefix}_score"))
        found = found.join_asof(right, on="at", by="account", tolerance=tolerance, check_sortedness=False)
    return found


def compare(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Fail unless both have the same values."""
    names = [*(feature.name for feature in FEATURES), "day_score", "week_score"]
    one, other = one.sort("payment").select(names), other.sort("payment").select(names)
    for name in names:
        left, right = one[name].cast(pl.Float64), other[name].cast(pl.Float64)
        assert left.null_count() == right.null_count(), name
        worst = ((left - right).abs() / (1 + right.abs())).max()
        assert worst is None or float(worst) < 1e-6, (name, worst)  # type: ignore[arg-type]


def main(rows: int) -> None:
    """Measure, check that the outputs are equal, and print a table."""
    frame, checks = payments(rows)
    cpu: dict[str, list[float]] = {"a Polars script by hand": [], "Perennial's rules": []}
    for _ in range(ROUNDS):
        outputs = []
        for name, run in (("a Polars script by hand", by_hand), ("Perennial's rules", ours)):
            began = time.process_time()
            outputs.append(run(frame, checks))
            cpu[name].append(time.process_time() - began)
        compare(outputs[1], outputs[0])
        del outputs
    hand = statistics.median(cpu["a Polars script by hand"])
    print(f"{rows:,} events, {rows // 100:,} keys, {len(FEATURES)} history features, 2 as-of joins; {ROUNDS} rounds")
    print("| | CPU s, median | CPU s, least | against by hand |\n| --- | ---: | ---: | ---: |")
    for name, seconds in cpu.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} | {min(seconds):.2f} | {median / hand:.2f} |")
    print(f"peak memory of both: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
