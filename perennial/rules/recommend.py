"""What policies were worth over the same history, and which of them to take. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import fmean, stdev

from pydantic import BaseModel

from perennial.rules.metrics import gain, higher_is_better
from perennial.rules.replay import Course, Span

TOLERATED = {"roc_auc": 0.002}
TOLERATED_SHARE = 0.005
BASELINES = ("same as last label", "majority")
"""Lines without a model that every policy stands beside."""


class Account(BaseModel, frozen=True):
    """What one policy would have won and cost.

    Args:
        metric: per window, in order; None where it is not defined.
        mean: over the windows in which it is defined for every policy.
        regret: mean shortfall behind the best model that had been trained by each window's start.
        gained_share: of what a new model after every window gains over never retraining; None where that gains nothing.
        seconds: of training, after the bootstrap.
    """

    name: str
    says: str
    metric: list[float | None]
    mean: float | None
    retrains: int
    promoted: int
    pages: int
    seconds: float
    regret: float | None
    gained_share: float | None


class Recommendation(BaseModel, frozen=True):
    """Which policy to take, and why in a sentence."""

    name: str
    reason: str


class Backtest(BaseModel, frozen=True):
    """What every policy would have won and cost, and which to take.

    Args:
        best: per window, the metric of the best model that had been trained by its start.
        folder: where all that was found out is kept below the environment, so that asking again costs little.
        worked: how many things this run had to find out.
    """

    pipeline: str
    metric: str
    windows: list[Span]
    bootstrap: datetime
    lag: timedelta
    as_of: datetime
    courses: list[Course]
    accounts: list[Account]
    best: list[float | None]
    recommendation: Recommendation
    folder: str
    worked: int


def settle(
    metric: str,
    courses: Sequence[Course],
    by_window: Mapping[str, Sequence[float | None]],
    best: Sequence[float | None],
) -> list[Account]:
    """One account per policy, then those of the baselines.

    Args:
        by_window: the metric per window of every policy and baseline, by name.
        best: per window, that of the best model that had been trained by its start.
    """
    names = [course.strategy.name for course in courses]
    usable = [at for at in range(len(best)) if all(by_window[name][at] is not None for name in names)]
    means = {name: _mean(values, usable) for name, values in by_window.items()}
    return [
        Account(
            name=course.strategy.name,
            says=course.strategy.says,
            metric=list(by_window[course.strategy.name]),
            mean=means[course.strategy.name],
            retrains=course.retrains,
            promoted=course.promoted,
            pages=course.pages,
            seconds=course.seconds,
            regret=_regret(metric, by_window[course.strategy.name], best, usable),
            gained_share=_share(metric, means, course.strategy.name),
        )
        for course in courses
    ] + [_baseline(name, by_window[name], means[name]) for name in BASELINES if name in by_window]


def recommend(metric: str, accounts: Sequence[Account]) -> Recommendation:
    """The cheapest policy whose windows are not told apart from the best one's.

    *Not told apart*: the mean difference to the best is below a tolerance (0.002 of ROC AUC, half a percent of a loss),
    or within one standard error of the paired differences over the windows. Among those the fewest retrains win, then
    the better mean.
    """
    known = [a for a in accounts if a.mean is not None and a.name not in BASELINES]
    if not known:
        return Recommendation(name="never", reason="The metric is defined in no window, so no policy can be preferred.")
    best = max(known, key=lambda account: _worth(metric, account))
    close = [account for account in known if _is_close(metric, account, best)]
    chosen = min(close, key=lambda account: (account.retrains, -_worth(metric, account)))
    said = (
        f"{chosen.name!r} reaches a mean {metric} of {chosen.mean:.4f} with {_count(chosen.retrains)} "
        f"({chosen.seconds:.0f} s of training)"
    )
    if chosen.name == best.name:
        return Recommendation(name=chosen.name, reason=f"{said}; no other policy comes as close with fewer.")
    return Recommendation(
        name=chosen.name,
        reason=f"{said}; the best, {best.name!r}, reaches {best.mean:.4f} with {_count(best.retrains)}, a difference that these "
        f"{len(best.metric)} windows cannot tell from chance or that is too small to pay for.",
    )


def _worth(metric: str, account: Account) -> float:
    assert account.mean is not None
    return account.mean if higher_is_better(metric) else -account.mean


def _is_close(metric: str, account: Account, best: Account) -> bool:
    pairs = zip(best.metric, account.metric, strict=True)
    behind = [gain(metric, a, b) for a, b in pairs if a is not None and b is not None]
    if not behind:
        return False
    assert best.mean is not None
    tolerated = TOLERATED.get(metric, TOLERATED_SHARE * abs(best.mean))
    error = stdev(behind) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
    return fmean(behind) <= max(tolerated, error)


def _baseline(name: str, values: Sequence[float | None], mean: float | None) -> Account:
    return Account(
        name=name, says="a line without a model", metric=list(values), mean=mean, retrains=0, promoted=0, pages=0,
        seconds=0.0, regret=None, gained_share=None,
    )  # fmt: skip


def _mean(values: Sequence[float | None], usable: Sequence[int]) -> float | None:
    found = [value for at in usable if (value := values[at]) is not None]
    return fmean(found) if found and len(found) == len(usable) else None


def _regret(
    metric: str, values: Sequence[float | None], best: Sequence[float | None], usable: Sequence[int]
) -> float | None:
    short = [
        max(gain(metric, top, own), 0.0)
        for at in usable
        if (top := best[at]) is not None and (own := values[at]) is not None
    ]
    return fmean(short) if short else None


def _share(metric: str, means: Mapping[str, float | None], name: str) -> float | None:
    never, every, own = means.get("never"), means.get("every window"), means[name]
    if never is None or every is None or own is None:
        return None
    whole = gain(metric, every, never)
    return gain(metric, own, never) / whole if whole > 0 else None


def _count(retrains: int) -> str:
    return f"{retrains} retrain{'' if retrains == 1 else 's'}"
