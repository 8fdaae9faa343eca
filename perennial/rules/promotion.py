"""Whether a challenger may replace the champion: both models' scores on the same labelled rows in, a verdict out."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from perennial.rules.contest import Contest, Floats, PromotionVerdict, are_probabilities, decided, metric_table
from perennial.rules.metrics import Interval, Metric, gain, higher_is_better, paired_bootstrap
from perennial.rules.slices import SliceLoss, slice_losses
from perennial.spec.promotion import Promotion

BOOTSTRAP_ROUNDS = 500
TOLERATED_LOSS = 0.01
"""Of metrics of which more is better, all between 0 and 1."""
TOLERATED_LOSS_SHARE = 0.02
"""Of losses, as a share of the champion's."""


def judge_promotion(
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
) -> PromotionVerdict:
    """Judge two models on labelled rows that neither was trained on. Pure: the same scores give the same verdict.

    *Promote* asks for more than a constant and the last label reach, for a gain of at least `minimum_gain`, for an
    interval that leaves no room for real harm (its lower end above a tolerated loss: 0.01 of a metric of which more is
    better, 2% of a loss), for probabilities that mean what they say, and for no declared slice that fares worse than
    allowed. *Reject* where the interval shows that no such gain is possible. Everything between is *inconclusive*: the
    champion stays, and more labels may tell. The arguments are those of `Contest`.
    """
    contest = Contest(
        metric, y, challenger, champion, policy, constant=constant, last_label=last_label, slices=slices,
        incomparable=incomparable, champion_threshold=champion_threshold, seed=seed,
    )  # fmt: skip
    return _not_enough(contest) or _worthless(contest) or _alone(contest) or _compare(contest)


def _not_enough(contest: Contest) -> PromotionVerdict | None:
    y, policy = contest.y, contest.policy
    if len(y) < policy.minimum_rows:
        why = f"{len(y)} labelled rows that neither model was trained on; the policy asks for {policy.minimum_rows}"
        return contest.verdict("inconclusive", "too_few_labels", why)
    if contest.of_classes and len(np.unique(y)) < 2:
        why = f"all {len(y)} labelled rows have the label {y[0]:g}: with one class only nothing can be told apart"
        return contest.verdict("inconclusive", "one_class_only", why)
    broken = _broken(contest.challenger)
    if broken:
        why = f"the challenger gave no number for {broken} of {len(y)} rows"
        return contest.verdict("reject", "gives_no_numbers", why)
    return None


def _worthless(contest: Contest) -> PromotionVerdict | None:
    name, value = contest.measure.name, contest.value(contest.challenger)
    constant = contest.value(contest.constant)
    contest.evidence |= {"challenger": value, "constant": constant, "metrics": metric_table(contest)}
    if not gain(contest.measure, value, constant) > 0:
        why = f"the challenger's {name} of {value:.4f} is no better than a constant's {constant:.4f}"
        return contest.verdict("reject", "no_better_than_constant", why)
    if contest.last_label is None:
        return None
    last = contest.value(contest.last_label)
    contest.evidence["last_label"] = last
    if not gain(contest.measure, value, last) > 0:
        why = f"the challenger's {name} of {value:.4f} is no better than the last known label's {last:.4f}"
        return contest.verdict("reject", "no_better_than_last_label", why)
    return None


def _alone(contest: Contest) -> PromotionVerdict | None:
    """The verdict where there is no champion to compare with, or none that can be compared."""
    name, champion, value = contest.measure.name, contest.champion, contest.evidence["challenger"]
    if contest.incomparable and contest.policy.changed_signature == "inconclusive":
        why = (
            f"{contest.incomparable}, so the two cannot be compared. Declare Promotion(changed_signature='judge_alone') to let "
            "the challenger be judged alone, as a first version is"
        )
        return contest.verdict("inconclusive", "changed_signature", why)
    if champion is None and (miscalibrated := _miscalibrated(contest, None)):
        return miscalibrated
    figures = f"{name} {value:.4f} where a constant reaches {contest.evidence['constant']:.4f}"
    if contest.incomparable:
        return contest.verdict("promote", "judged_alone", f"{contest.incomparable}; judged alone: {figures}")
    if champion is None:
        return contest.verdict("promote", "first_version", f"first version: {figures}")
    if broken := _broken(champion):
        why = f"the champion gave no number for {broken} of {len(contest.y)} rows"
        return contest.verdict("promote", "champion_gives_no_numbers", why)
    return None


def _compare(contest: Contest) -> PromotionVerdict:
    assert contest.champion is not None
    policy, found = contest.policy, _paired_gain(contest)
    former = contest.value(contest.champion, threshold=contest.champion_threshold)
    tolerated = TOLERATED_LOSS if higher_is_better(contest.measure) else TOLERATED_LOSS_SHARE * former
    losses = slice_losses(
        contest.measure, contest.y, contest.challenger, contest.champion, contest.slices, policy.minimum_slice_rows,
        champion_threshold=contest.champion_threshold,
    )  # fmt: skip
    contest.evidence |= {
        "champion": former,
        "gain": found.value,
        "gain_low": found.low,
        "gain_high": found.high,
        "tolerated_loss": tolerated,
        "slices": [loss.model_dump() for loss in losses],
    }
    name, asked = contest.measure.name, policy.minimum_gain
    figures = (
        f"gain in {name} {found.value:+.4f} (95% from {found.low:+.4f} to {found.high:+.4f}) on {len(contest.y)} rows"
    )
    if found.high < asked or (found.value < asked and found.high <= 0):
        return contest.verdict("reject", "no_gain", f"{figures}: below the {asked:g} asked for")
    rising = higher_is_better(contest.measure)
    worst = min(losses, key=lambda loss: loss.gain / (1.0 if rising else max(loss.champion, 1e-12)), default=None)
    if worst:
        allowed = policy.allowed_slice_loss * (1.0 if rising else worst.champion)
        if worst.gain < -allowed:
            return contest.verdict("reject", "slice_fares_worse", f"{_say(worst, allowed)}; over all rows {figures}")
    if miscalibrated := _miscalibrated(contest, contest.champion):
        return miscalibrated
    if found.value >= asked and found.low > -tolerated:
        return contest.verdict("promote", "better", figures)
    return contest.verdict(
        "inconclusive", "not_shown", f"{figures}: neither a gain of {asked:g} nor its absence is shown"
    )


def _miscalibrated(contest: Contest, champion: Floats | None) -> PromotionVerdict | None:
    """A rejection where probabilities are off by more than the bound, and by more than the champion's."""
    bound = contest.policy.maximum_calibration_error
    if bound is None or not contest.of_classes or not are_probabilities(contest.challenger):
        return None
    error = contest.value(contest.challenger, "calibration_error")
    theirs = contest.value(champion, "calibration_error") if champion is not None else 0.0
    contest.evidence["calibration_error"] = error
    if error <= bound or error <= theirs:
        return None
    beside = f", the champion's by {theirs:.4f}" if champion is not None else ""
    why = f"the challenger's probabilities are off by {error:.4f} on average, more than the {bound:g} allowed{beside}"
    return contest.verdict("reject", "miscalibrated", why)


def _paired_gain(contest: Contest) -> Interval:
    assert contest.champion is not None
    ours = decided(contest.measure, contest.challenger, contest.measure.threshold)
    theirs = decided(contest.measure, contest.champion, contest.champion_threshold)
    better, worse = (ours, theirs) if higher_is_better(contest.measure) else (theirs, ours)
    plain = contest.measure._replace(threshold=0.5)
    return paired_bootstrap(plain, contest.y, better, worse, seed=contest.seed, rounds=BOOTSTRAP_ROUNDS)


def _say(worst: SliceLoss, allowed: float) -> str:
    return (
        f"{worst.column} = {worst.value} fares worse by {-worst.gain:.4f} on {worst.rows} rows, more than the "
        f"{allowed:g} allowed"
    )


def _broken(scores: Floats) -> int:
    return int((~np.isfinite(scores.reshape(len(scores), -1))).any(axis=1).sum())
