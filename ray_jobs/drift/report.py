"""One Evidently run over a window: its presets on bounded samples, and our figures of all rows as metrics of its own.

Effect sizes only: p-values go to zero with the number of rows, and a threshold on them would judge the sample's size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import polars as pl
from evidently import DataDefinition, Dataset, Report
from evidently.core.metric_types import MetricTestResult, SingleValue, SingleValueCalculation, SingleValueMetric
from evidently.core.report import Context, Snapshot
from evidently.legacy.tests.base_test import TestStatus
from evidently.metrics import ValueDrift
from evidently.presets import DataDriftPreset
from evidently.tests import gte, lte

from perennial.rules.drift import drift_bound
from perennial.rules.evidence import Check, Evidence, Outcome, bounds, figures
from perennial.rules.tabular import InputKind
from perennial.spec import Monitoring
from ray_jobs.drift.page import render_page

NUMBER_METHOD = "wasserstein"  # normed by the reference's standard deviation
CATEGORY_METHOD = "jensenshannon"
SCORE = "score"
ALL_ROWS = "Drift on all rows: "


class Figure(SingleValueMetric):
    """A figure computed elsewhere, on all rows, published into the report so that Evidently tests and shows it."""

    figure: str
    value: float


class FigureCalculation(SingleValueCalculation[Figure]):
    """Hands the figure through: Evidently's sample has no part in it."""

    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> SingleValue:
        return self.result(self.metric.value)

    def display_name(self) -> str:
        return self.metric.figure


@dataclass(frozen=True)
class Judged:
    """What Evidently decided, and the page that shows it."""

    evidence: Evidence
    page: str


def judge_samples(
    current: pl.DataFrame,
    reference: pl.DataFrame,
    inputs: Mapping[str, InputKind],
    evidence: Evidence,
    policy: Monitoring,
) -> Judged:
    """Run Evidently once; the evidence comes back with its tests and effect sizes.

    Args:
        current: sample of the window: the inputs, and `score`.
        reference: sample the version came with: the same columns.
        evidence: figures of all rows; inputs that lost their values are shown by their figure only, because
            Evidently refuses a column without values.
    """
    every: dict[str, InputKind] = {**inputs, SCORE: "number"}
    comparable = {n: kind for n, kind in every.items() if _has_values(current, n) and _has_values(reference, n)}
    limits = {
        name: _limit(current[name], reference[name], kind, policy, len(comparable)) for name, kind in comparable.items()
    }
    tested = bounds(evidence, policy)
    items: list[Any] = [_tested(check, value, *tested[check]) for check, value in figures(evidence, policy).items()]
    items += [
        _tested(f"{ALL_ROWS}{name}", size, "at_most", evidence.drift_bounds[name])
        for name, size in evidence.drift.items()
    ]
    if comparable:
        items += _drift_metrics(comparable, limits, policy)
        snapshot = Report(items, include_tests=True).run(_dataset(current, comparable), _dataset(reference, comparable))
    else:  # an empty window has nothing to compare: the report is of the figures alone
        snapshot = Report(items, include_tests=True).run(pd.DataFrame({"rows": [evidence.rows]}), None)
    drift = {name: size for name, size in _effect_sizes(snapshot).items() if name != SCORE}
    judged = evidence.model_copy(
        update={
            "tests": [_outcome(result) for result in snapshot.tests_results],
            "sample_drift": drift,
            "sample_bounds": {name: limits[name] for name in drift},
            "sampled_rows": current.height,
        }
    )
    return Judged(judged, render_page(snapshot))


def _drift_metrics(comparable: Mapping[str, InputKind], limits: Mapping[str, float], policy: Monitoring) -> list[Any]:
    inputs = [name for name in comparable if name != SCORE]
    preset = DataDriftPreset(
        columns=inputs,
        drift_share=policy.maximum_drifted_share,
        num_method=NUMBER_METHOD,
        cat_method=CATEGORY_METHOD,
        per_column_threshold={name: limits[name] for name in inputs},
    )
    metrics: list[Any] = [preset] if inputs else []
    if SCORE in comparable:
        metrics.append(ValueDrift(column=SCORE, method=NUMBER_METHOD, threshold=limits[SCORE]))
    return metrics


def _limit(current: pl.Series, reference: pl.Series, kind: InputKind, policy: Monitoring, columns: int) -> float:
    rows, reference_rows = (len(values) - values.null_count() for values in (current, reference))
    values = 0
    if kind == "category":
        values = pl.concat([current.cast(pl.String), reference.cast(pl.String)]).drop_nulls().n_unique()
    return drift_bound(kind, policy, rows, reference_rows, values, columns)


def _tested(name: str, value: float, relation: str, bound: float) -> Figure:
    return Figure(figure=str(name), value=value, tests=[gte(bound) if relation == "at_least" else lte(bound)])


def _has_values(rows: pl.DataFrame, name: str) -> bool:
    return name in rows.columns and rows[name].null_count() < rows.height


def _dataset(rows: pl.DataFrame, columns: Mapping[str, str]) -> Dataset:
    numbers = [name for name, kind in columns.items() if kind == "number"]
    categories = [name for name, kind in columns.items() if kind == "category"]
    frame = pd.DataFrame(
        {name: rows[name].cast(pl.Float64).to_numpy() for name in numbers}
        | {name: pd.Series(rows[name].cast(pl.String).to_list(), dtype=object) for name in categories}
    )
    return Dataset.from_pandas(
        frame, data_definition=DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    )


def _effect_sizes(snapshot: Snapshot) -> dict[str, float]:
    sizes = {}
    for result in snapshot.metric_results.values():
        location = result.metric_value_location
        if location is not None and isinstance(result, SingleValue):
            params = location.metric.params
            if params.get("type") == "evidently:metric_v2:ValueDrift":
                sizes[str(params["column"])] = float(result.value)
    return sizes


def _outcome(result: MetricTestResult) -> Outcome:
    params = result.metric_config.params
    kind = str(params.get("type", "")).rpartition(":")[2]
    name = {"Figure": params.get("figure"), "DriftedColumnsCount": Check.DRIFT.value}.get(kind, result.name)
    return Outcome(name=str(name), passed=result.status == TestStatus.SUCCESS, description=result.description)
