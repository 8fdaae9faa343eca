"""What a request may hold: every refusal names the row and the column."""

import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from ray_jobs.serve.rows import RowReader, RowSchema, read_rows
from ray_jobs.serve.values import BadRequest, Column

INSTANT = pl.Datetime("us", "UTC")
SCHEMA = RowSchema(
    columns={
        "trip": Column(pl.Int32(), nullable=False),
        "station": Column(pl.String(), nullable=False),
        "start_at": Column(INSTANT, nullable=False),
        "distance_km": Column(pl.Float64(), nullable=True),
        "member": Column(pl.Boolean(), nullable=False),
        "day": Column(pl.Date(), nullable=True),
    },
    required=frozenset({"trip", "station", "start_at", "distance_km", "member"}),
    joined={"weather": {"weather_rain_mm": Column(pl.Float64(), True), "weather_wind": Column(pl.Float64(), True)}},
)
DEEP = b"[" * 1_005 + b"]" * 1_005  # more levels than Python can write down, and fewer than the parser takes
ROW = {"trip": 1, "station": "north", "start_at": "2024-05-01T12:00:00Z", "distance_km": 2.5, "member": True}


def read(body: bytes, maximum_rows: int = 10) -> pl.DataFrame:
    """The body's rows, as the only request of a batch."""
    sent = read_rows(body, maximum_rows, SCHEMA)
    reader = RowReader(SCHEMA)
    reader.brought(frozenset(sent.columns))
    return reader.frame([sent])


def ask(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"rows": list(rows), **more}).encode()


def changed(**values: Any) -> dict[str, Any]:
    return {**ROW, **values}


def test_rows_come_back_in_their_order_with_the_contracts_types() -> None:
    rows = read(ask(ROW, changed(trip=2, distance_km=3)))
    assert rows["trip"].to_list() == [1, 2]
    assert rows.schema["trip"] == pl.Int32()
    assert rows["distance_km"].to_list() == [2.5, 3.0]
    assert rows["start_at"][0] == datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_an_instant_with_another_offset_is_the_same_instant_in_utc() -> None:
    rows = read(ask(changed(start_at="2024-05-01T08:00:00-04:00")))
    assert rows["start_at"][0] == datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_a_missing_value_is_null_where_the_contract_allows_it() -> None:
    assert read(ask(changed(distance_km=None)))["distance_km"].to_list() == [None]


def test_joined_columns_may_be_sent_instead() -> None:
    sent = read_rows(ask(changed(weather_rain_mm=0.5, weather_wind=None)), 10, SCHEMA)
    assert RowReader(SCHEMA).brought(frozenset(sent.columns)) == {"weather"}


def test_requests_of_the_same_columns_become_one_frame_in_their_order() -> None:
    requests = [read_rows(ask(changed(trip=n), changed(trip=-n)), 10, SCHEMA) for n in (1, 2, 3)]
    assert RowReader(SCHEMA).frame(requests)["trip"].to_list() == [1, -1, 2, -2, 3, -3]


def test_unknown_columns_are_refused_before_rows_times_columns_values_are_made() -> None:
    body = ask(*[{f"c{row}-{n}": 1 for n in range(4)} for row in range(1_000)])
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="column 'c0-0' is unknown"):
            read(body, maximum_rows=1_000)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20  # 4,000 columns of 1,000 values would be 32 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"rows": [{"trip": "\\ud800"}]}', 400, "not JSON"),
        (b'{"rows": [' + DEEP + b"]}", 422, "row 0 is [[[["),
        (ask(ROW).replace(b"2.5", DEEP), 422, "row 0: column 'distance_km' is [[[["),
        (b"[]", 422, "JSON object"),
        (b"{}", 422, "at least one row"),
        (ask(), 422, "at least one row"),
        (b'{"rows": {}}', 422, "at least one row"),
        (ask(ROW, 7), 422, "row 1 is 7"),
        (ask(ROW, colour=1), 422, "field 'colour'"),
        (ask(*[ROW] * 11), 413, "11 rows are more than the 10"),
        (ask({k: v for k, v in ROW.items() if k != "station"}), 422, "'station' is missing"),
        (ask(ROW, {k: v for k, v in ROW.items() if k != "station"}), 422, "row 1: column 'station' is missing"),
        (ask(changed(sation="x")), 422, "column 'sation' is unknown"),
        (ask(ROW, changed(station=None)), 422, "row 1: column 'station' is null"),
        (ask(ROW, changed(station=3)), 422, "row 1: column 'station' is 3; it must be a string"),
        (ask(ROW, changed(trip="1")), 422, "row 1: column 'trip' is '1'; it must be a whole number"),
        (ask(ROW, changed(trip=1.5)), 422, "row 1: column 'trip' is 1.5; it must be a whole number"),
        (ask(ROW, changed(trip=True)), 422, "row 1: column 'trip' is True; it must be a whole number"),
        (ask(ROW, changed(trip=2**40)), 422, "row 1: column 'trip' is 1099511627776, out of the range"),
        (ask(ROW, changed(trip=10**30)), 422, "row 1: column 'trip'"),
        (ask(ROW, changed(distance_km="far")), 422, "row 1: column 'distance_km' is 'far'; it must be a finite number"),
        (ask(ROW, changed(distance_km=float("nan"))), 422, "row 1: column 'distance_km' is nan"),
        (ask(ROW, changed(distance_km=float("inf"))), 422, "row 1: column 'distance_km' is inf"),
        (b'{"rows": [{"trip": 1, "distance_km": 1e999}]}', 400, "infinity"),
        (ask(ROW, changed(distance_km=[1])), 422, "row 1: column 'distance_km' is [1]"),
        (ask(ROW, changed(member=1)), 422, "row 1: column 'member' is 1; it must be true or false"),
        (
            ask(ROW, changed(start_at="yesterday")),
            422,
            "row 1: column 'start_at' is 'yesterday'; it must be an instant",
        ),
        (ask(ROW, changed(start_at="2024-05-01T12:00:00")), 422, "its time zone"),
        (ask(ROW, changed(start_at="0001-01-01T00:00:00+14:00")), 422, "row 1: column 'start_at'"),
        (ask(ROW, changed(start_at=1714564800)), 422, "row 1: column 'start_at' is 1714564800"),
        (ask(changed(day="someday")), 422, "row 0: column 'day' is 'someday'; it must be a day"),
        (ask(changed(weather_rain_mm=0.5)), 422, "'weather_wind' is missing: of the join with weather"),
        (ask(ROW, request_id=7), 422, "request_id"),
        (
            ask(changed(day="1066-10-14")),
            422,
            "row 0: column 'day' is '1066-10-14'; it must be a day between the years",
        ),
        (
            ask(changed(day="9999-12-31")),
            422,
            "row 0: column 'day' is '9999-12-31'; it must be a day between the years",
        ),
        (ask(ROW, request_id="x" * 200), 422, "request_id"),
        (ask(ROW, request_id="a\nb"), 422, "request_id"),
    ],
)
def test_a_bad_request_is_refused_by_row_and_column(body: bytes, status: int, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(body)
    assert says in refused.value.detail
    assert refused.value.status == status
