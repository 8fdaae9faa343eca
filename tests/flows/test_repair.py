"""Quarantined rows through a corrected contract, as one flow on a real Prefect server; tests/tasks has the cases."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from flows.ingest import ingest
from flows.repair import repair
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.quarantine import read_open_quarantine
from perennial.lakehouse.tables import read_snapshot
from tests.shop import FILE, NOON, orders, put, write_shop

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


def test_two_repairs_at_once_bring_every_row_back_once(settings: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + BULKY)
    ingest("shop", "orders", NOON, settings=settings)
    arrived = where(lake)
    write_shop(pipelines, LARGER)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda check: repair("shop", "orders", check=check, settings=settings), ("", "pieces:")))
    assert where(lake) == arrived
    assert len(raw(lake)) == 9
