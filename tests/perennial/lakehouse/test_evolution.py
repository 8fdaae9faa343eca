"""A table's columns change in place, on a real catalog and S3: what was written before is read under today's names."""

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier

import pyarrow as pa
import pytest

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.data_files import conform
from perennial.lakehouse.evolution import Declared
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table, read_columns, read_snapshot
from perennial.rules.schema import SchemaRefused
from tests.readers import daft_rows

BEFORE = pa.schema(
    [("number", pa.int32()), ("share", pa.float32()), ("cents", pa.decimal128(9, 2)), ("note", pa.string())]
)
WIDER = pa.schema(
    [("number", pa.int64()), ("share", pa.float64()), ("cents", pa.decimal128(18, 2)), ("note", pa.string())]
)
BIG = 2**40


def change(lake: Lake, schema: pa.Schema, declared: Declared = Declared()) -> dict[str, int]:  # noqa: B008 - a constant
    """Bring the table to the schema; return its field ids."""
    table = ensure_table(lake, lake.table("shop", "things"), schema, declared=declared)
    return {field.name: field.field_id for field in table.schema().fields}


def append(lake: Lake, key: str, rows: Sequence[dict[str, object]], schema: pa.Schema) -> int:
    """Append rows; return the snapshot."""
    return append_once(lake, lake.table("shop", "things"), pa.Table.from_pylist(list(rows), schema), key).snapshot_id


@pytest.fixture
def old(lake: Lake) -> int:
    """A table with a row in it; its snapshot."""
    change(lake, BEFORE)
    return append(lake, "old", [{"number": 1, "share": 0.5, "cents": Decimal("1.10"), "note": "a"}], BEFORE)


def everything(lake: Lake, schema: pa.Schema, **options: object) -> list[dict[str, object]]:
    """All rows under today's names, in the order of their number."""
    rows = read_columns(lake, lake.table("shop", "things"), schema, **options)  # type: ignore[arg-type]
    return sorted(rows.to_pylist(), key=lambda row: row["number"])


def test_a_new_column_is_null_in_the_rows_that_were_there(lake: Lake, old: int) -> None:
    wider = BEFORE.append(pa.field("gift", pa.bool_()))
    change(lake, wider)
    append(lake, "new", [{"number": 2, "gift": True}], wider)
    assert [row["gift"] for row in everything(lake, wider)] == [None, True]
    assert read_snapshot(lake, lake.table("shop", "things"), old).column_names == BEFORE.names
    assert everything(lake, wider, snapshot_id=old)[0]["gift"] is None, "a snapshot of before, under today's names"


def test_columns_are_widened_in_place(lake: Lake, old: int) -> None:
    assert change(lake, WIDER, Declared("promote")) == change(lake, WIDER)
    append(lake, "new", [{"number": BIG, "share": 0.1, "cents": Decimal("12345678901.25")}], WIDER)
    rows = everything(lake, WIDER)
    assert [row["number"] for row in rows] == [1, BIG]
    assert [row["share"] for row in rows] == [0.5, 0.1]
    assert [row["cents"] for row in rows] == [Decimal("1.10"), Decimal("12345678901.25")]
    assert [row["number"] for row in everything(lake, WIDER, row_filter=f"number >= {BIG}")] == [BIG]
    assert [row["number"] for row in everything(lake, WIDER, row_filter="share > 0.4")] == [1]
    then = read_snapshot(lake, lake.table("shop", "things"), old)
    assert then.schema.field("number").type == pa.int32()
    assert then.to_pylist()[0]["cents"] == Decimal("1.10")


def test_a_renamed_column_keeps_its_field_id_and_its_values(lake: Lake, old: int) -> None:
    ids = change(lake, BEFORE)
    renamed = BEFORE.set(3, pa.field("remark", pa.string()))
    now = change(lake, renamed, Declared("additive", {"note": "remark"}))
    assert now["remark"] == ids["note"]
    append(lake, "new", [{"number": 2, "remark": "b"}], renamed)
    assert [row["remark"] for row in everything(lake, renamed)] == ["a", "b"]
    assert everything(lake, renamed, snapshot_id=old)[0]["remark"] == "a"
    assert read_snapshot(lake, lake.table("shop", "things"), old)["note"].to_pylist() == ["a"]


def test_a_column_that_is_gone_stays_and_is_null_from_then_on(lake: Lake, old: int) -> None:
    without = BEFORE.remove(3)
    change(lake, without)
    append(lake, "new", [{"number": 2}], without)
    assert [row["note"] for row in everything(lake, BEFORE)] == ["a", None]


def test_another_engine_reads_what_was_renamed_widened_and_added(lake: Lake) -> None:
    words = [secrets.token_hex(16) for _ in range(20_000)]  # daft reads no small files from this server
    change(lake, BEFORE)
    append(lake, "old", [{"number": number, "note": word} for number, word in enumerate(words)], BEFORE)
    after = WIDER.set(3, pa.field("remark", pa.string())).append(pa.field("gift", pa.bool_()))
    change(lake, after, Declared("promote", {"note": "remark"}))
    new = [{"number": BIG + number, "remark": word, "gift": True} for number, word in enumerate(words)]
    append(lake, "new", new, after)
    rows = daft_rows(lake, lake.table("shop", "things")).sort("number")
    assert rows["remark"].to_list() == words * 2
    assert rows["number"].to_list() == [*range(20_000), *range(BIG, BIG + 20_000)]
    assert rows["gift"].to_list() == [None] * 20_000 + [True] * 20_000


def test_nested_columns_are_the_same_whatever_ids_their_fields_have(lake: Lake) -> None:
    nested = pa.struct([("name", pa.string()), ("rows", pa.list_(pa.int64()))])
    schema = pa.schema([("checks", pa.list_(nested)), ("more", nested)])
    assert change(lake, schema) == change(lake, schema)


@pytest.mark.parametrize("declared", [Declared("forbid", {}), Declared("additive", {}), Declared("promote", {})])
def test_a_refusal_changes_nothing(lake: Lake, old: int, declared: Declared) -> None:
    before = lake.catalog().load_table(lake.table("shop", "things")).metadata_location
    changed = BEFORE.set(0, pa.field("number", pa.string())).append(pa.field("gift", pa.bool_()))
    with pytest.raises(SchemaRefused, match=r"number +int +string +other type"):
        change(lake, changed, declared)
    assert lake.catalog().load_table(lake.table("shop", "things")).metadata_location == before


def test_runs_that_change_and_append_at_once_all_end_well(lake: Lake, old: int) -> None:
    start = Barrier(6)
    wider = WIDER.append(pa.field("gift", pa.bool_()))

    def run(number: int) -> None:
        start.wait()
        if number % 2:
            append(lake, f"batch {number}", [{"number": 10 + number}], BEFORE)
        else:
            change(lake, wider, Declared("promote", {}))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    assert [row["number"] for row in everything(lake, wider)] == [1, 11, 13, 15]
    assert list(change(lake, wider)) == wider.names
    assert len(lake.catalog().load_table(lake.table("shop", "things")).metadata.schemas) == 2


def test_rows_of_a_column_that_was_renamed_meanwhile_are_not_written_without_it(lake: Lake, old: int) -> None:
    change(lake, BEFORE.set(3, pa.field("remark", pa.string())), Declared("additive", {"note": "remark"}))
    table = lake.catalog().load_table(lake.table("shop", "things"))
    with pytest.raises(SchemaRefused, match=r"no columns \['note'\] any more.*Run again with the newer file"):
        conform(pa.Table.from_pylist([{"number": 2, "note": "lost"}], BEFORE), table, table.schema().as_arrow())
