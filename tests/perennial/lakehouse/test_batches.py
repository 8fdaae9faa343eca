"""Against a real catalog and a real S3 server: one row per batch, whoever writes it and however often."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pyarrow as pa
import pytest

from perennial.lakehouse.batches import BATCHES, batches_table, finish_batch, read_batches
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.history import find_batch
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.results import (
    RESULT,
    BatchResult,
    CheckResult,
    ColumnResult,
    ResultDamaged,
    Verdict,
    stage_result,
)
from perennial.lakehouse.tables import ensure_table, read_snapshot
from perennial.rules.batch import RuleResult
from tests.shop import NOON

NUMBERS = pa.schema([("number", pa.int64())])


def result(source: str, number: int, verdict: Verdict = "published") -> BatchResult:
    return BatchResult(
        source=source,
        batch_id=f"{number:016x}",
        verdict=verdict,
        reasons=[],
        as_of=NOON + timedelta(hours=number),
        run_id="run",
        contract_version="c0ffee",
        arrived="1 files (7 bytes)",
        parts=1,
        bytes=7,
        rows=10 + number,
        quarantined_rows=number,
        newest_event_at=NOON if source == "orders" else None,
        checks=[CheckResult(check="pieces:less_than(100)", severity="quarantine", failed_rows=number)],
        rules=[RuleResult(name="rows:share_of_median(0.5, 2.0)", severity="block", passed=True, detail="as many")],
        columns=[ColumnResult(column="pieces", nulls=0), ColumnResult(column="note", nulls=number)],
    )


def commit(lake: Lake, source: str, number: int, verdict: Verdict = "published") -> None:
    """What a run does to `raw` before it is killed."""
    found = result(source, number, verdict)
    ensure_table(lake, raw_table(lake, "shop", source), NUMBERS)
    rows = pa.table({"number": [number]}, NUMBERS)
    properties = {RESULT: stage_result(lake, "shop", found)}
    append_once(lake, raw_table(lake, "shop", source), rows, found.batch_id, properties=properties)


def test_a_row_says_all_that_is_known_of_its_batch(lake: Lake) -> None:
    commit(lake, "orders", 3)
    finish_batch(lake, "shop", "orders")
    (row,) = read_batches(lake, "shop", "orders").to_dicts()
    raw = lake.catalog().load_table(raw_table(lake, "shop", "orders"))
    snapshot = raw.current_snapshot()
    assert snapshot
    assert row["snapshot_id"] == snapshot.snapshot_id == find_batch(raw, row["batch_id"])
    assert row["committed_at"].timestamp() * 1000 == snapshot.timestamp_ms
    assert BatchResult.model_validate(row) == result("orders", 3)


def test_a_row_is_written_once_by_all_who_finish_its_batch(lake: Lake) -> None:
    commit(lake, "orders", 1)
    together = Barrier(4)

    def finish(_: int) -> None:
        together.wait()
        finish_batch(lake, "shop", "orders")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(finish, range(4)))
    finish_batch(lake, "shop", "orders")
    assert read_snapshot(lake, batches_table(lake, "shop")).num_rows == 1


def test_a_row_is_not_written_again_when_its_snapshot_has_expired(lake: Lake) -> None:
    for source in ("orders", "prices"):
        commit(lake, source, 1)
        finish_batch(lake, "shop", source)
    table = lake.catalog().load_table(batches_table(lake, "shop"))
    table.maintenance.expire_snapshots().by_id(table.metadata.snapshots[0].snapshot_id).commit()
    finish_batch(lake, "shop", "orders")
    assert read_batches(lake, "shop", "orders")["rows"].to_list() == [11]


def test_nothing_is_to_be_done_before_the_first_batch(lake: Lake) -> None:
    finish_batch(lake, "shop", "orders")
    assert read_batches(lake, "shop", "orders").is_empty()


def test_the_last_batches_of_one_source_come_from_old_to_new(lake: Lake) -> None:
    for number in range(1, 5):
        for source in ("orders", "prices"):
            commit(lake, source, number)
            finish_batch(lake, "shop", source)
    found = read_batches(lake, "shop", "orders", last=3)
    assert found["rows"].to_list() == [12, 13, 14]
    assert set(found["source"]) == {"orders"}
    assert read_batches(lake, "shop", "prices", last=9)["rows"].to_list() == [11, 12, 13, 14]
    assert read_batches(lake, "shop", "planes").is_empty()


def test_the_last_batches_are_found_however_they_lie_in_files(lake: Lake) -> None:
    ensure_table(lake, batches_table(lake, "shop"), BATCHES)
    for numbers in ((1, 2, 6), (3, 4, 5)):
        rows = [
            result(source, number).model_dump() | {"committed_at": NOON + timedelta(hours=number), "snapshot_id": 1}
            for number in numbers
            for source in ("orders", "prices")
        ]
        append_once(lake, batches_table(lake, "shop"), pa.Table.from_pylist(rows, BATCHES), str(numbers))
    for last in range(1, 6):
        assert read_batches(lake, "shop", "orders", last)["rows"].to_list() == list(range(17 - last, 17))
    assert read_batches(lake, "shop", "orders", last=9)["rows"].to_list() == [11, 12, 13, 14, 15, 16]


def test_a_result_that_was_changed_on_s3_is_refused(lake: Lake) -> None:
    commit(lake, "orders", 1)
    raw = lake.catalog().load_table(raw_table(lake, "shop", "orders"))
    uri = raw.properties[RESULT].split(" ")[1]
    lake.files().pipe_file(uri, b"{}")
    with pytest.raises(ResultDamaged, match=r"only its row in `batches` is missing. Restore"):
        finish_batch(lake, "shop", "orders")
