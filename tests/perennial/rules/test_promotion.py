"""Every answer the gate can give, and what it takes to get it."""

from typing import Any

import numpy as np

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
