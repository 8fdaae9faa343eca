"""What a small commit costs after ten and after 500 of them: CPU of this process, wall time, size of the metadata.

make bench-commits
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import psutil
import pyarrow as pa

from benchmarks.place import lakehouse
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table

ROWS = 100
WINDOW = 20  # commits up to the named one, so that a merge of manifests, every twentieth, is in the last figure
SCHEMA = pa.schema([("number", pa.int64()), ("word", pa.string()), ("_known_at", pa.timestamp("us", "UTC"))])

Cost = tuple[float, float]


def append_ours(lake: Lake, commits: int) -> list[Cost]:
    """CPU and wall milliseconds of each commit through the committer."""
    identifier = lake.table("bench", "ours")
    ensure_table(lake, identifier, SCHEMA)
    return _timed(commits, lambda number: append_once(lake, identifier, _rows(number), f"batch-{number}"))


def append_plain(lake: Lake, commits: int) -> list[Cost]:
    """The same through pyiceberg's `append` with its defaults."""
    catalog = lake.catalog()
    catalog.create_namespace_if_not_exists("plain")
    catalog.create_table("plain.plain", SCHEMA)
    return _timed(commits, lambda number: catalog.load_table("plain.plain").append(_rows(number)))


def describe(name: str, costs: list[Cost], commits: int) -> list[dict[str, object]]:
    """Mean CPU and wall of the commits about the 10th, half way and at the end, and their ratio to the 10th's."""
    rows: list[dict[str, object]] = []
    for at in (10, commits // 2, commits):
        window = costs[5:15] if at == 10 else costs[at - WINDOW : at]
        cpu, wall = (statistics.mean(cost[kind] for cost in window) for kind in (0, 1))
        first = rows[0] if rows else {"cpu_ms": cpu, "wall_ms": wall}
        ratio = (cpu / float(str(first["cpu_ms"])), wall / float(str(first["wall_ms"])))
        rows.append({"what": name, "commit": at, "cpu_ms": cpu, "wall_ms": wall, "ratio": ratio})
    return rows


def _timed(commits: int, commit: Callable[[int], object]) -> list[Cost]:
    costs = []
    for number in range(commits):
        cpu, wall = time.process_time(), time.perf_counter()
        commit(number)
        costs.append(((time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000))
    return costs


def _rows(number: int) -> pa.Table:
    numbers = range(number * ROWS, (number + 1) * ROWS)
    columns = [list(numbers), [f"word {n % 7}" for n in numbers], [n * 1_000_000 for n in numbers]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=500)
    parser.add_argument("--catalog", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--plain", action="store_true", help="measure pyiceberg's own append too")
    arguments = parser.parse_args()
    with lakehouse(arguments.catalog) as lake:
        append_plain(lake, 10)  # imports, connections, code paths
        lake.catalog().drop_table("plain.plain")
        results = describe("committer", append_ours(lake, arguments.commits), arguments.commits)
        if arguments.plain:
            results += describe("pyiceberg append", append_plain(lake, arguments.commits), arguments.commits)
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, {arguments.catalog}, {ROWS} rows a commit")
    for row in results:
        cpu, wall = row["ratio"]  # type: ignore[misc]
        print(
            f"{row['what']:<18} {row['commit']:>5} {row['cpu_ms']:8.1f} ms CPU ({cpu:.2f}) {row['wall_ms']:8.1f} ms ({wall:.2f})"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
