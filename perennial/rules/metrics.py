"""Metrics of a model's scores, and paired bootstrap intervals for the difference between two models. numpy only.

Scores are (n,): probabilities of the positive class, or values; or (n, k): probabilities of k classes, the labels being
positions of classes. ROC AUC, PR AUC, precision, recall and F1 of several classes are means over the classes, each
against the rest (macro).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perennial.rules import weighted
from perennial.rules.weighted import Floats, Weighted

CHUNK_CELLS = 4_000_000  # resampled weights held at once: 32 MB
METRICS: dict[str, tuple[str, ...]] = {
    "binary": (
        *("roc_auc", "pr_auc", "log_loss", "brier", "calibration_error"),
        *("accuracy", "precision", "recall", "f1"),
    ),
    "regression": ("rmse", "mae", "quantile_loss"),
}
METRICS["multiclass"] = METRICS["binary"]
"""What is told of a model, by its task; the first is what promotion goes by unless the pipeline says otherwise."""

HIGHER_IS_BETTER = frozenset(("roc_auc", "pr_auc", "accuracy", "precision", "recall", "f1"))
_AT_THRESHOLD = frozenset(("accuracy", "precision", "recall", "f1"))
_METRICS: dict[str, Weighted] = {
    "roc_auc": weighted.macro(weighted.roc_auc),
    "pr_auc": weighted.macro(weighted.pr_auc),
    "log_loss": weighted.log_loss,
    "brier": weighted.brier,
    "calibration_error": weighted.calibration_error,
    "accuracy": weighted.accuracy,
    "precision": weighted.macro_decided(weighted.precision),
    "recall": weighted.macro_decided(weighted.recall),
    "f1": weighted.macro_decided(weighted.f1),
    "rmse": weighted.rmse,
    "mae": weighted.mae,
}


class Interval(NamedTuple):
    """A figure and its 95% bootstrap interval."""

    value: float
    low: float
    high: float


class Measure(NamedTuple):
    """A metric with what it depends on.

    Args:
        threshold: probability from which a row is decided positive: accuracy, precision, recall, F1 of two classes.
        quantile: of `quantile_loss`, in (0, 1).
    """

    name: str
    threshold: float = 0.5
    quantile: float = 0.5

    def of(self, y: Floats, scores: Floats, weights: Floats) -> Floats:
        """(rounds,): the metric for each weighting of the rows; NaN where it is undefined or a score is no number."""
        if self.name != "quantile_loss" and self.name not in _METRICS:
            raise ValueError(f"unknown metric {self.name!r}; there are {sorted([*_METRICS, 'quantile_loss'])}")
        if not len(y) or np.isnan(scores).any():
            return np.full(len(weights), np.nan)
        if self.name in _AT_THRESHOLD and scores.ndim == 1:
            scores = (scores >= self.threshold).astype(np.float64)
        elif self.name == "accuracy":
            scores = scores.argmax(axis=1).astype(np.float64)
        function = weighted.quantile_loss(self.quantile) if self.name == "quantile_loss" else _METRICS[self.name]
        return function(y, scores, weights)


Metric = str | Measure


def measure(metric: Metric) -> Measure:
    """A metric by its name alone is at threshold and quantile 0.5."""
    return Measure(metric) if isinstance(metric, str) else metric


def higher_is_better(metric: Metric) -> bool:
    """Whether a larger value of `metric` is a better model."""
    name = measure(metric).name
    if name != "quantile_loss" and name not in _METRICS:
        raise ValueError(f"unknown metric {name!r}; there are {sorted([*_METRICS, 'quantile_loss'])}")
    return name in HIGHER_IS_BETTER


def gain(metric: Metric, challenger: float, champion: float) -> float:
    """How much better the challenger is, in the metric's unit: positive is better for every metric."""
    return challenger - champion if higher_is_better(metric) else champion - challenger


def evaluate(metric: Metric, y: ArrayLike, scores: ArrayLike) -> float:
    """The metric; NaN where it is undefined: no rows, a score that is no number, or ROC AUC with one class only."""
    truth, scored = _pair(y, scores)
    return float(measure(metric).of(truth, scored, np.ones((1, len(truth))))[0])


def roc_auc(y: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a positive row scores above a negative one, ties counting half; NaN with one class only."""
    return evaluate("roc_auc", y, scores)


def roc_auc_error(auc: float, positives: float, negatives: float) -> float:
    """Standard error of a ROC AUC. Source: Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747, equation 2."""
    both_positive, both_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    ) / (positives * negatives)
    return float(np.sqrt(max(variance, 0.0)))


def log_loss(y: ArrayLike, scores: ArrayLike) -> float:
    """Mean negative log-likelihood of probabilities; they are held off 0 and 1 by 1e-15."""
    return evaluate("log_loss", y, scores)


def brier(y: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared difference between probability and outcome."""
    return evaluate("brier", y, scores)


def rmse(y: ArrayLike, scores: ArrayLike) -> float:
    """Root of the mean squared error, in the label's unit."""
    return evaluate("rmse", y, scores)


def mae(y: ArrayLike, scores: ArrayLike) -> float:
    """Mean absolute error, in the label's unit."""
    return evaluate("mae", y, scores)


def best_threshold(y: ArrayLike, scores: ArrayLike) -> float:
    """The probability to decide from, for the highest F1 on these rows; 0.5 where they are of one class or none.

    Halfway between two neighbouring scores, so that a row whose score moves in the last digit is decided alike.
    """
    truth, scored = _pair(y, scores)
    if not len(truth) or truth.min() == truth.max() or np.isnan(scored).any():
        return 0.5
    order = np.argsort(-scored, kind="stable")
    sorted_scores, hits = scored[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.diff(sorted_scores, append=-np.inf))  # the last row of each score, falling
    f1 = 2 * hits[last] / (last + 1 + truth.sum())
    at = last[int(np.argmax(f1))]
    below = sorted_scores[at + 1] if at + 1 < len(truth) else 0.0
    return float((sorted_scores[at] + below) / 2)


def bootstrap(metric: Metric, y: ArrayLike, scores: ArrayLike, *, seed: int = 0, rounds: int = 200) -> Interval:
    """The metric with its interval: rows drawn with replacement `rounds` times."""
    return bootstrap_each([metric], y, scores, seed=seed, rounds=rounds)[0]


def bootstrap_each(
    metrics: Sequence[Metric], y: ArrayLike, scores: ArrayLike, *, seed: int = 0, rounds: int = 200
) -> list[Interval]:
    """Several metrics of the same scores with their intervals, all of them on the same draws."""
    truth, scored = _pair(y, scores)
    measures = [measure(metric) for metric in metrics]
    drawn = [np.stack([m.of(truth, scored, w) for m in measures]) for w in _weights(len(truth), seed, rounds)]
    all_drawn = np.concatenate(drawn, axis=1) if drawn else np.empty((len(measures), 0))
    return [interval(evaluate(m, truth, scored), values) for m, values in zip(measures, all_drawn, strict=True)]


def paired_bootstrap(
    metric: Metric, y: ArrayLike, a: ArrayLike, b: ArrayLike, *, seed: int = 0, rounds: int = 500
) -> Interval:
    """`metric(a) - metric(b)` on the same rows, with its interval: both models see every draw.

    Draws in which the metric is undefined (one class only) are left out; with none left the bounds are NaN.
    """
    return paired_bootstrap_by_group(metric, [(y, a, b)], seed=seed, rounds=rounds)


def paired_bootstrap_by_group(
    metric: Metric, groups: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], *, seed: int = 0, rounds: int = 500
) -> Interval:
    """The mean over groups (months, say) of `metric(a) - metric(b)`, rows drawn with replacement within each group.

    Args:
        groups: labels, scores a and scores b of every group; a group counts once however many rows it has.
    """
    found = measure(metric)
    values: list[float] = []
    drawn: list[Floats] = []
    for number, (y, a, b) in enumerate(groups):
        truth, first = _pair(y, a)
        _, second = _pair(y, b)
        values.append(evaluate(found, truth, first) - evaluate(found, truth, second))
        differences = [
            found.of(truth, first, weights) - found.of(truth, second, weights)
            for weights in _weights(len(truth), seed + number, rounds)
        ]
        drawn.append(np.concatenate(differences) if differences else np.full(rounds, np.nan))
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"))
    return interval(float(np.mean(values)), np.mean(drawn, axis=0))


def interval(value: float, drawn: Floats) -> Interval:
    """A figure with the middle 95% of what it came to in the draws; NaN bounds where it was never defined."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _weights(rows: int, seed: int, rounds: int) -> Iterator[Floats]:
    # How often each row is drawn: a weighted metric over rows in one order equals the metric of the drawn rows,
    # and the scores are sorted once instead of once a round.
    if not rows:
        return
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_CELLS // rows)
    for size in (min(step, rounds - start) for start in range(0, rounds, step)):
        draws = [np.bincount(generator.integers(0, rows, rows), minlength=rows) for _ in range(size)]
        yield np.stack(draws).astype(np.float64)


def _pair(y: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    truth, scored = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or scored.ndim not in (1, 2) or len(truth) != len(scored):
        raise ValueError(f"labels {truth.shape} and scores {scored.shape} must be one value per row, in the same order")
    return truth, scored
