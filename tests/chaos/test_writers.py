"""Many writers on one table, and readers who look all the time: every commit lands once, no batch is ever half there."""

import threading
import time
from collections import Counter
from multiprocessing.context import ForkServerProcess
from random import Random

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table, write_files
from tests.chaos.conftest import LONG, PATIENCE, LakeOn, Tally, catalogs
from tests.chaos.runs import spawn
from tests.chaos.world import Findings

ROWS = pa.schema([("batch", pa.string()), ("number", pa.int64()), ("checked", pa.bool_())])
HALF = 5  # rows of each of a batch's two files


def write(lake: Lake, writer: int, commits: int) -> None:
    """Commit batches of two files of good rows; their broken row is written beside them and never named."""
    table = lake.catalog().load_table(lake.table("shop", "numbers"))
    for number in range(commits):
        key = f"{writer}-{number}"
        files = [file for half in range(2) for file in write_files(table, _rows(key, half * HALF, True), key)]
        write_files(table, _rows(key, 2 * HALF, False), key)
        append_once(lake, lake.table("shop", "numbers"), files, key)


def _rows(key: str, first: int, checked: bool) -> pa.Table:
    rows = [{"batch": key, "number": first + n, "checked": checked} for n in range(HALF)]
    return pa.Table.from_pylist(rows, ROWS)


def read_until(stop: threading.Event, lake: Lake, seen: list[str]) -> None:
    """Read the table over and over; what is wrong with a read is noted."""
    catalog = load_catalog("perennial", **lake.catalog_settings())
    while not stop.is_set():
        try:
            rows = catalog.load_table(lake.table("shop", "numbers")).scan().to_arrow()
        except FileNotFoundError as error:  # a metadata file that fifty commits have made obsolete meanwhile
            seen.append(f"gone: {error}")
            continue
        counts = Counter(rows["batch"].to_pylist())
        seen += [f"half: {batch} has {count} rows" for batch, count in counts.items() if count != 2 * HALF]
        seen += ["unchecked"] * (len(rows) - sum(rows["checked"].to_pylist()))
        seen.append("read")
        time.sleep(0.02)  # the writers want the processor too


@pytest.mark.timeout(1800 * PATIENCE)
@pytest.mark.parametrize("catalog", catalogs("sqlite"))
@pytest.mark.parametrize(("writers", "commits"), [(2, 200), (8, 50)] if LONG else [(3, 6)])
def test_commits_with_readers_at_work(
    writers: int, commits: int, catalog: str, lake_on: LakeOn, random: Random, tally: Tally
) -> None:
    lake = lake_on(catalog)
    ensure_table(lake, lake.table("shop", "numbers"), ROWS)
    stop, seen = threading.Event(), list[str]()
    readers = [threading.Thread(target=read_until, args=(stop, lake, seen)) for _ in range(2)]
    for reader in readers:
        reader.start()
    children: list[ForkServerProcess] = [spawn(write, lake, number, commits) for number in range(writers)]
    for child in children:
        child.join()
    stop.set()
    for reader in readers:
        reader.join()
    assert [child.exitcode for child in children] == [0] * writers
    rows = lake.catalog().load_table(lake.table("shop", "numbers")).scan().to_arrow()
    counts = Counter(rows["batch"].to_pylist())
    wanted = Counter({f"{writer}-{n}": 2 * HALF for writer in range(writers) for n in range(commits)})
    tally.rounds = writers * commits - 1
    wrong = [what for what in seen if what != "read"]
    tally.what += f", {seen.count('read')} reads"
    assert not wrong, wrong[:5]
    tally.add(0, Findings((wanted - counts).total(), (counts - wanted).total(), 0))
