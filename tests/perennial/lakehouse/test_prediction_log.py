"""Against a real catalog and a real S3 server; threads stand for two runs of the flow at once."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import (
    SEGMENT,
    check_log,
    commit_predictions,
    prediction_schema,
    ship_segment,
)
from perennial.lakehouse.tables import ensure_table, read_snapshot
from perennial.rules.schema import SchemaRefused


def rows(count: int) -> pa.Table:
    return pa.table({"request_id": ["r"] * count, "score": [0.5] * count})


def in_table(lake: Lake) -> int:
    return len(read_snapshot(lake, lake.table("trips", "predictions")))


def test_committing_twice_is_committing_once(lake: Lake) -> None:
    ship_segment(lake, "trips", "01-a", rows(3))
    ship_segment(lake, "trips", "02-b", rows(4))
    assert commit_predictions(lake, "trips") == 7
    assert commit_predictions(lake, "trips") == 0
    assert in_table(lake) == 7


def test_a_segment_that_is_shipped_again_after_its_commit_is_not_committed_again(lake: Lake) -> None:
    ship_segment(lake, "trips", "01-a", rows(3))
    assert commit_predictions(lake, "trips") == 3
    # What a run leaves that was killed between its commit and its deletion; and a replica that came back late.
    ship_segment(lake, "trips", "01-a", rows(3))
    ship_segment(lake, "trips", "02-b", rows(1))
    assert commit_predictions(lake, "trips") == 1
    assert in_table(lake) == 4


def test_it_is_remembered_after_the_snapshot_of_its_commit_has_expired(lake: Lake) -> None:
    ship_segment(lake, "trips", "01-a", rows(3))
    commit_predictions(lake, "trips")
    ship_segment(lake, "trips", "02-b", rows(3))
    commit_predictions(lake, "trips")
    table = lake.catalog().load_table(lake.table("trips", "predictions"))
    table.maintenance.expire_snapshots().by_id(table.snapshots()[0].snapshot_id).commit()
    ship_segment(lake, "trips", "01-a", rows(3))
    assert commit_predictions(lake, "trips") == 0
    assert in_table(lake) == 6


def test_of_two_runs_at_once_each_segment_is_committed_by_one(lake: Lake) -> None:
    ship_segment(lake, "trips", "00", rows(1))
    commit_predictions(lake, "trips")
    for number in range(6):
        ship_segment(lake, "trips", f"1{number}", rows(10))
    with ThreadPoolExecutor(3) as runs:
        committed = list(runs.map(lambda _: commit_predictions(lake, "trips"), range(3)))
    assert sum(committed) == 60
    assert in_table(lake) == 61


def test_a_new_input_gets_a_column_and_older_rows_stay(lake: Lake) -> None:
    ship_segment(lake, "trips", "01", rows(2))
    commit_predictions(lake, "trips")
    ship_segment(lake, "trips", "02", rows(1).append_column("wind", pa.array([3.0])))
    commit_predictions(lake, "trips")
    table = read_snapshot(lake, lake.table("trips", "predictions")).sort_by(SEGMENT)
    assert table.column("wind").to_pylist() == [None, None, 3.0]


def test_nothing_shipped_is_nothing_to_do(lake: Lake) -> None:
    assert commit_predictions(lake, "trips") == 0


def test_an_input_that_is_part_of_the_key_keeps_its_type_there() -> None:
    schema = prediction_schema({"flight": pa.int64()}, {"flight": "number", "distance": "number", "origin": "category"})
    assert schema.field("flight").type == pa.int64()
    assert schema.field("distance").type == pa.float64()
    assert schema.field("origin").type == pa.string()
    assert len(set(schema.names)) == len(schema.names)


def test_an_input_of_another_kind_is_refused_before_it_is_answered_for(lake: Lake) -> None:
    before = prediction_schema({"flight": pa.int64()}, {"distance": "number"})
    check_log(lake, "trips", before)  # no table yet
    ensure_table(lake, lake.table("trips", "predictions"), before)
    check_log(lake, "trips", prediction_schema({"flight": pa.int64()}, {"distance": "number", "wind": "number"}))
    with pytest.raises(SchemaRefused, match="distance"):
        check_log(lake, "trips", prediction_schema({"flight": pa.int64()}, {"distance": "category"}))
