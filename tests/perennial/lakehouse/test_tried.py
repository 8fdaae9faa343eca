"""What the log says of a trial, in a real lakehouse: losses of a canary, whose requests no other version scored."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import prediction_schema
from perennial.lakehouse.stages import make_champion
from perennial.lakehouse.tables import ensure_table
from perennial.lakehouse.trials import divert, open_trial
from perennial.lakehouse.tried import read_steps
from perennial.rules.features import input_names
from perennial.spec import Pipeline
from tests.ray_jobs.drift.world import MAY, inputs_of, land_outcomes, load_rides, rides, write_pipeline

ROWS = 400


def log_canary(lake: Lake, pipeline: Pipeline, began: datetime, ridden: pl.DataFrame, truth: np.ndarray) -> None:
    """Requests by turns: version 1 scores near the label, the canary far from it; every tenth canary fails."""
    given, turns = inputs_of(pipeline, ridden), np.arange(ridden.height) % 2
    failed = np.arange(ridden.height) % 20 == 1
    schema = prediction_schema({n: given[n].to_arrow().type for n in ("ride", "started_at")}, input_names(pipeline))
    rows = given.with_columns(
        request_id=pl.Series([f"r{place}" for place in range(ridden.height)]),
        row_index=pl.lit(0, pl.Int32),
        score=pl.Series(np.where(turns == 1, 1 - truth, truth) * 0.8 + 0.1).set(pl.Series(failed), None),
        version=pl.Series(1 + turns),
        role=pl.Series(np.where(turns == 1, "canary", "champion")),
        answered_at=pl.Series([began + timedelta(milliseconds=place) for place in range(ridden.height)]),
        latency_ms=pl.lit(1.0),
        error=pl.Series(["no score" if one else None for one in failed]),
        weight=pl.lit(1.0),
    )
    identifier = lake.table(pipeline.name, "predictions")
    ensure_table(lake, identifier, schema)
    append_once(lake, identifier, rows.select(schema.names).to_arrow().cast(schema), "answered")


def test_labels_of_a_canarys_own_requests_tell_that_it_is_worse(lake: Lake, tmp_path: Path) -> None:
    pipeline = load_rides(write_pipeline(tmp_path / "pipelines"))
    make_champion(lake, "rides", 1, expected_generation=0, as_of=MAY, reason="a test", decision_id="d")
    trial = open_trial(lake, "rides", 2, as_of=MAY, reason="a test")
    trial = divert(lake, trial, "canary", 0.5, as_of=MAY, reason="a test")
    ridden, truth = rides(MAY, ROWS), np.random.default_rng(3).integers(0, 2, ROWS).astype(np.float64)
    log_canary(lake, pipeline, trial.since, ridden, truth)
    land_outcomes(lake, pipeline, ridden.head(300), truth[:300], noise=0.0)
    until = trial.since + timedelta(seconds=2)
    (unlabelled,) = read_steps(lake, pipeline, trial, 1, until)
    assert len(unlabelled.losses) == 0
    (seen,) = read_steps(lake, pipeline, trial, 1, until, labels_as_of=datetime.now(UTC))
    # of 150 labelled canaries 15 failed, and the last has no champion's after it
    assert len(seen.losses) in (134, 135)
    assert np.allclose(seen.losses, 0.9**2 - 0.1**2)
