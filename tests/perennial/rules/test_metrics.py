"""Our metrics against scikit-learn's, which comes with evidently; and what the intervals promise."""

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from perennial.rules.metrics import (
    METRICS,
    Measure,
    best_threshold,
    bootstrap,
    bootstrap_each,
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


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_pr_auc_is_scikit_learn_s_average_precision(decimals: int) -> None:
    y = (GENERATOR.random(2_000) < 0.1).astype(float)
    scores = np.round(GENERATOR.random(2_000) + 0.3 * y, decimals)
    assert evaluate("pr_auc", y, scores) == pytest.approx(sk.average_precision_score(y, scores), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_decisions_are_counted_as_scikit_learn_does(threshold: float) -> None:
    y = (GENERATOR.random(700) < 0.3).astype(float)
    p = np.round(GENERATOR.random(700), 2)
    theirs = {
        "accuracy": sk.accuracy_score(y, p >= threshold),
        "precision": sk.precision_score(y, p >= threshold, zero_division=0),
        "recall": sk.recall_score(y, p >= threshold, zero_division=0),
        "f1": sk.f1_score(y, p >= threshold, zero_division=0),
    }
    for name, value in theirs.items():
        assert evaluate(Measure(name, threshold), y, p) == pytest.approx(value), name


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9])
def test_quantile_loss_is_scikit_learn_s_pinball_loss(quantile: float) -> None:
    y, told = GENERATOR.normal(size=300), GENERATOR.normal(size=300)
    found = evaluate(Measure("quantile_loss", quantile=quantile), y, told)
    assert found == pytest.approx(sk.mean_pinball_loss(y, told, alpha=quantile))


def test_calibration_error_by_hand() -> None:
    # four rows in the bin (1/15, 2/15], half of them positive: a gap of 0.4; one in the last bin, told rightly
    assert evaluate("calibration_error", [1, 1, 0, 0, 1], [0.1, 0.1, 0.1, 0.1, 1.0]) == pytest.approx(0.4 * 4 / 5)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_of_several_classes_are_scikit_learn_s(classes: int) -> None:
    y = GENERATOR.integers(0, classes, 900)
    p = np.exp(np.round(GENERATOR.normal(size=(900, classes)), 1) + 1.5 * (y[:, None] == np.arange(classes)))
    p /= p.sum(axis=1, keepdims=True)
    decided, shares = p.argmax(axis=1), np.eye(classes)[y]
    theirs = {
        "roc_auc": sk.roc_auc_score(shares, p, average="macro"),
        "pr_auc": sk.average_precision_score(shares, p, average="macro"),
        "log_loss": sk.log_loss(y, p, labels=range(classes)),
        "brier": float(np.mean(((p - shares) ** 2).sum(axis=1))),
        "accuracy": sk.accuracy_score(y, decided),
        "precision": sk.precision_score(y, decided, average="macro", zero_division=0),
        "recall": sk.recall_score(y, decided, average="macro", zero_division=0),
        "f1": sk.f1_score(y, decided, average="macro", zero_division=0),
    }
    for name, value in theirs.items():
        assert evaluate(name, y, p) == pytest.approx(value), name
    assert evaluate("calibration_error", y, np.eye(classes)[y]) == 0.0


def test_a_class_that_does_not_occur_is_left_out_of_the_mean() -> None:
    y, p = np.array([0, 1, 0, 1]), np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.4, 0.5, 0.1]])
    assert evaluate("roc_auc", y, p) == 1.0
    assert evaluate("f1", y, p) == 1.0


def test_no_metric_hides_a_score_that_is_no_number() -> None:
    y, p = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.1, np.nan, 0.9, 0.2])
    for name in METRICS["binary"] + METRICS["regression"]:
        assert np.isnan(evaluate(name, y, p)), name


def test_the_best_threshold_has_the_highest_f1_of_all() -> None:
    y = (GENERATOR.random(400) < 0.15).astype(float)
    p = np.clip(np.round(0.1 + 0.2 * y + GENERATOR.normal(0, 0.1, 400), 2), 0, 1)
    best = evaluate(Measure("f1", best_threshold(y, p)), y, p)
    assert best == pytest.approx(max(sk.f1_score(y, p >= t, zero_division=0) for t in np.unique(p)))
    assert best_threshold([1, 1], [0.2, 0.3]) == 0.5


def test_several_metrics_see_the_same_draws() -> None:
    y = (GENERATOR.random(200) < 0.4).astype(float)
    p = GENERATOR.random(200)
    both = bootstrap_each(["roc_auc", "brier"], y, p, seed=1, rounds=30)
    assert both == [bootstrap(name, y, p, seed=1, rounds=30) for name in ("roc_auc", "brier")]


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
