"""Windows that share rows, because they slide by less than their length or grow since the promotion, are one sign."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from perennial.rules.evidence import Evidence
from perennial.rules.metrics import Interval
from perennial.rules.past import Past, PastRetrain, PastWindow
from perennial.rules.policy import Verdict, decide
from perennial.rules.promise import promise_for
from tests.perennial.rules.test_policy import BROKEN, DOUBTFUL, MONDAY, POLICY, QUIET, SURE, WEEK, window

DAY = timedelta(days=1)
DRIFTED = window(labelled_rows=0, drift={"wind": 0.9, "hour": 0.8})
TOLD = Interval(0.72, 0.71, 0.73)


def bounds(day: float, since: float | None) -> dict[str, Any]:
    """The window that a run of this day watches: the week before it, or all since a promotion."""
    end = MONDAY + day * DAY
    return {"start": end - WEEK if since is None else MONDAY + since * DAY, "end": end}


def past(
    seen: Sequence[tuple[float, Evidence]], since: float | None = None, retrains: Sequence[PastRetrain] = ()
) -> Past:
    """Runs of the days, each judged with what went before."""
    found = Past(retrains=list(retrains))
    for day, evidence in seen:
        verdict, place = judge(evidence, found, day, since), bounds(day, since)
        judged = PastWindow(
            decision_id=f"day-{day:g}", at=place["end"], verdict=verdict.verdict, evidence=evidence,
            guard=verdict.guard.name if verdict.guard else None, **place,
        )  # fmt: skip
        found = found.model_copy(update={"windows": [*found.windows, judged]})
    return found


def judge(evidence: Evidence, before: Past, day: float, since: float | None = None) -> Verdict:
    return decide(evidence, before, POLICY, MONDAY + day * DAY, **bounds(day, since))


def promise(before: Past, day: float, since: float | None = None) -> Interval:
    return promise_for(TOLD, "roc_auc", 1, before, POLICY, **bounds(day, since))


@pytest.mark.parametrize("alarm", [DOUBTFUL, DRIFTED])
def test_an_alarm_is_seen_again_in_other_rows_only(alarm: Evidence) -> None:
    first = [(0, QUIET), (1, alarm), (2, alarm), (3, alarm)]
    assert [w.verdict for w in past(first).windows] == ["hold"] * 4
    assert judge(alarm, past(first), day=4).verdict == "hold"
    assert judge(alarm, past(first), day=8).verdict == "retrain"  # the window of day 1 ended where this one begins


@pytest.mark.parametrize("alarm", [DOUBTFUL, DRIFTED])
def test_since_a_promotion_an_alarm_is_seen_again_once_most_rows_are_new(alarm: Evidence) -> None:
    before = past([(1, QUIET), (2, alarm), (3, alarm)], since=0)
    assert [w.verdict for w in before.windows] == ["hold"] * 3
    assert judge(alarm, before, day=4, since=0).verdict == "retrain"  # twice as long as the one of day 2


def test_since_a_promotion_one_trouble_is_one_page() -> None:
    troubled = past([(1, QUIET), (2, BROKEN), (3, BROKEN), (4, BROKEN), (5, QUIET), (6, BROKEN)], since=0)
    assert [w.verdict for w in troubled.windows] == ["hold", "page", "hold", "hold", "hold", "page"]


def test_windows_that_share_rows_do_not_make_a_promise_more_certain() -> None:
    daily = past([(day, QUIET) for day in range(20)])
    weekly = past([(day, QUIET) for day in (0, 7)])
    assert promise(daily, day=20) == promise(weekly, day=20)
    assert promise(past([(19, QUIET)]), day=20) == TOLD  # held to its own rows otherwise
    assert promise(past([(1, QUIET), (2, QUIET)], since=0), day=9, since=0) == TOLD


def test_a_rejection_lowers_the_promise_for_as_many_windows_that_share_no_rows() -> None:
    rejected = PastRetrain(decision_id="day-1", at=MONDAY + DAY, ended="rejected")

    def daily(until: int) -> Past:
        return past([(day, SURE) for day in range(1, until)], retrains=[rejected])

    assert promise(daily(15), day=15).value == 0.66
    assert promise(daily(30), day=30).value > 0.71


def test_an_inconclusive_retrain_lowers_no_promise_and_a_rejected_one_does() -> None:
    def after(ended: str) -> Past:
        retrain = PastRetrain.model_validate({"decision_id": "day-0", "at": MONDAY, "ended": ended})
        return past([(0, SURE)], retrains=[retrain])

    assert promise(after("rejected"), day=7).value == 0.66
    assert promise(after("inconclusive"), day=7) == TOLD
    assert judge(DOUBTFUL, after("rejected"), day=7).verdict == "hold"
    assert judge(DOUBTFUL, after("inconclusive"), day=7).verdict == "retrain"
