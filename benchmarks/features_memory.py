"""Memory of a build of features as its history grows: every process of it, by `build_features`' own job on Ray, Iceberg and S3.

Payments come at one rate, so that more of them are a longer history, and land every five days; another process lands them, so that
this one is only the build's. Memory is what a process has for itself (resident less shared): Ray's object store, which has a
size of its own, is not in it. Run it with `make bench-features-memory` (ROWS="10000000 50000000").
"""

import argparse
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import psutil
import ray

from benchmarks.features_build import FOLDER, TreeCpu, land
from benchmarks.place import lakehouse
from perennial.lakehouse.lake import Lake
from ray_jobs.features.build import BuildRequest, BuiltFeatures, build

DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
BATCH_DAYS = 5
SECONDS = 0.1  # between two looks at memory


@dataclass
class Peak:
    """Bytes: of this process, of the largest worker, and of all processes at the same time."""

    own: int = 0
    worker: int = 0
    together: int = 0


def payments_of(day: int, rows: int, keys: int) -> pl.DataFrame:
    """About so many payments of a day, in their order."""
    rng = np.random.default_rng([7, day])
    at = np.unique(rng.integers(0, DAY // timedelta(microseconds=1), rows))
    frame = pl.DataFrame(
        {
            "payment": day * rows + np.arange(len(at)),
            "account": rng.integers(0, keys, len(at)),
            "at": pl.Series(at).cast(pl.Duration("us")) + (FIRST + day * DAY),
            "cents": rng.integers(1, 10_000, len(at)) / 4,
        }
    )
    return frame.with_columns(_known_at="at", refused=pl.col("payment") % 7 == 0)


def land_days(lake: Lake, days: int, rows: int, keys: int) -> None:
    """The payments, and a check and a rating for every tenth, as an ingest every few days leaves them."""
    for day in range(0, days, BATCH_DAYS):
        frame = pl.concat([payments_of(each, rows, keys) for each in range(day, min(day + BATCH_DAYS, days))])
        at = pl.col("at") + timedelta(microseconds=1)
        checks = frame.gather_every(10).select("account", at=at, score=pl.col("cents") * 2, _known_at=at)
        for source, part in (("payments", frame), ("checks", checks), ("ratings", checks)):
            land(lake, source, part, f"{source}-{day}")


@contextmanager
def watched() -> Iterator[Peak]:
    """The highest memory of this process and those below it."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(SECONDS):
            own, below = psutil.Process(), []
            for process in own.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if process.name() != "rclone":  # the store's server is no part of the build
                        below.append(_private(process))
            peak.own, peak.worker = max(peak.own, _private(own)), max([peak.worker, *below])
            peak.together = max(peak.together, _private(own) + sum(below))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _private(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def built(rows: int, rate: int, keys: int) -> tuple[BuiltFeatures, Peak, float, float]:
    """A full build of so many rows: what it says, its memory, its CPU and wall seconds."""
    days = round(rows / rate)
    with lakehouse() as lake:
        lander = multiprocessing.get_context("spawn").Process(target=land_days, args=(lake, days, rate, keys))
        lander.start()
        lander.join()
        if lander.exitcode:
            raise RuntimeError(f"landing {rows:,} payments ended with {lander.exitcode}")
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            asked = BuildRequest(lake=lake, pipeline="payments", as_of=FIRST + days * DAY, pipelines=FOLDER)
            cpu = TreeCpu()
            spent, began = cpu.total(), time.perf_counter()
            with watched() as peak:
                done = build(asked)
            return done, peak, cpu.total() - spent, time.perf_counter() - began
        finally:
            ray.shutdown()


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 9_000_000])
    parser.add_argument("--rate", type=int, default=222_222, help="payments a day")
    parser.add_argument("--keys", type=int, default=100_000)
    asked = parser.parse_args()
    print(f"{asked.rate:,} payments a day of {asked.keys:,} accounts; MB that a process has for itself, at most")
    print("| days | rows built | largest worker | the build's own process | all together | CPU s | wall s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for rows in asked.rows:
        done, peak, cpu, wall = built(rows, asked.rate, asked.keys)
        memory = " | ".join(f"{part / 1e6:,.0f}" for part in (peak.worker, peak.own, peak.together))
        print(f"| {round(rows / asked.rate)} | {done.rows:,} | {memory} | {cpu:.0f} | {wall:.0f} |", flush=True)


if __name__ == "__main__":
    main()
