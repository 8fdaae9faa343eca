"""Columns that change between two runs of the flow, in the contract or in what arrives, and the features after them."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from flows.ingest import ingest
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.tables import current_snapshot_id, read_snapshot
from perennial.rules.schema import SchemaRefused
from perennial.spec import load_pipeline
from ray_jobs.features.build import BuildRequest, build
from tests.shop import FILE, NOON, orders, put, shop, write_shop

LATER = NOON + timedelta(days=1)
GIFT = (
    "    returned: bool = pa.Field(nullable=True)",
    "    returned: bool = pa.Field(nullable=True)\n    gift: str = pa.Field(nullable=True)",
)
READS_GIFT = ('"pieces", hour', '"pieces", "gift", hour')


def change(folder: Path, *edits: tuple[str, str]) -> None:
    """The user edits the pipeline's file."""
    text = FILE
    for right, edited in edits:
        assert right in text
        text = text.replace(right, edited)
    write_shop(folder, text)


def declare(words: str) -> tuple[str, str]:
    """An edit of the source `orders`."""
    return "error_budget_share=0.5", f"error_budget_share=0.5, {words}"


def known(lake: Lake, folder: Path) -> pl.DataFrame:
    """The orders as they are known."""
    return read_known(lake, load_pipeline("shop", folder), "orders", LATER).sort("order_id")


@pytest.fixture
def landed(settings: Settings, lake: Lake, pipelines: Path) -> Settings:
    """Two orders and a price are in."""
    put(lake, "orders/1.csv", orders(1, 2))
    put(lake, "prices/1.csv", "product,cents,valid_from\npen,100,2024-05-01T00:00:00Z\nink,120,2024-05-01T00:00:00Z\n")
    shop(pipelines)
    ingest("shop", as_of=NOON, settings=settings)
    return settings


def test_features_are_built_over_rows_from_before_a_column_was_added(
    landed: Settings, lake: Lake, pipelines: Path
) -> None:
    change(pipelines, GIFT, READS_GIFT)
    request = BuildRequest(lake=lake, pipeline="shop", as_of=LATER, pipelines=pipelines)
    assert build(request).rows == 2, "with the new contract, before anything was ingested with it"
    put(lake, "orders/2.csv", "gift,order_id,product,ordered_at,pieces,returned\ncard,3,pen,2024-05-01T14:00:00Z,1,\n")
    ingest("shop", "orders", NOON, settings=landed)
    assert known(lake, pipelines)["gift"].to_list() == [None, None, "card"]
    built = build(request)
    rows = read_snapshot(lake, lake.table("shop", "features"), built.snapshot_id)
    assert sorted(rows["gift"].to_pylist(), key=str) == [None, None, "card"]


def test_a_column_the_contract_does_not_have_is_let_in_and_told(landed: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/2.csv", "gift,order_id,product,ordered_at,pieces,returned\ncard,3,pen,2024-05-01T14:00:00Z,1,\n")
    assert ingest("shop", "orders", NOON, settings=landed) == {"orders": 1}
    assert "gift" not in known(lake, pipelines).columns


def test_a_nullable_column_may_be_left_out(landed: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/2.csv", "order_id,product,ordered_at,pieces\n3,pen,2024-05-01T14:00:00Z,1\n")
    assert ingest("shop", "orders", NOON, settings=landed) == {"orders": 1}
    assert known(lake, pipelines)["returned"].to_list() == [False, False, None]


def test_a_missing_column_is_refused_with_the_way_to_accept_it(landed: Settings, lake: Lake, pipelines: Path) -> None:
    before = current_snapshot_id(lake, lake.table("shop", "raw_orders"))
    put(lake, "orders/2.csv", orders(3, 2).replace("pieces", "peaces"))
    with pytest.raises(
        SchemaRefused, match=r'(?s)nothing published.*pieces +- +is needed +missing.*"peaces": "pieces"'
    ):
        ingest("shop", "orders", NOON, settings=landed)
    assert current_snapshot_id(lake, lake.table("shop", "raw_orders")) == before
    change(pipelines, declare('renamed={"peaces": "pieces"}'))
    assert ingest("shop", "orders", NOON, settings=landed) == {"orders": 2}


def test_under_forbid_any_difference_is_refused_and_the_files_wait(
    landed: Settings, lake: Lake, pipelines: Path
) -> None:
    put(lake, "orders/2.csv", "gift,order_id,product,ordered_at,pieces,returned\ncard,3,pen,2024-05-01T14:00:00Z,1,\n")
    change(pipelines, declare('schema_policy="forbid"'))
    with pytest.raises(SchemaRefused, match=r"(?s)gift +is there +- +not in the contract"):
        ingest("shop", "orders", NOON, settings=landed)
    change(pipelines, GIFT, declare('schema_policy="forbid"'))
    with pytest.raises(SchemaRefused, match=r'(?s)gift +- +string +new.*schema_policy="additive"'):
        ingest("shop", "orders", NOON, settings=landed)
    change(pipelines, GIFT)
    assert ingest("shop", "orders", NOON, settings=landed) == {"orders": 1}
    change(pipelines, GIFT, declare('schema_policy="forbid"'))
    assert ingest("shop", "orders", NOON, settings=landed) == {"orders": 0}


def test_a_renamed_column_brings_its_old_rows_along(landed: Settings, lake: Lake, pipelines: Path) -> None:
    edits = (
        ("    pieces: int", "    items: int"),
        ('"pieces", hour', '"items", hour'),
        ('pl.col("pieces")', 'pl.col("items")'),
    )
    change(pipelines, *edits)
    with pytest.raises(SchemaRefused, match=r'renamed=\{"pieces": "items"\} if items is the same column'):
        ingest("shop", "orders", NOON, settings=landed)
    change(pipelines, *edits, declare('renamed={"pieces": "items"}'))
    put(lake, "orders/2.csv", orders(3, 1))
    assert ingest("shop", "orders", NOON, settings=landed) == {"orders": 1}, "the file still says pieces"
    assert known(lake, pipelines)["items"].to_list() == [2, 3, 4]
