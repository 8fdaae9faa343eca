"""What goes to quarantine can be told apart by its reasons and rebuilt as it arrived, whatever its block looked like."""

import pandera.polars as pa
import polars as pl

from perennial.rules.contract import check_block
from perennial.rules.raw_rows import decode_rows
from perennial.spec import Files
from ray_jobs.ingest.kept import broken_rows, refused_rows


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order_id: int = pa.Field(gt=0)


ORDERS = Files("orders", "orders/*.csv", contract=Order, key=["order_id"])
ARRIVED = pl.DataFrame({"order_id": ["1", "0", "x"], "note": ["a", None, ""], "_position": ["f#1", "f#2", "f#3"]})
UNREADABLE = pl.DataFrame({"line": ["7"], "_position": ["f#unreadable 1"], "_failed_checks": [["csv:columns(2, 1)"]]})


def rebuilt(kept: pl.DataFrame) -> list[dict[str, object]]:
    """The fields of every row, and no others."""
    return [
        row
        for part in kept.partition_by("arrived_schema", maintain_order=True)
        for row in decode_rows(part["raw_row"], part["arrived_schema"][0]).rows(named=True)
    ]


def test_broken_rows_are_kept_with_the_fields_they_had_and_no_others() -> None:
    kept = broken_rows(ARRIVED, check_block(ORDERS, ARRIVED), UNREADABLE)
    assert rebuilt(kept) == [{"order_id": "0", "note": None}, {"order_id": "x", "note": ""}, {"line": "7"}]
    assert kept["position"].to_list() == ["f#2", "f#3", "f#unreadable 1"]
    assert [len(checks) for checks in kept["failed_checks"].to_list()] == [1, 1, 1]


def test_of_a_refused_block_every_row_is_kept_with_its_own_reasons_first() -> None:
    kept = refused_rows(ARRIVED, check_block(ORDERS, ARRIVED), UNREADABLE)
    assert rebuilt(kept)[0] == {"order_id": "1", "note": "a"}
    assert kept["position"].to_list() == ["f#1", "f#2", "f#3", "f#unreadable 1"]
    assert [checks[-1] for checks in kept["failed_checks"].to_list()] == ["batch:refused"] * 4
    assert [checks[:-1] for checks in kept["failed_checks"].to_list()] == [
        [],
        ["order_id:greater_than(0)"],
        ["order_id:type(Int64)"],
        ["csv:columns(2, 1)"],
    ]


def test_a_block_without_broken_rows_keeps_none() -> None:
    fine = ARRIVED.head(1)
    assert broken_rows(fine, check_block(ORDERS, fine), UNREADABLE.head(0)).is_empty()
    assert len(refused_rows(fine.head(0), check_block(ORDERS, fine.head(0)), UNREADABLE)) == 1
