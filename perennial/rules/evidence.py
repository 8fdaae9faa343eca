"""What is known of one window: figures of all its rows, and the tests of one Evidently run. Pure data.

The figures are computed once, on all rows (sketches, metrics, counts); Evidently tests each against the bound that the
policy gives (`bounds`). `with_outcomes` gives the same outcomes without Evidently, for replays of thousands of windows.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from perennial.rules.metrics import gain, higher_is_better
from perennial.spec import Monitoring

WORTHLESS_ROC_AUC = 0.5
USUAL_LOSS = 0.02
BROKEN_MISSING_RISE = 0.3
"""An input is a broken feed once its share of missing values exceeds the reference's by more than this."""
Z_95, Z_999 = 1.96, 3.09  # of a two-sided 95% interval; of one chance in a thousand on one side


class Check(StrEnum):
    """The tests of a window, by the names they carry in Evidently's report and in the decision's evidence."""

    ROWS = "Predictions in the window"
    LABELS = "Labelled predictions"
    MISSING = "Largest rise of an input's missing values (share of rows)"
    BROKEN = "Inputs whose feed looks broken"
    LOSS = "Loss against the promise (share of what may be lost)"
    CERTAIN_LOSS = "Loss that chance does not explain (share, at the better end of the 95% interval)"
    SURE_LOSS = "Loss beyond doubt (share, at the better end of the 99.9% interval)"
    ESTIMATE = "Loss estimated before labels (share of what may be lost)"
    DRIFT = "Share of drifted inputs"
    ALL_DRIFT = "Share of drifted inputs on all rows, by importance"
    TOGETHER = "Inputs together: how well a classifier tells the window from the reference (ROC AUC)"


class Outcome(BaseModel, frozen=True):
    """One test as Evidently decided it."""

    name: str
    passed: bool
    description: str


class Performance(BaseModel, frozen=True):
    """The metric on the window's labelled rows, its 95% interval, and what was promised.

    Args:
        promised: what it is held against (`perennial.rules.promise`); its 95% interval where that is known.
    """

    metric: str
    promised: float
    measured: float
    low: float
    high: float
    promised_low: float | None = None
    promised_high: float | None = None

    @property
    def distance(self) -> float:
        """How far the promise is from a worthless model."""
        return distance_from_worthless(self.metric, self.promised)

    @property
    def loss(self) -> float:
        """How far the window falls behind the promise, in the metric's unit; negative when it is ahead."""
        return gain(self.metric, self.promised, self.measured)

    @property
    def loss_share(self) -> float:
        """`loss` as a share of `distance`."""
        return self.loss / self.distance if self.distance > 0 else 0.0

    @property
    def certain_loss_share(self) -> float:
        """`loss_share` at the better end of its 95% interval: above zero, chance alone does not explain the loss."""
        return self.loss_share_at(Z_95)

    def loss_share_at(self, z: float) -> float:
        """`loss_share` less z of its standard errors: the window's and the promise's together."""
        if self.distance <= 0:
            return 0.0
        return (self.loss - z * self.error) / self.distance

    @property
    def error(self) -> float:
        """Standard error of `loss`, from the halves of both intervals that matter to a loss."""
        better, worse = (
            (self.high, self.promised_low) if higher_is_better(self.metric) else (self.low, self.promised_high)
        )
        own = abs(better - self.measured)
        theirs = abs(self.promised - worse) if worse is not None else 0.0
        return math.hypot(own, theirs) / Z_95


class Slice(BaseModel, frozen=True):
    """The metric on the labelled rows of one slice, with its 95% interval; None where it is not defined."""

    column: str
    value: str
    rows: int
    measured: float | None
    low: float | None
    high: float | None
    promised: float | None = None


class Estimate(BaseModel, frozen=True):
    """The metric that the scores alone let one expect, before labels; 95% of sampling noise.

    Args:
        promised: what it is held against.
        measured: what it turned out to be on the rows labelled by now, None before; `error` is the difference.
        calibrated_on: what taught which score means which probability: `reference`, or windows of the same version.
    """

    metric: str
    value: float
    low: float
    high: float
    promised: float
    calibrated_on: str = "reference"
    measured: float | None = None

    @property
    def loss(self) -> float:
        """How far the estimate falls behind the promise, in the metric's unit."""
        return gain(self.metric, self.promised, self.value)

    @property
    def error(self) -> float | None:
        """Measured less estimated."""
        return None if self.measured is None else self.measured - self.value


class Together(BaseModel, frozen=True):
    """How well a classifier tells the window's rows from the reference's, on rows it was not fitted on.

    Args:
        chance: the ROC AUC that two samples of one world reach once in a thousand times.
    """

    roc_auc: float
    chance: float
    rows: int


class Evidence(BaseModel, frozen=True):
    """What is known of one window.

    Args:
        rows: distinct rows that `version` answered as champion in the window.
        other_rows: rows of the window answered by other champions than `version`: not judged here.
        asked_rows: rows that clients asked about, whoever answered and whatever share was logged.
        replaced_by: the champion by now, where it is another one: retraining for `version` would come too late.
        read_rows: of a large window the even part that labels and metrics were read from; None: all of them.
        performance: None while no metric can be computed, for instance with labels of one class only.
        figures: every usual metric on the labelled rows, at the version's threshold.
        importance: per input what shuffling its values cost the version's metric, as its model card has it; empty before.
        missing: per input the rise of its share of missing values over the reference's, in [-1, 1].
        unseen: per category the share of rows with a value that the reference does not hold.
        outside: per number the share of rows outside the reference's range.
        broken: per input what looks broken about its feed, in words; `feed` for the window as a whole.
        drift: per input the effect size on all rows: Wasserstein in standard deviations, or Jensen-Shannon distance.
        drift_bounds: per input the effect size from which it counts as drifted: the policy's and chance's together.
        seasonal_drift: the same against the window a season earlier, where that is on record.
        sample_drift, sample_bounds: the same as Evidently's preset has them on the bounded sample.
        scores: per input every full-data score: ks, wasserstein, psi, jensen_shannon, chi_square (Cramer's V).
        skew: per input the share of logged values that the offline recomputation gives exactly.
        reliability: of the scores: labelled rows and positives in each of a hundred bins (`perennial.rules.estimate`).
        newest_at: event time of the newest row; `freshness_seconds`: the window's end less that.
    """

    version: int
    rows: int
    other_rows: int = 0
    asked_rows: float | None = None
    replaced_by: int | None = None
    read_rows: int | None = None
    labelled_rows: int = 0
    performance: Performance | None = None
    figures: dict[str, float] = {}
    slices: list[Slice] = []
    estimate: Estimate | None = None
    importance: dict[str, float] = {}
    missing: dict[str, float] = {}
    unseen: dict[str, float] = {}
    outside: dict[str, float] = {}
    broken: dict[str, str] = {}
    drift: dict[str, float] = {}
    drift_bounds: dict[str, float] = {}
    seasonal_drift: dict[str, float] | None = None
    sample_drift: dict[str, float] = {}
    sample_bounds: dict[str, float] = {}
    scores: dict[str, dict[str, float]] = {}
    together: Together | None = None
    skew: dict[str, float] = {}
    skew_rows: int = 0
    score_drift: float | None = None
    reliability: tuple[list[int], list[int]] | None = None
    sampled_rows: int = 0
    newest_at: datetime | None = None
    freshness_seconds: float | None = None
    tests: list[Outcome] = []

    def fails(self, check: Check) -> bool:
        """Whether Evidently ran this test and it failed."""
        return any(test.name == check and not test.passed for test in self.tests)

    @property
    def labelled_share(self) -> float:
        """Share of the rows whose label has arrived."""
        return self.labelled_rows / (self.rows if self.read_rows is None else self.read_rows) if self.rows else 0.0

    @property
    def drifted_inputs(self) -> list[str]:
        """Inputs that drifted on all rows, the largest effect first; against the season before, too, where known."""
        seasonal = self.seasonal_drift or self.drift
        drifted = [
            name
            for name, size in self.drift.items()
            if min(size, seasonal.get(name, size)) >= self.drift_bounds.get(name, math.inf)
        ]
        return sorted(drifted, key=lambda name: -self.drift[name])

    @property
    def disagreements(self) -> list[str]:
        """Inputs that drifted by one of sample and full data and not by the other."""
        sampled = {n for n, size in self.sample_drift.items() if size >= self.sample_bounds.get(n, math.inf)}
        full = {n for n, size in self.drift.items() if size >= self.drift_bounds.get(n, math.inf)}
        return sorted((sampled ^ full) & self.sample_drift.keys() & self.drift.keys())

    @property
    def broken_inputs(self) -> list[str]:
        """Inputs that lost their values, worst first, then those broken in another way."""
        lost = sorted(
            (name for name, rise in self.missing.items() if rise > BROKEN_MISSING_RISE), key=lambda n: -self.missing[n]
        )
        return [*lost, *(name for name in self.broken if name not in lost)]


def distance_from_worthless(metric: str, promised: float) -> float:
    """From 0.5 for ROC AUC, from 0 for other metrics of which more is better; for losses the promise itself."""
    return promised - WORTHLESS_ROC_AUC if metric == "roc_auc" else promised


def allowed_loss(metric: str, distance: float, policy: Monitoring) -> float:
    """What may be lost against the promise, in the metric's unit: the smaller of the policy's two bounds."""
    own = policy.maximum_loss if policy.maximum_loss is not None else _usual(metric)
    return min(policy.maximum_loss_share * distance, own)


def figures(evidence: Evidence, policy: Monitoring) -> dict[Check, float]:
    """The figures that Evidently tests beside its own, each under the name of its check."""
    values: dict[Check, float] = {Check.ROWS: evidence.rows, Check.LABELS: evidence.labelled_rows}
    if evidence.missing:
        values[Check.MISSING] = max(evidence.missing.values())
    values[Check.BROKEN] = len(evidence.broken)
    seen = evidence.performance
    if seen:
        values[Check.LOSS] = _share_of_allowed(seen.metric, seen.loss, seen.distance, policy)
        values[Check.CERTAIN_LOSS] = seen.certain_loss_share
        values[Check.SURE_LOSS] = seen.loss_share_at(Z_999)
    if guess := evidence.estimate:
        distance = distance_from_worthless(guess.metric, guess.promised)
        values[Check.ESTIMATE] = _share_of_allowed(guess.metric, guess.loss, distance, policy)
    if evidence.drift:
        values[Check.ALL_DRIFT] = drifted_share(evidence, policy.importance)
    if evidence.together:
        values[Check.TOGETHER] = evidence.together.roc_auc
    return values


def drifted_share(evidence: Evidence, importance: Mapping[str, float]) -> float:
    """Share of the inputs' weights that drifted."""
    weights = weigh_inputs(evidence, importance)
    total = sum(weights.values())
    return sum(weights[name] for name in evidence.drifted_inputs) / total if total > 0 else 0.0


def weigh_inputs(evidence: Evidence, importance: Mapping[str, float]) -> dict[str, float]:
    """What each input counts among the drifted: as the policy says, else as much as it is worth to the model.

    The mean worth is 1, and so is that of an input whose worth nobody measured.
    """
    worth = {name: max(evidence.importance[name], 0.0) for name in evidence.drift if name in evidence.importance}
    mean = sum(worth.values()) / len(worth) if worth else 0.0
    usual = {name: value / mean for name, value in worth.items()} if mean > 0 else {}
    return {name: importance.get(name, usual.get(name, 1.0)) for name in evidence.drift}


def bounds(evidence: Evidence, policy: Monitoring) -> dict[Check, tuple[Literal["at_least", "at_most"], float]]:
    """The bound that each figure is tested against."""
    return {
        Check.ROWS: ("at_least", policy.minimum_rows),
        Check.LABELS: ("at_least", policy.minimum_rows),
        Check.MISSING: ("at_most", BROKEN_MISSING_RISE),
        Check.BROKEN: ("at_most", 0),
        Check.LOSS: ("at_most", 1.0),
        Check.CERTAIN_LOSS: ("at_most", 0.0),
        Check.SURE_LOSS: ("at_most", 0.0),
        Check.ESTIMATE: ("at_most", 1.0),
        Check.ALL_DRIFT: ("at_most", policy.maximum_drifted_share),
        Check.TOGETHER: ("at_most", evidence.together.chance if evidence.together else 1.0),
    }


def with_outcomes(evidence: Evidence, policy: Monitoring) -> Evidence:
    """The evidence with the outcomes that Evidently gives for the same figures and bounds, without Evidently."""
    limits = bounds(evidence, policy)
    outcomes = []
    for check, value in figures(evidence, policy).items():
        relation, bound = limits[check]
        passed = value >= bound if relation == "at_least" else value <= bound
        outcomes.append(Outcome(name=check, passed=passed, description=f"{value:.4g}, {relation} {bound:.4g}"))
    return evidence.model_copy(update={"tests": outcomes})


def _share_of_allowed(metric: str, loss: float, distance: float, policy: Monitoring) -> float:
    """A loss as a share of what may be lost; where nothing may be, any loss is more than that."""
    if distance <= 0:  # nothing is lost against a worthless promise: what it is worth is judged elsewhere
        return 0.0
    allowed = allowed_loss(metric, distance, policy)
    return loss / allowed if allowed > 0 else 1 + loss / distance


def _usual(metric: str) -> float:
    return USUAL_LOSS if higher_is_better(metric) else math.inf
