"""Compaction and retention on Ray, beside writers: rows before and after are the same multiset, but for those past their time."""

import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count

import pyarrow as pa
import pytest
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.types import LongType

from perennial.lakehouse.commit import append_once, replace_once, rewrite_once
from perennial.lakehouse.condemned import FilesGone
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.rewrite import RowsDiffer, rewrite
from perennial.lakehouse.tables import Identifier, ensure_table, read_snapshot, write_files
from ray_jobs.maintain.rewrite import RewriteRequest, Rewritten, rewrite_table

EVENTS = pa.schema([("number", pa.int32()), ("words", pa.list_(pa.string())), ("at", pa.timestamp("us", "UTC"))])
START = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def events(lake: Lake) -> Identifier:
    """A table with six batches of ten events, one event a day from 1 May 2024, each third one doubled."""
    identifier = lake.table("shop", "raw_events")
    ensure_table(lake, identifier, EVENTS)
    for batch in range(6):
        append_once(lake, identifier, rows(batch * 10, 10), f"batch-{batch}")
    return identifier


def rows(first: int, days: int) -> pa.Table:
    """One event a day, and one more every third day; one without a time in each batch."""
    numbers = [n for day in range(first, first + days) for n in ([day, day] if day % 3 == 0 else [day])]
    columns = [numbers, [["a", str(n)] for n in numbers], [START + timedelta(days=n) for n in numbers[:-1]] + [None]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, EVENTS, strict=True)], schema=EVENTS)


def stored(lake: Lake, identifier: Identifier) -> Counter[tuple[object, ...]]:
    """The table's rows as a multiset."""
    read = read_snapshot(lake, identifier).to_pylist()
    return Counter((row["number"], tuple(row["words"]), row["at"]) for row in read)


def files(lake: Lake, identifier: Identifier) -> list[int]:
    """Rows of each live data file."""
    return sorted(task.file.record_count for task in lake.catalog().load_table(identifier).scan().plan_files())


def request(lake: Lake, identifier: Identifier, cutoff: datetime | None = None) -> RewriteRequest:
    """What is asked of the job."""
    column = "at" if cutoff else None
    return RewriteRequest(lake=lake, namespace=identifier[0], table=identifier[1], column=column, cutoff=cutoff)


def test_small_files_become_one_and_no_row_changes(lake: Lake, ray_head: str, events: Identifier) -> None:
    before = stored(lake, events)
    assert rewrite_table(request(lake, events)) == Rewritten(files_before=6, files_after=1)
    assert files(lake, events) == [sum(before.values())]
    assert stored(lake, events) == before
    assert rewrite_table(request(lake, events)) == Rewritten()


def test_files_come_near_their_target_size(lake: Lake, ray_head: str) -> None:
    identifier, noise = lake.table("shop", "raw_noise"), random.Random(7)
    ensure_table(lake, identifier, pa.schema([("number", pa.int64())]))
    for batch in range(12):
        numbers = [noise.randrange(2**62) for _ in range(2400)]
        append_once(lake, identifier, pa.table({"number": numbers}), f"batch-{batch}")
    target = 100_000
    rewrite_table(request(lake, identifier).model_copy(update={"target_bytes": target}))
    sizes = [task.file.file_size_in_bytes for task in lake.catalog().load_table(identifier).scan().plan_files()]
    assert sum(sizes) > 2 * target
    assert all(0.5 * target < size < 1.1 * target for size in sizes[:-1])


def test_rows_appended_while_files_are_compacted_stay(lake: Lake, ray_head: str, events: Identifier) -> None:
    before = stored(lake, events)
    stop, written, torn = threading.Event(), Counter(before), []

    def write() -> None:
        for number in count(100):
            if stop.wait(0.5):  # a writer that commits without a pause leaves nobody else a turn
                return
            append_once(lake, events, rows(number, 1), f"writer-{number}")
            written.update((r["number"], tuple(r["words"]), r["at"]) for r in rows(number, 1).to_pylist())

    def read() -> None:
        while not stop.is_set():
            seen = stored(lake, events)
            if before - seen:  # a reader saw a table without some of the rows that were always there
                torn.append(before - seen)

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        done = [rewrite_table(request(lake, events)) for _ in range(3)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert done[0].files_before >= 6
    assert not torn
    assert stored(lake, events) == written


def test_files_that_others_replaced_meanwhile_are_not_brought_back(lake: Lake, events: Identifier) -> None:
    table = lake.catalog().load_table(events)
    old = [task.file for task in table.scan().plan_files()]
    new = rewrite(table, old)
    replace_once(lake, events, write_files(table, rows(200, 1), "replaced"), "replaced")
    with pytest.raises(FilesGone, match="Nothing was changed; plan again"):
        rewrite_once(lake, events, old, new, "late")
    assert sum(stored(lake, events).values()) == len(rows(200, 1))


def test_rows_past_their_time_go_and_rows_without_a_time_stay(lake: Lake, ray_head: str, events: Identifier) -> None:
    before = stored(lake, events)
    cutoff = START + timedelta(days=25)
    done = rewrite_table(request(lake, events, cutoff))
    left = Counter({row: n for row, n in before.items() if row[2] is None or row[2] >= cutoff})  # type: ignore[operator]
    assert stored(lake, events) == left
    assert done.dropped_rows == sum(before.values()) - sum(left.values())
    assert rewrite_table(request(lake, events, cutoff)) == Rewritten()


def test_a_file_all_of_whose_rows_are_past_their_time_is_not_read(lake: Lake) -> None:
    identifier = lake.table("shop", "raw_timed")
    ensure_table(lake, identifier, EVENTS)
    timed = rows(0, 10).slice(0, 10)  # each has a time
    append_once(lake, identifier, timed, "old")
    append_once(lake, identifier, rows(100, 1), "new")
    for task in lake.catalog().load_table(identifier).scan("number < 50").plan_files():
        lake.files().rm_file(task.file.file_path)
    done = rewrite_table(request(lake, identifier, START + timedelta(days=50)))
    assert (done.dropped_rows, sum(stored(lake, identifier).values())) == (10, len(rows(100, 1)))


def test_files_written_before_a_column_came_or_widened_are_compacted(
    lake: Lake, ray_head: str, events: Identifier
) -> None:
    table: Table = lake.catalog().load_table(events)
    with table.update_schema() as update:
        update.update_column("number", field_type=LongType())
    wider = pa.schema([("number", pa.int64()), *list(EVENTS)[1:], ("colour", pa.string())])
    ensure_table(lake, events, wider)
    append_once(lake, events, rows(60, 1).append_column("colour", pa.array(["red"] * len(rows(60, 1)))), "red")
    before = stored(lake, events)
    assert rewrite_table(request(lake, events)).files_after == 1
    assert stored(lake, events) == before
    colours = Counter(read_snapshot(lake, events)["colour"].to_pylist())
    assert colours == {None: sum(before.values()) - len(rows(60, 1)), "red": len(rows(60, 1))}


def test_rows_lost_on_the_way_stop_the_rewriting(lake: Lake, events: Identifier) -> None:
    table = lake.catalog().load_table(events)
    old = [task.file for task in table.scan().plan_files()]
    lying = DataFile.from_args(
        file_path=old[0].file_path, file_format=old[0].file_format, record_count=old[0].record_count + 1
    )
    lying.spec_id = 0
    with pytest.raises(RowsDiffer, match=r"rows of 6 files"):
        rewrite(table, [lying, *old[1:]])
