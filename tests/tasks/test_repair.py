"""Refused batches and repairs, task by task, against real Ray, S3 and catalog; tests/flows has them as one flow."""

import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pytest
from prefect.logging.loggers import disable_run_logger

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.quarantine import RepairMoved, read_open_quarantine
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.tables import read_snapshot
from perennial.spec import load_pipeline
from ray_jobs.ingest.repair import StagedRepair
from ray_jobs.ingest.stage import StagedBatch
from tasks.compute import Compute
from tasks.lakehouse import PublishedBatch, finish_outbox, judge_staged, plan_batch, publish_batch, stage_batch
from tasks.refusal import refuse_batch, refused
from tasks.repair import plan_repair, publish_repair, stage_repair
from tests.shop import FILE, NOON, orders, put, write_shop

LARGER = FILE.replace("ge=1, le=100", "ge=1, le=1000")
BULKY = "50,pen,2024-05-01T12:00:00Z,500,true\n51,ink,2024-05-01T12:00:00Z,600,\n0,pen,2024-05-01T12:00:00Z,1,true\n"
POINTS = ("metadata-written", "swapped", "committed")
CHILDREN = get_context("forkserver")  # a client of S3 or of Ray does not survive a fork
CHILDREN.set_forkserver_preload([__name__])


@pytest.fixture(autouse=True)
def _outside_of_runs() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.fixture
def compute(ray_head: str) -> Compute:
    """The Ray of the tests."""
    return Compute(ray_address=ray_head)


def bring_in(compute: Compute, lake: Lake, pipelines: Path, as_of: datetime = NOON) -> PublishedBatch:
    """What `ingest` does with what is new."""
    finish_outbox.fn(lake, "shop", "orders")
    staged = stage_batch.fn(compute, lake, pipelines, plan_batch.fn(lake, pipelines, "shop", "orders", as_of))
    if refusal := judge_staged.fn(lake, pipelines, staged):
        staged = refuse_batch.fn(compute, lake, pipelines, staged, refusal)
    published = publish_batch.fn(lake, pipelines, staged)
    finish_outbox.fn(lake, "shop", "orders")
    return published


def stage_refused(compute: Compute, lake: Lake, pipelines: Path) -> StagedBatch:
    """What is new, refused; but for its commit."""
    staged = stage_batch.fn(compute, lake, pipelines, plan_batch.fn(lake, pipelines, "shop", "orders", NOON))
    return refuse_batch.fn(compute, lake, pipelines, staged, judge_staged.fn(lake, pipelines, staged))


def judge_again(compute: Compute, lake: Lake, pipelines: Path, batch: str = "", check: str = "") -> StagedRepair:
    """A repair, but for its commit."""
    chosen = plan_repair.fn(lake, pipelines, "shop", "orders", batch, check)
    return stage_repair.fn(compute, lake, pipelines, chosen, NOON)


def raw(lake: Lake) -> pl.DataFrame:
    """Every row that can be read."""
    return pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("shop", "raw_orders"))))


def where(lake: Lake) -> list[tuple[str, str]]:
    """Where every row stood that is readable or open, sorted: each must be there once."""
    kept = read_open_quarantine(lake, "shop", "orders").select("batch_id", "position")
    return sorted([*raw(lake).select("_batch_id", "_position").iter_rows(), *kept.iter_rows()])


def test_a_refused_batch_comes_back_and_what_arrived_after_it_stays_the_latest(
    compute: Compute, lake: Lake, pipelines: Path
) -> None:
    put(lake, "orders/1.csv", orders(1, 2).replace(",2,False", ",200,False") + BULKY)
    published = bring_in(compute, lake, pipelines)
    assert (published.rows, len(raw(lake)), len(where(lake))) == (0, 0, 5)
    assert f"FLOW=repair PIPELINE=shop SOURCE=orders BATCH={published.batch.batch_id}" in str(refused(published))
    put(lake, "orders/1.csv", orders(1, 2).replace(",2,False", ",77,False"))  # the export, corrected
    assert bring_in(compute, lake, pipelines, NOON + timedelta(hours=1)).rows == 2
    arrived = where(lake)
    write_shop(pipelines, LARGER)
    assert publish_repair.fn(lake, pipelines, judge_again(compute, lake, pipelines, check="batch:refused")) == 4
    assert (where(lake), len(set(arrived))) == (arrived, 7)
    known = read_known(lake, load_pipeline("shop", pipelines), "orders", NOON + timedelta(days=1))
    assert dict(known.select("order_id", "pieces").iter_rows()) == {1: 77, 2: 3, 50: 500, 51: 600}


def test_only_the_chosen_rows_are_judged_again(compute: Compute, lake: Lake, pipelines: Path) -> None:
    batches = []
    for number in (1, 2):
        put(lake, f"orders/{number}.csv", orders(number * 10, 7) + BULKY)
        batches.append(bring_in(compute, lake, pipelines).batch.batch_id)
    write_shop(pipelines, LARGER)
    assert judge_again(compute, lake, pipelines, check="order_id:").repaired_rows == 0
    assert judge_again(compute, lake, pipelines, check="pieces:").repaired_rows == 4
    assert judge_again(compute, lake, pipelines, batch=batches[0]).counts.rows == 3
    chosen = judge_again(compute, lake, pipelines, batch=batches[0], check="pieces:")
    assert publish_repair.fn(lake, pipelines, chosen) == 2
    left = read_open_quarantine(lake, "shop", "orders")["batch_id"].to_list()
    assert [left.count(batch) for batch in batches] == [1, 3]


def test_of_two_repairs_planned_on_the_same_state_one_is_committed(
    compute: Compute, lake: Lake, pipelines: Path
) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + BULKY)
    bring_in(compute, lake, pipelines)
    arrived = where(lake)
    write_shop(pipelines, LARGER)
    every, some = judge_again(compute, lake, pipelines), judge_again(compute, lake, pipelines, check="pieces:")
    assert publish_repair.fn(lake, pipelines, some) == 2
    with pytest.raises(RepairMoved, match="running repair again brings back what is still open"):
        publish_repair.fn(lake, pipelines, every)
    assert publish_repair.fn(lake, pipelines, some) == 2  # its answer was lost, say
    assert (where(lake), len(raw(lake))) == (arrived, 9)
    assert judge_again(compute, lake, pipelines).counts.rows == 1


def test_a_repair_function_of_the_pipeline_mends_rows(compute: Compute, lake: Lake, pipelines: Path) -> None:
    put(lake, "orders/1.csv", orders(1, 7) + "60,PEN,2024-05-01T12:00:00Z,5,true\n61,pen\n")
    bring_in(compute, lake, pipelines)
    arrived = where(lake)
    mend = (
        "def mend(rows):\n    return rows.with_columns(pl.col('product').str.to_lowercase())\n\n\npipeline = Pipeline("
    )
    text = FILE.replace("pipeline = Pipeline(", mend).replace('key=["order_id"],', 'key=["order_id"], repair=mend,')
    write_shop(pipelines, text)
    again = judge_again(compute, lake, pipelines)
    assert list(again.counts.failed) == ["repair:missing(product)"]
    assert publish_repair.fn(lake, pipelines, again) == 1
    assert where(lake) == arrived
    assert raw(lake).filter(order_id=60)["product"].to_list() == ["pen"]
    left = read_open_quarantine(lake, "shop", "orders")
    assert left["position"].to_list() == ["orders/1.csv#unreadable 1"]


def commit(point: str, lake: Lake, pipelines: Path, staged: StagedBatch | StagedRepair) -> None:
    """What a child does: commit, and be killed at a fault point."""
    os.environ["PERENNIAL_FAULT"] = point
    with disable_run_logger():
        if isinstance(staged, StagedBatch):
            publish_batch.fn(lake, pipelines, staged)
        else:
            publish_repair.fn(lake, pipelines, staged)


def kill(point: str, lake: Lake, pipelines: Path, staged: StagedBatch | StagedRepair) -> None:
    """Let a child commit, which `kill -9` ends at a fault point."""
    child = CHILDREN.Process(target=commit, args=(point, lake, pipelines, staged))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
def test_a_refused_batch_whose_commit_is_killed_is_in_quarantine_once(
    point: str, compute: Compute, lake: Lake, pipelines: Path
) -> None:
    put(lake, "orders/1.csv", orders(1, 2) + BULKY)
    kill(point, lake, pipelines, stage_refused(compute, lake, pipelines))
    put(lake, "orders/2.csv", orders(10, 9))
    bring_in(compute, lake, pipelines)
    kept = read_open_quarantine(lake, "shop", "orders")["position"].to_list()
    # the commit did not stand: both files are one batch, and within the budget
    expected = (3, 11) if point == "metadata-written" else (5, 9)
    assert (len(kept), len(raw(lake))) == expected
    assert len({position for _, position in where(lake)}) == len(where(lake)) == 14


@pytest.mark.parametrize("point", POINTS)
def test_a_repair_whose_commit_is_killed_brings_every_row_back_once(
    point: str, compute: Compute, lake: Lake, pipelines: Path
) -> None:
    put(lake, "orders/1.csv", orders(1, 2) + BULKY)
    bring_in(compute, lake, pipelines)
    arrived = where(lake)
    write_shop(pipelines, LARGER)
    kill(point, lake, pipelines, judge_again(compute, lake, pipelines))
    still_open = 4 if point == "metadata-written" else 0
    assert publish_repair.fn(lake, pipelines, judge_again(compute, lake, pipelines)) == still_open
    assert publish_repair.fn(lake, pipelines, judge_again(compute, lake, pipelines)) == 0
    assert (where(lake), len(raw(lake))) == (arrived, 4)


def test_a_key_that_may_never_come_again_does_not_come_back_twice(
    compute: Compute, lake: Lake, pipelines: Path
) -> None:
    once = 'key=["order_id"], same_key="violation",'
    write_shop(pipelines, FILE.replace('key=["order_id"],', once, 1))
    put(lake, "orders/1.csv", orders(1, 3))
    bring_in(compute, lake, pipelines)
    put(lake, "orders/2.csv", orders(20, 3) + "1,pen,2024-05-01T12:00:00Z,1,\n70,pen,2024-05-01T12:00:00Z,500,\n")
    second = bring_in(compute, lake, pipelines).batch.batch_id
    put(lake, "orders/3.csv", orders(30, 3) + "70,ink,2024-05-01T12:00:00Z,600,\n")
    bring_in(compute, lake, pipelines)
    write_shop(pipelines, LARGER.replace('key=["order_id"],', once, 1))
    every = judge_again(compute, lake, pipelines)
    assert ({name: check.rows for name, check in every.counts.failed.items()}, every.rows) == (
        {"unique(order_id)": 3},
        [],
    )
    assert publish_repair.fn(lake, pipelines, judge_again(compute, lake, pipelines, batch=second)) == 1
    assert judge_again(compute, lake, pipelines).repaired_rows == 0
    assert raw(lake).filter(order_id=70)["product"].to_list() == ["pen"]


def test_of_rows_with_one_key_the_second_does_not_come_back_after_the_first(
    compute: Compute, lake: Lake, pipelines: Path
) -> None:
    once = 'key=["order_id"], same_key="violation_in_batch",'
    write_shop(pipelines, FILE.replace('key=["order_id"],', once, 1))
    put(lake, "orders/1.csv", orders(1, 8) + "9,pen,2024-05-01T12:00:00Z,500,\n9,ink,2024-05-01T12:00:00Z,1,\n")
    bring_in(compute, lake, pipelines)
    write_shop(pipelines, LARGER.replace('key=["order_id"],', once, 1))
    assert publish_repair.fn(lake, pipelines, judge_again(compute, lake, pipelines, check="pieces:")) == 1
    rest = judge_again(compute, lake, pipelines)
    assert {name: check.rows for name, check in rest.counts.failed.items()} == {"unique(order_id)": 1}
    assert raw(lake).filter(order_id=9)["product"].to_list() == ["pen"]
