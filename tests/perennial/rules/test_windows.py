"""What is trained on is older than what stops the training, and that is older than what judges it."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from perennial.rules.windows import TooFewRows, split_windows

START = datetime(2024, 1, 1, tzinfo=UTC)


def times(count: int, step: timedelta) -> pl.Series:
    return pl.Series([START + i * step for i in range(count)], dtype=pl.Datetime("us", "UTC"))


def test_the_newest_days_are_held_out() -> None:
    found = split_windows(times(1_000, timedelta(hours=2)), timedelta(days=7))
    assert found.holdout_end - found.holdout_start == timedelta(days=7)
    assert found.train_start < found.validation_start < found.holdout_start


def test_a_short_history_keeps_most_rows_for_training() -> None:
    series = times(100, timedelta(minutes=1))
    found = split_windows(series, timedelta(days=7))
    assert (series < found.holdout_start).sum() == 70
    assert (series < found.validation_start).sum() == 63


def test_two_instants_are_split_between_training_and_judgement() -> None:
    series = pl.concat([times(1, timedelta(1)).new_from_index(0, 90), times(2, timedelta(1))[1:].new_from_index(0, 10)])
    found = split_windows(series, timedelta(days=7))
    assert found.train_start < found.holdout_start <= found.holdout_end
    assert found.validation_start == found.holdout_start


@pytest.mark.parametrize("series", [times(19, timedelta(hours=1)), times(1, timedelta(1)).new_from_index(0, 500)])
def test_what_cannot_be_split_is_refused_with_the_count(series: pl.Series) -> None:
    with pytest.raises(TooFewRows, match=f"{len(series)} labelled rows.*Nothing was trained"):
        split_windows(series, timedelta(days=7))
