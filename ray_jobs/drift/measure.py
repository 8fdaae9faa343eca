"""Performance of a window's labelled rows, whole and by slice, and what its scores alone let one expect."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.lakehouse.registry import ModelVersion
from perennial.rules.description import class_positions
from perennial.rules.estimate import BINS, Reliability, calibrate, estimate_metric, reliability
from perennial.rules.evidence import Estimate, Performance, Slice
from perennial.rules.metrics import METRICS, Interval, Measure, bootstrap, evaluate
from perennial.rules.past import Past
from perennial.rules.scoring import PROBABILITIES, class_matrix
from perennial.spec import Pipeline
from ray_jobs.drift.window import LABEL

SEED = 13  # of samples and bootstrap: a window watched twice gives the same evidence
MOST_SLICES = 50
SLICE_ROUNDS = 100


def read_promise(version: ModelVersion, metric: str) -> Interval:
    """The metric on the holdout rows, which the version was promoted on and never trained on.

    Raises:
        ValueError: the version was trained without this metric.
    """
    metrics = version.read_metrics()
    if metric not in metrics:
        raise ValueError(
            f"version {version.version} of {version.pipeline} was trained without the metric {metric}; it has "
            f"{sorted(metrics)}, so there is no promise to hold it to. Train a version with the pipeline's file as it is now."
        )
    told = metrics[metric]
    value, low, high = (told.get(name) for name in ("value", "low", "high"))
    nan = float("nan")
    return Interval(nan if value is None else value, nan if low is None else low, nan if high is None else high)


def measure(rows: pl.DataFrame, metric: str, promise: Interval) -> Performance | None:
    """The metric on the labelled rows against the promise; None where it is not defined on them."""
    labelled = rows.drop_nulls([LABEL, "score"]) if rows.height else rows
    if labelled.is_empty():
        return None
    seen = bootstrap(metric, *_truth_and_scores(labelled), seed=SEED)
    if not all(math.isfinite(value) for value in (*seen, promise.value)):
        return None  # labels of one class only: ROC AUC is not defined
    known = math.isfinite(promise.low) and math.isfinite(promise.high)
    return Performance(
        metric=metric,
        promised=promise.value,
        promised_low=promise.low if known else None,
        promised_high=promise.high if known else None,
        measured=seen.value,
        low=seen.low,
        high=seen.high,
    )


def all_figures(rows: pl.DataFrame, task: str, threshold: float) -> dict[str, float]:
    """Every usual metric of the task on the labelled rows; those that are not defined on them are left out."""
    labelled = rows.drop_nulls([LABEL, "score"]) if rows.height else rows
    if labelled.is_empty():
        return {}
    truth, scores = _truth_and_scores(labelled)
    found = {name: evaluate(Measure(name, threshold), truth, scores) for name in METRICS[task]}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def measure_slices(rows: pl.DataFrame, pipeline: Pipeline, metric: str, promised: Sequence[Slice]) -> list[Slice]:
    """The metric on the largest slices of each declared column, each with what was promised of it where that is known."""
    labelled = rows.drop_nulls([LABEL, "score"]) if rows.height else rows
    told = {(s.column, s.value): s.promised for s in promised}
    found = []
    for column in pipeline.promotion.slices:
        if labelled.is_empty() or column not in labelled.columns:
            continue
        named = labelled.with_columns(pl.col(column).cast(pl.String).alias("_slice"))
        counts = named["_slice"].value_counts(sort=True).head(MOST_SLICES)
        for value, count in counts.iter_rows():
            part = named.filter(pl.col("_slice").eq_missing(pl.lit(value)))
            seen = bootstrap(metric, *_truth_and_scores(part), seed=SEED, rounds=SLICE_ROUNDS)
            figures = dict(zip(("measured", "low", "high"), map(_known, seen), strict=True))
            found.append(
                Slice(column=column, value=str(value), rows=count, promised=told.get((column, str(value))), **figures)
            )
    return found


def window_reliability(rows: pl.DataFrame) -> Reliability | None:
    """How often each range of the window's scores was right; None without labels, or where scores are no probabilities."""
    labelled = rows.drop_nulls([LABEL, "score"]) if rows.height else rows
    if labelled.is_empty() or not labelled["score"].is_between(0, 1).all():
        return None
    return reliability(labelled[LABEL].to_numpy(), labelled["score"].to_numpy())


def estimate(
    rows: pl.DataFrame,
    reference: pl.DataFrame,
    label: str,
    version: int,
    promise: Interval,
    metric: str,
    past: Past,
    seen: Performance | None,
) -> Estimate | None:
    """What the scores let one expect, calibrated on the version's earlier labelled windows, else on its reference."""
    if rows.is_empty() or PROBABILITIES in rows.columns or not math.isfinite(promise.value):
        return None
    state, taught_by = _taught(reference, label, version, past)
    scores = rows["score"].drop_nulls().to_numpy()
    scores = scores[np.isfinite(scores)]
    if state is None or not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    guess = estimate_metric(metric, scores, calibrate(scores, state))
    if guess is None or not all(math.isfinite(value) for value in guess):
        return None
    return Estimate(
        metric=metric,
        value=guess.value,
        low=guess.low,
        high=guess.high,
        promised=promise.value,
        calibrated_on=taught_by,
        measured=seen.measured if seen else None,
    )


def _taught(reference: pl.DataFrame, label: str, version: int, past: Past) -> tuple[Reliability | None, str]:
    states = [
        Reliability(*(np.asarray(counts, dtype=np.float64) for counts in w.evidence.reliability))
        for w in past.windows
        if w.evidence.version == version and w.evidence.reliability and w.verdict == "hold"
    ]
    joined = Reliability(np.zeros(BINS), np.zeros(BINS))
    for state in states:
        joined = joined.joined(state)
    if joined.rows.sum() >= reference.height:
        return joined, f"{len(states)} windows of version {version}"
    if label not in reference.columns or "score" not in reference.columns:
        return None, "nothing"
    known = reference.drop_nulls([label, "score"])
    if known.is_empty() or not known["score"].is_between(0, 1).all():
        return None, "nothing"
    return reliability(known[label].cast(pl.Float64).to_numpy(), known["score"].to_numpy()), "reference"


def _truth_and_scores(rows: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels and scores as metrics take them; rows of many classes carry each class's probability."""
    if PROBABILITIES not in rows.columns:
        return rows[LABEL].to_numpy(), rows["score"].to_numpy()
    classes = tuple(each["class"] for each in rows[PROBABILITIES][0])
    return class_positions(rows[LABEL], classes).astype(np.float64), class_matrix(rows[PROBABILITIES])


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
