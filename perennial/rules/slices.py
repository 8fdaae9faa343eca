"""Two models on the values of declared columns: a gain over all rows may hide a group that loses."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from perennial.rules.metrics import Metric, evaluate, gain, measure

Floats = NDArray[np.float64]


class SliceLoss(BaseModel, frozen=True):
    """One value of a declared column, and how the two models fare on its rows."""

    column: str
    value: str
    rows: int
    challenger: float
    champion: float
    gain: float


def slice_losses(
    metric: Metric,
    y: Floats,
    challenger: Floats,
    champion: Floats,
    slices: Mapping[str, Iterable[Any]],
    minimum_rows: int,
    *,
    champion_threshold: float | None = None,
) -> list[SliceLoss]:
    """Both models on each value of each declared column that has enough rows for the metric to mean something."""
    ours = measure(metric)
    theirs = ours if champion_threshold is None else ours._replace(threshold=champion_threshold)
    found = []
    for column, value, chosen in slice_masks(slices, minimum_rows):
        mine, former = evaluate(ours, y[chosen], challenger[chosen]), evaluate(theirs, y[chosen], champion[chosen])
        if math.isnan(mine) or math.isnan(former):
            continue
        found.append(
            SliceLoss(
                column=column,
                value=value,
                rows=int(chosen.sum()),
                challenger=mine,
                champion=former,
                gain=gain(ours, mine, former),
            )
        )
    return found


def slice_masks(slices: Mapping[str, Iterable[Any]], minimum_rows: int) -> Iterable[tuple[str, str, NDArray[np.bool_]]]:
    """Every value of each declared column with enough rows: the column, the value as text, and its rows."""
    for column, values in slices.items():
        texts = np.asarray([str(value) for value in values])
        for value, rows in zip(*np.unique(texts, return_counts=True), strict=True):
            if rows >= minimum_rows:
                yield column, str(value), texts == value
