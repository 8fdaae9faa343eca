"""Our metrics against scikit-learn's, which comes with evidently; and what the intervals promise."""

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from perennial.rules.metrics import (
    bootstrap,
    brier,
    evaluate,
    gain,
    log_loss,
    mae,
    paired_bootstrap,
    paired_bootstrap_by_group,
    rmse,
    roc_auc,
)

GENERATOR = np.random.default_rng(5)


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_roc_auc_counts_ties_as_scikit_learn_does(decimals: int) -> None:
    y = (GENERATOR.random(2_000) < 0.3).astype(float)
    scores = np.round(GENERATOR.random(2_000) + 0.3 * y, decimals)
    assert roc_auc(y, scores) == pytest.approx(sk.roc_auc_score(y, scores), abs=1e-12)


def test_losses_are_scikit_learn_s() -> None:
    y = (GENERATOR.random(500) < 0.3).astype(float)
    p = GENERATOR.random(500)
    assert log_loss(y, p) == pytest.approx(sk.log_loss(y, p))
    assert brier(y, p) == pytest.approx(sk.brier_score_loss(y, p))
    assert rmse(y, p) == pytest.approx(sk.root_mean_squared_error(y, p))
    assert mae(y, p) == pytest.approx(sk.mean_absolute_error(y, p))


@pytest.mark.parametrize(("y", "scores"), [([], []), ([1.0, 1.0], [0.2, 0.3]), ([0.0, 1.0], [0.2, np.nan])])
def test_roc_auc_is_nan_where_it_is_not_defined(y: list[float], scores: list[float]) -> None:
    assert np.isnan(roc_auc(y, scores))


def test_a_probability_of_one_that_is_wrong_costs_much_but_not_infinity() -> None:
    assert 30 < log_loss([0.0], [1.0]) < 40


def test_labels_and_scores_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        roc_auc([0, 1], [0.1, 0.2, 0.3])


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'f2'.*roc_auc"):
        evaluate("f2", [0, 1], [0, 1])


def test_a_gain_is_positive_when_the_challenger_is_better() -> None:
    assert gain("roc_auc", 0.8, 0.7) == pytest.approx(0.1)
    assert gain("rmse", 7.0, 8.0) == pytest.approx(1.0)


def test_a_drawn_sample_has_the_metric_of_its_rows() -> None:
    y = (GENERATOR.random(60) < 0.4).astype(float)
    scores = np.round(GENERATOR.random(60), 1)
    found = bootstrap("roc_auc", y, scores, seed=3, rounds=1)
    drawn = np.random.default_rng(3).integers(0, 60, 60)
    assert found.low == found.high == pytest.approx(sk.roc_auc_score(y[drawn], scores[drawn]))


def test_the_interval_of_a_difference_covers_it_and_leaves_zero_out_where_it_is_clear() -> None:
    y = (GENERATOR.random(4_000) < 0.3).astype(float)
    good, poor = y + GENERATOR.normal(0, 1, 4_000), y + GENERATOR.normal(0, 4, 4_000)
    found = paired_bootstrap("roc_auc", y, good, poor)
    assert 0 < found.low < found.value < found.high
    same = paired_bootstrap("roc_auc", y, good, good)
    assert same == (0.0, 0.0, 0.0)


def test_every_group_counts_the_same_however_many_rows_it_has() -> None:
    small = (np.array([0.0, 1.0] * 10), np.array([0.0, 1.0] * 10), np.array([1.0, 0.0] * 10))  # difference 1
    large = (np.array([0.0, 1.0] * 500), np.full(1000, 0.5), np.full(1000, 0.5))  # difference 0
    assert paired_bootstrap_by_group("roc_auc", [small, large], rounds=50).value == pytest.approx(0.5)


def test_five_hundred_rounds_over_thirty_thousand_rows_take_seconds() -> None:
    y = (GENERATOR.random(30_000) < 0.2).astype(float)
    a, b = GENERATOR.random(30_000), GENERATOR.random(30_000)
    started = time.process_time()
    paired_bootstrap("roc_auc", y, a, b, rounds=500)
    assert time.process_time() - started < 10
