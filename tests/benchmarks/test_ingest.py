"""The benchmark's harness on a few rows: what it measures makes what the peers make, and a difference is seen."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from benchmarks.ingest import outputs, sales
from benchmarks.ingest.__main__ import report
from benchmarks.ingest.contenders import ours, plain_pyarrow, polars_streaming
from benchmarks.ingest.job import DAYS, TYPES, Job
from benchmarks.ingest.tree import Used, cpu_seconds, measured
from perennial.lakehouse.lake import Lake
from tests.conftest import S3, settings_for

ROWS = 3_000


@pytest.fixture
def arrived(lake: Lake, s3: S3, tmp_path: Path) -> Job:
    """The files, where our source looks and where a peer does."""
    files = sales.write_sales(tmp_path / "arrived", ROWS, 3)
    for path in files:
        lake.files().put_file(path, lake.uri(f"landing/sales/{path.name}"))
    keys = [lake.uri(f"landing/sales/{path.name}").removeprefix("s3://") for path in files]
    access, secret = ((s3.secrets_dir / f"s3_{kind}_key").read_text() for kind in ("access", "secret"))
    return Job([str(path) for path in files], keys, f"lake/{lake.environment}/plain", s3.endpoint, access, secret)


def test_ours_makes_what_polars_makes_by_hand(
    arrived: Job,
    lake: Lake,
    tmp_path: Path,
    ray_head: str,
    prefect_server: None,
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.ingest import ingest

    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "bench.py").write_text(ours.PIPELINE)
    settings = settings_for(monkeypatch, lake, tmp_path / "pipelines", ray_head, s3)
    ingest("bench", "sales", ours.NOON, settings=settings)
    polars_streaming.run(replace(arrived, output=str(tmp_path)))
    made, peer = outputs.of_tables(lake), outputs.of_folder(tmp_path)
    assert made.differences(peer) == []
    assert made.rows + made.bad_rows == ROWS
    assert len(made.days) == DAYS
    assert len(made.reasons) >= 8
    assert replace(made, reasons={}, net_euros=made.net_euros + 1).differences(peer) != []


def test_the_plain_loop_writes_every_row(arrived: Job, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
    plain_pyarrow.run(arrived)
    assert outputs.plain_rows(s3.folder / arrived.output) == ROWS


def test_one_row_in_a_hundred_is_bad_in_one_of_the_known_ways() -> None:
    rows = sales.sales(0, 50_000)
    arrived = rows.lazy().with_columns(pl.col(name).alias(f"raw_{name}") for name in TYPES)
    told = arrived.with_columns(**polars_streaming.typed()).select(polars_streaming.reasons(rows.columns)).collect()
    reasons = Counter(told.to_series().explode().drop_nulls().to_list())
    bad = int((told.to_series().list.len() > 0).sum())
    assert 0.008 < bad / len(rows) < 0.012
    assert len(reasons) == sales.KINDS - 1  # one kind breaks two rules at once
    assert rows.equals(pl.concat([sales.sales(0, 20_000), sales.sales(20_000, 50_000)]))


def test_what_a_process_uses_is_counted_and_shown() -> None:
    with measured(os.getpid()) as used:
        sum(number * number for number in range(3_000_000))
    assert 0 < used.cpu <= cpu_seconds(os.getpid())
    table = report({"pyarrow": [Used(cpu=2, wall=1, peak=10**9)], "ours": [Used(cpu=3, wall=2, peak=2 * 10**9)]})
    assert "| Perennial's ingest | 3.0 | 2.0 | 2.00 GB | 1.50 | 1.00 |" in table


def test_a_job_travels_as_a_line(arrived: Job) -> None:
    assert Job(**json.loads(arrived.line())) == arrived
