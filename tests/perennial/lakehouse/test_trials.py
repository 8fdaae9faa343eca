"""Trials in a real catalog: one is open at a time, steps go forward, and what ends it ends it for every replica."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import latest_stage, make_champion
from perennial.lakehouse.trials import RolloutRefused, Trial, divert, end_trial, open_trial, read_traffic, win_trial

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def crown(lake: Lake, version: int, generation: int, decision_id: str | None = None) -> None:
    make_champion(
        lake, "trips", version, expected_generation=generation, as_of=NOON, reason="better",
        decision_id=decision_id or f"d{generation}",
    )  # fmt: skip


def opened(lake: Lake, version: int) -> Trial:
    return open_trial(lake, "trips", version, as_of=NOON, reason="a test")


def diverted(lake: Lake, trial: Trial, stage: str, share: float) -> Trial:
    return divert(lake, trial, stage, share, as_of=NOON, reason="a test")  # type: ignore[arg-type]


def test_a_trial_goes_forward_and_is_read_as_it_stands(lake: Lake) -> None:
    crown(lake, 1, 0)
    trial = opened(lake, 2)
    assert read_traffic(lake, "trips").trial == trial
    for stage, share in (("shadow", 0.0), ("canary", 0.05), ("canary", 0.5)):
        trial = diverted(lake, trial, stage, share)
        assert read_traffic(lake, "trips").trial == trial
    late = diverted(lake, trial, "canary", 0.05)  # a zombie takes a step that was taken
    assert late.share == 0.05
    standing = read_traffic(lake, "trips").trial
    assert standing is not None
    assert standing.share == 0.5


def test_opening_it_again_finds_it_where_it_is(lake: Lake) -> None:
    crown(lake, 1, 0)
    trial = diverted(lake, opened(lake, 2), "shadow", 0.0)
    assert opened(lake, 2) == trial


def test_another_version_is_refused_and_told_by_whom(lake: Lake) -> None:
    crown(lake, 1, 0)
    diverted(lake, opened(lake, 2), "shadow", 0.0)
    with pytest.raises(RolloutRefused, match=r"version 2 of trips is being rolled out \(shadow.*roll_back"):
        opened(lake, 3)


def test_of_two_at_once_one_wins(lake: Lake) -> None:
    crown(lake, 1, 0)

    def attempt(version: int) -> bool:
        try:
            opened(lake, version)
        except RolloutRefused:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        won = list(pool.map(attempt, (2, 3, 4)))
    assert sum(won) == 1
    trial = read_traffic(lake, "trips").trial
    assert trial is not None
    assert trial.version == (2, 3, 4)[won.index(True)]


def test_an_ended_trial_gives_the_champion_everything_and_another_try_is_another_trial(lake: Lake) -> None:
    crown(lake, 1, 0)
    trial = diverted(lake, opened(lake, 2), "canary", 0.05)
    end_trial(lake, trial, as_of=NOON, reason="it errs")
    end_trial(lake, trial, as_of=NOON, reason="it errs")
    assert read_traffic(lake, "trips").trial is None
    with pytest.raises(RolloutRefused, match="has ended: it errs"):
        diverted(lake, trial, "canary", 0.5)
    again = opened(lake, 2)
    assert again.rollout != trial.rollout
    assert again.stage == "challenger"


def test_a_new_champion_ends_whatever_was_tried_against_the_former(lake: Lake) -> None:
    crown(lake, 1, 0)
    trial = diverted(lake, opened(lake, 2), "canary", 0.05)
    crown(lake, 3, 1)
    assert read_traffic(lake, "trips").trial is None
    with pytest.raises(RolloutRefused, match="version 3 has become champion"):
        diverted(lake, trial, "canary", 0.5)


def test_the_version_that_was_tried_takes_over_under_the_same_decision(lake: Lake) -> None:
    crown(lake, 1, 0)
    trial = diverted(lake, opened(lake, 2), "canary", 0.5)
    for _ in range(2):  # the run that did it was killed: its successor finds it done
        win_trial(lake, trial, as_of=NOON, reason="better")
    traffic = read_traffic(lake, "trips")
    assert traffic.trial is None
    assert traffic.champion is not None
    assert (traffic.champion.version, traffic.champion.generation) == (2, 2)
    end_trial(lake, trial, as_of=NOON, reason="a zombie comes back late")
    standing = latest_stage(lake, "trips", 2)
    assert standing is not None
    assert standing.stage == "champion"


def test_a_version_that_was_withdrawn_at_the_last_moment_does_not_take_over(lake: Lake) -> None:
    crown(lake, 1, 0)
    trial = diverted(lake, opened(lake, 2), "canary", 0.5)
    end_trial(lake, trial, as_of=NOON, reason="somebody asked for it")
    with pytest.raises(RolloutRefused, match="somebody asked for it"):
        win_trial(lake, trial, as_of=NOON, reason="better")
    champion = read_traffic(lake, "trips").champion
    assert champion is not None
    assert champion.version == 1
