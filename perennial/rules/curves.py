"""What a model card draws: curves, bins, slices and importances, worked out from labels and scores. Pure, numpy only."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from perennial.rules.metrics import Measure, bootstrap, evaluate, gain
from perennial.rules.slices import slice_masks
from perennial.rules.weighted import CALIBRATION_BINS, calibration_bin

Floats = NDArray[np.float64]
POINTS = 120
RESIDUAL_BINS = 24
DRAWN_CLASSES = 6
REPEATS = 3
PERIODS = 40


class Curve(BaseModel, frozen=True):
    """Points of a line. `name`: of the class, where there are several."""

    name: str
    x: list[float]
    y: list[float]


class Bin(BaseModel, frozen=True):
    """Rows whose score, or residual, lies in (low, high]. `told`: their mean score; `found`: their mean label."""

    low: float
    high: float
    rows: int
    told: float | None = None
    found: float | None = None


class SliceValue(BaseModel, frozen=True):
    """The metric on the rows of one value of a declared column, with its 95% bootstrap interval."""

    column: str
    value: str
    rows: int
    metric: float | None
    low: float | None
    high: float | None


class Importance(BaseModel, frozen=True):
    """How much worse the metric is when an input's values are shuffled: mean, least and most of three shuffles."""

    input: str
    loss: float
    low: float
    high: float


class Period(BaseModel, frozen=True):
    """A span of event time: labelled rows in it and their mean label. `part`: training, validation or holdout."""

    start: str
    part: str
    rows: int
    label_mean: float | None


def roc_curves(y: Floats, scores: Floats, classes: Sequence[str]) -> list[Curve]:
    """False positive share against true positive share; of several classes each against the rest."""
    return _each_class(y, scores, classes, _roc)


def pr_curves(y: Floats, scores: Floats, classes: Sequence[str]) -> list[Curve]:
    """Recall against precision; of several classes each against the rest."""
    return _each_class(y, scores, classes, _pr)


def _each_class(
    y: Floats, scores: Floats, classes: Sequence[str], curve: Callable[[str, Floats, Floats], Curve | None]
) -> list[Curve]:
    if scores.ndim == 1:
        found = [curve("", y, scores)]
    else:
        common = np.argsort(-np.bincount(y[y >= 0].astype(int), minlength=len(classes)), kind="stable")[:DRAWN_CLASSES]
        found = [curve(classes[c], (y == c).astype(np.float64), scores[:, c]) for c in sorted(common)]
    return [each for each in found if each is not None]


def _falling(y: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Hits and false alarms when everything down to each distinct score is called positive."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    hits = np.cumsum(y[order])[last]
    return hits, last + 1.0 - hits


def _roc(name: str, y: Floats, scores: Floats) -> Curve | None:
    if y.min() == y.max():
        return None
    hits, alarms = _falling(y, scores)
    return _thin(name, np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1]))


def _pr(name: str, y: Floats, scores: Floats) -> Curve | None:
    if not y.any():
        return None
    hits, alarms = _falling(y, scores)
    return _thin(name, hits / hits[-1], hits / (hits + alarms))


def _thin(name: str, x: Floats, y: Floats) -> Curve:
    """At most so many points, evenly along the line rather than along the rows, with both ends."""
    along = np.append(0.0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)).clip(0, len(x) - 1))
    return Curve(name=name, x=x[chosen].round(5).tolist(), y=y[chosen].round(5).tolist())


def calibration_bins(y: Floats, scores: Floats) -> list[Bin]:
    """15 equal-width bins of probability; of several classes that of the likeliest and whether it was right.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    if scores.ndim == 2:
        y, scores = (scores.argmax(axis=1) == y).astype(np.float64), scores.max(axis=1)
    places, width = calibration_bin(scores), 1 / CALIBRATION_BINS
    return [
        _bin(at * width, (at + 1) * width, y[places == at], scores[places == at])
        for at in range(CALIBRATION_BINS)
        if (places == at).any()
    ]


def predicted_bins(y: Floats, scores: Floats) -> list[Bin]:
    """Predicted values by tenths of the rows: where the mean label leaves the mean prediction, the model is off."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, 11)))
    places = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, max(0, len(edges) - 2))
    bounds = [(edges[at], edges[min(at + 1, len(edges) - 1)]) for at in range(max(1, len(edges) - 1))]
    return [
        _bin(float(low), float(high), y[places == at], scores[places == at])
        for at, (low, high) in enumerate(bounds)
        if (places == at).any()
    ]


def residual_bins(y: Floats, scores: Floats) -> list[Bin]:
    """Label minus prediction, in equal-width bins over the middle 99%; what lies beyond is in the outermost."""
    residuals = y - scores
    low, high = np.quantile(residuals, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1.0, RESIDUAL_BINS + 1)
    counts, _ = np.histogram(residuals.clip(edges[0], edges[-1]), edges)
    return [
        Bin(low=float(a), high=float(b), rows=int(n))
        for a, b, n in zip(edges, edges[1:], counts.tolist(), strict=False)
    ]


def _bin(low: float, high: float, y: Floats, scores: Floats) -> Bin:
    return Bin(low=low, high=high, rows=len(y), told=float(scores.mean()), found=float(y.mean()))


def slice_values(
    metric: Measure, y: Floats, scores: Floats, slices: Mapping[str, Iterable[Any]], minimum_rows: int
) -> list[SliceValue]:
    """The metric on every value of the declared columns that has enough rows."""
    found = []
    for column, value, chosen in slice_masks(slices, minimum_rows):
        figures = (None if np.isnan(each) else each for each in bootstrap(metric, y[chosen], scores[chosen]))
        seen, low, high = figures
        found.append(SliceValue(column=column, value=value, rows=int(chosen.sum()), metric=seen, low=low, high=high))
    return found


def permutation_importance(
    metric: Measure, rows: pl.DataFrame, y: Floats, score: Callable[[pl.DataFrame], Floats], inputs: Sequence[str]
) -> list[Importance]:
    """What each input is worth to the model: the metric's loss when its values are shuffled, the largest first.

    Inputs that say the same as another one share their worth. Source: Breiman 2001, doi:10.1023/A:1010933404324, section 10.
    """
    generator, whole = np.random.default_rng(0), evaluate(metric, y, score(rows))
    orders = [generator.permutation(rows.height) for _ in range(REPEATS)]
    found = []
    for name in inputs:
        shuffled = (rows.with_columns(rows[name][order].alias(name)) for order in orders)
        losses = [gain(metric, whole, evaluate(metric, y, score(each))) for each in shuffled]
        if np.isfinite(losses).all():
            found.append(Importance(input=name, loss=float(np.mean(losses)), low=min(losses), high=max(losses)))
    return sorted(found, key=lambda each: -each.loss)


def periods(times: pl.Series, labels: Floats, bounds: Mapping[str, Any]) -> list[Period]:
    """Labelled rows over event time, in some forty equal spans; `bounds`: the first moment of each part, in order."""
    moments = times.dt.epoch("us").to_numpy()
    edges = np.linspace(moments.min(), moments.max() + 1, PERIODS + 1)
    places = np.clip(np.searchsorted(edges, moments, side="right") - 1, 0, PERIODS - 1)
    starts = pl.Series(edges[:-1].astype(np.int64)).cast(pl.Datetime("us", "UTC"))
    found = []
    for at, start in enumerate(starts):
        part = [name for name, first in bounds.items() if first <= start] or list(bounds)[:1]
        inside = labels[places == at]
        mean = float(inside.mean()) if len(inside) else None
        found.append(Period(start=start.isoformat(), part=part[-1], rows=len(inside), label_mean=mean))
    return found
