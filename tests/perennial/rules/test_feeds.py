"""What a feed does when it breaks is told apart from what the world does when it drifts."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from perennial.rules.feeds import find_broken, find_few_rows

ROWS = 3_000
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
