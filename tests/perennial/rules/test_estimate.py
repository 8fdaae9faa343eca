"""What scores let one expect: right where the world answers as before, and blind where it does not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perennial.rules.estimate import Guess, calibrate, estimate_metric, reliability
from perennial.rules.metrics import evaluate

ROWS = 40_000
Floats = NDArray[np.float64]


def answered(center: float, seed: int, bend: float = 1.0) -> tuple[Floats, Floats]:
    """Labels and scores; `bend` other than 1 makes the scores over- or underconfident."""
    random = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-random.normal(center, 1.2, ROWS)))
    labels = (random.random(ROWS) < chance).astype(float)
    return labels, chance**bend


def guess(metric: str, scores: Floats, taught: tuple[Floats, Floats]) -> Guess:
    found = estimate_metric(metric, scores, calibrate(scores, reliability(*taught)))
    assert found is not None
    return found


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "brier", "accuracy"])
@pytest.mark.parametrize("bend", [1.0, 1.7])
def test_the_estimate_is_what_labels_show_later_also_where_rows_became_harder(metric: str, bend: float) -> None:
    taught = answered(-1.0, 1, bend)
    labels, scores = answered(-0.2, 2, bend)
    assert guess(metric, scores, taught).value == pytest.approx(evaluate(metric, labels, scores), abs=0.012)


def test_the_interval_holds_the_measured_metric_about_as_often_as_it_says() -> None:
    taught, held = answered(-1.0, 1), 0
    for seed in range(40):
        labels, scores = answered(-1.0, 100 + seed)
        found = guess("roc_auc", scores[:5_000], taught)
        held += found.low <= evaluate("roc_auc", labels[:5_000], scores[:5_000]) <= found.high
    assert held >= 34


def test_a_world_that_answers_differently_is_not_seen_before_its_labels() -> None:
    taught = answered(-1.0, 1)
    labels, scores = answered(-1.0, 2)
    turned = np.where(np.random.default_rng(3).random(ROWS) < 0.3, 1 - labels, labels)
    expected = guess("roc_auc", scores, taught).value
    assert expected - evaluate("roc_auc", turned, scores) > 0.1


def test_states_of_parts_add_up_and_calibration_never_falls_with_the_score() -> None:
    labels, scores = answered(0.0, 4)
    whole = reliability(labels, scores)
    halves = reliability(labels[:100], scores[:100]).joined(reliability(labels[100:], scores[100:]))
    assert whole.rows.tolist() == halves.rows.tolist()
    assert (np.diff(calibrate(np.linspace(0, 1, 50), whole)) >= 0).all()


def test_a_metric_that_scores_say_nothing_of_is_not_estimated() -> None:
    assert estimate_metric("rmse", np.ones(3), np.ones(3)) is None
