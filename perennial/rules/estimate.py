"""What the scores alone let one expect of a metric, before any label: confidence-based performance estimation (CBPE).

A calibrated score of 0.3 is right three times in ten; so expected counts follow from scores, and from them any metric
of a binary classifier. It sees rows that became harder (covariate shift), not a world that answers differently (concept
drift): where labels then show more loss than was expected, that is what happened.
Source: NannyML's CBPE; Bialek, Kuberski, Perrakis, Bifet 2024, arXiv:2401.08348, section 4. Calibration: isotonic,
Zadrozny and Elkan 2002, doi:10.1145/775047.775151.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perennial.rules.metrics import roc_auc_error

Floats = NDArray[np.float64]
BINS = 100
SMALLEST = 1e-6
ESTIMABLE = ("roc_auc", "log_loss", "brier", "accuracy")


class Reliability(NamedTuple):
    """How often each range of scores was right: (BINS,) rows and positives per bin of [0, 1]. States add up."""

    rows: Floats
    positives: Floats

    def joined(self, other: "Reliability") -> "Reliability":
        """Both states together."""
        return Reliability(self.rows + other.rows, self.positives + other.positives)


class Guess(NamedTuple):
    """An expected metric and its 95% interval from the number of rows alone."""

    value: float
    low: float
    high: float


def reliability(labels: Floats, scores: Floats) -> Reliability:
    """The state of labelled rows: probabilities and what came of them."""
    bins = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    rows = np.bincount(bins, minlength=BINS).astype(np.float64)
    positives = np.bincount(bins, weights=labels, minlength=BINS).astype(np.float64)
    return Reliability(rows, positives)


def calibrate(scores: Floats, state: Reliability) -> Floats:
    """Scores as probabilities that the labelled rows bear out: rising with the score, straight between bins."""
    held = state.rows > 0
    if held.sum() < 2:
        return np.clip(scores, SMALLEST, 1 - SMALLEST)
    middles = (np.flatnonzero(held) + 0.5) / BINS
    rates = _rising(state.positives[held] / state.rows[held], state.rows[held])
    return np.clip(np.interp(scores, middles, rates), SMALLEST, 1 - SMALLEST)


def estimate_metric(metric: str, scores: Floats, probabilities: Floats) -> Guess | None:
    """The metric that scores can be expected to reach, if `probabilities` are right; None where it is not estimable.

    Args:
        scores: (n,) as answered: they rank the rows. probabilities: (n,) calibrated.
    """
    if metric not in ESTIMABLE or not len(scores):
        return None
    if metric == "roc_auc":
        positives = float(probabilities.sum())
        value = _expected_auc(scores, probabilities)
        half = 1.96 * roc_auc_error(value, max(positives, 1.0), max(len(scores) - positives, 1.0))
        return Guess(value, value - half, value + half)
    each = _EXPECTED[metric](scores, probabilities)
    half = 1.96 * float(each.std()) / np.sqrt(len(each))
    return Guess(float(each.mean()), float(each.mean()) - half, float(each.mean()) + half)


def _expected_auc(scores: Floats, probabilities: Floats) -> float:
    """Expected share of (positive, negative) pairs in the right order, ties counting half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    positive = np.add.reduceat(probabilities[order], starts)
    negative = np.add.reduceat(1 - probabilities[order], starts)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def _rising(rates: Floats, weights: Floats) -> Floats:
    """Isotonic regression by pooling adjacent violators."""
    blocks: list[list[float]] = []
    for rate, weight in zip(rates, weights, strict=True):
        blocks.append([float(rate), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            second, first = blocks.pop(), blocks.pop()
            total = first[1] + second[1]
            blocks.append([(first[0] * first[1] + second[0] * second[1]) / total, total, first[2] + second[2]])
    return np.concatenate([np.full(int(count), rate) for rate, _, count in blocks])


def _log_loss(scores: Floats, p: Floats) -> Floats:
    held = np.clip(scores, 1e-15, 1 - 1e-15)
    return np.asarray(-(p * np.log(held) + (1 - p) * np.log1p(-held)))


_EXPECTED: dict[str, Callable[[Floats, Floats], Floats]] = {
    "log_loss": _log_loss,
    "brier": lambda scores, p: p * (1 - scores) ** 2 + (1 - p) * scores**2,
    "accuracy": lambda scores, p: np.where(scores >= 0.5, p, 1 - p),
}
