"""A block of rows against its contract: the verdict is pandera's, row by row, and every field is read as it was meant."""

from datetime import UTC, date, datetime
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perennial.rules.batch import BatchCounts
from perennial.rules.contract import ColumnsMissing, check_block, parse_field
from perennial.spec import At, Files, UtcMicroseconds
from perennial.spec.load import contract_columns

INSTANT = pl.Datetime("us", "UTC")


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order_id: int = pa.Field(gt=0)
    product: str = pa.Field(str_matches=r"^[a-z]+$")
    ordered_at: UtcMicroseconds
    weight: float = pa.Field(ge=0, le=100, nullable=True)
    returned: bool = pa.Field(nullable=True)

    @pa.dataframe_check
    def no_heavy_gold(cls, data: pa.PolarsData) -> pl.LazyFrame:  # type: ignore[misc]  # noqa: N805 - pandera makes it a class method
        """Judge two columns together."""
        return data.lazyframe.select(~((pl.col("product") == "gold") & (pl.col("weight") > 10)))


def files(same_key: Any = "correction") -> Files:
    """The source of the orders."""
    return Files(
        "orders",
        "orders/*.csv",
        contract=Order,
        key=["order_id"],
        event_time="ordered_at",
        known=At("ordered_at"),
        same_key=same_key,
    )


def block(rows: list[tuple[str | None, ...]]) -> pl.DataFrame:
    """Rows as they arrive: text, a column the contract does not know, and where they stood."""
    columns = [*contract_columns(files()), "remark"]
    arrived = pl.DataFrame([(*row, "x") for row in rows], dict.fromkeys(columns, pl.String), orient="row")
    return arrived.with_columns(_position=pl.Series([f"f.csv#{n}" for n in range(len(rows))], dtype=pl.String))


arrived_rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3.0", "3.5", "0", "-1", "x", None]),
        st.sampled_from(["pen", "gold", "gold", "Pen", None]),
        st.sampled_from(["2024-05-01T12:00:00Z", "2024-05-01", "yesterday", None]),
        st.sampled_from(["1", "11", "-0.5", "1e9", "heavy", None]),
        st.sampled_from(["true", "0", "maybe", None]),
    ),
    max_size=8,
)


def judged_alone(row: pl.DataFrame) -> bool:
    """Whether one row is good: each of its fields can be read, and pandera has nothing against it."""
    columns = contract_columns(files())
    parsed = row.select(parse_field(pl.col(name), dtype, "UTC").alias(name) for name, dtype in columns.items())
    if any(row[name].item() is not None and parsed[name].item() is None for name in columns):
        return False
    try:
        Order.validate(parsed, lazy=True)
    except pa.errors.SchemaErrors:
        return False
    return True


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(arrived_rows)
def test_a_block_is_judged_as_pandera_judges_each_row_alone(rows: list[tuple[str | None, ...]]) -> None:
    arrived = block(rows)
    checked = check_block(files(), arrived)
    good = [judged_alone(arrived[number]) for number in range(len(arrived))]
    assert checked.good["_position"].to_list() == [f"f.csv#{n}" for n, fine in enumerate(good) if fine]
    assert checked.bad.drop("_failed_checks").equals(arrived.filter(pl.Series(good, dtype=pl.Boolean).not_()))
    assert sum(check.rows for check in checked.counts.failed.values()) == sum(
        len(checks) for checks in checked.bad["_failed_checks"]
    )
    assert all(len(checks) for checks in checked.bad["_failed_checks"])
    assert dict(checked.good.drop("_position").schema) == contract_columns(files())


def test_a_row_names_every_check_it_fails_and_no_check_that_only_our_parsing_caused() -> None:
    checked = check_block(
        files(), block([("x", "gold", "2024-05-01", "50", None), (None, "Pen", "2024-05-01", "-1", "1")])
    )
    first, second = checked.bad["_failed_checks"].to_list()
    assert sorted(first) == ["Order:no_heavy_gold", "order_id:type(Int64)"]
    assert [check.split("(")[0] for check in sorted(second)] == [
        "order_id:not_nullable",
        "product:str_matches",
        "weight:greater_than_or_equal_to",
    ]


def test_a_key_seen_again_is_quarantined_with_its_twin_where_it_is_a_violation() -> None:
    rows = block([("1", "pen", "2024-05-01", None, None), ("2", "pen", "2024-05-01", None, None)] * 2)[:3]
    assert len(check_block(files(), rows).good) == 3
    checked = check_block(files("violation"), rows)
    assert checked.good["order_id"].to_list() == [2]
    assert {name: check.rows for name, check in checked.counts.failed.items()} == {"unique(order_id)": 2}


def test_a_block_counts_its_rows_its_empty_fields_and_its_newest_published_event() -> None:
    good, bad = ("1", "pen", "2024-05-01", None, None), ("0", "pen", "2025-05-01", None, "1")
    unreadable = pl.DataFrame(
        {"line": ["x", "y,z"], "_position": ["f.csv#u1", "f.csv#u2"], "_failed_checks": [["csv:columns(5, 1)"]] * 2}
    )
    counts = check_block(files(), block([good, bad, good])).joined_by(unreadable).counts
    assert (counts.rows, counts.quarantined_rows) == (5, 3)
    assert {name: check.rows for name, check in counts.failed.items()} == {
        "csv:columns": 2,
        "order_id:greater_than(0)": 1,
    }
    assert counts.nulls == {"weight": 3, "returned": 2}
    assert counts.newest_event_at == datetime(2024, 5, 1, tzinfo=UTC)
    twice = BatchCounts.total([counts, counts])
    assert (twice.rows, twice.nulls["weight"], twice.failed["csv:columns"].rows) == (10, 6, 4)
    assert twice.newest_event_at == counts.newest_event_at


def test_a_column_that_did_not_arrive_is_named() -> None:
    with pytest.raises(
        ColumnsMissing, match=r"\['weight'\] of the contract are missing; there are \['order_id'.*ingest again"
    ):
        check_block(files(), block([]).drop("weight"))


def test_a_check_that_judges_the_whole_block_is_refused() -> None:
    class Few(pa.DataFrameModel):
        """Grain: one number."""

        number: int

        @pa.dataframe_check
        def few(cls, data: pa.PolarsData) -> bool:  # type: ignore[misc]  # noqa: N805 - pandera makes it a class method
            """Judge no row."""
            return bool(data.lazyframe.collect().height < 2)

    source = Files("numbers", "numbers/*.csv", contract=Few, key=["number"])
    arrived = pl.DataFrame({"number": ["1", "2"], "_position": ["f#0", "f#1"]})
    with pytest.raises(ValueError, match=r"Few cannot judge row by row.*few fails as a whole.*one truth value per row"):
        check_block(source, arrived)


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
    ],
)
def test_a_field_is_read_as_it_was_meant_or_not_at_all(dtype: Any, text: str, value: object) -> None:
    parsed = pl.DataFrame({"field": [text]}).select(
        parse_field(pl.col("field"), dtype() if isinstance(dtype, type) else dtype, "UTC")
    )
    assert parsed.item() == value


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
