"""Whether a roll-out goes on: the challenger beside the champion on errors, latency, scores and losses.

Pure: the same rows give the same verdict, so a run that was killed comes to it again. Every alarm is anytime-valid
(`anytime.py`) and has its part of `false_alarm_share`; by the union bound they hold it together, at every look.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perennial.rules.anytime import distribution_distance, distribution_radius, higher_rate, mean_above, mostly
from perennial.spec.rollout import Rollout

PARTS = {"errors": 0.5, "latency": 0.15, "slow requests": 0.15, "scores": 0.1, "loss": 0.1}
REPLAY_PART = 0.2
"""Of `false_alarm_share`: the replay is judged by itself, the live steps together."""
REPLAY = "replay"
BLOCK = 20  # requests whose slowest one is compared: the slowest twentieth
_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """What one version did in one step: a place per request, in the order of their answers.

    Args:
        at: (n,) when it was answered, in seconds.
        failed: (n,) whether the version had no score for it.
        latency_ms: (n,); NaN where it failed or no time was taken.
        score: (n,) of the request's first row; NaN where it failed.
    """

    at: _Values
    failed: NDArray[np.bool_]
    latency_ms: _Values
    score: _Values


@dataclass(frozen=True)
class Seen:
    """One step's requests.

    Args:
        paired: place by place, both arms are about the same request (replay, shadow); else each had its own (canary).
        losses: (m,) challenger's less champion's loss, in [-1, 1]: on labelled requests that both scored where they are
            paired, else on the challenger's labelled ones, each beside the champion's next one in time.
    """

    step: str
    champion: Arm
    challenger: Arm
    paired: bool
    losses: _Values


@dataclass(frozen=True)
class Figure:
    """One comparison, with how near it is to its alarm.

    Args:
        evidence: of an e-process, its value; of scores, the distance that is certain. `limit`: where the alarm rings.
    """

    alarm: str
    evidence: float
    limit: float
    sentence: str

    @property
    def rings(self) -> bool:
        """Whether it speaks against the challenger."""
        return self.evidence >= self.limit


def judge_rollout(seen: Sequence[Seen], answered: int, failed: int, policy: Rollout) -> list[Figure]:
    """The comparisons of a roll-out so far, those that ring first.

    Args:
        seen: the replay alone; or the live steps so far, each with all its requests.
        answered, failed: the champion's requests before the roll-out, and those it had no score for.
    """
    part = REPLAY_PART if [step.step for step in seen] == [REPLAY] else 1 - REPLAY_PART
    policy = replace(policy, false_alarm_share=part * policy.false_alarm_share)
    figures = [
        _errors(seen, answered, failed, policy),
        *_latencies(seen, policy),
        *_scores(seen, policy),
        *_losses(seen, policy),
    ]
    return sorted(figures, key=lambda figure: not figure.rings)


def match_in_time(challenger_at: _Values, champion_at: _Values) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of requests to compare: each challenger's with the champion's next one, each used once; both sorted."""
    following = np.searchsorted(champion_at, challenger_at)
    taken, places = np.unique(following, return_index=True)
    inside = taken < len(champion_at)
    return places[inside], taken[inside]


def squared_difference(challenger: _Values, champion: _Values) -> _Values:
    """(n,) in [-1, 1]: how much larger the challenger's squared error of a probability is; both (n,) absolute errors."""
    return challenger**2 - champion**2


def relative_difference(challenger: _Values, champion: _Values) -> _Values:
    """(n,) in [-1, 1]: how much larger the challenger's absolute error is, as a share of both errors' sum."""
    total = challenger + champion
    return np.divide(challenger - champion, total, out=np.zeros_like(total), where=total > 0)


def _errors(seen: Sequence[Seen], answered: int, failed: int, policy: Rollout) -> Figure:
    trials = sum(len(step.challenger.failed) for step in seen)
    events = sum(int(step.challenger.failed.sum()) for step in seen)
    beside = sum(len(step.champion.failed) for step in seen)
    others = sum(int(step.champion.failed.sum()) for step in seen)
    evidence = higher_rate(events, trials, others + failed, beside + answered)
    if events * max(beside, 1) <= others * trials:
        evidence = 0.0  # both fail alike now: the times are worse than before, not the challenger
    return Figure(
        "errors",
        math.exp(min(evidence, 700)),
        1 / (PARTS["errors"] * policy.false_alarm_share),
        f"the challenger failed on {events:,} of {trials:,} requests, the champion on {others:,} of {beside:,} beside it and "
        f"on {failed:,} of {answered:,} before",
    )


def _latencies(seen: Sequence[Seen], policy: Rollout) -> list[Figure]:
    pairs = [_timed_pairs(step) for step in seen]
    figures = []
    for alarm, reduce, what in (
        ("latency", _as_they_are, "requests"),
        ("slow requests", _slowest_of_blocks, f"slowest ones of {BLOCK} requests"),
    ):
        ours, theirs = (np.concatenate([reduce(pair[side]) for pair in pairs] or [np.empty(0)]) for side in (0, 1))
        wins = int((ours > policy.maximum_slowdown * theirs).sum())
        medians = f"{np.median(ours):.2f} ms against {np.median(theirs):.2f} ms" if len(ours) else "none timed"
        figures.append(
            Figure(
                alarm,
                math.exp(min(mostly(wins, len(ours)), 700)),
                1 / (PARTS[alarm] * policy.false_alarm_share),
                f"{wins:,} of {len(ours):,} {what} took the challenger more than {policy.maximum_slowdown:g} times as long "
                f"(median {medians})",
            )
        )
    return figures


def _scores(seen: Sequence[Seen], policy: Rollout) -> list[Figure]:
    steps = 2 + len(policy.canary)  # a step's part does not depend on how far the roll-out has come
    alpha = PARTS["scores"] * policy.false_alarm_share / steps / 2  # and of each of the two distributions' bands
    figures = []
    for step in seen:
        ours, theirs = (arm.score[~np.isnan(arm.score)] for arm in (step.challenger, step.champion))
        distance = distribution_distance(ours, theirs)
        certain = distance - distribution_radius(len(ours), alpha) - distribution_radius(len(theirs), alpha)
        means = f"mean {ours.mean():.4g} against {theirs.mean():.4g}" if len(ours) and len(theirs) else "no scores"
        figures.append(
            Figure(
                "scores",
                max(0.0, certain),
                max(policy.maximum_score_shift, 1e-9),
                f"in {step.step} the scores are {distance:.3f} apart ({means} on {len(ours):,} and {len(theirs):,} requests), "
                f"for certain {max(0.0, certain):.3f}",
            )
        )
    return figures


def _losses(seen: Sequence[Seen], policy: Rollout) -> list[Figure]:
    losses = np.concatenate([step.losses for step in seen] or [np.empty(0)])
    if not len(losses):
        return []
    return [
        Figure(
            "loss",
            math.exp(min(mean_above(losses, policy.maximum_loss_gain), 700)),
            1 / (PARTS["loss"] * policy.false_alarm_share),
            f"on {len(losses):,} labelled requests the challenger's loss is {losses.mean():+.4f} of the champion's, "
            f"{policy.maximum_loss_gain:+g} is tolerated",
        )
    ]


def _timed_pairs(step: Seen) -> tuple[_Values, _Values]:
    ours, theirs = step.challenger, step.champion
    if step.paired:
        first, second = ours.latency_ms, theirs.latency_ms
    else:
        places, others = match_in_time(ours.at, theirs.at)
        first, second = ours.latency_ms[places], theirs.latency_ms[others]
    both = ~np.isnan(first) & ~np.isnan(second)
    return first[both], second[both]


def _as_they_are(values: _Values) -> _Values:
    return values


def _slowest_of_blocks(values: _Values) -> _Values:
    whole = len(values) // BLOCK * BLOCK
    return values[:whole].reshape(-1, BLOCK).max(axis=1)


LOSSES: dict[str, Callable[[_Values, _Values], _Values]] = {
    "binary": squared_difference,
    "regression": relative_difference,
}
