"""The benchmarks of features on a few rows: who is measured makes the same, and a difference is seen."""

import polars as pl
import pytest

from benchmarks.features import by_hand, compare, ours, payments
from benchmarks.features_memory import payments_of
from benchmarks.history_gain import WITH, WITHOUT, input_sets
from perennial.spec import load_pipeline


def test_ours_makes_what_polars_makes_by_hand_and_a_difference_is_seen() -> None:
    made = ours(*payments(5_000))
    compare(made, by_hand(*payments(5_000)))
    for name in ("std_7d", "day_score"):
        assert 0 < made[name].null_count() < len(made), "there are rows with and without"
        with pytest.raises(AssertionError, match=name):
            compare(made.with_columns(pl.col(name) + 0.1), made)
        with pytest.raises(AssertionError, match=name):
            compare(made.with_columns(pl.col(name).fill_null(0.0)), made)


def test_a_longer_history_is_more_days_of_the_same_rate() -> None:
    one, other = payments_of(0, 1_000, 10), payments_of(1, 1_000, 10)
    assert len(one) == pytest.approx(len(other), abs=5)
    assert one["at"].max() < other["at"].min()  # type: ignore[operator]
    assert not set(one["payment"]) & set(other["payment"])


def test_without_history_are_exactly_the_inputs_that_no_history_goes_into() -> None:
    pipeline = load_pipeline("flights")
    sets = input_sets(pipeline)
    assert set(sets[WITH]) - set(sets[WITHOUT]) == {feature.name for feature in pipeline.history}
    assert "temperature_f" in sets[WITHOUT]
