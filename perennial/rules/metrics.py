"""Metrics of a model's scores, and paired bootstrap intervals for the difference between two models. numpy only."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CHUNK_CELLS = 4_000_000  # resampled weights held at once: 32 MB
SMALLEST_PROBABILITY = 1e-15


class Interval(NamedTuple):
    """A figure and its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of `metric` is a better model."""
    _metric(metric)
    return metric == "roc_auc"


def gain(metric: str, challenger: float, champion: float) -> float:
    """How much better the challenger is, in the metric's unit: positive is better for every metric."""
    return challenger - champion if higher_is_better(metric) else champion - challenger


def evaluate(metric: str, y: ArrayLike, scores: ArrayLike) -> float:
    """The metric by name; NaN where it is undefined: no rows, or ROC AUC with one class only."""
    truth, scored = _pair(y, scores)
    if not len(truth):
        return float("nan")
    return float(_metric(metric)(truth, scored, np.ones((1, len(truth))))[0])


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


def bootstrap(metric: str, y: ArrayLike, scores: ArrayLike, *, seed: int = 0, rounds: int = 200) -> Interval:
    """The metric with its interval: rows drawn with replacement `rounds` times."""
    truth, scored = _pair(y, scores)
    function = _metric(metric)
    drawn = [function(truth, scored, weights) for weights in _weights(len(truth), seed, rounds)]
    return _interval(evaluate(metric, truth, scored), drawn)


def paired_bootstrap(
    metric: str, y: ArrayLike, a: ArrayLike, b: ArrayLike, *, seed: int = 0, rounds: int = 500
) -> Interval:
    """`metric(a) - metric(b)` on the same rows, with its interval: both models see every draw.

    Draws in which the metric is undefined (one class only) are left out; with none left the bounds are NaN.
    """
    return paired_bootstrap_by_group(metric, [(y, a, b)], seed=seed, rounds=rounds)


def paired_bootstrap_by_group(
    metric: str, groups: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], *, seed: int = 0, rounds: int = 500
) -> Interval:
    """The mean over groups (months, say) of `metric(a) - metric(b)`, rows drawn with replacement within each group.

    Args:
        groups: labels, scores a and scores b of every group; a group counts once however many rows it has.
    """
    function = _metric(metric)
    values: list[float] = []
    drawn: list[Floats] = []
    for number, (y, a, b) in enumerate(groups):
        truth, first = _pair(y, a)
        _, second = _pair(y, b)
        values.append(evaluate(metric, truth, first) - evaluate(metric, truth, second))
        differences = [
            function(truth, first, weights) - function(truth, second, weights)
            for weights in _weights(len(truth), seed + number, rounds)
        ]
        drawn.append(np.concatenate(differences) if differences else np.full(rounds, np.nan))
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"))
    return _interval(float(np.mean(values)), [np.mean(drawn, axis=0)])


def _interval(value: float, drawn: Sequence[Floats]) -> Interval:
    defined = np.concatenate(list(drawn)) if drawn else np.empty(0)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _weights(rows: int, seed: int, rounds: int) -> list[Floats]:
    # How often each row is drawn: a weighted metric over rows in one order equals the metric of the drawn rows,
    # and the scores are sorted once instead of once a round.
    if not rows:
        return []
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_CELLS // rows)
    sizes = [min(step, rounds - start) for start in range(0, rounds, step)]
    return [
        np.stack([np.bincount(generator.integers(0, rows, rows), minlength=rows) for _ in range(size)]).astype(float)
        for size in sizes
    ]


def _pair(y: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    truth, scored = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.shape != scored.shape or truth.ndim != 1:
        raise ValueError(f"labels {truth.shape} and scores {scored.shape} must be one value per row, in the same order")
    return truth, scored


def _metric(name: str) -> Callable[[Floats, Floats, Floats], Floats]:
    if name not in _METRICS:
        raise ValueError(f"unknown metric {name!r}; there are {sorted(_METRICS)}")
    return _METRICS[name]


def _weighted_auc(y: Floats, scores: Floats, weights: Floats) -> Floats:
    if np.isnan(scores).any():
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # where a new score begins
    sorted_weights = weights[:, order]
    positive = np.add.reduceat(sorted_weights * y[order], starts, axis=1)
    negative = np.add.reduceat(sorted_weights * (1.0 - y[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan))


def _mean(losses: Floats, weights: Floats) -> Floats:
    return np.asarray(weights @ losses / weights.sum(axis=1))


def _weighted_log_loss(y: Floats, scores: Floats, weights: Floats) -> Floats:
    held = np.clip(scores, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return _mean(-(y * np.log(held) + (1 - y) * np.log1p(-held)), weights)


_METRICS: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "roc_auc": _weighted_auc,
    "log_loss": _weighted_log_loss,
    "brier": lambda y, s, w: _mean((y - s) ** 2, w),
    "rmse": lambda y, s, w: np.sqrt(_mean((y - s) ** 2, w)),
    "mae": lambda y, s, w: _mean(np.abs(y - s), w),
}
