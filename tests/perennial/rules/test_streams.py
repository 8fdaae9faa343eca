"""The short form of `make bench-streams`: the policy on synthetic streams, one seed each, from before to after the change."""

import pytest

from benchmarks.streams import CHANGE, LOSS, Told, replay, turn_for
from perennial.spec import Monitoring

AFTER = 10  # windows


@pytest.fixture(scope="module")
def turn() -> float:
    return turn_for(LOSS)


def told(kind: str, turn: float, seed: int = 0) -> Told:
    return replay(kind, seed, Monitoring(), turn, windows=CHANGE + AFTER)


@pytest.mark.parametrize("kind", ["none", "covariate_only"])
def test_noise_and_drift_that_costs_nothing_start_no_retrain(kind: str, turn: float) -> None:
    found = told(kind, turn)
    assert (found.retrains, found.pages) == ([], [])


def test_a_true_loss_is_acted_on_within_a_few_windows(turn: float) -> None:
    found = told("sudden", turn)
    assert found.delay is not None
    assert found.delay <= 3
    assert found.promoted


@pytest.mark.parametrize("kind", ["null_column", "unit"])
def test_a_broken_feed_is_one_page_and_no_retrain(kind: str, turn: float) -> None:
    found = told(kind, turn)
    assert (found.retrains, found.pages) == ([], [CHANGE])
