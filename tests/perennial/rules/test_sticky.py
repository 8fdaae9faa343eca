"""Shares of traffic: sticky, growing, and drawn anew for each experiment."""

from perennial.rules.sticky import takes_part

KEYS = [f"client-{number}" for number in range(20_000)]


def test_a_share_is_as_large_as_it_says() -> None:
    for share in (0.0, 0.05, 0.5, 1.0):
        assert abs(sum(takes_part(key, "a", share) for key in KEYS) / len(KEYS) - share) < 0.01


def test_who_takes_part_in_a_share_takes_part_in_a_larger_one() -> None:
    assert all(takes_part(key, "a", 0.25) for key in KEYS if takes_part(key, "a", 0.05))


def test_another_experiment_draws_others() -> None:
    first, second = ({key for key in KEYS if takes_part(key, name, 0.1)} for name in "ab")
    assert len(first & second) < 0.2 * len(first)
