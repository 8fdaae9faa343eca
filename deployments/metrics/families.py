"""Metric families from pipelines' states: names, units and help as Prometheus has them, and labels that stay few.

Labels are pipelines, sources, versions that were watched, verdicts and metrics' names; of inputs only the INPUTS that
drifted most. Nothing from a row's values becomes a label.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from deployments.metrics.runs import Runs
from deployments.metrics.state import PipelineState, Traffic
from perennial.rules.evidence import Performance, allowed_loss
from perennial.rules.past import Ended
from perennial.spec import Pipeline
from perennial.spec.checks import Freshness

INPUTS = 20
ENDS = [ended for ended in get_args(Ended) if ended != "running"]
SILENCE_SECONDS = 2 * 86400.0  # of a source that says when its rows happened and not how fresh they must be
FIGURES = ("roc_auc", "pr_auc", "log_loss", "brier", "accuracy", "precision", "recall", "f1", "rmse", "mae")
DURATION_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)


def families(states: Sequence[PipelineState]) -> Iterator[Metric]:
    """Every family, each with all pipelines' samples."""
    yield from _ingest(states)
    yield from _windows(states)
    yield from _decisions(states)
    yield from _traffic(states)


def _ingest(states: Sequence[PipelineState]) -> Iterator[Metric]:
    by = ["pipeline", "source"]
    rows = CounterMetricFamily("perennial_ingested_rows", "Rows that arrived in batches that were judged.", labels=by)
    held = CounterMetricFamily("perennial_quarantined_rows", "Rows that broke their contract.", labels=by)
    refused = CounterMetricFamily("perennial_refused_batches", "Batches of which nothing was published.", labels=by)
    last = GaugeMetricFamily(
        "perennial_last_ingest_timestamp_seconds", "When a source's last batch was committed.", labels=by
    )
    newest = GaugeMetricFamily(
        "perennial_newest_event_timestamp_seconds", "Newest event time of a source's published rows.", labels=by
    )
    silence = GaugeMetricFamily(
        "perennial_source_silence_allowed_seconds",
        "How long a source may bring nothing: its Freshness rule, else two days; none for one without a time of its own.",
        labels=by,
    )
    for state in states:
        for name, seconds in _allowed_silence(state.spec):
            silence.add_metric([state.name, name], seconds)
        for (source,), batches in state.batches.group_by("source"):
            labels = [state.name, str(source)]
            rows.add_metric(labels, float(batches["rows"].sum()))
            held.add_metric(labels, float(batches["quarantined_rows"].sum()))
            refused.add_metric(labels, float((batches["verdict"] == "refused").sum()))
            _add_instant(last, labels, batches["committed_at"].max())
            _add_instant(newest, labels, batches["newest_event_at"].max())
    yield from (rows, held, refused, last, newest, silence)


def _allowed_silence(spec: Pipeline | None) -> Iterator[tuple[str, float]]:
    for source in spec.sources if spec else ():
        fresh = [rule.hours * 3600 for rule in source.rules if isinstance(rule, Freshness)]
        if fresh:
            yield source.name, min(fresh)
        elif source.event_time is not None:  # planes and airports may stay as they are for years
            yield source.name, SILENCE_SECONDS


def _windows(states: Sequence[PipelineState]) -> Iterator[Metric]:
    by = ["pipeline"]
    end = GaugeMetricFamily("perennial_window_end_timestamp_seconds", "End of the window judged last.", labels=by)
    count = GaugeMetricFamily("perennial_window_rows", "Predictions in the window judged last.", labels=by)
    labelled = GaugeMetricFamily("perennial_window_labelled_ratio", "Share of them whose label had arrived.", labels=by)
    broken = GaugeMetricFamily("perennial_broken_inputs", "Inputs whose feed looked broken in it.", labels=by)
    paging = GaugeMetricFamily(
        "perennial_paging", "1 while the window judged last calls for a person, or still does, else 0.", labels=by
    )
    drift = GaugeMetricFamily(
        "perennial_input_drift_effect",
        f"Effect size of the {INPUTS} inputs that drifted most.",
        labels=["pipeline", "input"],
    )
    score = GaugeMetricFamily("perennial_score_drift_sigma", "Drift of the scores, in standard deviations.", labels=by)
    named = ["pipeline", "version", "metric"]
    seen = GaugeMetricFamily("perennial_model_metric", "A metric of the window's labelled rows.", labels=named)
    promised = GaugeMetricFamily("perennial_model_metric_promised", "What the version is held to.", labels=named)
    guessed = GaugeMetricFamily("perennial_model_metric_estimated", "What its scores let one expect.", labels=named)
    loss = GaugeMetricFamily(
        "perennial_model_loss_ratio",
        "How far the metric is behind its promise, whichever way is worse, as a share of what the policy allows.",
        labels=named,
    )
    for state in states:
        window = state.last_window
        if window is None:
            continue
        labels = [state.name]
        _add_instant(end, labels, window["window_end"])
        count.add_metric(labels, window.get("rows", 0))
        labelled.add_metric(labels, window.get("labelled_rows", 0) / max(window.get("rows", 0), 1))
        broken.add_metric(labels, len(window.get("broken", {})))
        paging.add_metric(labels, float(window["verdict"] == "page" or window.get("guard") in ("paged", "breaker")))
        if window.get("score_drift") is not None:
            score.add_metric(labels, window["score_drift"])
        for name, size in sorted(window.get("drift", {}).items(), key=lambda item: -item[1])[:INPUTS]:
            drift.add_metric([state.name, name], size)
        _add_figures(state, window, seen, promised, guessed)
        _add_loss(state, window, loss)
    yield from (end, count, labelled, broken, paging, drift, score, seen, promised, guessed, loss)


def _add_figures(
    state: PipelineState,
    window: dict[str, Any],
    seen: GaugeMetricFamily,
    promised: GaugeMetricFamily,
    guessed: GaugeMetricFamily,
) -> None:
    version, performance, estimate = str(window["version"]), window.get("performance"), window.get("estimate")
    figures = dict(window.get("figures", {}))
    if performance:
        figures[performance["metric"]] = performance["measured"]
        promised.add_metric([state.name, version, performance["metric"]], performance["promised"])
    if estimate:
        guessed.add_metric([state.name, version, estimate["metric"]], estimate["value"])
    for name in FIGURES:
        if figures.get(name) is not None:
            seen.add_metric([state.name, version, name], figures[name])


def _add_loss(state: PipelineState, window: dict[str, Any], loss: GaugeMetricFamily) -> None:
    """Where performance is judged at all: with the labels that the policy asks for."""
    if state.spec is None or not window.get("performance"):
        return
    seen, policy = Performance.model_validate(window["performance"]), state.spec.monitoring
    allowed = allowed_loss(seen.metric, seen.distance, policy) if seen.distance > 0 else 0.0
    if allowed > 0 and window.get("labelled_rows", 0) >= policy.minimum_rows:
        loss.add_metric([state.name, str(window["version"]), seen.metric], seen.loss / allowed)


def _decisions(states: Sequence[PipelineState]) -> Iterator[Metric]:
    made = CounterMetricFamily(
        "perennial_decisions", "Decisions, by kind and verdict.", labels=["pipeline", "kind", "verdict"]
    )
    retrains = CounterMetricFamily("perennial_retrains", "Retrains that came to an end.", labels=["pipeline", "ended"])
    waiting = GaugeMetricFamily(
        "perennial_retrains_waiting", "Decisions to retrain without an end.", labels=["pipeline"]
    )
    oldest = GaugeMetricFamily(
        "perennial_oldest_waiting_retrain_timestamp_seconds",
        "When the oldest of them was recorded.",
        labels=["pipeline"],
    )
    versions = GaugeMetricFamily("perennial_versions", "Versions that were trained.", labels=["pipeline"])
    champion = GaugeMetricFamily(
        "perennial_champion_version", "The version that serves, 0 for none.", labels=["pipeline"]
    )
    lasted = HistogramMetricFamily(
        "perennial_retrain_duration_seconds", "From a retrain's claim to its end.", labels=["pipeline"]
    )
    for state in states:
        kinds = Counter(state.decisions.select("kind", "verdict").iter_rows())
        for (kind, verdict), count in sorted(kinds.items()):
            made.add_metric([state.name, kind, verdict], count)
        ended = state.decisions.filter(kind="retrain")
        for verdict in ENDS:  # those that never came as zero: `increase` has to see the first one
            retrains.add_metric([state.name, verdict], (ended["verdict"] == verdict).sum())
        due = state.decisions.filter(kind="monitor", verdict="retrain")
        due = due.filter(~due["decision_id"].is_in(ended["decision_id"].to_list()))
        waiting.add_metric([state.name], due.height)
        _add_instant(oldest, [state.name], due["recorded_at"].min() if due.height else None)
        versions.add_metric([state.name], state.versions)
        champion.add_metric([state.name], state.champion or 0)
        claims = dict(state.decisions.filter(kind="claim").select("decision_id", "recorded_at").iter_rows())
        times = [
            (at - claims[name]).total_seconds()
            for name, at in ended.select("decision_id", "recorded_at").iter_rows()
            if name in claims
        ]
        _add_histogram(lasted, [state.name], times, DURATION_BUCKETS)
    yield from (made, retrains, waiting, oldest, versions, champion, lasted)


def _traffic(states: Sequence[PipelineState]) -> Iterator[Metric]:
    by = ["pipeline", "version", "role"]
    answered = CounterMetricFamily("perennial_answered_rows", "Rows that the endpoint answered.", labels=by)
    failed = CounterMetricFamily("perennial_failed_rows", "Of them, rows without a score.", labels=by)
    latency = HistogramMetricFamily(
        "perennial_answer_duration_seconds", "From a row's request to its answer, in the replica.", labels=["pipeline"]
    )
    for state in states:
        for labels, count in sorted(state.traffic.answered.items()):
            answered.add_metric([state.name, *labels], count)
            failed.add_metric([state.name, *labels], state.traffic.failed[labels])
        _add_latency(latency, state.name, state.traffic)
    yield from (answered, failed, latency)


def run_families(runs: Runs) -> Iterator[Metric]:
    """How long flows and steps took last; the pipeline is empty for a flow of none."""
    by = ["pipeline", "flow"]
    flow = GaugeMetricFamily("perennial_flow_last_duration_seconds", "Of a flow's last completed run.", labels=by)
    ended = GaugeMetricFamily("perennial_flow_last_success_timestamp_seconds", "When that ended.", labels=by)
    step = GaugeMetricFamily(
        "perennial_step_last_duration_seconds", "Of a step's last completed run.", labels=[*by, "step"]
    )
    recent = GaugeMetricFamily(
        "perennial_recent_flow_runs", "Among the last 200 flow runs, by state.", labels=["flow", "state"]
    )
    for family, values in ((flow, runs.flow_seconds), (ended, runs.flow_ended), (step, runs.step_seconds)):
        for labels, value in sorted(values.items()):
            family.add_metric(labels, value)
    for (name, state), count in sorted(runs.recent.items()):
        recent.add_metric([name, state], count)
    yield from (flow, ended, step, recent)


def _add_latency(family: HistogramMetricFamily, pipeline: str, traffic: Traffic) -> None:
    buckets = [(_bound(bound), float(count)) for bound, count in sorted(traffic.buckets.items())]
    if buckets:
        family.add_metric([pipeline], buckets, sum_value=traffic.seconds)


def _add_histogram(
    family: HistogramMetricFamily, labels: list[str], values: Iterable[float], bounds: Sequence[float]
) -> None:
    found = list(values)
    if found:
        buckets = [(_bound(bound), float(sum(v <= bound for v in found))) for bound in (*bounds, float("inf"))]
        family.add_metric(labels, buckets, sum_value=sum(found))


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(bound)


def _add_instant(family: GaugeMetricFamily, labels: list[str], at: object) -> None:
    if isinstance(at, datetime):
        family.add_metric(labels, at.timestamp())
