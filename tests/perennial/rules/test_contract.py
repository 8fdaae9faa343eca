"""A block of rows against its contract: the verdict is pandera's, row by row, and every field is read as it was meant."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perennial.rules.batch import BatchCounts
from perennial.rules.contract import ColumnsMissing, check_block
from perennial.rules.parsing import parse_field
from perennial.rules.unique import Around, fingerprints
from perennial.spec import At, Files, References, UtcMicroseconds
from perennial.spec.load import contract_columns


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


def test_a_row_that_is_only_warned_of_is_published_and_counted() -> None:
    source = replace(files(), severity={"weight:less_than_or_equal_to": "warn", "product": "block"})
    heavy, light = ("1", "pen", "2024-05-01", "101", "1"), ("2", "pen", "2024-05-01", "1", "1")
    checked = check_block(source, block([heavy, light, ("3", "Pen", "2024-05-01", "101", "1")]))
    assert checked.good["order_id"].to_list() == [1, 2]
    assert {name: (check.severity, check.rows) for name, check in checked.counts.failed.items()} == {
        "weight:less_than_or_equal_to(100)": ("warn", 2),
        "product:str_matches('^[a-z]+$')": ("block", 1),
    }
    assert len(checked.bad["_failed_checks"][0]) == 2  # a row that is kept apart tells of everything


def test_a_field_that_cannot_be_read_is_never_published() -> None:
    source = replace(files(), severity={"weight": "warn"})
    checked = check_block(source, block([("1", "pen", "2024-05-01", "heavy", "1")]))
    assert checked.bad["_failed_checks"].to_list() == [["weight:type(Float64)"]]


def test_a_row_that_refers_to_a_key_nobody_has_is_kept_apart() -> None:
    rule = References("products", on={"product": "name"})
    source = replace(files(), rules=[rule])
    around = Around(known={rule.name: pl.DataFrame({"name": ["pen", "ink"]})})
    products = ["pen", "gold", None, "ink", "gold"]
    checked = check_block(
        source, block([(str(n + 1), name, "2024-05-01", None, "1") for n, name in enumerate(products)]), around
    )
    assert checked.good["order_id"].to_list() == [1, 4]
    assert checked.bad["_failed_checks"].to_list() == [
        ["product:in_source(products)"],
        ["product:not_nullable"],  # an empty field refers to nothing
        ["product:in_source(products)"],
    ]


def test_typed_columns_are_judged_as_text_is() -> None:
    rows = block([("1", "pen", "2024-05-01", "1.5", "true"), ("0", "gold", "2024-05-01", "11", "false")])
    typed = rows.with_columns(
        pl.col("order_id").cast(pl.Float64),
        pl.col("weight").cast(pl.Float32),
        pl.col("ordered_at").str.to_date(),
        returned=pl.Series([True, False]),
    )
    told, same = check_block(files(), rows), check_block(files(), typed)
    assert same.good.equals(told.good)
    assert same.bad["_failed_checks"].equals(told.bad["_failed_checks"])
    assert same.counts == told.counts


def test_pandera_alone_gives_the_same_halves() -> None:
    rows = block(
        [("1", "pen", "2024-05-01", "x", None), ("0", "Pen", "2024-05-01", "-1", "1"), ("2", "gold", "", "11", "1")]
    )
    fused, alone = check_block(files(), rows), check_block(replace(files(), judge="pandera"), rows)
    assert alone.good.equals(fused.good)
    assert alone.bad.equals(fused.bad)
    assert alone.counts == fused.counts


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


def test_a_row_whose_key_stands_elsewhere_fails_as_its_twin_does() -> None:
    rows = block([(str(number), "pen", "2024-05-01", None, None) for number in (1, 2, 2, 3)])
    seen = check_block(files("violation_in_batch"), rows, Around(seed=5)).prints
    assert seen is not None
    assert seen["_position"].to_list() == rows["_position"].to_list()
    assert seen.select(pl.struct("a0", "b0").rank("dense")).to_series().n_unique() == 3
    assert check_block(files(), rows).prints is None
    around = Around(repeated={"unique(order_id)": pl.Series(["f.csv#3"])})
    assert check_block(files("violation_in_batch"), rows, around).good["order_id"].to_list() == [1]


def test_fingerprints_are_equal_where_values_are_and_only_there() -> None:
    values = [None, "", "a", "b", "ab", "a", "", None]
    rows = pl.DataFrame(
        {"x": values, "y": values[::-1], "z": [0.0, -0.0, float("nan"), -float("nan"), 1.0, 1.0, None, None]}
    )
    for columns in (["x"], ["x", "y"], ["z"], ["y", "z"]):
        told = fingerprints(rows, columns, seed=2**63 + 1)
        assert (
            told.select(pl.struct("a", "b").is_duplicated())
            .to_series()
            .equals(rows.select(pl.struct(columns).is_duplicated()).to_series())
        )


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int16, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64])
def test_an_integer_has_one_fingerprint_whatever_its_type(dtype: type[pl.DataType]) -> None:
    went, came = pl.DataFrame({"x": [1, 2, 100]}, {"x": dtype}), pl.DataFrame({"x": [1, 2, 100]}, {"x": pl.Int32})
    assert fingerprints(went, ["x"], seed=5).equals(fingerprints(came, ["x"], seed=5))


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
    with pytest.raises(
        ValueError, match=r"Few cannot judge row by row.*few judges the rows as a whole.*one truth value per row"
    ):
        check_block(source, arrived)
