"""Deletion: everything that nobody needs, nothing that anybody needs, with writers at work.

Time passes by writing objects again with an earlier time.
"""

import threading
import uuid
from datetime import UTC, datetime, timedelta
from itertools import count

import pyarrow as pa
import pytest
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once, expire_snapshots, replace_once
from perennial.lakehouse.condemned import FilesGone
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.leftovers import delete_leftovers, find_leftovers, note_state
from perennial.lakehouse.staging import stage_files, staged_files
from perennial.lakehouse.tables import ensure_table, read_snapshot, write_files
from perennial.lakehouse.uploads import abandoned_uploads, abort_uploads

NUMBERS = pa.schema([("number", pa.int64())])
DAYS = timedelta(days=1)


@pytest.fixture
def numbers(lake: Lake) -> tuple[str, str]:
    """A table with two batches, whose state was noted three days ago."""
    identifier = lake.table("shop", "raw_numbers")
    ensure_table(lake, identifier, NUMBERS)
    for number in range(2):
        append_once(lake, identifier, rows(number), f"batch-{number}")
    note_state(lake, identifier, now() - 3 * DAYS)
    return identifier


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def rows(*values: int) -> pa.Table:
    """Numbers."""
    return pa.table({"number": list(values)}, NUMBERS)


def stored(lake: Lake, identifier: tuple[str, str]) -> list[int]:
    """The numbers in the table."""
    return sorted(read_snapshot(lake, identifier)["number"].to_pylist())


def staged(lake: Lake, table: Table, batch: str, *values: int) -> list[str]:
    """A batch whose files are written and named, and not committed; all its objects."""
    files = write_files(table, rows(*values), batch)
    return [stage_files(lake, table, files, batch), *(file.file_path for file in files)]


def age(lake: Lake, objects: list[str], by: timedelta) -> None:
    """Make objects as old as this: the server takes an object's time from its metadata."""
    for path in objects:
        content = lake.files().cat_file(path)
        lake.files().pipe_file(path, content, Metadata={"mtime": str((now() - by).timestamp())})


def sweep(lake: Lake, identifier: tuple[str, str]) -> set[str]:
    """Find and delete what is left over; return what was found."""
    found = find_leftovers(lake, [identifier], now())
    assert delete_leftovers(lake, [identifier], found, now()) == len(found)
    return {left.path for left in found}


def test_all_that_killed_runs_left_goes_and_nothing_else_with_writers_at_work(
    lake: Lake, numbers: tuple[str, str]
) -> None:
    table = lake.catalog().load_table(numbers)
    killed = [path for number in range(3) for path in staged(lake, table, f"killed-{number}", 100 + number)]
    killed += [file.file_path for file in write_files(table, rows(200), "killed-unnamed")]
    strays = [
        f"{table.location()}/metadata/{uuid.uuid4()}-m0.avro",
        lake.uri("positions/shop/numbers/old.parquet"),
        lake.uri("results/shop/numbers/old.json"),
        lake.uri("staging/killed-0/old.fingerprints.parquet"),  # beside manifests lies what is none
    ]
    for path in strays:
        lake.files().pipe_file(path, b"left")
    age(lake, [*killed, *strays], 5 * DAYS)
    live = staged(lake, table, "live", 300)
    stop, written = threading.Event(), []

    def write() -> None:
        for number in count(1000):
            if stop.is_set():
                return
            append_once(lake, numbers, rows(number), f"writer-{number}")
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        deleted = sweep(lake, numbers)
    finally:
        stop.set()
        writer.join()
    assert deleted == {*killed, *strays}
    assert written
    assert stored(lake, numbers) == [0, 1, *written]
    append_once(lake, numbers, staged_files(table, live[:1]), "live")
    assert stored(lake, numbers) == [0, 1, 300, *written]
    assert sweep(lake, numbers) == set()


def test_a_batch_written_to_lately_is_open_however_old_its_first_files(lake: Lake, numbers: tuple[str, str]) -> None:
    table = lake.catalog().load_table(numbers)
    first = staged(lake, table, "slow", 10)
    age(lake, first, 5 * DAYS)
    second = staged(lake, table, "slow", 11)
    assert sweep(lake, numbers) == set()
    append_once(lake, numbers, staged_files(table, [first[0], second[0]]), "slow")
    assert stored(lake, numbers) == [0, 1, 10, 11]


def test_what_an_outbox_names_is_kept_until_it_is_finished(lake: Lake, numbers: tuple[str, str]) -> None:
    quarantine = lake.table("shop", "quarantine")
    table = ensure_table(lake, quarantine, NUMBERS)
    note_state(lake, quarantine, now() - 3 * DAYS)
    waiting = staged(lake, table, "refused", 7)
    age(lake, waiting, 5 * DAYS)
    append_once(lake, numbers, [], "empty", properties={"perennial.outbox": f"refused {waiting[0]}"})
    assert sweep(lake, quarantine) == set()
    append_once(lake, quarantine, staged_files(table, waiting[:1]), "refused")
    append_once(lake, numbers, [], "next", properties={"perennial.outbox": "next"})
    assert sweep(lake, quarantine) == set(waiting[:1])
    assert stored(lake, quarantine) == [7]


def test_files_of_an_expired_snapshot_stay_as_long_as_a_reader_may_hold_it(
    lake: Lake, numbers: tuple[str, str]
) -> None:
    table = lake.catalog().load_table(numbers)
    before = [task.file.file_path for task in table.scan().plan_files()]
    replace_once(lake, numbers, write_files(table, rows(5), "new"), "new")
    assert expire_snapshots(lake, numbers, now() + DAYS, keep=1) == 2
    age(lake, before, 5 * DAYS)
    assert sweep(lake, numbers) == set()  # the note of three days ago knows them
    for name in lake.files().find(lake.uri("maintenance/notes")):
        lake.files().rm_file(name)
    note_state(lake, numbers, now() + DAYS)
    gone = find_leftovers(lake, [numbers], now() + 3 * DAYS)
    assert {left.path for left in gone} >= set(before)
    assert delete_leftovers(lake, [numbers], gone, now()) == len(gone)
    assert stored(lake, numbers) == [5]


def test_the_files_of_a_table_whose_name_begins_alike_are_not_this_ones(lake: Lake, numbers: tuple[str, str]) -> None:
    longer = (numbers[0], f"{numbers[1]}_more")
    table = ensure_table(lake, longer, NUMBERS)
    age(lake, [file.file_path for file in write_files(table, rows(1), "killed")], 5 * DAYS)
    assert find_leftovers(lake, [numbers], now()) == []


def test_a_table_that_was_never_noted_is_left_alone(lake: Lake) -> None:
    identifier = lake.table("shop", "raw_new")
    table = ensure_table(lake, identifier, NUMBERS)
    age(lake, [file.file_path for file in write_files(table, rows(1), "killed")], 5 * DAYS)
    assert find_leftovers(lake, [identifier], now()) == []


def test_a_writer_that_slept_through_a_sweep_does_not_publish_deleted_files(
    lake: Lake, numbers: tuple[str, str]
) -> None:
    table = lake.catalog().load_table(numbers)
    objects = staged(lake, table, "sleeper", 9)
    in_its_hands = staged_files(table, objects[:1])
    age(lake, objects, 5 * DAYS)
    asleep = iter(["once"])

    def sleep(table: Table) -> None:
        for _ in asleep:  # stopped between looking and committing, on the first attempt
            assert sweep(lake, numbers) == set(objects)

    with pytest.raises(FilesGone, match=r"unpublished for longer than a sweep waits. Nothing was committed"):
        append_once(lake, numbers, in_its_hands, "sleeper", expect=sleep)
    assert stored(lake, numbers) == [0, 1]


def test_requests_and_results_of_jobs_go_a_week_later(lake: Lake, numbers: tuple[str, str]) -> None:
    old, young = (lake.uri(f"jobs/{name}/{what}.json") for name, what in (("a-1", "request"), ("b-1", "result")))
    for path in (old, young):
        lake.files().pipe_file(path, b"{}")
    age(lake, [old], 8 * DAYS)
    age(lake, [young], 6 * DAYS)
    assert [(left.kind, left.path) for left in find_leftovers(lake, [numbers], now())] == [("job", old)]
    assert sweep(lake, numbers) == {old}
    assert lake.files().exists(young)


def test_uploads_that_never_ended_are_aborted_once_they_are_old(lake: Lake) -> None:
    assert abandoned_uploads(lake, now() + 2 * DAYS) == []
    key = lake.uri("warehouse/big.parquet").removeprefix(f"s3://{lake.bucket}/")
    lake.files().call_s3("create_multipart_upload", Bucket=lake.bucket, Key=key)
    assert abandoned_uploads(lake, now()) == []
    old = abandoned_uploads(lake, now() + 2 * DAYS)
    assert [left.path.split("?")[0] for left in old] == [f"s3://{lake.bucket}/{key}"]
    assert abort_uploads(lake, old) == 1
    assert abort_uploads(lake, old) == 1
    assert abandoned_uploads(lake, now() + 2 * DAYS) == []
