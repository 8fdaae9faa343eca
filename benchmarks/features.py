"""History features and as-of joins, offline: the rules a build uses beside a Polars script by hand, and beside PySpark.

Events of keys, eight history features over three windows, two as-of joins with tolerance. All work in memory on the same
frame; a round counts only if the outputs are equal. PySpark runs in a JVM of its own (`benchmarks.features_spark`), whose
first job is the one that is checked and warms it up. Run it with `make bench-features` (ROWS=10000000 for the full size).
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl

from benchmarks.ingest.tree import idle_share, measured, stop_tree
from perennial.rules.history import add_history
from perennial.rules.joins import join_known
from perennial.rules.versions import Versions
from perennial.spec import Files, History, UtcMicroseconds

DAYS = 45
PYTHON = Path(".venv-peers-data/bin/python")
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
    at = np.unique(rng.integers(0, span * 2, rows * 2))[
        :rows
    ]  # twice as many in twice the time, of which half are taken
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


def in_memory(frame: pl.DataFrame, checks: pl.DataFrame, rounds: int) -> tuple[dict[str, list[float]], pl.DataFrame]:
    """CPU seconds of the two that work in this process, in turn, and what ours makes; both must make the same."""
    cpu: dict[str, list[float]] = {"a Polars script by hand": [], "Perennial's rules": []}
    outputs: list[pl.DataFrame] = []
    for _ in range(rounds):
        outputs.clear()
        for name, run in (("a Polars script by hand", by_hand), ("Perennial's rules", ours)):
            gc.collect()
            began = time.process_time()
            outputs.append(run(frame, checks))
            cpu[name].append(time.process_time() - began)
            _say(name, cpu[name][-1])
        compare(outputs[1], outputs[0])
    return cpu, outputs[1]


def in_spark(frame: pl.DataFrame, checks: pl.DataFrame, expected: pl.DataFrame, rounds: int) -> list[float]:
    """CPU seconds of the JVM and its Python for a job, after a first one, which must make what is expected."""
    with tempfile.TemporaryDirectory(prefix="features-") as name:
        folder = Path(name)
        for called, part in (("payments", frame), ("checks", checks)):
            part.drop("_known_at").with_columns(pl.col("at").dt.epoch("us")).write_parquet(folder / f"{called}.parquet")
        seconds = []
        with _spark(folder) as process:
            _ask(process, str(folder / "made"))
            compare(pl.read_parquet(folder / "made/*.parquet"), expected)
            idle = idle_share(process.pid)
            for _ in range(rounds):
                with measured(process.pid, idle) as used:
                    _ask(process, "nowhere")
                seconds.append(used.cpu)
                _say("PySpark", used.cpu)
    return seconds


@contextmanager
def _spark(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    script = Path(__file__).with_name("features_spark.py")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [PYTHON.absolute(), script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield process
        except RuntimeError as error:
            raise RuntimeError(f"{error}:\n{(folder / 'log').read_text()[-3000:]}") from error
        finally:
            stop_tree(process.pid)
            process.wait()


def _ask(process: "subprocess.Popen[str]", place: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{place}\n")
    process.stdin.flush()
    if process.stdout.readline() != "done\n":
        raise RuntimeError("PySpark did not do its job")


def _say(name: str, seconds: float) -> None:
    print(f"  {name}: {seconds:.2f} CPU s", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, check that the outputs are equal, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    frame, checks = payments(asked.rows)
    cpu, made = in_memory(frame, checks, asked.rounds)
    cpu["PySpark local[2], warm"] = in_spark(frame, checks, made, asked.rounds)
    median = {name: statistics.median(seconds) for name, seconds in cpu.items()}
    hand, our = median["a Polars script by hand"], median["Perennial's rules"]
    print(
        f"{asked.rows:,} events, {asked.rows // 100:,} keys, {len(FEATURES)} history features, 2 as-of joins; "
        f"{asked.rounds} rounds on {len(os.sched_getaffinity(0))} cores; equal outputs"
    )
    print("| | CPU s, median | CPU s, least | by hand = 1 | ours = 1 |\n| --- | ---: | ---: | ---: | ---: |")
    for name, seconds in cpu.items():
        least = min(seconds)
        print(f"| {name} | {median[name]:.2f} | {least:.2f} | {median[name] / hand:.2f} | {median[name] / our:.2f} |")


if __name__ == "__main__":
    main()
