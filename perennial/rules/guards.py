"""What keeps retraining from running away: one at a time, cool-down, budget, circuit breaker. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel

from perennial.rules.evidence import Evidence
from perennial.rules.past import Past, PastRetrain
from perennial.spec import Monitoring

ABANDONED = timedelta(days=1)  # a retrain without an end after so long is dead, whatever its run says


class Guard(BaseModel, frozen=True):
    """What held a retrain back. `pages`: a person has to look."""

    name: str
    reason: str
    pages: bool = False


def find_guard(evidence: Evidence, past: Past, policy: Monitoring, moment: datetime) -> Guard | None:
    """The first guard that stands against a retrain at `moment`; None: nothing does."""
    if evidence.replaced_by is not None:
        return Guard(
            name="replaced",
            reason=f"But version {evidence.replaced_by} has replaced version {evidence.version} since: nothing is due.",
        )
    guards = (_under_way(past, moment), _breaker(past, policy, moment), _cool_down(past, policy, moment))
    return next((guard for guard in (*guards, _budget(past, policy, moment)) if guard), None)


def train_from(
    past: Past, version: int, policy: Monitoring, moment: datetime, start: datetime, end: datetime
) -> datetime | None:
    """The oldest event time that a retrain should learn from; None: everything.

    `since_change` looks for the window of this version with which the losses began: the split of the series of losses
    that leaves the least squared error, two means against one. Source: Page 1955, doi:10.1093/biomet/42.3-4.523, for
    the change point; least squares in place of his cumulative sums, as windows are few.
    """
    if policy.training == "expanding":
        return None
    least = moment - policy.training_length
    if policy.training == "sliding":
        return least
    own = [w for w in past.before(start, end) if w.evidence.version == version and w.evidence.performance]
    losses = [w.evidence.performance.loss for w in own if w.evidence.performance]
    split = _best_split(losses)
    return min(own[split].start if split is not None else start, least)


def _best_split(values: Sequence[float]) -> int | None:
    if len(values) < 2:
        return None
    return min(range(1, len(values)), key=lambda at: _spread(values[:at]) + _spread(values[at:]))


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def _under_way(past: Past, moment: datetime) -> Guard | None:
    running = [r for r in past.retrains if r.ended == "running" and moment - r.at < ABANDONED]
    if not running:
        return None
    return Guard(name="under_way", reason=f"But the retrain for decision {running[-1].decision_id} has not ended yet.")


def _cool_down(past: Past, policy: Monitoring, moment: datetime) -> Guard | None:
    last = past.retrains[-1] if past.retrains else None
    if last is None or moment - last.at >= policy.cool_down:
        return None
    return Guard(
        name="cool_down",
        reason=f"But the last retrain was decided at {last.at:%Y-%m-%d %H:%M} UTC; {_say(policy.cool_down)} must pass.",
    )


def _budget(past: Past, policy: Monitoring, moment: datetime) -> Guard | None:
    spent = sum(moment - r.at < policy.period for r in past.retrains)
    if spent < policy.retrains:
        return None
    return Guard(
        name="budget",
        reason=f"But {spent} retrains were decided within {_say(policy.period)} and the budget is {policy.retrains}.",
    )


def _breaker(past: Past, policy: Monitoring, moment: datetime) -> Guard | None:
    failed = _since_promotion(past)
    if len(failed) < policy.breaker or moment - failed[-1].at >= policy.period:
        return None
    tripped = f"But the last {len(failed)} retrains were not promoted ({', '.join(r.ended for r in failed[-3:])})"
    paged = any(w.guard == "breaker" and w.at > failed[-1].at for w in past.windows)
    return Guard(
        name="breaker",
        reason=f"{tripped}: retraining does not help. Look at features and labels; a promoted version closes the breaker.",
        pages=not paged,
    )


def _since_promotion(past: Past) -> list[PastRetrain]:
    ended = [r for r in past.retrains if r.ended != "running"]
    last = max((number for number, r in enumerate(ended) if r.ended == "promoted"), default=-1)
    return [r for r in ended[last + 1 :] if past.promoted_at is None or r.at >= past.promoted_at]


def _say(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 24 else f"{hours:g} hours"
