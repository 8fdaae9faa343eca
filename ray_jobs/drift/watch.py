"""Watch one window: its predictions, the labels known by a moment, and the version's reference, through Evidently.

predictions ─┐
labels ──────┼─► figures of all rows ─┐
reference ───┴─► bounded samples ─────┴─► one Evidently run ─► evidence, report on S3
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.artifacts import MODEL, read_artifact_file, read_reference
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.rules.description import ModelDescription
from perennial.rules.drift import policy_hash, window_name
from perennial.rules.evidence import Evidence, Performance
from perennial.rules.metrics import bootstrap
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.drift.page import save_static
from ray_jobs.drift.report import judge_samples
from ray_jobs.drift.window import LABEL, join_labels, read_answers, sample_evenly

SEED = 13  # of samples and bootstrap: a window watched twice gives the same evidence


class WatchRequest(BaseModel, frozen=True):
    """Which window of which version to watch, with the knowledge of which moment; `champion` serves by now."""

    lake: Lake
    pipelines: Path
    pipeline: str
    version: int
    start: datetime
    end: datetime
    as_of: datetime
    champion: int | None = None


class Watched(BaseModel, frozen=True):
    """What was seen. `report` and `evidence_file` are paths below the environment: `reports/...`."""

    evidence: Evidence
    report: str
    evidence_file: str


def watch(request: WatchRequest) -> Watched:
    """Gather a window's evidence and save it beside Evidently's report. Watching it again overwrites both alike."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    answers = read_answers(request.lake, pipeline, request.start, request.end, role="champion")
    answers = join_labels(request.lake, pipeline, answers, request.as_of)
    own = answers.filter(version=request.version) if answers.height else answers
    version = read_version(request.lake, request.pipeline, request.version)
    artifact = (request.lake, request.pipeline, version.artifact_id, version.manifest_sha256)
    reference = read_reference(*artifact)
    inputs = ModelDescription.model_validate_json(read_artifact_file(*artifact, MODEL)).inputs
    evidence = Evidence(
        version=request.version,
        rows=own.height,
        other_rows=answers.height - own.height,
        replaced_by=request.champion if request.champion != request.version else None,
        labelled_rows=own.height - own[LABEL].null_count() if own.height else 0,
        performance=_measure(own, pipeline, _promise(version, pipeline.metric)),
        missing=_missing_rise(own, reference, inputs),
    )
    judged = judge_samples(
        sample_evenly(own, pipeline.monitoring.sample_rows, SEED),
        sample_evenly(reference, pipeline.monitoring.sample_rows, SEED),
        inputs,
        evidence,
        pipeline.monitoring,
    )
    return _save(request, pipeline, judged.evidence, judged.page)


def _promise(version: ModelVersion, metric: str) -> float:
    """The metric on the holdout rows, which the version was promoted on and never trained on."""
    metrics = json.loads(version.metrics)
    if metric not in metrics:
        raise ValueError(
            f"version {version.version} of {version.pipeline} was trained without the metric {metric}; it has "
            f"{sorted(metrics)}, so there is no promise to hold it to. Train a version with the pipeline's file as it is now."
        )
    return float(metrics[metric]["value"])


def _measure(rows: pl.DataFrame, pipeline: Pipeline, promise: float) -> Performance | None:
    labelled = rows.drop_nulls(LABEL) if rows.height else rows
    if labelled.is_empty():
        return None
    seen = bootstrap(pipeline.metric, labelled[LABEL].to_numpy(), labelled["score"].to_numpy(), seed=SEED)
    if not all(math.isfinite(value) for value in (*seen, promise)):
        return None  # labels of one class only: ROC AUC is not defined
    return Performance(metric=pipeline.metric, promised=promise, measured=seen.value, low=seen.low, high=seen.high)


def _missing_rise(rows: pl.DataFrame, reference: pl.DataFrame, inputs: Mapping[str, str]) -> dict[str, float]:
    if rows.is_empty():
        return {}
    return {name: _missing_share(rows[name]) - _missing_share(reference[name]) for name in inputs}


def _missing_share(values: pl.Series) -> float:
    missing = values.null_count() + (int(values.is_nan().sum()) if values.dtype.is_float() else 0)
    return missing / max(values.len(), 1)


def _save(request: WatchRequest, pipeline: Pipeline, evidence: Evidence, page: str) -> Watched:
    # The policy is part of the name: its report must not overwrite what another policy's decision rests on.
    window = f"{window_name(request.start, request.end)}-v{request.version}-{policy_hash(pipeline.monitoring)[:8]}"
    stem = f"reports/{request.pipeline}/monitor/{window}"
    files = request.lake.files()
    save_static(request.lake, files)
    files.pipe_file(request.lake.uri(f"{stem}.html"), page.encode())
    files.pipe_file(request.lake.uri(f"{stem}.json"), evidence.model_dump_json(indent=1).encode())
    return Watched(evidence=evidence, report=f"{stem}.html", evidence_file=f"{stem}.json")
