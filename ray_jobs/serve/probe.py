"""Try a version where it would serve: in a Serve replica of an application without a route, so without any traffic."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from pydantic import BaseModel
from ray import serve

from perennial.lakehouse.artifacts import read_manifest, read_reference
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.stages import Stage
from perennial.rules.features import feature_code_hash
from perennial.rules.infrastructure import Probed
from perennial.rules.scoring import SCORE, Scorer
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.config import ServeConfig
from ray_jobs.serve.keeper import Serving, WrongCode, load_tables
from ray_jobs.serve.rows import read_rows
from ray_jobs.serve.start import open_handle, start_serve

ANSWERS = 20
REPLICA_SECONDS = 600.0
COMPARED_ROWS = 1_000
ALONE = 5  # of the compared rows are also scored one by one
NOT_FIT = (ValueError, RuntimeError, LookupError, TypeError)
"""What a version that is not fit to serve ends in: refused files, other scores, other inputs, other code, no tables.
What is wrong with the place instead (S3, the catalog, a node) is an OSError or Ray's own, and is no judgement."""


class ProbeRequest(BaseModel, frozen=True):
    """The version to try, and how Serve runs."""

    lake: Lake
    pipeline: str
    pipelines: Path
    version: int
    serve: ServeConfig


def probe(request: ProbeRequest) -> Probed:
    """Try a version in a Serve replica of its own, beside those that serve; the replica is gone when this returns.

    Raises:
        ServeNotUp: Serve's proxy did not start; that says nothing of the version.
    """
    start_serve(request.serve)
    name = f"probe-{request.pipeline}-v{request.version}"
    deployment = serve.deployment(
        name="probe",
        ray_actor_options={"num_cpus": request.serve.replica_cpus},
        graceful_shutdown_timeout_s=1,
        logging_config={"encoding": "JSON", "enable_access_log": False, "log_level": "WARNING"},
    )
    try:
        serve.run(deployment(Candidate).bind(), name=name, route_prefix=None)
        answer = open_handle(name).try_version.remote(request.model_dump_json()).result(timeout_s=REPLICA_SECONDS)
    finally:
        serve.delete(name)
    return Probed.model_validate_json(answer)


class Candidate:
    """The class behind the deployment: a version is loaded when it is tried, so that what it raises is an answer."""

    def try_version(self, asked: str) -> str:
        """See `try_version`."""
        return try_version(asked)


def try_version(asked: str) -> str:
    """Load a version as a replica does, answer with it, and compare its scores with training's; JSON in, JSON out."""
    import torch

    request = ProbeRequest.model_validate_json(asked)
    torch.set_num_threads(1)  # as a replica does
    try:
        return _try(request).model_dump_json()
    except NOT_FIT as error:
        return Probed(failure=f"{type(error).__name__}: {error}").model_dump_json()


def _try(request: ProbeRequest) -> Probed:
    lake, pipeline = request.lake, load_pipeline(request.pipeline, request.pipelines)
    version = read_version(lake, pipeline.name, request.version)
    if version.feature_code_hash != feature_code_hash(pipeline):
        raise WrongCode(
            f"version {version.version} of {version.pipeline} was trained with feature code {version.feature_code_hash}, and "
            f"it is {feature_code_hash(pipeline)} here: its features would not be those it learned from."
        )
    answers = Answers(lake, pipeline)
    tables = load_tables(lake, pipeline, {})
    started = time.perf_counter()
    scorer = load_scorer(lake, version.pipeline, version.artifact_id, version.manifest_sha256, pipeline.model)
    load_seconds = time.perf_counter() - started
    serving = Serving(_stage(version), version, scorer, tables)
    answers.try_out(serving)
    latencies = _answer(answers, serving, pipeline)
    compared, difference = _compare(lake, version, scorer)
    manifest = read_manifest(lake, version.pipeline, version.artifact_id, version.manifest_sha256)
    return Probed(
        artifact_bytes=sum(entry.size for entry in manifest.files.values()),
        load_seconds=load_seconds,
        latency_ms=min(latencies),
        latency_ms_median=float(np.median(latencies)),
        answers=len(latencies),
        difference=difference,
        compared=compared,
    )


def _stage(version: ModelVersion) -> Stage:
    now = datetime.now(UTC)
    return Stage(
        pipeline=version.pipeline,
        version=version.version,
        stage="challenger",
        generation=0,
        as_of=version.as_of,
        reason="tried before it is promoted",
        decision_id="",
        recorded_at=now,
    )


def _answer(answers: Answers, serving: Serving, pipeline: Pipeline) -> list[float]:
    """Milliseconds of one-row requests, from the body's bytes to finite scores."""
    body = orjson.dumps({"rows": [answers.example]})
    took = []
    for _ in range(ANSWERS):
        started = time.perf_counter()
        rows = answers.read([read_rows(body, pipeline.serving.maximum_rows, answers.schema)])
        scores = serving.scorer.score(answers.compute(rows, serving, datetime.now(UTC)))
        took.append((time.perf_counter() - started) * 1000)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"the example row {answers.example} is answered with {scores.tolist()}, which is no number"
            )
    return took


def _compare(lake: Lake, version: ModelVersion, scorer: Scorer) -> tuple[int, float]:
    """The rows of the reference sample that were scored again, and how far the furthest is off what training recorded."""
    sample = read_reference(lake, version.pipeline, version.artifact_id, version.manifest_sha256)
    if SCORE not in sample.columns or not sample.height:
        return 0, 0.0
    positions = np.unique(np.linspace(0, sample.height - 1, min(COMPARED_ROWS, sample.height)).round().astype(np.int64))
    rows = sample[positions]
    recorded = _matrix(rows[SCORE])
    alone = [scorer.score(rows[at]) for at in range(min(ALONE, rows.height))]
    off = max(np.abs(scorer.score(rows) - recorded).max(), np.abs(np.concatenate(alone) - recorded[: len(alone)]).max())
    if not np.isfinite(off):
        raise ValueError(f"rows of the reference sample {version.artifact_id} are answered with what is no number")
    return rows.height, float(off) / scorer.description.target_scale


def _matrix(recorded: pl.Series) -> Any:
    return np.asarray(recorded.to_list(), dtype=np.float64)
