"""Metrics of weighted rows, for many weightings at once: how often a bootstrap draws each row is a weight of it. numpy only.

Every function takes labels (n,), scores, and weights (rounds, n), and gives (rounds,): NaN where a metric is undefined.
Scores are (n,), or (n, k) for k classes, with labels that are positions of classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weighted = Callable[[Floats, Floats, Floats], Floats]

SMALLEST_PROBABILITY = 1e-15
CALIBRATION_BINS = 15


def roc_auc(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Wins of positive over negative rows among all pairs; ties count half."""
    positive, negative = _by_score(y, scores, weights)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    return _ratio(wins, positive.sum(axis=1) * negative.sum(axis=1), np.nan)


def pr_auc(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Average precision: the precision at every score, weighted by the recall gained there; no interpolation."""
    positive, negative = (part[:, ::-1] for part in _by_score(y, scores, weights))
    found = np.cumsum(positive, axis=1)
    precision = _ratio(found, found + np.cumsum(negative, axis=1), 0.0)
    return _ratio((positive * precision).sum(axis=1), positive.sum(axis=1), np.nan)


def log_loss(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Mean negative log-likelihood of probabilities held off 0 and 1 by 1e-15."""
    if scores.ndim == 2:
        told = (scores * one_hot(y, scores.shape[1])).sum(axis=1)  # a class never trained on was told as impossible
        return mean(-np.log(np.clip(told, SMALLEST_PROBABILITY, 1.0)), weights)
    held = np.clip(scores, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return mean(-(y * np.log(held) + (1 - y) * np.log1p(-held)), weights)


def brier(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Mean squared difference between probability and outcome, summed over the classes where there are several."""
    if scores.ndim == 2:
        return mean(((scores - one_hot(y, scores.shape[1])) ** 2).sum(axis=1), weights)
    return mean((y - scores) ** 2, weights)


def calibration_error(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Expected calibration error, 15 equal-width bins: of the positive class; of the most probable of several classes.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    if scores.ndim == 2:
        y, scores = (scores.argmax(axis=1) == y).astype(np.float64), scores.max(axis=1)
    bins = calibration_bin(scores)
    order = np.argsort(bins, kind="stable")
    starts = np.flatnonzero(np.diff(bins[order], prepend=-1))
    gaps = np.add.reduceat(weights[:, order] * (y - scores)[order], starts, axis=1)
    return np.asarray(np.abs(gaps).sum(axis=1) / weights.sum(axis=1))


def calibration_bin(scores: Floats) -> NDArray[np.int64]:
    """(n,): the bin of each probability, (0, 1/15] being 0; 0 itself is in it too."""
    return np.clip(np.ceil(scores * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)


def accuracy(y: Floats, decided: Floats, weights: Floats) -> Floats:
    """Share of rows whose class is decided rightly."""
    return mean((decided == y).astype(np.float64), weights)


def precision(y: Floats, decided: Floats, weights: Floats) -> Floats:
    """Share of positive rows among those decided positive; 0 where none is."""
    hit, called, _ = _counts(y, decided, weights)
    return _ratio(hit, called, 0.0)


def recall(y: Floats, decided: Floats, weights: Floats) -> Floats:
    """Share of positive rows that are decided positive; 0 where there are none."""
    hit, _, there = _counts(y, decided, weights)
    return _ratio(hit, there, 0.0)


def f1(y: Floats, decided: Floats, weights: Floats) -> Floats:
    """Harmonic mean of precision and recall; 0 where no row is or is decided positive."""
    hit, called, there = _counts(y, decided, weights)
    return _ratio(2 * hit, called + there, 0.0)


def rmse(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Root of the mean squared error."""
    return np.asarray(np.sqrt(mean((y - scores) ** 2, weights)))


def mae(y: Floats, scores: Floats, weights: Floats) -> Floats:
    """Mean absolute error."""
    return mean(np.abs(y - scores), weights)


def quantile_loss(quantile: float) -> Weighted:
    """Mean pinball loss of a quantile in (0, 1). Source: Koenker and Bassett 1978, doi:10.2307/1913643."""

    def loss(y: Floats, scores: Floats, weights: Floats) -> Floats:
        return mean(np.maximum(quantile * (y - scores), (quantile - 1) * (y - scores)), weights)

    return loss


def macro(metric: Weighted) -> Weighted:
    """The mean over classes of a metric of each class against the rest; classes for which it says nothing are left out."""

    def averaged(y: Floats, scores: Floats, weights: Floats) -> Floats:
        if scores.ndim == 1:
            return metric(y, scores, weights)
        classes = range(scores.shape[1])
        each = np.stack([metric((y == c).astype(np.float64), scores[:, c], weights) for c in classes])
        return _mean_of_known(each)

    return averaged


def macro_decided(metric: Weighted) -> Weighted:
    """The same of decisions: classes that neither occur nor are decided are left out."""

    def averaged(y: Floats, scores: Floats, weights: Floats) -> Floats:
        if scores.ndim == 1:
            return metric(y, scores, weights)
        decided, found = scores.argmax(axis=1), []
        for number in range(scores.shape[1]):
            is_it, called = (y == number).astype(np.float64), (decided == number).astype(np.float64)
            occurs = weights @ np.maximum(is_it, called) > 0
            found.append(np.where(occurs, metric(is_it, called, weights), np.nan))
        return _mean_of_known(np.stack(found))

    return averaged


def mean(losses: Floats, weights: Floats) -> Floats:
    """(rounds,): the weighted mean of a loss per row."""
    return np.asarray(weights @ losses / weights.sum(axis=1))


def one_hot(y: Floats, classes: int) -> Floats:
    """(n, classes): 1 where a row is of the class; nowhere for a class that is not among them, told as -1."""
    return (y[:, None] == np.arange(classes)).astype(np.float64)


def _by_score(y: Floats, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(rounds, distinct scores): the weight of positive and of negative rows at each score, rising."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # where a new score begins
    in_order = weights[:, order]
    positive = np.add.reduceat(in_order * y[order], starts, axis=1)
    return positive, np.add.reduceat(in_order * (1.0 - y[order]), starts, axis=1)


def _counts(y: Floats, decided: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    return weights @ (decided * y), weights @ decided, weights @ y


def _ratio(part: Floats, whole: Floats, otherwise: float) -> Floats:
    return np.asarray(np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), otherwise))


def _mean_of_known(values: Floats) -> Floats:
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64), np.nan)
