"""Every answer the gate can give, and what it takes to get it."""

from typing import Any

import numpy as np

from perennial.rules.metrics import Measure
from perennial.rules.promotion import judge_promotion
from perennial.spec.promotion import Promotion

GENERATOR = np.random.default_rng(3)
Y = (GENERATOR.random(4_000) < 0.3).astype(float)
GOOD = 1 / (1 + np.exp(-(2 * Y - 1 + GENERATOR.normal(0, 1, 4_000))))
POOR = 1 / (1 + np.exp(-(2 * Y - 1 + GENERATOR.normal(0, 4, 4_000))))
POLICY = Promotion()


def verdict(
    challenger: Any, champion: Any, y: Any = Y, policy: Promotion = POLICY, metric: str = "roc_auc", **more: Any
) -> str:
    return judge_promotion(metric, y, challenger, champion, policy, constant=0.3, **more).verdict


def test_a_better_challenger_is_promoted_with_its_evidence() -> None:
    found = judge_promotion("roc_auc", Y, GOOD, POOR, POLICY, constant=0.3)
    assert found.verdict == "promote"
    assert found.evidence["gain_low"] > 0
    assert found.evidence["rows"] == 4_000


def test_a_worse_challenger_is_rejected() -> None:
    assert verdict(POOR, GOOD) == "reject"
    assert verdict(POOR, GOOD, metric="log_loss") == "reject"


def test_a_lower_loss_is_better() -> None:
    assert verdict(GOOD, POOR, metric="log_loss") == "promote"
    assert verdict(Y + 1.0, Y + 2.0, metric="rmse", y=Y * 10) == "reject"  # both miss a number that swings by ten


def test_a_difference_lost_in_the_noise_is_inconclusive() -> None:
    first, second = (Y + np.random.default_rng(seed).normal(0, 1, 4_000) for seed in (1, 2))
    assert verdict(first, second, policy=Promotion(minimum_gain=0.01)) == "inconclusive"


def test_an_equal_challenger_is_promoted_where_no_gain_is_asked_for() -> None:
    assert verdict(GOOD, GOOD) == "promote"


def test_too_few_rows_are_inconclusive() -> None:
    assert verdict(GOOD[:100], POOR[:100], y=Y[:100]) == "inconclusive"


def test_one_class_only_is_inconclusive() -> None:
    assert verdict(GOOD, POOR, y=np.zeros(4_000)) == "inconclusive"


def test_a_challenger_that_gives_no_number_is_rejected() -> None:
    assert verdict(np.where(np.arange(4_000) == 7, np.nan, GOOD), POOR) == "reject"


def test_a_champion_that_gives_no_number_is_replaced() -> None:
    assert verdict(GOOD, np.full(4_000, np.nan)) == "promote"


def test_a_first_version_has_to_beat_a_constant() -> None:
    assert verdict(GOOD, None) == "promote"
    assert verdict(1 - GOOD, None) == "reject"
    assert verdict(np.full(4_000, 0.5), None, metric="log_loss") == "reject"


def test_a_slice_that_fares_much_worse_is_named() -> None:
    where = np.arange(4_000) % 8 == 0
    broken = np.where(where, 1 - GOOD, GOOD)
    slices = {"origin": np.where(where, "EWR", "JFK")}
    found = judge_promotion("roc_auc", Y, broken, POOR, POLICY, constant=0.3, slices=slices)
    assert found.verdict == "reject"
    assert "origin = EWR" in found.reason


def test_a_slice_with_few_rows_decides_nothing() -> None:
    where = np.arange(4_000) < 50
    slices = {"origin": np.where(where, "EWR", "JFK")}
    assert verdict(np.where(where, 1 - GOOD, GOOD), POOR, slices=slices) == "promote"


def test_a_null_in_a_slice_is_a_value() -> None:
    assert verdict(GOOD, POOR, slices={"origin": [None] * 4_000}) == "promote"


def answer(*arguments: Any, **more: Any) -> tuple[str, str]:
    found = judge_promotion("roc_auc", *arguments, **{"constant": 0.3, **more})
    return found.verdict, found.answer


def test_each_case_has_an_answer_of_its_own() -> None:
    nan = np.where(np.arange(4_000) == 7, np.nan, GOOD)
    assert answer(Y[:9], GOOD[:9], POOR[:9], POLICY) == ("inconclusive", "too_few_labels")
    assert answer(np.zeros(4_000), GOOD, POOR, POLICY) == ("inconclusive", "one_class_only")
    assert answer(Y, nan, POOR, POLICY) == ("reject", "gives_no_numbers")
    assert answer(Y, GOOD, nan, POLICY) == ("promote", "champion_gives_no_numbers")
    assert answer(Y, GOOD, None, POLICY) == ("promote", "first_version")
    assert answer(Y, GOOD, POOR, POLICY) == ("promote", "better")
    assert answer(Y, POOR, GOOD, POLICY) == ("reject", "no_gain")
    assert answer(Y, 1 - GOOD, None, POLICY) == ("reject", "no_better_than_constant")


def test_a_challenger_must_beat_the_last_label_where_that_is_asked() -> None:
    last = np.where(np.arange(4_000) % 99 == 0, 1 - Y, Y)  # as labels that come in long runs
    assert answer(Y, GOOD, POOR, POLICY, last_label=last) == ("reject", "no_better_than_last_label")
    assert answer(Y, GOOD, POOR, Promotion(beats_last_label=False), last_label=last) == ("promote", "better")
    assert answer(Y, GOOD, POOR, POLICY, last_label=np.roll(Y, 1)) == ("promote", "better")


def test_a_champion_that_cannot_be_compared_is_replaced_only_where_the_policy_says_so() -> None:
    gone = "the champion's inputs ['a'] are no longer among the features"
    assert answer(Y, GOOD, None, POLICY, incomparable=gone) == ("inconclusive", "changed_signature")
    alone = Promotion(changed_signature="judge_alone")
    assert answer(Y, GOOD, None, alone, incomparable=gone) == ("promote", "judged_alone")
    assert answer(Y, 1 - GOOD, None, alone, incomparable=gone) == ("reject", "no_better_than_constant")


def test_probabilities_far_off_are_rejected_unless_the_champion_s_are_too() -> None:
    honest = np.where(GENERATOR.random(4_000) < 0.9, 0.1 + 0.7 * Y, 0.5)
    shy = 0.5 + 0.01 * honest  # ranks as well, and says one half of everything
    policy = Promotion(maximum_calibration_error=0.1)
    assert answer(Y, shy, honest, policy) == ("reject", "miscalibrated")
    assert answer(Y, shy, None, policy) == ("reject", "miscalibrated")
    assert answer(Y, shy, shy, policy) == ("promote", "better")
    assert answer(Y, shy, honest, Promotion(maximum_calibration_error=None)) == ("promote", "better")


def test_each_model_decides_at_its_own_threshold() -> None:
    low = GOOD * 0.2  # the same decisions, from 0.1 instead of 0.5
    found = judge_promotion(Measure("f1", 0.1), Y, low, GOOD, POLICY, constant=0.3, champion_threshold=0.5)
    assert (found.verdict, found.evidence["gain"]) == ("promote", 0.0)
    assert found.evidence["challenger"] == found.evidence["champion"]


def test_several_classes_are_judged_by_the_mean_over_them() -> None:
    y = GENERATOR.integers(0, 3, 2_000).astype(float)
    right = np.eye(3)[y.astype(int)]
    sharp, dull = 0.8 * right + 0.2 / 3, 0.1 * right + 0.9 * GENERATOR.dirichlet([1, 1, 1], 2_000)
    shares = np.full(3, 1 / 3)
    for metric in ("roc_auc", "log_loss", "accuracy", "f1"):
        found = judge_promotion(metric, y, sharp, dull, POLICY, constant=shares, slices={"a": ["x"] * 2_000})
        assert (found.verdict, found.answer) == ("promote", "better"), metric
        assert found.evidence["slices"][0]["gain"] > 0


def test_values_are_judged_by_their_losses_and_quantiles() -> None:
    y = GENERATOR.normal(20, 5, 2_000)
    near, far = y + GENERATOR.normal(0, 1, 2_000), y + GENERATOR.normal(0, 3, 2_000)
    for metric in ("rmse", "mae", Measure("quantile_loss", quantile=0.9)):
        assert judge_promotion(metric, y, near, far, POLICY, constant=20.0).verdict == "promote"
        assert judge_promotion(metric, y, far, near, POLICY, constant=20.0).verdict == "reject"
    table = judge_promotion("rmse", y, near, far, POLICY, constant=20.0, last_label=np.roll(y, 1)).evidence["metrics"]
    assert set(table) == {"rmse", "mae", "quantile_loss"}
    assert set(table["mae"]) == {"challenger", "champion", "constant", "last_label"}


def test_a_slice_of_an_error_may_lose_a_share_of_it_whatever_its_unit() -> None:
    generator = np.random.default_rng(5)
    y = generator.normal(300_000, 50_000, 2_000)
    former = y + generator.normal(0, 20_000, 2_000)
    policy = Promotion(slices=["city"], allowed_slice_loss=0.05, minimum_slice_rows=100, minimum_rows=100)
    cities = {"city": ["Rome", "Oslo"] * 1_000}
    for error, expected in ((1.02, "better"), (1.2, "slice_fares_worse")):
        scores = np.where(np.arange(2_000) % 2 == 0, y + 0.5 * (former - y), y + error * (former - y))
        found = judge_promotion(Measure("rmse"), y, scores, former, policy, constant=300_000.0, slices=cities)
        assert found.answer == expected
