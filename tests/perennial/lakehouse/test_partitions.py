"""Rows of each day in files of their own, on a real catalog and S3: declared at any time, and no row lost on the way."""

import random
import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from perennial.lakehouse import data_files
from perennial.lakehouse.commit import PartitionsChanged, append_once, rewrite_once
from perennial.lakehouse.data_files import DataFiles
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.partition import partition_by_day
from perennial.lakehouse.raw import ensure_raw, raw_table
from perennial.lakehouse.rewrite import plan_compaction, plan_retention, rewrite
from perennial.lakehouse.staging import stage_files, staged_files
from perennial.lakehouse.tables import Identifier, ensure_table, read_snapshot, write_files
from perennial.spec import load_pipeline
from tests.readers import daft_rows
from tests.shop import FILE, write_shop

EVENTS = pa.schema([("number", pa.int64()), ("word", pa.string()), ("at", pa.timestamp("us", "UTC"))])
START = datetime(2024, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def events(lake: Lake) -> Identifier:
    """A table of events, partitioned by day."""
    identifier = lake.table("shop", "raw_events")
    partition_by_day(lake, ensure_table(lake, identifier, EVENTS), "at")
    return identifier


def rows(first: int, count: int, days: int = 3) -> pa.Table:
    """Events of `days` days in no order; each tenth tells no time."""
    numbers = range(first, first + count)
    at = [None if n % 10 == 9 else START + n % days * DAY + timedelta(seconds=n) for n in numbers]
    columns: list[list[object]] = [list(numbers), [f"word {n % 7}" for n in numbers], list(at)]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, EVENTS, strict=True)], schema=EVENTS)


def loaded(lake: Lake, identifier: Identifier) -> Table:
    return lake.catalog().load_table(identifier)


def live(lake: Lake, identifier: Identifier) -> list[DataFile]:
    return [task.file for task in loaded(lake, identifier).scan().plan_files()]


def days_in(lake: Lake, file: DataFile) -> set[object]:
    """The days of the events in a file."""
    table = pl.read_parquet(lake.arrow_files().open_input_file(file.file_path.removeprefix("s3://")).read())
    return set(table["at"].dt.date().to_list())


def numbers_in(lake: Lake, identifier: Identifier) -> Counter[int]:
    return Counter(read_snapshot(lake, identifier)["number"].to_pylist())


def test_each_file_has_the_rows_of_one_day(lake: Lake, events: Identifier) -> None:
    append_once(lake, events, rows(0, 100), "a")
    found = [days_in(lake, file) for file in live(lake, events)]
    assert sorted(map(str, found)) == sorted(map(str, [{(START + n * DAY).date()} for n in range(3)] + [{None}]))
    assert numbers_in(lake, events) == Counter(range(100))


def test_another_engine_reads_them(lake: Lake, events: Identifier) -> None:
    words = pa.array([secrets.token_hex(16) for _ in range(60_000)])  # daft reads no small files from this server
    append_once(
        lake, events, rows(0, 60_000, days=2).set_column(1, "word", words).filter(pc.field("at").is_valid()), "a"
    )
    partition_by_day(lake, loaded(lake, events), None)
    append_once(lake, events, rows(0, 60_000).set_column(1, "word", words), "b")
    read = daft_rows(lake, events)
    assert (len(read), read["word"].n_unique()) == (114_000, 60_000)


def test_a_reader_of_one_day_opens_its_files_only(lake: Lake, events: Identifier) -> None:
    append_once(lake, events, rows(0, 100), "a")
    wanted = And(
        GreaterThanOrEqual("at", START.isoformat()),
        LessThan("at", (START + DAY).isoformat()),
    )
    (task,) = loaded(lake, events).scan(row_filter=wanted).plan_files()
    assert days_in(lake, task.file) == {START.date()}


def test_a_day_is_one_file_however_small_the_blocks_are(lake: Lake, events: Identifier) -> None:
    files = DataFiles(loaded(lake, events), "a")
    for first in range(0, 1000, 10):
        files.add(rows(first, 10))
    assert sorted(file.record_count for file in files.close()) == [100, 300, 300, 300]


@pytest.mark.parametrize("partitioned", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_lost_doubled_or_moved_whatever_the_sizes(
    lake: Lake, events: Identifier, seed: int, partitioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{seed} {partitioned}")
    monkeypatch.setattr(data_files, "BUFFER_BYTES", chance.choice([1, 5_000, 200_000]))
    monkeypatch.setattr(data_files, "IN_MEMORY_BYTES", chance.choice([0, 3_000]))
    monkeypatch.setattr(data_files, "MEMORY_BYTES", chance.choice([0, 10_000, 10**6]))
    monkeypatch.setattr(data_files, "OPEN_FILES", chance.choice([0, 2, 100]))
    table = loaded(lake, events) if partitioned else partition_by_day(lake, loaded(lake, events), None)
    files = DataFiles(table, "a", target_bytes=chance.choice([1, 4_000, 10**6]))
    first = 0
    for _ in range(chance.randint(1, 20)):
        count = chance.randint(0, 300)
        files.add(rows(first, count, days=12))
        first += count
    written = files.close()
    append_once(lake, events, written, "a")
    assert numbers_in(lake, events) == Counter(range(first))
    assert all(len(days_in(lake, file)) == 1 for file in written) or not partitioned


def test_a_table_that_was_not_partitioned_goes_on_and_its_small_files_come_along(lake: Lake) -> None:
    identifier = lake.table("shop", "raw_events")
    ensure_table(lake, identifier, EVENTS)
    for batch in range(6):
        append_once(lake, identifier, rows(batch * 100, 100), f"before-{batch}")
    partition_by_day(lake, loaded(lake, identifier), "at")
    append_once(lake, identifier, rows(600, 100), "after")
    assert numbers_in(lake, identifier) == Counter(range(700))
    table = loaded(lake, identifier)
    (old,) = plan_compaction(table, data_files.TARGET_BYTES)
    rewrite_once(lake, identifier, old, rewrite(table, old), "compact")
    assert numbers_in(lake, identifier) == Counter(range(700))
    assert {file.spec_id for file in live(lake, identifier)} == {table.spec().spec_id}
    assert all(len(days_in(lake, file)) == 1 for file in live(lake, identifier))


def test_a_table_can_be_partitioned_and_not_and_again(lake: Lake, events: Identifier) -> None:
    for turn, column in enumerate([None, "at", None, "at"]):
        append_once(lake, events, rows(turn * 10, 10), f"batch-{turn}")
        partition_by_day(lake, loaded(lake, events), column)
    append_once(lake, events, rows(40, 10), "last")
    assert numbers_in(lake, events) == Counter(range(50))
    assert len(loaded(lake, events).spec().fields) == 1


def test_several_that_partition_it_at_once_all_succeed(any_lake: Lake) -> None:
    identifier = any_lake.table("shop", "raw_events")
    ensure_table(any_lake, identifier, EVENTS)
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: partition_by_day(any_lake, loaded(any_lake, identifier), "at"), range(4)))
    assert [len(table.spec().fields) for table in tables] == [1] * 4
    assert len(loaded(any_lake, identifier).specs()) == 2


def test_files_that_were_written_for_other_partitions_are_refused(lake: Lake, events: Identifier) -> None:
    table = loaded(lake, events)
    manifest = stage_files(lake, table, write_files(table, rows(0, 10), "a"), "a")
    partition_by_day(lake, table, None)
    files = staged_files(loaded(lake, events), [manifest])
    assert len(files) == 4
    with pytest.raises(PartitionsChanged, match=r"Nothing of them was committed. Run the flow again"):
        append_once(lake, events, files, "a")
    assert not numbers_in(lake, events)


def test_days_past_their_time_go_as_whole_files(lake: Lake, events: Identifier) -> None:
    append_once(lake, events, rows(0, 90), "a")
    whole, mixed = plan_retention(loaded(lake, events), "at", START + DAY)
    assert [days_in(lake, file) for file in whole] == [{START.date()}]
    assert mixed == []


def test_a_source_says_that_its_table_is_partitioned(lake: Lake, tmp_path: Path) -> None:
    text = FILE.replace('event_time="ordered_at",', 'event_time="ordered_at", partition="day",')
    declared = load_pipeline("shop", write_shop(tmp_path / "days", text)).source("orders")
    plain = load_pipeline("shop", write_shop(tmp_path / "plain")).source("orders")
    ensure_raw(lake, "shop", plain)
    ensure_raw(lake, "shop", declared)
    spec = loaded(lake, raw_table(lake, "shop", "orders")).spec()
    assert [(field.name, str(field.transform)) for field in spec.fields] == [("ordered_at_day", "day")]
    ensure_raw(lake, "shop", plain)
    assert loaded(lake, raw_table(lake, "shop", "orders")).spec().fields == ()


def test_a_file_has_dictionaries_only_where_they_stay_small_and_names_no_type_but_its_own(
    lake: Lake, events: Identifier
) -> None:
    writer = DataFiles(loaded(lake, events), "a")
    writer.add(pl.DataFrame(pl.from_arrow(rows(0, 15_000, days=1))))
    for file in writer.close():
        content = lake.arrow_files().open_input_file(file.file_path.removeprefix("s3://")).read()
        read = pq.ParquetFile(pa.BufferReader(content))
        assert read.schema_arrow.field("word").type == pa.string()  # other engines know no views
        columns = [read.metadata.row_group(0).column(number) for number in range(3)]
        assert [("RLE_DICTIONARY" in column.encodings) for column in columns] == [False, True, False]
