"""Whether a challenger may replace the champion: both models' scores on the same labelled rows in, a verdict out."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from perennial.rules.metrics import evaluate, gain, higher_is_better, paired_bootstrap
from perennial.spec.promotion import Promotion

Floats = NDArray[np.float64]

BOOTSTRAP_ROUNDS = 500
TOLERATED_AUC_LOSS = 0.01
TOLERATED_LOSS_SHARE = 0.02


class SliceLoss(BaseModel, frozen=True):
    """One value of a declared column, and how the two models fare on its rows."""

    column: str
    value: str
    rows: int
    challenger: float
    champion: float
    gain: float


class PromotionVerdict(BaseModel, frozen=True):
    """The answer, a sentence for people, and the figures it rests on."""

    verdict: Literal["promote", "reject", "inconclusive"]
    reason: str
    evidence: dict[str, Any] = {}


def judge_promotion(
    metric: str,
    y: Floats,
    challenger: Floats,
    champion: Floats | None,
    policy: Promotion,
    *,
    constant: float,
    slices: Mapping[str, Iterable[Any]] | None = None,
    seed: int = 0,
) -> PromotionVerdict:
    """Judge two models on labelled rows that neither was trained on. Pure: the same scores give the same verdict.

    *Promote* asks for a gain of at least `minimum_gain`, for an interval that leaves no room for real harm (its lower
    end above a tolerated loss: 0.01 of ROC AUC, 2% of a loss), and for no declared slice that fares worse than
    allowed. *Reject* where the interval shows no such gain is possible. Everything between is *inconclusive*: the
    champion stays, and more labels may tell.

    Args:
        champion: scores of the model that serves; None for a pipeline's first version, which only has to beat
            `constant`.
        constant: what a model without inputs would answer for every row: the mean of the training labels.
        slices: values of each declared column, one per row.
    """
    evidence: dict[str, Any] = {"metric": metric, "rows": len(y)}
    few = _not_enough(metric, y, policy)
    if few:
        return PromotionVerdict(verdict="inconclusive", reason=few, evidence=evidence)
    broken = int((~np.isfinite(challenger)).sum())
    if broken:
        reason = f"the challenger gave no number for {broken} of {len(y)} rows"
        return PromotionVerdict(verdict="reject", reason=reason, evidence=evidence)
    value = evaluate(metric, y, challenger)
    worthless = 0.5 if metric == "roc_auc" else evaluate(metric, y, np.full(len(y), constant))
    evidence |= {"challenger": value, "constant": worthless}
    if gain(metric, value, worthless) <= 0:
        reason = f"the challenger's {metric} of {value:.4f} is no better than a constant's {worthless:.4f}"
        return PromotionVerdict(verdict="reject", reason=reason, evidence=evidence)
    if champion is None:
        reason = f"first version: {metric} {value:.4f} where a constant reaches {worthless:.4f}"
        return PromotionVerdict(verdict="promote", reason=reason, evidence=evidence)
    if not np.isfinite(champion).all():
        reason = f"the champion gave no number for {int((~np.isfinite(champion)).sum())} of {len(y)} rows"
        return PromotionVerdict(verdict="promote", reason=reason, evidence=evidence)
    return _compare(metric, y, challenger, champion, policy, slices or {}, seed, evidence)


def _not_enough(metric: str, y: Floats, policy: Promotion) -> str | None:
    if len(y) < policy.minimum_rows:
        return f"{len(y)} labelled rows that neither model was trained on; the policy asks for {policy.minimum_rows}"
    if metric == "roc_auc" and len(np.unique(y)) < 2:
        return f"all {len(y)} labelled rows have the label {y[0]:g}: one class cannot be ranked"
    return None


def _compare(
    metric: str,
    y: Floats,
    challenger: Floats,
    champion: Floats,
    policy: Promotion,
    slices: Mapping[str, Iterable[Any]],
    seed: int,
    evidence: dict[str, Any],
) -> PromotionVerdict:
    former = evaluate(metric, y, champion)
    better, worse = (challenger, champion) if higher_is_better(metric) else (champion, challenger)
    found = paired_bootstrap(metric, y, better, worse, seed=seed, rounds=BOOTSTRAP_ROUNDS)
    tolerated = TOLERATED_AUC_LOSS if metric == "roc_auc" else TOLERATED_LOSS_SHARE * former
    losses = slice_losses(metric, y, challenger, champion, slices, policy.minimum_slice_rows)
    evidence |= {
        "champion": former,
        "gain": found.value,
        "gain_low": found.low,
        "gain_high": found.high,
        "tolerated_loss": tolerated,
        "slices": [loss.model_dump() for loss in losses],
    }
    figures = f"gain in {metric} {found.value:+.4f} (95% from {found.low:+.4f} to {found.high:+.4f}) on {len(y)} rows"
    worst = min(losses, key=lambda loss: loss.gain, default=None)
    if found.high < policy.minimum_gain or (found.value < policy.minimum_gain and found.high <= 0):
        reason = f"{figures}: below the {policy.minimum_gain:g} asked for"
        return PromotionVerdict(verdict="reject", reason=reason, evidence=evidence)
    if worst and worst.gain < -policy.allowed_slice_loss:
        reason = (
            f"{worst.column} = {worst.value} fares worse by {-worst.gain:.4f} on {worst.rows} rows, more than the "
            f"{policy.allowed_slice_loss:g} allowed; over all rows {figures}"
        )
        return PromotionVerdict(verdict="reject", reason=reason, evidence=evidence)
    if found.value >= policy.minimum_gain and found.low > -tolerated:
        return PromotionVerdict(verdict="promote", reason=figures, evidence=evidence)
    reason = f"{figures}: neither a gain of {policy.minimum_gain:g} nor its absence is shown"
    return PromotionVerdict(verdict="inconclusive", reason=reason, evidence=evidence)


def slice_losses(
    metric: str,
    y: Floats,
    challenger: Floats,
    champion: Floats,
    slices: Mapping[str, Iterable[Any]],
    minimum_rows: int,
) -> list[SliceLoss]:
    """Both models on each value of each declared column that has enough rows for the metric to mean something."""
    found = []
    for column, values in slices.items():
        texts = np.asarray([str(value) for value in values])
        for value in np.unique(texts):
            chosen = texts == value
            if chosen.sum() < minimum_rows:
                continue
            ours, theirs = (evaluate(metric, y[chosen], scores[chosen]) for scores in (challenger, champion))
            if math.isnan(ours) or math.isnan(theirs):
                continue
            found.append(
                SliceLoss(
                    column=column,
                    value=str(value),
                    rows=int(chosen.sum()),
                    challenger=ours,
                    champion=theirs,
                    gain=gain(metric, ours, theirs),
                )
            )
    return found
