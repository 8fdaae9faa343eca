"""Rows that are judged again: what comes back, as what, and what a repair function may and may not do."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandera.polars as pa
import polars as pl
import pytest

from perennial.rules.contract import check_block
from perennial.rules.features import contract_hash
from perennial.rules.unique import Around
from perennial.spec import At, Files, UtcMicroseconds
from ray_jobs.ingest.kept import quarantine_rows, refused_rows
from ray_jobs.ingest.repair import RepairMistake, repair_rows

AS_OF = datetime(2024, 5, 2, tzinfo=UTC)
ARRIVED_AT, REPAIRED_AT = AS_OF + timedelta(minutes=1), AS_OF + timedelta(days=30)
Repair = Callable[[pl.DataFrame], pl.DataFrame]


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order_id: int = pa.Field(gt=0)
    ordered_at: UtcMicroseconds


def orders(repair: Repair | None = None, known: At | None = None) -> Files:
    """The source."""
    return Files("orders", "orders/*.csv", contract=Order, key=["order_id"], known=known, repair=repair)


def kept(fields: dict[str, list[object]]) -> pl.DataFrame:
    """The rows of a refused batch as they stand in the quarantine table."""
    arrived = pl.DataFrame(fields)
    arrived = arrived.with_columns(_position=pl.format("f.csv#{}", pl.int_range(1, len(arrived) + 1)))
    unreadable = pl.DataFrame(schema={"_position": pl.String, "_failed_checks": pl.List(pl.String)})
    rows = refused_rows(arrived, check_block(orders(), arrived), unreadable)
    where = {"source": "orders", "batch_id": "b1", "run_id": "r1", "contract_version": "old"}
    return quarantine_rows(rows, **where, as_of=AS_OF, at=ARRIVED_AT)


ROWS = kept({"order_id": ["1", "-2", "x"], "ordered_at": ["2024-05-01"] * 3, "note": ["a", "b", None]})


def test_a_row_comes_back_as_if_it_had_passed_when_it_arrived() -> None:
    done = repair_rows(orders(), ROWS, REPAIRED_AT, Around())
    good, counts = done.good, done.counts
    assert good.to_dicts() == [
        {
            "order_id": 1,
            "ordered_at": datetime(2024, 5, 1, tzinfo=UTC),
            "_position": "f.csv#1",
            "_known_at": AS_OF,
            "_repaired_at": REPAIRED_AT,
            "_source": "orders",
            "_batch_id": "b1",
            "_committed_at": ARRIVED_AT,
            "_contract_version": contract_hash(orders()),
        }
    ]
    assert (counts.rows, counts.quarantined_rows) == (3, 2)
    assert {name: check.rows for name, check in counts.failed.items()} == {
        "order_id:greater_than(0)": 1,
        "order_id:type(Int64)": 1,
    }


def test_what_the_source_declares_of_its_knowledge_holds_for_repaired_rows_too() -> None:
    good = repair_rows(orders(known=At("ordered_at", timedelta(hours=1))), ROWS, REPAIRED_AT, Around()).good
    assert good["_known_at"].to_list() == [datetime(2024, 5, 1, 1, tzinfo=UTC)]


def test_a_repaired_row_has_its_derived_columns() -> None:
    source = replace(orders(), derived={"tenfold": pl.col("order_id") * 10})
    assert repair_rows(source, ROWS, REPAIRED_AT, Around()).good["tenfold"].to_list() == [10]


def test_a_repair_function_mends_rows_by_what_they_failed() -> None:
    def mend(rows: pl.DataFrame) -> pl.DataFrame:
        negative = pl.col("_failed_checks").list.eval(pl.element().str.contains("greater_than")).list.any()
        return rows.with_columns(
            order_id=pl.when(negative).then(pl.col("order_id").str.strip_prefix("-")).otherwise("order_id")
        )

    done = repair_rows(orders(mend), ROWS, REPAIRED_AT, Around())
    good, counts = done.good, done.counts
    assert good["order_id"].to_list() == [1, 2]
    assert counts.quarantined_rows == 1


def test_typed_fields_reach_the_contract_with_their_types() -> None:
    seen: dict[str, pl.DataType] = {}

    def look(rows: pl.DataFrame) -> pl.DataFrame:
        seen.update(rows.schema)
        return rows.with_columns(pl.col("order_id", "ordered_at").cast(pl.String))

    fields: dict[str, list[object]] = {
        "order_id": ["5"],
        "ordered_at": ["2024-05-01"],
        "weight": [1.5],
        "raw": [b"\xff"],
    }
    repair_rows(orders(look), kept(fields), REPAIRED_AT, Around())
    assert (seen["weight"], seen["raw"], seen["order_id"]) == (pl.Float64(), pl.Binary(), pl.String())


def test_rows_that_lack_a_field_stay_where_they_are_and_stop_nothing() -> None:
    lines = ROWS.with_columns(raw_row=pl.lit('{"line":"9,2024-05-01"}'), arrived_schema=pl.lit("text:0"))
    done = repair_rows(orders(), lines, REPAIRED_AT, Around())
    good, counts = done.good, done.counts
    assert (len(good), list(counts.failed)) == (0, ["columns:missing"])
    needs = orders(lambda rows: rows.with_columns(pl.col("order_id").str.strip_chars()))
    done = repair_rows(needs, lines, REPAIRED_AT, Around())
    good, counts = done.good, done.counts
    assert (len(good), list(counts.failed)) == (0, ["repair:missing(order_id)"])


def test_a_line_that_could_not_be_read_can_be_taken_apart() -> None:
    def split(rows: pl.DataFrame) -> pl.DataFrame:
        parts = pl.col("line").str.split_exact(";", 1).struct
        return rows.with_columns(order_id=parts.field("field_0"), ordered_at=parts.field("field_1"))

    lines = ROWS.head(1).with_columns(raw_row=pl.lit('{"line":"9;2024-05-01"}'), arrived_schema=pl.lit("text:0"))
    good = repair_rows(orders(split), lines, REPAIRED_AT, Around()).good
    assert good["order_id"].to_list() == [9]


@pytest.mark.parametrize(
    ("repair", "says"),
    [
        (lambda rows: rows.head(1), r"'orders' was given 3 rows and returned 1.*each with its `_position`"),
        (lambda rows: pl.concat([rows, rows]), r"was given 3 rows and returned 6"),
        (lambda rows: rows.with_columns(_position=pl.lit("f.csv#1")), r"was given 3 rows and returned 3, or others"),
        (lambda rows: rows.lazy(), r"must return a Polars DataFrame with `_position`"),
        (lambda rows: rows.drop("_position"), r"must return a Polars DataFrame with `_position`"),
        (
            lambda rows: 1 / 0,
            r"failed on 3 rows with the fields \['order_id', .*ZeroDivisionError.*Nothing was published",
        ),
    ],
)
def test_a_repair_function_that_loses_doubles_or_breaks_is_stopped(repair: Repair, says: str) -> None:
    with pytest.raises(RepairMistake, match=says):
        repair_rows(orders(repair), ROWS, REPAIRED_AT, Around())
