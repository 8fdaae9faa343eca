"""Watch one window: its predictions, the labels known by a moment, and the version's reference, through Evidently.

predictions ─┐   ┌─► sketches of all rows ─┐
labels ──────┼───┼─► metrics, estimate ────┼─► one Evidently run ─► evidence, report on S3
reference ───┴───┴─► bounded samples ──────┘
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from perennial.datadocs.publish_card import read_figures
from perennial.lakehouse.artifacts import MODEL, read_artifact_file, read_reference
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_version
from perennial.rules.description import ModelDescription
from perennial.rules.drift import policy_hash, window_name
from perennial.rules.evidence import Evidence, Slice
from perennial.rules.feeds import find_broken, find_few_rows, rows_before
from perennial.rules.past import Past, late_ending
from perennial.rules.promise import promise_for, season_before
from perennial.rules.sketch import Sketch
from perennial.rules.tabular import InputKind
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.drift.distances import column_evidence, seasonal_drift
from ray_jobs.drift.measure import (
    SEED,
    all_figures,
    estimate,
    measure,
    measure_slices,
    read_promise,
    window_reliability,
)
from ray_jobs.drift.page import save_static
from ray_jobs.drift.report import judge_samples
from ray_jobs.drift.skew import match_shares
from ray_jobs.drift.states import load_states, reference_edges, save_states
from ray_jobs.drift.together import tell_apart
from ray_jobs.drift.window import LABEL, Answers, asked_rows, event_time_of, join_labels, read_window, sample_evenly


class WatchRequest(BaseModel, frozen=True):
    """Which window of which version to watch, with the knowledge of which moment; `champion` serves by now.

    Args:
        past: the windows and retrains before, as the table of decisions tells them.
        promised_slices: what the promotion saw on each slice.
        late: how often labels that came late have asked for another look at the window, this one included.
    """

    lake: Lake
    pipelines: Path
    pipeline: str
    version: int
    start: datetime
    end: datetime
    as_of: datetime
    champion: int | None = None
    past: Past = Past()
    promised_slices: list[Slice] = []
    late: int = 0


class Watched(BaseModel, frozen=True):
    """What was seen. `report` and `evidence_file` are paths below the environment: `reports/...`."""

    evidence: Evidence
    report: str
    evidence_file: str


def watch(request: WatchRequest) -> Watched:
    """Gather a window's evidence and save it beside Evidently's report. Watching it again overwrites both alike."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    policy = pipeline.monitoring
    version = read_version(request.lake, request.pipeline, request.version)
    artifact = (request.lake, request.pipeline, version.artifact_id, version.manifest_sha256)
    reference = read_reference(*artifact)
    model = ModelDescription.model_validate_json(read_artifact_file(*artifact, MODEL))
    inputs = model.inputs
    edges = reference_edges(reference, inputs)
    seen = read_window(request.lake, pipeline, request.version, request.start, request.end, edges)
    own = join_labels(request.lake, pipeline, seen.rows, request.as_of)
    past = request.past.until(request.as_of)
    evidence = _performance_evidence(request, pipeline, own, reference, past, seen)
    evidence = evidence.model_copy(update={"figures": all_figures(own, model.task, model.threshold)})
    current = sample_evenly(own, policy.sample_rows, SEED)
    compared = sample_evenly(reference, policy.sample_rows, SEED)
    evidence = evidence.model_copy(update=_feature_evidence(request, pipeline, current, compared, inputs, past, seen))
    evidence = evidence.model_copy(update=column_evidence(seen.sketches, reference, edges, inputs, policy))
    evidence = evidence.model_copy(update={"seasonal_drift": _season(request, pipeline, past, seen.sketches, inputs)})
    judged = judge_samples(current, compared, inputs, evidence, policy)
    return _save(request, pipeline, judged.evidence, judged.page, seen.sketches)


def _performance_evidence(
    request: WatchRequest, pipeline: Pipeline, own: pl.DataFrame, reference: pl.DataFrame, past: Past, seen: Answers
) -> Evidence:
    metric, policy = pipeline.metric, pipeline.monitoring
    told = read_promise(read_version(request.lake, request.pipeline, request.version), metric)
    promise = promise_for(told, metric, request.version, past, policy, request.start, request.end)
    performance = measure(own, metric, promise)
    card = read_figures(request.lake, request.pipeline, request.version)
    state = window_reliability(own) if pipeline.model.task == "binary" else None
    counts = (state.rows.astype(int).tolist(), state.positives.astype(int).tolist()) if state else None
    newest = own[event_time_of(pipeline)].max() if own.height else None
    assert newest is None or isinstance(newest, datetime)
    return Evidence(
        version=request.version,
        rows=seen.count,
        other_rows=seen.other_rows,
        read_rows=own.height if 0 < own.height < seen.count else None,
        replaced_by=request.champion if request.champion != request.version else None,
        labelled_rows=own.height - own[LABEL].null_count() if own.height else 0,
        performance=performance,
        slices=measure_slices(own, pipeline, metric, request.promised_slices),
        estimate=estimate(own, reference, pipeline.label.name, request.version, promise, metric, past, performance),
        reliability=counts,
        importance={} if card is None else {each.input: each.loss for each in card.importance},
        newest_at=newest,
        freshness_seconds=(request.end - newest).total_seconds() if newest else None,
    )


def _feature_evidence(
    request: WatchRequest,
    pipeline: Pipeline,
    current: pl.DataFrame,
    reference: pl.DataFrame,
    inputs: Mapping[str, InputKind],
    past: Past,
    seen: Answers,
) -> dict[str, object]:
    """What samples show: broken feeds, inputs together, skew; and whether the window has its usual rows."""
    if current.is_empty():
        return {}
    broken = find_broken(current, reference, inputs)
    window = (request.start, request.end)
    asked = asked_rows(request.lake, pipeline, *window)
    few = find_few_rows(round(asked), rows_before(past.before(*window), *window))
    shares, rows = match_shares(request.lake, pipeline, current, inputs, request.as_of)
    return {
        "broken": broken | ({"feed": few} if few else {}),
        "together": tell_apart(current, reference, inputs, SEED),
        "asked_rows": asked,
        "skew": shares,
        "skew_rows": rows,
    }


def _season(
    request: WatchRequest, pipeline: Pipeline, past: Past, states: Mapping[str, Sketch], inputs: Mapping[str, InputKind]
) -> dict[str, float] | None:
    before = season_before(past, pipeline.monitoring, request.start)
    if before is None:
        return None
    kept = load_states(
        request.lake, _stem(request, pipeline, before.start, before.end, before.evidence.version) + ".parquet"
    )
    if not kept or any(kept[name].edges != states[name].edges for name in inputs if name in kept):
        # Gone with its report, of another policy, or with another version's edges: read that window again with this one's.
        edges = {name: state.edges for name, state in states.items()}
        place = (request.lake, pipeline, before.evidence.version, before.start, before.end)
        kept = dict(read_window(*place, edges).sketches)
    return seasonal_drift(states, kept, inputs)


def _stem(request: WatchRequest, pipeline: Pipeline, start: datetime, end: datetime, version: int) -> str:
    # The policy is part of the name: its report must not overwrite what another policy's decision rests on.
    window = f"{window_name(start, end)}-v{version}-{policy_hash(pipeline.monitoring)[:8]}"
    return f"reports/{request.pipeline}/monitor/{window}"


def _save(
    request: WatchRequest, pipeline: Pipeline, evidence: Evidence, page: str, states: Mapping[str, Sketch]
) -> Watched:
    stem = _stem(request, pipeline, request.start, request.end, request.version) + late_ending(request.late)
    files = request.lake.files()
    save_static(request.lake, files)
    files.pipe_file(request.lake.uri(f"{stem}.html"), page.encode())
    files.pipe_file(request.lake.uri(f"{stem}.json"), evidence.model_dump_json(indent=1).encode())
    save_states(request.lake, f"{stem}.parquet", states)
    return Watched(evidence=evidence, report=f"{stem}.html", evidence_file=f"{stem}.json")
