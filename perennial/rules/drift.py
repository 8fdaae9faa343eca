"""Drift policy: what one window's evidence means for the model that served it. Pure: no data, no clock, no I/O.

evidence (one Evidently run) ─► judge_window ─► retrain   it costs something, and that is not noise
                                             ├► hold      as promised, or too little is known
                                             └► page      a feed is broken: retraining would teach the damage
"""

import hashlib
import json
import math
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from perennial.rules.metrics import gain, higher_is_better
from perennial.spec import Monitoring

WORTHLESS_ROC_AUC = 0.5
BROKEN_MISSING_RISE = 0.5
"""An input is a broken feed once its share of missing values exceeds the reference's by more than this."""


class Check(StrEnum):
    """The tests of a window, by the names they carry in Evidently's report and in the decision's evidence."""

    ROWS = "Predictions in the window"
    LABELS = "Labelled predictions"
    MISSING = "Largest rise of an input's missing values (share of rows)"
    LOSS = "Loss against the promise (share of its distance from worthless)"
    CERTAIN_LOSS = "Loss that chance does not explain (share, at the better end of the 95% interval)"
    DRIFT = "Share of drifted inputs"


class Outcome(BaseModel, frozen=True):
    """One test as Evidently decided it."""

    name: str
    passed: bool
    description: str


class Performance(BaseModel, frozen=True):
    """The metric on the window's labelled rows, its 95% interval, and what was promised at promotion."""

    metric: str
    promised: float
    measured: float
    low: float
    high: float

    @property
    def distance(self) -> float:
        """How far the promise is from a worthless model: from 0.5 for ROC AUC; for losses the promise itself."""
        return self.promised - WORTHLESS_ROC_AUC if higher_is_better(self.metric) else self.promised

    @property
    def loss_share(self) -> float:
        """How far the window falls behind the promise, as a share of `distance`; negative when it is ahead."""
        return self._loss(self.measured)

    @property
    def certain_loss_share(self) -> float:
        """`loss_share` at the interval's better end: above zero, chance alone does not explain the loss."""
        return self._loss(self.high if higher_is_better(self.metric) else self.low)

    def _loss(self, value: float) -> float:
        behind = gain(self.metric, self.promised, value)
        return behind / self.distance if self.distance > 0 else 0.0


class Evidence(BaseModel, frozen=True):
    """What is known of one window: figures of all its rows, and the tests of one Evidently run.

    Args:
        rows: distinct rows that `version` answered as champion in the window.
        other_rows: rows of the window answered by other champions than `version`: not judged here.
        replaced_by: the champion by now, where it is another one: retraining for `version` would come too late.
        performance: None while no metric can be computed, for instance with labels of one class only.
        missing: per input the rise of its share of missing values over the reference's, in [-1, 1].
        drift: per input the effect size on the sample: Wasserstein in standard deviations, or Jensen-Shannon distance.
        drift_bounds: per input the effect size from which it counts as drifted: the policy's and chance's together.
    """

    version: int
    rows: int
    other_rows: int = 0
    replaced_by: int | None = None
    labelled_rows: int = 0
    performance: Performance | None = None
    missing: dict[str, float] = {}
    drift: dict[str, float] = {}
    drift_bounds: dict[str, float] = {}
    score_drift: float | None = None
    sampled_rows: int = 0
    tests: list[Outcome] = []

    def fails(self, check: Check) -> bool:
        """Whether Evidently ran this test and it failed."""
        return any(test.name == check and not test.passed for test in self.tests)

    @property
    def drifted_inputs(self) -> list[str]:
        """Inputs that drifted, the largest effect first."""
        drifted = [name for name, size in self.drift.items() if size >= self.drift_bounds[name]]
        return sorted(drifted, key=lambda name: -self.drift[name])

    @property
    def broken_inputs(self) -> list[str]:
        """Inputs that lost their values, worst first."""
        broken = {name: rise for name, rise in self.missing.items() if rise > BROKEN_MISSING_RISE}
        return sorted(broken, key=lambda name: -broken[name])


class DriftVerdict(BaseModel, frozen=True):
    """What to do about a window, and why, in one sentence with its numbers."""

    verdict: Literal["retrain", "hold", "page"]
    reason: str
    evidence: Evidence


def judge_window(evidence: Evidence, policy: Monitoring) -> DriftVerdict:
    """Broken feeds first, then performance where enough labels arrived, inputs only where they did not."""
    verdict, reason = _judge(evidence, policy)
    if verdict == "retrain" and evidence.replaced_by is not None:
        verdict = "hold"
        reason += f" But version {evidence.replaced_by} has replaced version {evidence.version} since: nothing is due."
    return DriftVerdict(verdict=verdict, reason=reason, evidence=evidence)


def figures(evidence: Evidence) -> dict[Check, float]:
    """The figures that Evidently tests beside its own, each under the name of its check."""
    values: dict[Check, float] = {Check.ROWS: evidence.rows, Check.LABELS: evidence.labelled_rows}
    if evidence.missing:
        values[Check.MISSING] = max(evidence.missing.values())
    if evidence.performance:
        values[Check.LOSS] = evidence.performance.loss_share
        values[Check.CERTAIN_LOSS] = evidence.performance.certain_loss_share
    return values


def bounds(policy: Monitoring) -> dict[Check, tuple[Literal["at_least", "at_most"], float]]:
    """The bound that each figure is tested against."""
    return {
        Check.ROWS: ("at_least", policy.minimum_rows),
        Check.LABELS: ("at_least", policy.minimum_rows),
        Check.MISSING: ("at_most", BROKEN_MISSING_RISE),
        Check.LOSS: ("at_most", policy.maximum_loss_share),
        Check.CERTAIN_LOSS: ("at_most", 0.0),
    }


def drift_bound(
    kind: Literal["number", "category"], policy: Monitoring, rows: int, reference_rows: int, values: int
) -> float:
    """The effect size that an input must reach: the policy's, moved up by what two samples of one world differ by.

    Two finite samples never agree, and the more categories there are the less: without this, small windows and columns
    of many values would always count as drifted. Numbers: Wasserstein/sigma of two samples stays below about 1.5 standard
    errors. Categories: the squared Jensen-Shannon distance of two samples is a chi-square, on average (values - 1) / 8
    squared standard errors, and up to 2 ln 2 times that where most values are seen once; squares add.
    Source: Lin 1991, doi:10.1109/18.61115, for the distance; second-order expansion for the rest.
    """
    error = math.sqrt(1 / max(rows, 1) + 1 / max(reference_rows, 1))
    if kind == "number":
        return policy.drift_effect_size + 1.5 * error
    freedom = max(values - 1, 1)
    chance = 2 * math.log(2) * error**2 / 8 * (freedom + 2 * math.sqrt(2 * freedom))  # mean and two standard deviations
    return math.sqrt(policy.drift_effect_size**2 + chance)


def policy_hash(policy: Monitoring) -> str:
    """SHA-256 of the policy's values: another policy may come to another verdict on the same window."""
    return hashlib.sha256(json.dumps(asdict(policy), sort_keys=True, default=str).encode()).hexdigest()


def window_name(start: datetime, end: datetime) -> str:
    """`20130401-20130501`; the time of day is added where a bound is not midnight UTC."""
    return "-".join(f"{at:%Y%m%d}" if at.time() == at.time().min else f"{at:%Y%m%dT%H%M%S}" for at in (start, end))


def monitor_decision_id(pipeline: str, version: int, start: datetime, end: datetime, policy: Monitoring) -> str:
    """The same pipeline, version, window and policy give the same id, so a rerun cannot decide twice."""
    return f"{pipeline}-v{version}-{window_name(start, end)}-{policy_hash(policy)[:8]}"


def _judge(evidence: Evidence, policy: Monitoring) -> tuple[Literal["retrain", "hold", "page"], str]:
    if evidence.rows == 0 and evidence.other_rows:
        others = f"All {evidence.other_rows:,} predictions of the window were answered by other versions"
        return "hold", f"{others}; version {evidence.version} has not been tried in it."
    if evidence.rows == 0:
        return "page", (
            "No prediction was logged in the window: either nothing was asked, or requests or their log are broken. "
            "Look at the endpoint and at the prediction log; retraining cannot help."
        )
    if evidence.fails(Check.ROWS):
        return (
            "hold",
            f"{evidence.rows:,} predictions are too few to judge; the policy asks for {policy.minimum_rows:,}.",
        )
    if evidence.fails(Check.MISSING):
        return "page", _say_broken(evidence)
    if evidence.performance and not evidence.fails(Check.LABELS):
        return _judge_performance(evidence, evidence.performance, policy)
    return _judge_inputs(evidence, policy)


def _judge_performance(
    evidence: Evidence, seen: Performance, policy: Monitoring
) -> tuple[Literal["retrain", "hold", "page"], str]:
    measured = (
        f"{say_metric(seen.metric)} {seen.measured:.3f} (95% {seen.low:.3f} to {seen.high:.3f}) on "
        f"{evidence.labelled_rows:,} labelled rows"
    )
    if seen.distance <= 0:
        return "page", (
            f"{measured} cannot be held against the promise of {seen.promised:.3f}, which is itself no better than a "
            "worthless model's. Look at the training data and at the label."
        )
    allowed = f"{policy.maximum_loss_share:.0%} is allowed"
    if seen.loss_share <= 0:
        return "hold", f"{measured} keeps the promise of {seen.promised:.3f}."
    behind = f"{measured} is {seen.loss_share:.0%} behind the promise of {seen.promised:.3f}"
    if not evidence.fails(Check.LOSS):
        return "hold", f"{behind}; {allowed}."
    if not evidence.fails(Check.CERTAIN_LOSS):
        return "hold", f"{behind}, more than the {policy.maximum_loss_share:.0%} allowed, but chance may explain it."
    return "retrain", f"{behind}; {allowed}, and chance does not explain it."


def _judge_inputs(evidence: Evidence, policy: Monitoring) -> tuple[Literal["retrain", "hold", "page"], str]:
    drifted = evidence.drifted_inputs
    named = ", ".join(f"{name} {evidence.drift[name]:.2f}" for name in drifted[:3])
    seen = (
        f"Only {evidence.labelled_rows:,} labels can be judged ({policy.minimum_rows:,} are needed), so inputs decide: "
        f"{len(drifted)} of {len(evidence.drift)} drifted by {policy.drift_effect_size:g} and more than chance"
        + (f" ({named})" if named else "")
    )
    allowed = f"the policy allows up to {policy.maximum_drifted_share:.0%}"
    if evidence.fails(Check.DRIFT):
        return "retrain", f"{seen}; {allowed}."
    return "hold", f"{seen}; {allowed}."


def _say_broken(evidence: Evidence) -> str:
    named = ", ".join(f"{name} (+{evidence.missing[name]:.0%})" for name in evidence.broken_inputs[:5])
    return (
        f"{len(evidence.broken_inputs)} of {len(evidence.missing)} inputs lost their values: {named} missing against the "
        "reference. This is a broken feed, not drift: repair the feed; retraining would teach the model the damage."
    )


def say_metric(metric: str) -> str:
    """How a metric is written for people."""
    return {"roc_auc": "ROC AUC", "log_loss": "Log loss", "rmse": "RMSE", "mae": "MAE"}.get(metric, metric)
