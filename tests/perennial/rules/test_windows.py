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


def test_a_week_of_few_rows_is_held_out_with_those_before_it() -> None:
    series = times(2_000, timedelta(hours=2.4))  # ten a day
    found = split_windows(series, timedelta(days=7), minimum_holdout_rows=500)
    assert (series >= found.holdout_start).sum() == 500
    odd = pl.concat([times(1_000, timedelta(hours=1)), pl.Series([START + timedelta(days=9_999)], dtype=series.dtype)])
    assert (odd >= split_windows(odd, timedelta(days=7), minimum_holdout_rows=200).holdout_start).sum() == 200


def test_rows_of_an_instant_stay_together_on_the_nearer_side() -> None:
    counts = (100, 900, 900)
    months = [START + timedelta(days=31 * place) for place in range(3)]
    series = pl.Series([m for m, count in zip(months, counts, strict=True) for _ in range(count)]).cast(
        pl.Datetime("us", "UTC")
    )
    found = split_windows(series, timedelta(days=7))
    assert found.holdout_start == months[2]
    assert found.validation_start == found.holdout_start  # not 100 rows to learn from and 900 to stop by


@pytest.mark.parametrize("series", [times(19, timedelta(hours=1)), times(1, timedelta(1)).new_from_index(0, 500)])
def test_what_cannot_be_split_is_refused_with_the_count(series: pl.Series) -> None:
    with pytest.raises(TooFewRows, match=f"{len(series)} labelled rows.*Nothing was trained"):
        split_windows(series, timedelta(days=7))
