"""What a feed does when it breaks is told apart from what the world does when it drifts."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from perennial.rules.evidence import Evidence
from perennial.rules.feeds import find_broken, find_few_rows, rows_before
from perennial.rules.past import PastWindow

ROWS = 3_000
MAY, DAY = datetime(2024, 5, 1, tzinfo=UTC), timedelta(days=1)
INPUTS = {"temperature_f": "number", "distance": "number", "centred": "number", "airport": "category"}


def sample(seed: int = 1) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "temperature_f": random.normal(60, 15, ROWS),
            "distance": random.gamma(3, 300, ROWS),
            "centred": random.normal(0, 1, ROWS),
            "airport": random.choice(["EWR", "JFK", "LGA"], ROWS),
        }
    )


def found(change: Callable[[pl.DataFrame], pl.DataFrame]) -> dict[str, str]:
    return find_broken(change(sample(2)), sample(), INPUTS)  # type: ignore[arg-type]  # kinds are literals


@pytest.mark.parametrize(
    ("column", "change", "word"),
    [
        ("temperature_f", (pl.col("temperature_f") - 32) / 1.8, "Fahrenheit to Celsius"),
        ("distance", pl.col("distance") * 1.60934, "another unit"),
        ("distance", pl.col("distance") / 1_000, "another unit"),
        ("centred", pl.col("centred") * 100, "another unit"),
        ("temperature_f", pl.col("temperature_f") * 10 + 30, "another unit"),  # in another season
        ("distance", pl.lit(7.0), "stuck"),
        ("airport", pl.lit("EWR"), "stuck"),
        ("airport", pl.col("airport").str.to_lowercase(), "recoded"),
    ],
)
def test_a_broken_feed_is_named(column: str, change: pl.Expr, word: str) -> None:
    trouble = found(lambda rows: rows.with_columns(change.alias(column)))
    assert list(trouble) == [column]
    assert word in trouble[column]


def test_a_feed_that_broke_half_way_through_the_window_is_named() -> None:
    late = pl.int_range(pl.len()) > ROWS * 0.45
    changed = pl.when(late).then(pl.col("distance") * 1_000).otherwise("distance").alias("distance")
    assert list(found(lambda rows: rows.with_columns(changed))) == ["distance"]


NEWEST = pl.int_range(pl.len()) / pl.len()


@pytest.mark.parametrize(
    ("column", "change", "part"),
    [
        ("distance", pl.when(NEWEST < 0.8).then("distance"), "later half"),
        ("distance", pl.when(NEWEST < 0.8).then("distance").otherwise(math.nan), "later half"),
        ("airport", pl.when(NEWEST < 0.8).then("airport"), "later half"),
        ("distance", pl.when(NEWEST < 0.89).then("distance"), "newest tenth"),
    ],
)
def test_a_feed_that_lost_its_values_lately_is_named_before_the_whole_window_shows_it(
    column: str, change: pl.Expr, part: str
) -> None:
    trouble = found(lambda rows: rows.with_columns(change.alias(column)))
    assert list(trouble) == [column]
    assert part in trouble[column]


def test_values_that_are_missing_by_night_in_the_reference_too_are_not_lost() -> None:
    def nights(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(distance=pl.when(NEWEST < 0.85).then("distance"))

    assert find_broken(nights(sample(2)), nights(sample()), INPUTS) == {}  # type: ignore[arg-type]  # kinds are literals


@pytest.mark.parametrize(
    "change",
    [
        pl.col("distance") * 1,
        pl.col("distance") * 1.2,  # longer trips
        pl.col("distance") + 400,
        pl.col("centred") * 2.3,  # a wilder world about zero
        pl.col("centred") + 1.5,
        pl.col("temperature_f") - 25,  # winter
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("JFK")).otherwise("airport").alias("airport"),
        pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.lit("SWF")).otherwise("airport").alias("airport"),
    ],
)
def test_drift_is_not_taken_for_a_broken_feed(change: pl.Expr) -> None:
    assert found(lambda rows: rows.with_columns(change)) == {}


def test_half_of_the_rows_are_missed_and_a_quiet_day_is_not() -> None:
    week = [1_000, 1_050, 980, 1_020, 990, 600, 580]
    assert find_few_rows(500, week) is None
    assert find_few_rows(340, week)
    assert find_few_rows(500, [1_000, 1_050, 980])
    assert find_few_rows(500, [1_000, 1_050]) is None


def asked(rows: float, start: float, end: float) -> PastWindow:
    """A window between two days of May, for which so many rows were asked."""
    place = {"start": MAY + start * DAY, "end": MAY + end * DAY, "at": MAY + end * DAY}
    return PastWindow(decision_id="w", verdict="hold", evidence=Evidence(version=1, rows=1, asked_rows=rows), **place)


def test_windows_of_other_lengths_are_compared_by_their_rows_in_an_hour() -> None:
    months = [asked(3_100, 0, 31), asked(3_000, 31, 61), asked(3_200, 61, 92)]
    assert rows_before(months, MAY + 92 * DAY, MAY + 122 * DAY) == [3_000, 3_000, 3_097]
    last_thousand = [asked(1_000, day, day + 1) for day in range(3)]  # a halved feed takes twice as long
    assert find_few_rows(1_000, rows_before(last_thousand, MAY + 3 * DAY, MAY + 5 * DAY))
    assert find_few_rows(1_000, rows_before(last_thousand, MAY + 3 * DAY, MAY + 4 * DAY)) is None
    grown = [asked(1_000 * day, 0, day) for day in (1, 2, 4)]
    assert rows_before(grown, MAY, MAY + 8 * DAY) == [8_000] * 3


def test_windows_that_share_rows_are_compared_once_and_nights_are_no_broken_feed() -> None:
    sliding = [asked(7_000, day, day + 7) for day in range(20)]
    assert len(rows_before(sliding, MAY + 20 * DAY, MAY + 27 * DAY)) == 2
    hours = [asked(100 if 6 <= hour % 24 < 22 else 10, hour / 24, (hour + 1) / 24) for hour in range(4 * 24 - 2)]
    usual = rows_before(hours, hours[-1].end, hours[-1].end + DAY / 24)
    assert usual == [10] * 4
    assert find_few_rows(10, usual) is None
    assert find_few_rows(5, usual)


def test_zeros_do_not_make_rain_of_another_month_another_unit() -> None:
    random = np.random.default_rng(3)

    def rain(share: float, mean: float) -> pl.DataFrame:
        wet = random.random(ROWS) < share
        return pl.DataFrame({"rain": np.where(wet, random.exponential(mean, ROWS).round(2), 0.0)})

    for share, mean in ((0.02, 0.02), (0.05, 0.015), (0.1, 0.2), (0.3, 0.1)):
        assert find_broken(rain(share, mean), rain(0.08, 0.05), {"rain": "number"}) == {}
    inches = rain(0.3, 0.1)
    assert list(find_broken(inches.select(pl.col("rain") * 25.4), inches, {"rain": "number"})) == ["rain"]


def test_a_cold_week_after_a_warm_month_is_weather() -> None:
    random = np.random.default_rng(4)
    june = pl.DataFrame({"f": random.normal(74, 8, ROWS)})
    for mean, spread in ((34, 5), (40, 9), (28, 6), (90, 4)):
        assert find_broken(pl.DataFrame({"f": random.normal(mean, spread, ROWS)}), june, {"f": "number"}) == {}


@pytest.mark.parametrize("factor", [0.57, 0.62, 1.609, 2.1])
def test_a_share_that_halves_or_doubles_is_the_world_and_percent_are_another_unit(factor: float) -> None:
    random = np.random.default_rng(5)
    late = pl.DataFrame({"late": random.beta(8, 32, ROWS)})
    assert find_broken(late * factor, late, {"late": "number"}) == {}
    assert list(find_broken(late * 100, late, {"late": "number"})) == ["late"]
