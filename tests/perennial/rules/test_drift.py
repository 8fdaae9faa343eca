"""The policy on tables of cases; the tests stand as Evidently would have decided them."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from perennial.rules.drift import (
    Check,
    Evidence,
    Outcome,
    Performance,
    bounds,
    drift_bound,
    figures,
    judge_window,
    monitor_decision_id,
    policy_hash,
)
from perennial.spec import Monitoring

POLICY = Monitoring(maximum_loss_share=0.10, maximum_drifted_share=0.5, drift_effect_size=0.1, minimum_rows=500)
START, END = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 5, 1, tzinfo=UTC)


def with_outcomes(evidence: Evidence, policy: Monitoring = POLICY) -> Evidence:
    """The evidence with the outcome of every figure's bound, and of the share of drifted inputs."""
    outcomes = []
    for check, value in figures(evidence).items():
        relation, bound = bounds(policy)[check]
        passed = value >= bound if relation == "at_least" else value <= bound
        outcomes.append(Outcome(name=check, passed=passed, description=""))
    drifted = sum(size >= policy.drift_effect_size for size in evidence.drift.values())
    share = drifted / len(evidence.drift) if evidence.drift else 0.0
    outcomes.append(Outcome(name=Check.DRIFT, passed=share < policy.maximum_drifted_share, description=""))
    return evidence.model_copy(update={"tests": outcomes})


def auc(measured: float, low: float, high: float, promised: float = 0.72) -> Performance:
    return Performance(metric="roc_auc", promised=promised, measured=measured, low=low, high=high)


def rmse(measured: float, low: float, high: float, promised: float = 10.0) -> Performance:
    return Performance(metric="rmse", promised=promised, measured=measured, low=low, high=high)


def window(**changes: object) -> Evidence:
    usual = {"version": 1, "rows": 20_000, "labelled_rows": 19_000, "missing": {"wind": 0.01}, "drift": {"wind": 0.02}}
    seen = Evidence.model_validate(usual | changes)
    return seen.model_copy(update={"drift_bounds": dict.fromkeys(seen.drift, POLICY.drift_effect_size)})


@pytest.mark.parametrize(
    ("evidence", "verdict", "reason"),
    [
        (window(performance=auc(0.725, 0.715, 0.735)), "hold", "keeps the promise of 0.720"),
        (window(performance=auc(0.705, 0.700, 0.710)), "hold", "7% behind the promise of 0.720; 10% is allowed"),
        (window(performance=auc(0.690, 0.682, 0.698)), "retrain", "ROC AUC 0.690 .* 14% behind .* chance does not"),
        (window(performance=auc(0.690, 0.650, 0.730)), "hold", "chance may explain it"),
        (window(performance=auc(0.40, 0.39, 0.41)), "retrain", "145% behind"),
        (window(performance=auc(0.60, 0.59, 0.61, promised=0.49)), "page", "no better than a worthless model"),
        (window(performance=rmse(9.0, 8.9, 9.1)), "hold", "RMSE 9.000 .* keeps the promise of 10.000"),
        (window(performance=rmse(11.5, 11.2, 11.8)), "retrain", "RMSE 11.500 .* 15% behind the promise"),
        (window(performance=rmse(11.5, 9.9, 13.0)), "hold", "chance may explain it"),
    ],
)
def test_performance_decides_where_labels_exist(evidence: Evidence, verdict: str, reason: str) -> None:
    judged = judge_window(with_outcomes(evidence), POLICY)
    assert judged.verdict == verdict
    assert_matches(judged.reason, reason)


def test_drifted_inputs_do_not_matter_while_performance_keeps_the_promise() -> None:
    evidence = window(performance=auc(0.73, 0.72, 0.74), drift={"wind": 0.9, "hour": 0.8})
    assert judge_window(with_outcomes(evidence), POLICY).verdict == "hold"


@pytest.mark.parametrize(
    ("drift", "verdict", "reason"),
    [
        (
            {"wind": 0.3, "hour": 0.2, "origin": 0.02},
            "retrain",
            "2 of 3 drifted by 0.1 and more than chance .wind 0.30, hour 0.20",
        ),
        ({"wind": 0.3, "hour": 0.02, "origin": 0.02}, "hold", "1 of 3 drifted"),
        ({"wind": 0.01, "hour": 0.02, "origin": 0.02}, "hold", "0 of 3 drifted"),
    ],
)
def test_inputs_decide_only_where_labels_are_missing(drift: dict[str, float], verdict: str, reason: str) -> None:
    few = window(labelled_rows=30, performance=auc(0.4, 0.3, 0.5), drift=drift)
    judged = judge_window(with_outcomes(few), POLICY)
    assert judged.verdict == verdict
    assert_matches(judged.reason, "Only 30 labels")
    assert_matches(judged.reason, reason)


@pytest.mark.parametrize(
    ("evidence", "verdict", "reason"),
    [
        (window(rows=0, labelled_rows=0, missing={}, drift={}), "page", "No prediction was logged"),
        (window(rows=0, other_rows=9_000, labelled_rows=0, missing={}, drift={}), "hold", "answered by other versions"),
        (window(rows=200, labelled_rows=200, performance=auc(0.5, 0.4, 0.6)), "hold", "200 predictions are too few"),
        (window(missing={"wind": 0.98, "hour": 0.0}), "page", r"1 of 2 inputs .* wind \(\+98%\) .* broken feed"),
    ],
)
def test_what_is_broken_or_too_little_is_never_retrained_on(evidence: Evidence, verdict: str, reason: str) -> None:
    judged = judge_window(with_outcomes(evidence), POLICY)
    assert judged.verdict == verdict
    assert_matches(judged.reason, reason)


@pytest.mark.parametrize(("rows", "values"), [(500, 3), (500, 300), (5_000, 3), (5_000, 2_000)])
def test_two_samples_of_one_world_do_not_count_as_drifted(rows: int, values: int) -> None:
    random = np.random.default_rng(5)
    numbers, categories = 0, 0
    for _ in range(40):
        a, b = random.normal(size=(2, rows))
        numbers += wasserstein_distance(a, b) / a.std() >= drift_bound("number", POLICY, rows, rows, 0)
        shares = [np.bincount(random.integers(0, values, rows), minlength=values) / rows for _ in range(2)]
        categories += jensenshannon(*shares) >= drift_bound("category", POLICY, rows, rows, values)
    assert (numbers, categories) == (0, 0)


def test_a_real_shift_counts_as_drifted_at_any_size() -> None:
    assert drift_bound("number", POLICY, 500, 5_000, 0) < 0.2
    assert drift_bound("category", POLICY, 500, 5_000, 20) < 0.2


def test_a_broken_feed_pages_even_when_performance_fell() -> None:
    evidence = window(missing={"wind": 0.98}, performance=auc(0.60, 0.59, 0.61))
    assert judge_window(with_outcomes(evidence), POLICY).verdict == "page"


def test_the_decision_has_one_id_per_pipeline_version_window_and_policy() -> None:
    ids = {
        monitor_decision_id("flights", 1, START, END, POLICY),
        monitor_decision_id("flights", 2, START, END, POLICY),
        monitor_decision_id("taxis", 1, START, END, POLICY),
        monitor_decision_id("flights", 1, START, END.replace(hour=4), POLICY),
        monitor_decision_id("flights", 1, START, END, replace(POLICY, minimum_rows=501)),
    }
    assert len(ids) == 5
    assert f"flights-v1-20130401-20130501-{policy_hash(POLICY)[:8]}" in ids


def assert_matches(text: str, pattern: str) -> None:
    assert re.search(pattern, text), text
