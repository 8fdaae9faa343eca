"""What a promotion is judged on: everybody's scores of the same labelled rows, and the evidence as it is gathered."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

from perennial.rules.metrics import METRICS, Measure, Metric, evaluate, measure
from perennial.spec.promotion import VALUE_METRICS, Promotion

Floats = NDArray[np.float64]

Answer = Literal[
    "better",
    "first_version",
    "champion_gives_no_numbers",
    "judged_alone",
    "too_few_labels",
    "one_class_only",
    "changed_signature",
    "not_shown",
    "gives_no_numbers",
    "inputs_missing",
    "no_better_than_constant",
    "no_better_than_last_label",
    "miscalibrated",
    "slice_fares_worse",
    "no_gain",
    "infrastructure",
    "approved",
    "declined",
    "not_answered",
]
"""What a verdict rests on, one word for each."""


class PromotionVerdict(BaseModel, frozen=True):
    """The answer, a sentence for people, and the figures it rests on. `answer`: which of the rules it was."""

    verdict: Literal["promote", "reject", "inconclusive"]
    reason: str
    evidence: dict[str, Any] = {}
    answer: Answer


class Contest:
    """What a challenger is judged on: the same labelled rows for all.

    Args:
        metric: with threshold and quantile; `champion_threshold` is the champion's own.
        y: labels (n,), positions of classes where there are several.
        challenger, champion: scores; `champion` None where there is none, or `incomparable` says why it has no scores.
        constant: what a model without inputs would answer for every row: the mean of the training labels, or the shares
            of the classes.
        last_label: for every row the label known last at the moment of its prediction, as scores; None: not asked.
        slices: values of each declared column, one per row.
    """

    def __init__(
        self,
        metric: Metric,
        y: Floats,
        challenger: Floats,
        champion: Floats | None,
        policy: Promotion,
        *,
        constant: ArrayLike,
        last_label: Floats | None = None,
        slices: Mapping[str, Iterable[Any]] | None = None,
        incomparable: str | None = None,
        champion_threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        self.measure, self.y, self.challenger, self.champion = measure(metric), y, challenger, champion
        self.policy, self.slices, self.incomparable, self.seed = policy, slices or {}, incomparable, seed
        self.constant = np.broadcast_to(np.asarray(constant, dtype=np.float64), challenger.shape)
        self.last_label = last_label if policy.beats_last_label else None
        self.champion_threshold = self.measure.threshold if champion_threshold is None else champion_threshold
        self.evidence: dict[str, Any] = {"metric": self.measure.name, "rows": len(y)}

    @property
    def of_classes(self) -> bool:
        """Whether classes are told apart, rather than values told."""
        return self.measure.name not in VALUE_METRICS

    def value(self, scores: Floats, metric: str | None = None, threshold: float | None = None) -> float:
        """A metric of scores on these rows; by default the one that is judged by."""
        at = self.measure.threshold if threshold is None else threshold
        return evaluate(self.measure._replace(name=metric or self.measure.name, threshold=at), self.y, scores)

    def verdict(
        self, verdict: Literal["promote", "reject", "inconclusive"], answer: Answer, why: str
    ) -> PromotionVerdict:
        """The verdict with all evidence gathered so far."""
        return PromotionVerdict(verdict=verdict, answer=answer, reason=why, evidence=_known(self.evidence))


def decided(metric: Measure, scores: Floats, threshold: float) -> Floats:
    """Scores of two classes as 0 or 1, where the metric is of decisions: every model decides at its own threshold."""
    if metric.name not in ("accuracy", "precision", "recall", "f1") or scores.ndim > 1:
        return scores
    return np.where(np.isnan(scores), np.nan, scores >= threshold)


def metric_table(contest: Contest) -> dict[str, dict[str, float | None]]:
    """Every metric of the task for every contender, for people."""
    contenders: dict[str, tuple[Floats | None, float | None]] = {
        "challenger": (contest.challenger, None),
        "champion": (contest.champion, contest.champion_threshold),
        "constant": (contest.constant, None),
        "last_label": (contest.last_label, None),
    }
    names = METRICS["binary" if contest.of_classes else "regression"]
    table: dict[str, dict[str, float | None]] = {}
    for name in names:
        row = {
            who: contest.value(scores, name, threshold)
            for who, (scores, threshold) in contenders.items()
            if scores is not None
        }
        table[name] = {who: value if np.isfinite(value) else None for who, value in row.items()}
    return table


def are_probabilities(scores: Floats) -> bool:
    """Whether every score lies between 0 and 1, so that it can be held to what it says."""
    return bool(scores.min() >= 0 and scores.max() <= 1)


def _known(evidence: dict[str, Any]) -> dict[str, Any]:
    """Evidence as JSON has it: what is undefined, an interval without a draw, is null."""
    return {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in evidence.items()}
