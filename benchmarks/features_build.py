"""A build of one percent new rows beside the full build before it: Ray, Iceberg and S3, as `build_features` runs them.

Payments of ninety days land in batches of five percent, as an ingest leaves them; all features are built; one percent more
lands, and they are built again. CPU of the whole process tree, what Ray takes by itself included. The result is compared
with a full build of everything. Run it with `make bench-features-build` (ROWS=1000000).
"""

import argparse
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import polars as pl
import psutil
import ray

from benchmarks.features import payments
from benchmarks.place import lakehouse
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.data_files import DataFiles
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.tables import ensure_table, read_snapshot
from perennial.spec.load import load_pipeline
from ray_jobs.features.build import BuildRequest, BuiltFeatures, build

FOLDER = Path(__file__).parent / "pipelines"
BATCHES = 20


def land(lake: Lake, source: str, rows: pl.DataFrame, batch: str) -> None:
    """Rows stand in a raw table, as if a batch had brought them."""
    declared = load_pipeline("payments", FOLDER).source(source)
    identifier, schema = raw_table(lake, "payments", source), raw_schema(declared)
    ensure_table(lake, identifier, schema)
    full = rows.with_columns(
        _source=pl.lit(source),
        _batch_id=pl.lit(batch),
        _committed_at=pl.col("_known_at"),
        _contract_version=pl.lit("1"),
        _position=pl.format("{}#{}", pl.lit(batch), pl.int_range(pl.len())),
        _repaired_at=pl.lit(None, pl.Datetime("us", "UTC")),
    )
    files = DataFiles(lake.catalog().load_table(identifier), batch)
    files.add(full.select(schema.names))
    append_once(lake, identifier, files.close(), batch)


class TreeCpu:
    """CPU seconds of this process and all below it, looked at often: Ray stops idle workers, and takes theirs along."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def total(self) -> float:
        """So far."""
        self._look()
        return sum(self._seconds.values())

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.2)

    def _look(self) -> None:
        with self._lock:
            me = psutil.Process()
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system


def timed(cpu: TreeCpu, name: str, run: Callable[[], BuiltFeatures]) -> float:
    """CPU seconds of a build, and a line about it."""
    began, wall = cpu.total(), time.perf_counter()
    built = run()
    used = cpu.total() - began
    print(f"| {name} | {built.rebuilt_rows:,} | {used:.1f} | {time.perf_counter() - wall:.1f} |", flush=True)
    return used


def main() -> None:
    """Land, build, land more, build again, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--new", type=float, default=0.01, help="share of the rows that come after the first build")
    asked = parser.parse_args()
    rows, checks = payments(asked.rows)
    rows = rows.with_columns(refused=pl.col("payment") % 7 == 0)
    first = int(len(rows) * (1 - asked.new))
    moments: list[datetime] = [rows["at"][first - 1], rows["at"][-1]]
    with lakehouse() as lake:
        for number in range(BATCHES):
            cut = slice(number * first // BATCHES, (number + 1) * first // BATCHES)
            land(lake, "payments", rows[cut], f"payments-{number}")
        for source in ("checks", "ratings"):
            land(lake, source, checks.filter(pl.col("_known_at") <= moments[0]), f"{source}-0")
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False

        def built(as_of: datetime, place: Lake) -> BuiltFeatures:
            return build(BuildRequest(lake=place, pipeline="payments", as_of=as_of, pipelines=FOLDER))

        cpu = TreeCpu()
        print("| build | rows built | CPU s | wall s |\n| --- | ---: | ---: | ---: |")
        full = timed(cpu, "full", lambda: built(moments[0], lake))
        land(lake, "payments", rows[first:], "payments-new")
        for source in ("checks", "ratings"):
            land(lake, source, checks.filter(pl.col("_known_at") > moments[0]), f"{source}-new")
        new = timed(cpu, f"{asked.new:.0%} new", lambda: built(moments[1], lake))
        print(f"\nthe second costs {new / full:.1%} of the first")
        identifier = lake.table("payments", "features")
        stood = pl.DataFrame(pl.from_arrow(read_snapshot(lake, identifier))).sort("payment")
        lake.catalog().drop_table(identifier)
        timed(cpu, "full, of everything", lambda: built(moments[1], lake))
        again = pl.DataFrame(pl.from_arrow(read_snapshot(lake, identifier))).sort("payment")
        assert stood.equals(again.select(stood.columns)), "both builds must say the same"
        ray.shutdown()


if __name__ == "__main__":
    main()
