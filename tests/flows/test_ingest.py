"""The flow against a real Prefect server, Ray, S3 and catalog: what arrives is in raw or in quarantine, once."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from prefect.client.orchestration import get_client

from flows.ingest import ingest
from flows.settings import Settings
from perennial.lakehouse.batches import read_batches
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import plan_batch
from perennial.lakehouse.raw import PROVENANCE, read_known, read_log
from perennial.lakehouse.tables import read_snapshot
from perennial.spec import load_pipeline
from tasks.lakehouse import PartsLeftOut
from tasks.refusal import BatchRefused
from tests.shop import FILE, NOON, orders, put, shop, write_shop

BROKEN = "0,pen,2024-05-01T12:00:00Z,1,true\n8,gold,2024-05-01T12:00:00Z,50,true\n9,pen,yesterday,0,\n10,pen\n"


def rows(lake: Lake, table: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("shop", table))))


def test_every_row_is_published_or_quarantined_with_all_its_failed_checks(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + BROKEN)
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 7}
    raw, quarantine = rows(lake, "raw_orders"), rows(lake, "quarantine")
    assert raw["order_id"].to_list() == list(range(1, 8))
    assert set(PROVENANCE.names) <= set(raw.columns)
    assert raw.select(PROVENANCE.names).null_count().row(0) == (0,) * len(PROVENANCE)
    assert raw["_position"].to_list()[0] == "orders/1.csv#1"
    failed = {row["position"]: row["failed_checks"] for row in quarantine.iter_rows(named=True)}
    assert failed["orders/1.csv#8"] == ["order_id:greater_than(0)"]
    assert failed["orders/1.csv#9"] == ["Order:no_bulk_of_gold"]
    assert [check.split("(")[0] for check in failed["orders/1.csv#10"]] == [
        "ordered_at:type",
        "pieces:greater_than_or_equal_to",
    ]
    assert failed["orders/1.csv#unreadable 1"] == ["csv:columns(expected 5, found 2)"]
    kept = quarantine.filter(position="orders/1.csv#10")["raw_row"].item()
    assert json.loads(kept)["ordered_at"] == "yesterday"


def test_derived_columns_stand_in_raw_and_later_ones_are_added(settings: Settings, lake: Lake, pipelines: Path) -> None:
    budget = "error_budget_share=0.5"
    derived = budget + ', derived={"hour": pl.col("ordered_at").dt.hour(), "gold": pl.col("product") == "gold"}'
    write_shop(pipelines, FILE.replace(budget, derived))
    put(lake, "orders/1.csv", orders(1, 5) + BROKEN)
    ingest("shop", "orders", NOON, settings=settings)
    assert rows(lake, "raw_orders")["hour"].to_list() == [12] * 5
    assert rows(lake, "raw_orders")["gold"].to_list() == [False, True, False, False, True]
    more = derived.replace("derived={", 'derived={"dozens": pl.col("pieces") / 12, ')
    write_shop(pipelines, FILE.replace(budget, more))
    put(lake, "orders/2.csv", orders(60, 1))
    ingest("shop", "orders", NOON, settings=settings)
    last = rows(lake, "raw_orders").sort("order_id").select("hour", "gold", "dozens")
    assert last.rows()[-1] == (12, False, 7 / 12)
    assert last["dozens"].null_count() == 5
    known = read_known(lake, load_pipeline("shop", pipelines), "orders", NOON + timedelta(days=1))
    assert not {"hour", "gold", "dozens"} & set(known.columns)  # no request would carry them


def test_a_rerun_publishes_nothing(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 5) + BROKEN)
    ingest("shop", "orders", NOON, settings=settings)
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 0}
    assert len(rows(lake, "raw_orders")) == 5
    assert len(rows(lake, "quarantine")) == 4


def test_a_file_rewritten_under_its_name_is_a_correction(settings: Settings, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/1.csv", orders(1, 3))
    ingest("shop", "orders", NOON, settings=settings)
    put(lake, "orders/1.csv", orders(1, 3).replace(",2,False", ",77,False"))
    ingest("shop", "orders", NOON, settings=settings)
    later = NOON + timedelta(days=1)
    assert len(read_log(lake, shop(pipelines), "orders", later)) == 6
    assert read_known(lake, shop(pipelines), "orders", later).sort("order_id")["pieces"].to_list() == [77, 3, 4]


def test_two_runs_at_once_publish_every_row_once(settings: Settings, lake: Lake) -> None:
    for number in range(4):
        put(lake, f"orders/{number}.csv", orders(1 + number * 10, 10))
    with ThreadPoolExecutor(2) as pool:
        published = list(pool.map(lambda _: ingest("shop", "orders", NOON, settings=settings), range(2)))
    assert len(published) == 2
    assert sorted(rows(lake, "raw_orders")["order_id"]) == list(range(1, 41))


def test_a_run_killed_between_the_commit_and_the_quarantine_is_finished_by_the_next(
    settings: Settings, lake: Lake, pipelines: Path
) -> None:
    from ray_jobs.ingest.stage import StageRequest, stage
    from tasks.compute import connect
    from tasks.lakehouse import publish_batch

    put(lake, "orders/1.csv", orders(1, 5) + BROKEN)
    connect(settings.compute)
    pipeline = shop(pipelines)
    batch = plan_batch(lake, pipeline, pipeline.source("orders"), NOON)
    staged = stage(StageRequest(lake=lake, batch=batch, run_id="killed", committed_at=NOON, pipelines=pipelines))
    publish_batch.with_options()(lake, pipelines, staged)  # and here it dies
    ingest("shop", "orders", NOON, settings=settings)
    assert len(rows(lake, "quarantine")) == 4
    assert len(rows(lake, "raw_orders")) == 5
    assert rows(lake, "batches")["batch_id"].to_list() == [batch.batch_id]


def test_a_batch_has_its_row_its_page_and_its_artifact(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + BROKEN)
    ingest("shop", "orders", NOON, settings=settings)
    (row,) = read_batches(lake, "shop", "orders").to_dicts()
    assert (row["verdict"], row["rows"], row["quarantined_rows"], row["parts"]) == ("published", 11, 4, 1)
    assert {found["check"]: found["failed_rows"] for found in row["checks"]}["csv:columns"] == 1
    assert {found["column"]: found["nulls"] for found in row["columns"]}["returned"] == 1
    page = lake.files().cat_file(lake.uri("reports/shop/data/orders.html")).decode()
    assert row["batch_id"] in page
    assert "orders/1.csv#10" in page
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": ["data-docs-shop-orders"]}}}
        artifacts = client.request("POST", "/artifacts/filter", json=wanted).json()
    shown = next(artifact["data"] for artifact in artifacts if row["batch_id"] in artifact["data"])
    assert f"{settings.reports_base}/shop/data/orders.html" in shown


def test_the_page_is_made_once_per_batch_and_by_the_next_run_if_the_first_was_killed(
    settings: Settings, lake: Lake
) -> None:
    page = lake.uri("reports/shop/data/orders.html")
    put(lake, "orders/1.csv", orders(1, 3))
    ingest("shop", "orders", NOON, settings=settings)
    mark, made = b"made by the first run", lake.files().cat_file(page)
    lake.files().pipe_file(page, made + mark)
    ingest("shop", "orders", NOON, settings=settings)
    assert lake.files().cat_file(page).endswith(mark)
    lake.files().rm_file(page)
    ingest("shop", "orders", NOON, settings=settings)
    assert lake.files().cat_file(page) == made


def test_a_batch_over_its_budget_is_refused_whole_and_holds_nothing_up(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 2) + BROKEN)
    with pytest.raises(
        BatchRefused,
        match=r"66.7% of its 6 rows.*budget of 50.0%.*Most common: .*, 1 rows.*Nothing of it is readable.*FLOW=repair PIPELINE=shop",
    ):
        ingest("shop", "orders", NOON, settings=settings)
    assert rows(lake, "raw_orders").is_empty()
    kept = rows(lake, "quarantine").sort("position")
    assert [json.loads(row).get("order_id") for row in kept["raw_row"]] == ["1", "2", "0", "8", "9", None]
    own = [[check.split("(")[0] for check in checks] for checks in kept["failed_checks"]]
    assert own[:3] == [["batch:refused"], ["batch:refused"], ["order_id:greater_than", "batch:refused"]]
    assert all(checks[-1] == "batch:refused" for checks in own)
    put(lake, "orders/2.csv", orders(20, 3))
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 3}
    assert len(rows(lake, "quarantine")) == 6
    found = read_batches(lake, "shop", "orders")
    assert found["verdict"].to_list() == ["refused", "published"]
    assert found["quarantined_rows"].to_list() == [6, 0]
    assert "66.7% of its 6 rows" in found["reasons"][0][0]
    assert "66.7% of its 6 rows" in lake.files().cat_file(lake.uri("reports/shop/data/orders.html")).decode()


def test_a_refused_batch_of_one_source_leaves_the_others_alone(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 1) + BROKEN)
    put(lake, "prices/1.csv", "product,cents,valid_from\npen,5,2024-05-01\n")
    with pytest.raises(BatchRefused, match=r"of shop/orders"):
        ingest("shop", None, NOON, settings=settings)
    assert rows(lake, "raw_prices")["cents"].to_list() == [5]


def test_rows_that_refer_to_nothing_are_quarantined_as_known_by_then(
    settings: Settings, lake: Lake, pipelines: Path
) -> None:
    rules = 'error_budget_share=0.5, rules=[References("prices", on="product")]'
    text = FILE.replace("error_budget_share=0.5", rules).replace("import At,", "import References, At,")
    write_shop(pipelines, text)
    put(lake, "prices/1.csv", "product,cents,valid_from\npen,1,2024-01-01\nink,1,2024-01-01\ngold,1,2024-06-01\n")
    put(lake, "orders/1.csv", orders(1, 6))
    ingest("shop", "prices", NOON, settings=settings)
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 4}
    assert rows(lake, "quarantine")["failed_checks"].to_list() == [["product:in_source(prices)"]] * 2


def test_a_batch_unlike_those_before_it_is_refused_and_one_to_warn_of_is_not(
    settings: Settings, lake: Lake, pipelines: Path
) -> None:
    rules = 'error_budget_share=0.5, rules=[RowCount(at_most_share=3), Freshness(1, "warn")]'
    write_shop(
        pipelines,
        FILE.replace("error_budget_share=0.5", rules).replace("import At,", "import RowCount, Freshness, At,"),
    )
    for day in range(3):
        put(lake, f"orders/{day}.csv", orders(1 + 2 * day, 2))
        assert ingest("shop", "orders", NOON + timedelta(days=day), settings=settings) == {"orders": 2}
    put(lake, "orders/3.csv", orders(7, 7))
    with pytest.raises(
        BatchRefused, match=r"is refused: rows:share_of_median\(0.5, 3\): 7 rows, allowed 1 to 6 by the"
    ):
        ingest("shop", "orders", NOON, settings=settings)


def test_a_check_that_cannot_be_run_is_no_failure_of_the_data(settings: Settings, lake: Lake, pipelines: Path) -> None:
    check = "        return data.lazyframe.select(~("
    assert check in FILE
    broken = f"        if data.lazyframe.collect().height:\n            raise LookupError('no rates')\n{check}"
    write_shop(pipelines, FILE.replace(check, broken))
    put(lake, "orders/1.csv", orders(1, 2))
    says = r"check Order:no_bulk_of_gold of the contract Order raised LookupError: no rates.*pipelines/shop.py"
    with pytest.raises(Exception, match=says):
        ingest("shop", "orders", NOON, settings=settings)
    assert rows(lake, "raw_orders").is_empty()


def test_a_key_that_may_not_come_again_is_found_in_other_files_and_in_the_table(
    settings: Settings, lake: Lake, pipelines: Path
) -> None:
    text = FILE.replace("error_budget_share=0.5", 'error_budget_share=0.5, same_key="violation"')
    write_shop(pipelines, text)
    put(lake, "orders/1.csv", orders(1, 6))
    put(lake, "orders/2.csv", orders(6, 6))
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 10}
    put(lake, "orders/3.csv", orders(11, 3))
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 2}
    assert sorted(rows(lake, "raw_orders")["order_id"]) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13]
    kept = rows(lake, "quarantine")
    assert sorted(kept["position"]) == ["orders/1.csv#6", "orders/2.csv#1", "orders/3.csv#1"]
    assert kept["failed_checks"].to_list() == [["unique(order_id)"]] * 3
    assert not [name for name in lake.files().find(lake.uri("staging")) if "fingerprints" in name]


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_published(settings: Settings, lake: Lake) -> None:
    put(lake, "orders/1.csv", orders(1, 5))
    put(lake, "orders/2.csv", "order_id,order_id\n1,2\n")
    for _ in range(2):  # it is tried again until someone mends it
        with pytest.raises(PartsLeftOut, match=r"1 of what arrived.*orders/2.csv@.*must name every column once"):
            ingest("shop", "orders", NOON, settings=settings)
        assert len(rows(lake, "raw_orders")) == 5
    put(lake, "orders/2.csv", orders(6, 5))
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 5}
    assert sorted(rows(lake, "raw_orders")["order_id"]) == list(range(1, 11))
