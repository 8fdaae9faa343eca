"""The roll-out's test in many simulated roll-outs: rarely wrong, soon right. Seeds are fixed; nothing is looked at once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from perennial.rules.anytime import distribution_distance, distribution_radius, higher_rate, mean_above, mostly
from perennial.rules.rollout import Arm, Seen, judge_rollout, match_in_time, relative_difference, squared_difference
from perennial.spec.rollout import Rollout

POLICY = Rollout()
LOOK = 100
BEFORE = 5_000  # requests of the champion that are in the log before


def arm(random: Generator, count: int, errors: float, slower: float = 1.0, shift: float = 0.0, ends: float = 60) -> Arm:
    """Requests of one version: heavy-tailed latencies whose level swings, scores that lie low."""
    at = np.sort(random.uniform(0, ends, count))
    load = 1 + 0.5 * np.sin(at / ends * 6)
    latency = slower * load * random.lognormal(0.7, 0.6, count) * np.where(random.random(count) < 0.01, 20, 1)
    failed = random.random(count) < errors
    score = np.clip(random.beta(2, 6, count) + shift, 0, 1)
    return Arm(at, failed, np.where(failed, np.nan, latency), np.where(failed, np.nan, score))


def first(arm_: Arm, count: int) -> Arm:
    return Arm(arm_.at[:count], arm_.failed[:count], arm_.latency_ms[:count], arm_.score[:count])


def looks(random: Generator, errors: float, **worse: Any) -> Iterator[tuple[int, list[Seen]]]:
    """A roll-out as `roll_out` looks at it: shadow, then three canary shares; requests of the challenger so far."""
    added = worse.pop("added", 0.0)
    done: list[Seen] = []
    total = 0
    for name, share in (("shadow", 0.5), ("canary 5%", 0.05), ("canary 25%", 0.25), ("canary 50%", 0.5)):
        count = 500
        challenger = arm(random, count, errors + added, **worse)
        champion = arm(random, int(count * (1 - share) / share), errors)
        for number in range(LOOK, count + 1, LOOK):
            until = challenger.at[number - 1]
            beside = number if name == "shadow" else int(np.searchsorted(champion.at, until))
            seen = Seen(name, first(champion, beside), first(challenger, number), name == "shadow", np.empty(0))
            yield total + number, [*done, seen]
        done, total = [*done, seen], total + count


def rolled_back(seed: int, errors: float, before: int = BEFORE, **worse: Any) -> tuple[int, str] | None:
    """After how many of its requests a challenger is rolled back, and by which alarm."""
    random = np.random.default_rng(seed)
    failed = int(random.binomial(before, errors))
    for number, seen in looks(random, errors, **worse):
        figure = judge_rollout(seen, before, failed, POLICY)[0]
        if figure.rings:
            return number, figure.alarm
    return None


def test_of_200_versions_that_are_the_same_at_most_10_are_rolled_back() -> None:
    assert sum(rolled_back(seed, 0.01 * (seed % 2)) is not None for seed in range(200)) <= 10


def test_two_percent_added_errors_are_caught_within_500_requests() -> None:
    caught = [rolled_back(seed, 0.0, added=0.02) for seed in range(100)]
    assert sum(found is not None and found[0] <= 500 and found[1] == "errors" for found in caught) >= 95


def test_on_top_of_errors_of_the_champions_own_they_are_caught_before_the_last_step() -> None:
    caught = [rolled_back(seed, 0.005, added=0.02) for seed in range(100)]
    assert sum(found is not None for found in caught) >= 97


def test_twice_as_slow_is_caught_and_a_tenth_slower_is_tolerated() -> None:
    assert all((found := rolled_back(seed, 0.0, slower=2.5)) and found[0] <= 500 for seed in range(50))
    assert sum(rolled_back(seed, 0.0, slower=1.1) is not None for seed in range(50)) <= 3


def test_scores_from_elsewhere_are_caught_and_a_small_shift_is_tolerated() -> None:
    assert all((found := rolled_back(seed, 0.0, shift=0.6)) and found[1] == "scores" for seed in range(20))
    assert sum(rolled_back(seed, 0.0, shift=0.03) is not None for seed in range(20)) <= 1


def test_times_that_are_worse_for_both_are_no_ones_fault() -> None:
    random = np.random.default_rng(1)
    seen = Seen("canary", arm(random, 400, 0.1), arm(random, 400, 0.1), False, np.empty(0))
    assert not any(figure.rings for figure in judge_rollout([seen], 5_000, 0, POLICY))


def losses(seed: int, worse: float) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    chance = random.beta(2, 6, 2_000)
    label = (random.random(2_000) < chance).astype(np.float64)
    other = np.clip(chance + random.normal(0, 0.05, 2_000), 0, 1)
    return squared_difference(abs(np.clip(other + worse, 0, 1) - label), abs(chance - label))


def test_labels_that_arrive_tell_a_worse_model() -> None:
    empty = arm(np.random.default_rng(0), 0, 0.0)

    def rings(seed: int, worse: float) -> bool:
        seen = [Seen("replay", empty, empty, True, losses(seed, worse))]
        return any(figure.rings and figure.alarm == "loss" for figure in judge_rollout(seen, 0, 0, POLICY))

    assert all(rings(seed, 0.45) for seed in range(20))
    assert not any(rings(seed, 0.0) for seed in range(20))


@pytest.mark.parametrize("name", ["rate", "pairs", "mean", "distribution"])
def test_each_alarm_alone_keeps_its_level_at_every_look(name: str) -> None:
    rings = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        a, b = random.random(400), random.random(400)
        for n in range(20, 401, 20):
            if name == "rate":
                value = higher_rate(int((a[:n] < 0.05).sum()), n, int((b[:n] < 0.05).sum()), n)
            elif name == "pairs":
                value = mostly(int((a[:n] > b[:n]).sum()), n)
            elif name == "mean":
                value = mean_above(a[:n] - b[:n], 0.0)
            else:
                certain = distribution_distance(a[:n], b[:n]) - 2 * distribution_radius(n, 0.025)
                value = np.inf if certain > 0 else 0.0
            if value >= np.log(20):
                rings += 1
                break
    assert rings <= 0.05 * 400 + 2 * np.sqrt(0.05 * 0.95 * 400)


def test_requests_are_matched_with_the_next_one_and_each_once() -> None:
    ours, theirs = match_in_time(np.array([1.0, 1.5, 4.0, 9.0]), np.array([0.0, 2.0, 5.0]))
    assert list(zip(ours, theirs, strict=True)) == [(0, 1), (2, 2)]


def test_an_error_of_nothing_on_both_sides_is_no_difference() -> None:
    zero = np.zeros(2)
    assert relative_difference(zero, zero).tolist() == [0.0, 0.0]
    assert relative_difference(np.array([3.0]), np.array([1.0])).tolist() == [0.5]
