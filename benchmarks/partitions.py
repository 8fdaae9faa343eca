"""What an append to a hundred day partitions costs beside the same rows appended to a table without: files and commit.

make bench-commits
"""

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime

import numpy as np
import polars as pl
import psutil

from benchmarks.place import lakehouse
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.data_files import DataFiles
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.partition import partition_by_day
from perennial.lakehouse.tables import Identifier, ensure_table

DAYS = 100
ROUNDS = 5
START = datetime(2024, 1, 1, tzinfo=UTC)


def orders(rows: int) -> pl.DataFrame:
    """Orders of a hundred days in no order: an id, five numbers, five words, an instant."""
    chance = np.random.default_rng(1)
    words = np.array([f"word {number}" for number in range(1000)])
    seconds = pl.Series(chance.integers(0, DAYS * 86_400, rows))
    columns = {f"number_{n}": chance.normal(50, 20, rows).round(2) for n in range(5)}
    columns |= {f"word_{n}": words[chance.integers(0, len(words), rows)] for n in range(5)}
    at = pl.lit(START).cast(pl.Datetime("us", "UTC")) + pl.duration(seconds=seconds)
    return pl.DataFrame({"order_id": np.arange(rows), **columns}).with_columns(at=at)


def append(lake: Lake, identifier: Identifier, rows: pl.DataFrame, key: str) -> dict[str, float]:
    """Milliseconds of CPU and wall of one append, and its files."""
    cpu, wall = time.process_time(), time.perf_counter()
    files = DataFiles(lake.catalog().load_table(identifier), key)
    files.add(rows)
    written = files.close()
    append_once(lake, identifier, written, key)
    assert sum(file.record_count for file in written) == len(rows)
    return {
        "cpu_ms": (time.process_time() - cpu) * 1000,
        "wall_ms": (time.perf_counter() - wall) * 1000,
        "files": len(written),
    }


def compare(lake: Lake, count: int) -> dict[str, object]:
    """Medians of both kinds of append, one after the other in each round, and their ratio."""
    rows, tables = orders(count), {}
    for name, column in (("plain", None), ("days", "at")):
        tables[name] = lake.table("bench", f"{name}_{count}")
        partition_by_day(lake, ensure_table(lake, tables[name], rows.to_arrow().schema), column)
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in tables}
    for turn in range(ROUNDS + 1):
        for name, identifier in tables.items():
            costs[name].append(append(lake, identifier, rows, f"batch {turn}"))
    medians = {
        name: {kind: statistics.median(cost[kind] for cost in found[1:]) for kind in found[0]}  # the first one warms up
        for name, found in costs.items()
    }
    ratio = {kind: medians["days"][kind] / medians["plain"][kind] for kind in ("cpu_ms", "wall_ms")}
    return {"rows": count, **medians, "ratio": ratio}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000, 3_000_000])
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, {DAYS} days, 12 columns, medians of {ROUNDS} rounds")
    with lakehouse() as lake:
        for count in arguments.rows:
            found = compare(lake, count)
            for name in ("plain", "days"):
                cost = found[name]
                assert isinstance(cost, dict)
                print(
                    f"{count:>10,} rows, {name:<6} {cost['files']:>4.0f} files "
                    f"{cost['cpu_ms']:8.0f} ms CPU {cost['wall_ms']:8.0f} ms wall"
                )
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
