"""Performance of rows of many classes: the label is text, and each class has its probability."""

import math

import polars as pl
import pytest

from perennial.rules.metrics import Interval
from ray_jobs.drift.measure import all_figures, measure
from ray_jobs.drift.window import LABEL


def answered(label: str | None, *probabilities: float) -> dict[str, object]:
    each = [{"class": name, "probability": p} for name, p in zip(("a", "b", "c"), probabilities, strict=True)]
    return {LABEL: label, "score": max(probabilities), "probabilities": each}


ROWS = pl.DataFrame(
    [
        answered("a", 0.8, 0.1, 0.1),
        answered("b", 0.2, 0.5, 0.3),
        answered("c", 0.5, 0.4, 0.1),
        answered(None, 1, 0, 0),
        answered("b", 0.1, 0.8, 0.1),
    ]
)


def test_many_classes_are_measured_by_each_one_s_probability() -> None:
    losses = [0.8, 0.5, 0.1, 0.8]
    found = measure(ROWS, "log_loss", Interval(0.5, 0.4, 0.6))
    assert found is not None
    assert found.measured == pytest.approx(-sum(map(math.log, losses)) / 4)
    assert all_figures(ROWS, "multiclass", 0.5)["accuracy"] == pytest.approx(0.75)
