"""What is quarantined can be rebuilt: every type a source may bring, at its limits, comes back as it arrived."""

import json
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from perennial.rules.raw_rows import decode_rows, encode_rows

LEAVES: list[Any] = [
    pl.Boolean,
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64, pl.Decimal, pl.String, pl.Binary),
    *(pl.Date, pl.Time, pl.Duration, pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("ns")),
]


def there_and_back(fields: pl.DataFrame) -> pl.DataFrame:
    """Through JSON."""
    kept = encode_rows(fields)
    return decode_rows(kept["raw_row"], kept["arrived_schema"][0])


@settings(max_examples=80, deadline=None)
@given(dataframes(min_cols=1, max_cols=6, min_size=1, max_size=8, allowed_dtypes=[*LEAVES, pl.List, pl.Struct]))
def test_any_frame_comes_back_as_it_arrived(fields: pl.DataFrame) -> None:
    assert_frame_equal(there_and_back(fields), fields, check_exact=True)


def test_values_at_the_limits_come_back() -> None:
    fields = pl.DataFrame(
        {
            "integer": [2**63 - 1, -(2**63), None],
            "natural": pl.Series([2**64 - 1, 2**53 + 1, None], dtype=pl.UInt64),
            "number": [float("nan"), float("-inf"), -0.0],
            "small": [5e-324, 0.1, 1.7976931348623157e308],
            "text": ['"\x00\u2028\\', "", None],
            "instant": pl.Series([2**62, -(2**62), 10**15]).cast(pl.Datetime("us", "Europe/Berlin")),
            "day": pl.Series([2**31 - 1, -(2**31), 0], dtype=pl.Int32).cast(pl.Date),
            "nothing": pl.Series([None] * 3, dtype=pl.Null),
            "pair": pl.Series([[1, None], None, [3, 4]], dtype=pl.Array(pl.Int8, 2)),
            "tree": [[{"x": b"\xff", "y": [float("inf")]}], [], [None]],
        }
    )
    assert_frame_equal(there_and_back(fields), fields, check_exact=True)


def test_a_map_comes_back_as_a_list_of_its_entries() -> None:
    table = pa.table({"m": pa.array([[("k", 1), ("k", None)], None], pa.map_(pa.string(), pa.int64()))})
    came = there_and_back(pl.DataFrame(pl.from_arrow(table)))
    assert came["m"].to_list() == [[{"key": "k", "value": 1}, {"key": "k", "value": None}], None]


def test_text_stays_text_and_numbers_stay_numbers() -> None:
    fields = pl.DataFrame({"typed": [7], "text": ["007"], "_id": ["x"]})
    assert json.loads(encode_rows(fields)["raw_row"][0]) == {"typed": 7, "text": "007", "_id": "x"}
    assert there_and_back(fields).rows() == fields.rows()


def test_people_read_instants_and_days_as_iso() -> None:
    fields = pl.DataFrame({"at": [datetime(2024, 5, 1, 12, tzinfo=UTC)], "day": [date(2024, 5, 1)]})
    row = json.loads(encode_rows(fields)["raw_row"][0])
    assert row == {"at": "2024-05-01T12:00:00.000000000", "day": "2024-05-01"}


def test_rows_have_one_schema_where_their_fields_and_types_are_the_same() -> None:
    frames = [
        pl.DataFrame(columns)
        for columns in ({"a": ["1"]}, {"b": ["1"]}, {"a": ["1"], "b": ["1"]}, {"a": [1]}, {"a": [1.0]}, {"a": [None]})
    ]
    assert len({encode_rows(frame)["arrived_schema"].item() for frame in frames}) == len(frames)
    assert (
        encode_rows(frames[0])["arrived_schema"].item()
        == encode_rows(pl.DataFrame({"a": ["2"]}))["arrived_schema"].item()
    )


def test_rows_kept_before_schemas_were_are_text() -> None:
    rows = pl.Series(['{"a":"1","b":null}', '{"line":"x,y"}'])
    assert decode_rows(rows, None).rows(named=True) == [
        {"a": "1", "b": None, "line": None},
        {"a": None, "b": None, "line": "x,y"},
    ]


def test_a_row_without_fields_is_a_row() -> None:
    assert encode_rows(pl.DataFrame(height=2))["raw_row"].to_list() == ["{}", "{}"]
    assert len(there_and_back(pl.DataFrame(height=2))) == 2
