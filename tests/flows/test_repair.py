"""Quarantined rows through a corrected contract, against a real Prefect server, Ray, S3 and catalog: back in raw, once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from flows.ingest import ingest
from flows.repair import repair
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.quarantine import read_open_quarantine
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.tables import read_snapshot
from tasks.refusal import BatchRefused
from tests.shop import FILE, NOON, orders, put, shop, write_shop

LARGER = FILE.replace("ge=1, le=100", "ge=1, le=1000")
BULKY = "50,pen,2024-05-01T12:00:00Z,500,true\n51,ink,2024-05-01T12:00:00Z,600,\n0,pen,2024-05-01T12:00:00Z,1,true\n"


def raw(lake: Lake) -> pl.DataFrame:
    """Every row that can be read."""
    return pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("shop", "raw_orders"))))


def where(lake: Lake) -> list[tuple[str, str]]:
    """Where every row stood that is readable or open, sorted: each must be there once."""
    kept = read_open_quarantine(lake, "shop", "orders").select("batch_id", "position")
    return sorted([*raw(lake).select("_batch_id", "_position").iter_rows(), *kept.iter_rows()])


def test_rows_that_pass_the_corrected_contract_come_back_once(settings: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + BULKY)
    ingest("shop", "orders", NOON, settings=settings)
    arrived = where(lake)
    assert len(set(arrived)) == 10
    assert repair("shop", "orders", settings=settings) == {"orders": 0}  # the contract is the one they broke
    write_shop(pipelines, LARGER)
    assert repair("shop", "orders", settings=settings) == {"orders": 2}
    assert where(lake) == arrived
    back = raw(lake).filter(pl.col("_repaired_at").is_not_null()).sort("order_id")
    assert back["order_id"].to_list() == [50, 51]
    assert set(back["_batch_id"]) == set(raw(lake)["_batch_id"])
    assert read_open_quarantine(lake, "shop", "orders")["position"].to_list() == ["orders/1.csv#10"]
    before = len(raw(lake))
    assert repair("shop", settings=settings) == {"orders": 0, "prices": 0}
    assert (len(raw(lake)), where(lake)) == (before, arrived)


def test_a_refused_batch_comes_back_and_what_arrived_after_it_stays_the_latest(
    settings: Settings, lake: Lake, pipelines: Path
) -> None:
    put(lake, "orders/1.csv", orders(1, 2).replace(",2,False", ",200,False") + BULKY)
    with pytest.raises(BatchRefused):
        ingest("shop", "orders", NOON, settings=settings)
    put(lake, "orders/1.csv", orders(1, 2).replace(",2,False", ",77,False"))  # the export, corrected
    ingest("shop", "orders", NOON + timedelta(hours=1), settings=settings)
    arrived = where(lake)
    assert len(set(arrived)) == 7
    write_shop(pipelines, LARGER)
    assert repair("shop", "orders", check="batch:refused", settings=settings) == {"orders": 4}
    assert where(lake) == arrived
    known = read_known(lake, shop(pipelines), "orders", NOON + timedelta(days=1))
    assert dict(known.select("order_id", "pieces").iter_rows()) == {1: 77, 2: 3, 50: 500, 51: 600}


def test_only_the_chosen_rows_are_judged_again(settings: Settings, lake: Lake, pipelines: Path) -> None:
    for number in (1, 2):
        put(lake, f"orders/{number}.csv", orders(number * 10, 7) + BULKY)
        ingest("shop", "orders", NOON, settings=settings)
    first, second = read_open_quarantine(lake, "shop", "orders")["batch_id"].unique(maintain_order=True)
    write_shop(pipelines, LARGER)
    assert repair("shop", "orders", check="order_id:", settings=settings) == {"orders": 0}
    assert repair("shop", "orders", batch=first, check="pieces:", settings=settings) == {"orders": 2}
    assert read_open_quarantine(lake, "shop", "orders")["batch_id"].value_counts().sort("count").rows() == [
        (first, 1),
        (second, 3),
    ]


def test_two_repairs_at_once_bring_every_row_back_once(settings: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + BULKY)
    ingest("shop", "orders", NOON, settings=settings)
    arrived = where(lake)
    write_shop(pipelines, LARGER)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda check: repair("shop", "orders", check=check, settings=settings), ("", "pieces:")))
    assert where(lake) == arrived
    assert len(raw(lake)) == 9


def test_a_repair_function_of_the_pipeline_mends_rows(settings: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + "60,PEN,2024-05-01T12:00:00Z,5,true\n61,pen\n")
    ingest("shop", "orders", NOON, settings=settings)
    arrived = where(lake)
    mend = (
        "def mend(rows):\n    return rows.with_columns(pl.col('product').str.to_lowercase())\n\n\npipeline = Pipeline("
    )
    write_shop(
        pipelines,
        FILE.replace("pipeline = Pipeline(", mend).replace('key=["order_id"],', 'key=["order_id"], repair=mend,'),
    )
    assert repair("shop", "orders", settings=settings) == {"orders": 1}
    assert where(lake) == arrived
    assert raw(lake).filter(order_id=60)["product"].to_list() == ["pen"]
    left = read_open_quarantine(lake, "shop", "orders")
    assert left["position"].to_list() == ["orders/1.csv#unreadable 1"]
