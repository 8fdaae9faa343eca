"""Fields as they arrive: each is read as it was meant, or not at all; what is typed already never loses anything."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.rules.parsing import parse_block, parse_field

INSTANT = pl.Datetime("us", "UTC")


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # parts are a date's and a time's


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        (pl.Int64, "3", 3),
        (pl.Int64, " 3 ", 3),
        (pl.Int64, "3.0", 3),
        (pl.Int64, "-3e2", -300),
        (pl.Int64, "3.5", None),
        (pl.Int64, "9007199254740993", 9007199254740993),  # one more than a float can tell apart
        (pl.Int64, "99999999999999999999", None),
        (pl.Int64, "inf", None),
        (pl.Int64, "nan", None),
        (pl.Int64, "three", None),
        (pl.Int8, "127", 127),
        (pl.Int8, "128", None),
        (pl.UInt8, "-1", None),
        (pl.Float64, " 1.5e3 ", 1500.0),
        (pl.Float64, "1,5", None),
        (pl.String, " as it is ", " as it is "),
        (pl.Boolean, "TRUE", True),
        (pl.Boolean, "0", False),
        (pl.Boolean, "yes", None),
        (pl.Date, "2024-02-29", date(2024, 2, 29)),
        (pl.Date, "2023-02-29", None),
        (pl.Time, "23:59:00.5", time(23, 59, 0, 500_000)),
        (pl.Time, "24:00:00", None),
        (pl.Time, "23:59:00.1234567", None),
        (pl.Int64, "9007199254740993.0", 9007199254740993),
        (pl.Int64, "9007199254740993.5", None),
        (pl.Int64, "1500e-2", 15),
        (pl.Int64, "1e-30", None),
        (pl.Int64, "0e-30", 0),
        (pl.Int64, "+3.00", 3),
        (pl.UInt64, "9223372036854775808", None),  # more than a table holds
        (pl.Float64, "1e400", None),
        (pl.Float32, "1e39", None),
        (pl.Float64, "-inf", float("-inf")),
        (pl.Decimal(10, 2), "1.25", Decimal("1.25")),
        (pl.Decimal(10, 2), "12.345", None),
        (pl.Decimal(10, 2), "19.999", None),
        (pl.Decimal(10, 2), " 1.250 ", Decimal("1.25")),
        (pl.Decimal(10, 2), "125e-2", Decimal("1.25")),
        (pl.Decimal(10, 2), "125e-3", None),
        (pl.Decimal(10, 2), "100000000", None),
        (pl.List(pl.Int64), "[1]", None),
    ],
)
def test_a_field_is_read_as_it_was_meant_or_not_at_all(dtype: Any, text: str, value: object) -> None:
    dtype, arrived = dtype() if isinstance(dtype, type) else dtype, pl.DataFrame({"field": [text]})
    assert arrived.select(parse_field(pl.col("field"), dtype, "UTC")).item() == value
    block, lost = parse_block(arrived, {"field": dtype}, "UTC")
    assert (block.item(), "field" in lost) == (value, value is None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2013-01-15 12:00:00", utc(2013, 1, 15, 17)),
        ("2013-07-15T12:00", utc(2013, 7, 15, 16)),
        ("2013-07-15", utc(2013, 7, 15, 4)),
        ("2013-07-15 12:00:00.123456", utc(2013, 7, 15, 16, 0, 0, 123456)),
        ("2013-07-15T12:00:00Z", utc(2013, 7, 15, 12)),
        ("2013-07-15T12:00Z", utc(2013, 7, 15, 12)),
        ("2013-07-15T12:00:00+02:00", utc(2013, 7, 15, 10)),
        ("2013-07-15T12:00:00.5-0330", utc(2013, 7, 15, 15, 30, 0, 500000)),
        ("2013-07-15 12:00:00.123456000", utc(2013, 7, 15, 16, 0, 0, 123456)),
        ("2013-07-15 12:00:00.1234567", None),  # the table holds microseconds
        ("2013-03-10 02:30:00", None),  # the hour that New York skipped
        ("2013-03-10T02:30:00-05:00", utc(2013, 3, 10, 7, 30)),
        ("2013-11-03 01:30:00", utc(2013, 11, 3, 5, 30)),  # the hour it had twice: the first
        ("2013-02-29 12:00:00", None),
        ("1373889600", None),
        ("", None),
    ],
)
def test_an_instant_without_an_offset_is_in_the_sources_zone(text: str, value: datetime | None) -> None:
    parsed = pl.DataFrame({"field": [text]}).select(parse_field(pl.col("field"), INSTANT, "America/New_York"))
    assert parsed.item() == value
    assert parsed.dtypes == [INSTANT]


written = st.one_of(
    st.none(),
    st.text(max_size=6),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(width=32).map(str),
    st.datetimes(datetime(1, 1, 1), datetime(2262, 1, 1)).map(str),  # noqa: DTZ001 - in the source's zone
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)).map(lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}"),  # noqa: DTZ001
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)).map(lambda at: f"{at:%Y-%m-%d %H:%M}"),  # noqa: DTZ001
    st.sampled_from(
        [" 3", "3.0", "+7", "true", "0", "2024-02-30", "2024-05-01", "2024-03-10T02:30:00", "24:00", "nan"]
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(written, max_size=6),
    st.sampled_from([pl.Int64, pl.Int8, pl.UInt64, pl.Float64, pl.Boolean, pl.Date, pl.String, INSTANT]),
)
def test_a_block_is_read_as_each_of_its_fields_alone(fields: list[str | None], dtype: Any) -> None:
    arrived = pl.DataFrame({"field": fields}, {"field": pl.String})
    parsed, lost = parse_block(arrived, {"field": dtype}, "America/New_York")
    alone = arrived.select(parse_field(pl.col("field"), dtype, "America/New_York"))
    assert parsed.equals(alone, null_equal=True)
    unread = arrived["field"].is_not_null() & alone["field"].is_null()
    assert lost["field"].equals(unread) if lost else not unread.any()


@pytest.mark.parametrize(
    ("arrived", "arrived_type", "wanted", "value"),
    [
        (3, pl.Int32, pl.Int64, 3),
        (3.0, pl.Float64, pl.Int64, 3),
        (3.5, pl.Float64, pl.Int64, None),
        (float("inf"), pl.Float64, pl.Int64, None),
        (2**63, pl.UInt64, pl.Int64, None),
        (300, pl.Int64, pl.Int8, None),
        (2**53, pl.Int64, pl.Float64, 2.0**53),
        (2**53 + 1, pl.Int64, pl.Float64, None),
        (0.5, pl.Float64, pl.Float32, 0.5),
        (0.1, pl.Float64, pl.Float32, None),
        (Decimal("2.00"), pl.Decimal(10, 2), pl.Int64, 2),
        (Decimal("2.50"), pl.Decimal(10, 2), pl.Int64, None),
        (1, pl.Int64, pl.Boolean, None),
        (True, pl.Boolean, pl.Int64, None),
        (1, pl.Int64, pl.String, None),
        ("a", pl.Categorical, pl.String, "a"),
        ("7", pl.String, pl.Int64, 7),
        (None, pl.Null, pl.Int64, None),
        (datetime(2013, 7, 15, 12), pl.Datetime("ms"), INSTANT, datetime(2013, 7, 15, 16, tzinfo=UTC)),  # noqa: DTZ001
        (datetime(2013, 3, 10, 2, 30), pl.Datetime("us"), INSTANT, None),  # noqa: DTZ001 - the hour New York skipped
        (date(2013, 7, 15), pl.Date, INSTANT, datetime(2013, 7, 15, 4, tzinfo=UTC)),
        (datetime(2013, 7, 15), pl.Datetime("us"), pl.Date, date(2013, 7, 15)),  # noqa: DTZ001
        (datetime(2013, 7, 15, 1), pl.Datetime("us"), pl.Date, None),  # noqa: DTZ001
        (timedelta(1), pl.Duration("us"), INSTANT, None),
    ],
)
def test_a_typed_field_is_cast_only_where_nothing_is_lost(
    arrived: Any, arrived_type: Any, wanted: Any, value: object
) -> None:
    block = pl.DataFrame({"field": [arrived]}, {"field": arrived_type})
    parsed, lost = parse_block(block, {"field": wanted}, "America/New_York")
    assert parsed["field"].to_list() == [value]
    assert parsed["field"].dtype == wanted
    assert bool(lost) == (value is None and arrived is not None)


def test_nanoseconds_that_microseconds_cannot_hold_are_not_cut() -> None:
    block = pl.DataFrame({"field": pl.Series([1_000, 1_001]).cast(pl.Datetime("ns"))})
    parsed, lost = parse_block(block, {"field": INSTANT}, "UTC")
    assert parsed["field"].to_list() == [datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), None]
    assert lost["field"].to_list() == [False, True]


def test_an_instant_of_another_zone_is_the_same_instant() -> None:
    block = pl.DataFrame({"field": [datetime(2024, 5, 1, 12, tzinfo=UTC)]}).select(
        pl.col("field").dt.convert_time_zone("Asia/Tokyo")
    )
    assert parse_block(block, {"field": INSTANT}, "America/New_York")[0]["field"].to_list() == [
        datetime(2024, 5, 1, 12, tzinfo=UTC)
    ]


POINT = pl.Struct({"x": pl.Int64})


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"x": 1}, pl.List(pl.Int64)),
        ([1], POINT),
        ([{"x": 1}], pl.List(pl.Int64)),
        ([1], pl.List(POINT)),
        ([[1]], pl.List(pl.Int64)),
        ({"x": [1]}, POINT),
        ([True], pl.List(pl.Date())),
        ([time(1)], pl.List(INSTANT)),
    ],
)
def test_a_nested_field_of_another_shape_cannot_be_read(value: object, wanted: Any) -> None:
    block, lost = parse_block(pl.DataFrame({"field": [value, None]}), {"field": wanted}, "UTC")
    assert (block.schema["field"], block["field"].to_list()) == (wanted, [None, None])
    assert lost["field"].to_list() == [True, False]


def test_a_time_below_a_microsecond_cannot_be_read() -> None:
    times = pl.DataFrame({"field": pl.Series([1_000, 1_001]).cast(pl.Time)})
    _, lost = parse_block(times, {"field": pl.Time()}, "UTC")
    assert lost["field"].to_list() == [False, True]
