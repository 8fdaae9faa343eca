"""On generated months: a baseline that decays beside a model that was kept."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from perennial.rules.performance import compare_months


def months(task: str, replaced_from: int = 5) -> pl.DataFrame:
    """April to July 2013, 800 rows each; from `replaced_from` on version 2 serves and the baseline is noisier."""
    random = np.random.default_rng(7)
    parts = []
    for month in range(4, 8):
        truth = random.normal(size=800)
        label = (truth > 0).astype(float) if task == "binary" else truth
        served = truth + random.normal(scale=0.7, size=800)
        baseline = served if month < replaced_from else truth + random.normal(scale=2.0, size=800)
        begin = datetime(2013, month, 1, 4, tzinfo=UTC)
        parts.append(
            pl.DataFrame({"label": label, "served": served, "baseline": baseline}).with_columns(
                event_time=pl.Series([begin + timedelta(minutes=50 * row) for row in range(800)]),
                version=pl.lit(1 if month < replaced_from else 2),
            )
        )
    return pl.concat(parts)


@pytest.mark.parametrize(("task", "metric"), [("binary", "roc_auc"), ("regression", "rmse")])
def test_a_better_model_gains_in_the_months_from_its_first_answer_on(task: str, metric: str) -> None:
    seen = compare_months(months(task), "flights", metric, 1, "America/New_York")
    assert [month.month for month in seen.months] == ["2013-04", "2013-05", "2013-06", "2013-07"]
    assert seen.months[0].gain == 0
    assert seen.after_first_promotion is not None
    assert seen.after_first_promotion.months == ["2013-05", "2013-06", "2013-07"]
    assert 0 < seen.after_first_promotion.low < seen.after_first_promotion.gain < seen.after_first_promotion.high


def test_nothing_is_gained_while_the_baseline_serves() -> None:
    seen = compare_months(months("binary", replaced_from=99), "flights", "roc_auc", 1, "UTC")
    assert seen.after_first_promotion is None


def test_a_month_with_labels_of_one_class_has_no_figure_and_no_weight() -> None:
    rows = months("binary").with_columns(
        label=pl.when(pl.col("event_time").dt.month() == 6).then(1.0).otherwise("label")
    )
    seen = compare_months(rows, "flights", "roc_auc", 1, "UTC")
    assert seen.months[2].served is None
    assert seen.after_first_promotion is not None
    assert seen.after_first_promotion.months == ["2013-05", "2013-07"]


def test_a_month_is_that_of_the_declared_zone() -> None:
    late_evening = pl.DataFrame({"label": [1.0], "served": [0.5], "baseline": [0.5], "version": [1]}).with_columns(
        event_time=pl.Series([datetime(2013, 5, 1, 2, tzinfo=UTC)])
    )
    assert compare_months(late_evening, "flights", "rmse", 1, "America/New_York").months[0].month == "2013-04"
