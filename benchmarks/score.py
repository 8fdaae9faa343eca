"""Batch scoring beside the bare forward pass: `python -m benchmarks.score`, by hand `make bench-score`.

The network is the default one; `--members 1` is a light one. Both get the same rows and give the same scores. The forward pass has its features in memory already and writes nothing;
`score` reads an Iceberg table, joins, computes features, scores on Ray and commits the scores. Ray is started before.
"""

import argparse
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import ray
import torch

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_log, read_moments
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.features import compute_features
from perennial.spec import Pipeline, TabularModel, load_pipeline
from ray_jobs.score import ScoreRequest, score
from tests.conftest import empty_lake, serve_s3
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

FOLDER = Path(__file__).parents[1] / "tests" / "ray_jobs" / "serve" / "pipelines"
LATER = NOON + timedelta(days=3_650)


def main() -> None:
    """Print a line per round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    default = TabularModel("binary")
    parser.add_argument("--hidden", type=int, nargs="+", default=default.hidden, help="units of the hidden layers")
    parser.add_argument("--members", type=int, default=default.members, help="networks in the ensemble")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve_s3(Path(folder) / "s3") as s3:
        lake, pipeline = empty_lake(s3, Path(folder)), load_pipeline("trips", FOLDER)
        fill_raw(lake, pipeline)
        _land(lake, asked.rows)
        version = register_model(lake, pipeline, 1, hidden=tuple(asked.hidden), members=asked.members)
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
        ray.get([ray.remote(_wait).remote() for _ in range(8)])  # workers are there
        rounds = [_round(lake, pipeline, version, number) for number in range(asked.rounds)]
        bare, whole = (float(np.median([figures[side] for figures in rounds])) for side in (0, 1))
        print(f"median: forward pass {bare:,.0f} rows/s, score {whole:,.0f} rows/s, {whole / bare:.0%}")
        ray.shutdown()


def _wait() -> None:
    time.sleep(0.1)


def _land(lake: Lake, rows: int) -> None:
    there = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("trips", "raw_trips"))))
    more = there[[number % there.height for number in range(rows - there.height)]]
    more = more.with_columns(
        pl.int_range(there.height, rows).alias("trip"),
        (pl.col("start_at") + pl.duration(seconds=pl.int_range(pl.len()) % 86_400)).alias("start_at"),
    )
    append_once(lake, lake.table("trips", "raw_trips"), more.to_arrow(), "more")


def _round(lake: Lake, pipeline: Pipeline, number: int, turn: int) -> tuple[float, float]:
    version = read_version(lake, "trips", number)
    scorer = load_scorer(lake, "trips", version.artifact_id, version.manifest_sha256)
    as_of = LATER + timedelta(days=turn)  # another question each time, else it is answered from the table's history
    tables = {join.source: read_log(lake, pipeline, join.source, as_of) for join in pipeline.joins}
    features = compute_features(pipeline, read_moments(lake, pipeline, as_of), tables)
    torch.set_num_threads(os.cpu_count() or 1)
    started = time.perf_counter()
    scores = scorer.score(features)
    bare = features.height / (time.perf_counter() - started)
    place = {"lake": lake, "pipelines": FOLDER, "pipeline": "trips", "version": number}
    started = time.perf_counter()
    scored = score(ScoreRequest(**place, as_of=as_of, into=f"scores_{turn}"))
    whole = scored.rows / (time.perf_counter() - started)
    written = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("trips", f"scores_{turn}")))).sort("trip")
    expected = features.with_columns(pl.Series("score", scores)).sort("trip")
    assert np.allclose(written["score"], expected["score"], atol=1e-9)
    print(f"{features.height:,} rows: forward pass {bare:,.0f} rows/s, score {whole:,.0f} rows/s, {whole / bare:.0%}")
    return bare, whole


if __name__ == "__main__":
    main()
