"""Staging on Ray and real S3: what is staged is what was planned, less what changed meanwhile or cannot be read."""

import gzip
import random
from pathlib import Path

import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch, plan_batch
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.sources.files import FilePart, list_files
from perennial.lakehouse.staging import staged_files
from perennial.lakehouse.tables import ensure_table
from perennial.spec import Files, load_pipeline
from ray_jobs.ingest.files import read_files
from ray_jobs.ingest.split import split_files
from ray_jobs.ingest.stage import StagedBatch, StageRequest, deal_parts, stage
from tests.shop import FILE, NOON, orders, put, write_shop


def planned(lake: Lake, pipelines: Path) -> Batch:
    pipeline = load_pipeline("shop", pipelines)
    return plan_batch(lake, pipeline, pipeline.source("orders"), NOON)


def staged(lake: Lake, pipelines: Path, batch: Batch) -> StagedBatch:
    return stage(StageRequest(lake=lake, batch=batch, run_id="r", committed_at=NOON, pipelines=pipelines))


def rows_in(lake: Lake, pipelines: Path, batch: StagedBatch) -> list[int]:
    """Order ids in the data files that a batch would publish."""
    table = ensure_table(
        lake, raw_table(lake, "shop", "orders"), raw_schema(load_pipeline("shop", pipelines).source("orders"))
    )
    paths = [file.file_path.removeprefix("s3://") for file in staged_files(table, batch.rows)]
    tables = [pl.read_parquet(lake.arrow_files().open_input_file(path).read()) for path in paths]
    return sorted(pl.concat(tables)["order_id"].to_list()) if tables else []


@pytest.fixture(autouse=True)
def _connected(ray_head: str) -> None:
    """Each test runs beside the session's Ray."""


def test_files_that_changed_since_the_plan_are_left_for_the_next_run(lake: Lake, pipelines: Path) -> None:
    for number in range(3):
        put(lake, f"orders/{number}.csv", orders(1 + number * 10, 10))
    batch = planned(lake, pipelines)
    put(lake, "orders/0.csv", orders(1, 2))
    lake.files().rm_file(lake.uri("landing/orders/1.csv"))
    found = staged(lake, pipelines, batch)
    assert rows_in(lake, pipelines, found) == list(range(21, 31))
    assert [part.identity.partition("@")[0] for part in found.batch.parts] == ["orders/2.csv"]
    assert (found.counts.rows, found.unreadable) == (10, {})
    assert found.batch.batch_id != batch.batch_id


def test_a_file_that_cannot_be_read_is_named_and_left_out(lake: Lake, pipelines: Path) -> None:
    write_shop(pipelines, FILE.replace('"orders/*.csv"', '"orders/*"'))
    put(lake, "orders/1.csv", orders(1, 10))
    whole = gzip.compress(orders(11, 10).encode())
    lake.files().pipe_file(lake.uri("landing/orders/2.csv.gz"), whole)
    lake.files().pipe_file(lake.uri("landing/orders/3.csv.gz"), whole[:-9])
    found = staged(lake, pipelines, planned(lake, pipelines))
    assert rows_in(lake, pipelines, found) == list(range(1, 21))
    [(identity, reason)] = found.unreadable.items()
    assert identity.startswith("orders/3.csv.gz@")
    assert "Truncated" in reason


def test_large_files_are_cut_at_records_and_read_as_a_whole(lake: Lake, pipelines: Path) -> None:
    draw = random.Random(7)
    words = ['"x, ""y""\r\nz"', "pen", '""', '"\né😀"']
    text = "order_id,product\r\n" + "".join(f"{n},{draw.choice(words)}\r\n" for n in range(3000))
    put(lake, "orders/1.csv", text)
    put(lake, "orders/2.csv", text.replace('"\né😀"', 'an 5" inch'))
    source = load_pipeline("shop", pipelines).source("orders")
    assert isinstance(source, Files)
    parts = list_files(lake, source)
    pieces = split_files(lake, source, parts, slots=8, split_bytes=4_000)
    assert sum(piece.path == "orders/1.csv" for piece in pieces) == round(parts[0].bytes / 4_000)
    assert sum(piece.path == "orders/2.csv" for piece in pieces) == 1
    whole, cut = (pl.concat([rows for rows, _ in read_files(lake, source, p, 10**6)]) for p in (parts, pieces))
    assert cut.drop("_position").equals(whole.drop("_position"))
    assert cut["_position"].n_unique() == len(whole) == 6000


def test_every_part_is_dealt_once_and_the_heaviest_apart() -> None:
    parts = [FilePart(path=f"{n}", etag="", bytes=weight) for n, weight in enumerate([1, 50, 2, 60, 3, 4])]
    hands = deal_parts(parts, 2)
    assert sorted(index for hand in hands for index in hand) == list(range(6))
    assert sorted(sum(parts[index].bytes for index in hand) for hand in hands) == [60, 60]
