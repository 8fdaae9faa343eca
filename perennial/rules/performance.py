"""What retraining brought: served scores against the version that was never replaced, month by month. Pure."""

import math

import polars as pl
from pydantic import BaseModel

from perennial.rules.metrics import evaluate, gain, higher_is_better, paired_bootstrap_by_group


class Month(BaseModel, frozen=True):
    """One calendar month on the rows that have a label and both scores. None: the metric is not defined on them.

    Args:
        month: `2013-06`.
        versions: what served in it, in the order of their numbers.
        gain: how much better the served scores are, positive for every metric.
    """

    month: str
    rows: int
    versions: list[int]
    baseline: float | None
    served: float | None
    gain: float | None


class Gain(BaseModel, frozen=True):
    """The mean over months of what was served minus the baseline, positive is better, with its paired 95% interval."""

    months: list[str]
    rows: int
    baseline: float
    served: float
    gain: float
    low: float
    high: float


class Performance(BaseModel, frozen=True):
    """The closing table: every month, and the gain over the months from the first that another version answered."""

    pipeline: str
    metric: str
    baseline_version: int
    time_zone: str
    months: list[Month]
    after_first_promotion: Gain | None
    unpaired_rows: int


def compare_months(
    rows: pl.DataFrame, pipeline: str, metric: str, baseline_version: int, time_zone: str, *, unpaired_rows: int = 0
) -> Performance:
    """Compare on the same rows, so that hard and easy months weigh on both alike.

    Args:
        rows: columns `event_time` (UTC), `label`, `served`, `baseline` (scores, none null) and `version` that served.
        unpaired_rows: rows left out because a label or the baseline's score is missing: carried into the result.
    """
    by_month = rows.with_columns(month=pl.col("event_time").dt.convert_time_zone(time_zone).dt.strftime("%Y-%m"))
    parts = {str(part["month"][0]): part for part in by_month.sort("event_time").partition_by("month")}
    months = [_month(name, part, metric) for name, part in parts.items()]
    replaced = [month for month in months if set(month.versions) - {baseline_version}]
    later = [m for m in months if replaced and m.month >= replaced[0].month and m.gain is not None]
    return Performance(
        pipeline=pipeline,
        metric=metric,
        baseline_version=baseline_version,
        time_zone=time_zone,
        months=months,
        after_first_promotion=_gain(later, parts, metric) if later else None,
        unpaired_rows=unpaired_rows,
    )


def _month(name: str, rows: pl.DataFrame, metric: str) -> Month:
    truth = rows["label"].to_numpy()
    served = evaluate(metric, truth, rows["served"].to_numpy())
    baseline = evaluate(metric, truth, rows["baseline"].to_numpy())
    defined = math.isfinite(served) and math.isfinite(baseline)
    return Month(
        month=name,
        rows=rows.height,
        versions=sorted(rows["version"].unique().to_list()),
        baseline=baseline if defined else None,
        served=served if defined else None,
        gain=gain(metric, served, baseline) if defined else None,
    )


def _gain(months: list[Month], parts: dict[str, pl.DataFrame], metric: str) -> Gain:
    better, other = ("served", "baseline") if higher_is_better(metric) else ("baseline", "served")
    groups = [tuple(parts[m.month][column].to_numpy() for column in ("label", better, other)) for m in months]
    difference = paired_bootstrap_by_group(metric, groups)  # type: ignore[arg-type]  # tuples of three arrays each
    return Gain(
        months=[month.month for month in months],
        rows=sum(month.rows for month in months),
        baseline=sum(month.baseline or 0.0 for month in months) / len(months),
        served=sum(month.served or 0.0 for month in months) / len(months),
        gain=difference.value,
        low=difference.low,
        high=difference.high,
    )
