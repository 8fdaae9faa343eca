"""The policy on tables of cases; the tests stand as Evidently would have decided them."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from perennial.rules.evidence import Estimate, Evidence, Performance, with_outcomes
from perennial.rules.metrics import Interval
from perennial.rules.past import Past, PastRetrain, PastWindow, read_past
from perennial.rules.policy import Signal, Verdict, decide, judge_window
from perennial.rules.promise import promise_for
from perennial.spec import Monitoring, Window

POLICY = Monitoring(maximum_loss_share=0.10, maximum_drifted_share=0.5, drift_effect_size=0.1, minimum_rows=500)
WEEK = timedelta(days=7)
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def auc(measured: float, low: float, high: float, promised: float = 0.72) -> Performance:
    return Performance(metric="roc_auc", promised=promised, measured=measured, low=low, high=high)


def rmse(measured: float, low: float, high: float, promised: float = 10.0) -> Performance:
    return Performance(metric="rmse", promised=promised, measured=measured, low=low, high=high)


def window(**changes: object) -> Evidence:
    usual = {"version": 1, "rows": 20_000, "labelled_rows": 19_000, "missing": {"wind": 0.01}, "drift": {"wind": 0.02}}
    seen = Evidence.model_validate(usual | changes)
    bounds = dict.fromkeys(seen.drift, POLICY.drift_effect_size)
    return with_outcomes(seen.model_copy(update={"drift_bounds": bounds}), POLICY)


QUIET = window(performance=auc(0.725, 0.715, 0.735))
DOUBTFUL = window(performance=auc(0.695, 0.678, 0.712))  # certain by 95%, not by 99.9%
SURE = window(performance=auc(0.66, 0.65, 0.67))
BROKEN = window(missing={"wind": 0.98})


def judge(evidence: Evidence) -> Signal:
    return judge_window(evidence, POLICY)


def at(week: int) -> datetime:
    return MONDAY + week * WEEK


def past(*evidence: Evidence, policy: Monitoring = POLICY, retrains: list[PastRetrain] | None = None) -> Past:
    """Windows of weeks 0, 1, 2 ..., each judged with what went before."""
    found = Past(retrains=retrains or [])
    for week, seen in enumerate(evidence):
        verdict = decide(seen, found, policy, at(week + 1), at(week), at(week + 1))
        judged = PastWindow(
            decision_id=f"week-{week}", start=at(week), end=at(week + 1), at=at(week + 1),
            verdict=verdict.verdict, evidence=seen, guard=verdict.guard.name if verdict.guard else None,
        )  # fmt: skip
        found = found.model_copy(update={"windows": [*found.windows, judged]})
    return found


def verdict(evidence: Evidence, before: Past, policy: Monitoring = POLICY, week: int | None = None) -> Verdict:
    week = len(before.windows) if week is None else week
    return decide(evidence, before, policy, at(week + 1), at(week), at(week + 1))


def retrain(week: int, ended: str = "promoted", **more: Any) -> PastRetrain:
    return PastRetrain.model_validate({"decision_id": f"week-{week}", "at": at(week + 1), "ended": ended} | more)


@pytest.mark.parametrize(
    ("evidence", "word", "reason"),
    [
        (QUIET, "hold", "keeps the promise of 0.720"),
        (window(performance=auc(0.705, 0.700, 0.710)), "hold", r"0.015 \(7%\) behind the promise of 0.720; 0.020 is"),
        (window(performance=auc(0.690, 0.682, 0.698)), "retrain", "ROC AUC 0.690 .*14%.* chance does not"),
        (window(performance=auc(0.690, 0.650, 0.730)), "hold", "chance may explain it"),
        (window(performance=auc(0.40, 0.39, 0.41)), "retrain", "145%.* behind"),
        (window(performance=auc(0.60, 0.59, 0.61, promised=0.49)), "page", "no better than a worthless model"),
        (window(performance=rmse(9.0, 8.9, 9.1)), "hold", "RMSE 9.000 .* keeps the promise of 10.000"),
        (window(performance=rmse(11.5, 11.2, 11.8)), "retrain", "RMSE 11.500 .*15%.* behind the promise"),
        (window(performance=rmse(11.5, 9.9, 13.0)), "hold", "chance may explain it"),
    ],
)
def test_performance_decides_where_labels_exist(evidence: Evidence, word: str, reason: str) -> None:
    judged = judge(evidence)
    assert judged.verdict == word
    assert_matches(judged.reason, reason)


def test_a_policy_that_allows_no_loss_is_alarmed_by_any_that_chance_does_not_explain() -> None:
    strict = replace(POLICY, maximum_loss_share=0.0)
    for performance, word in ((auc(0.715, 0.713, 0.717), "retrain"), (auc(0.725, 0.723, 0.727), "hold")):
        assert judge_window(with_outcomes(window(performance=performance), strict), strict).verdict == word


def test_a_promise_measured_on_few_rows_makes_a_loss_less_certain() -> None:
    seen = auc(0.690, 0.682, 0.698)
    vague = seen.model_copy(update={"promised_low": 0.68, "promised_high": 0.76})
    assert judge(window(performance=seen)).verdict == "retrain"
    assert judge(window(performance=vague)).verdict == "hold"


def test_drifted_inputs_do_not_matter_while_performance_keeps_the_promise() -> None:
    evidence = window(performance=auc(0.73, 0.72, 0.74), drift={"wind": 0.9, "hour": 0.8})
    assert judge(evidence).verdict == "hold"


@pytest.mark.parametrize(
    ("drift", "word", "reason"),
    [
        ({"wind": 0.3, "hour": 0.2, "origin": 0.02}, "retrain", "2 of 3 drifted .* .wind 0.30, hour 0.20"),
        ({"wind": 0.3, "hour": 0.02, "origin": 0.02}, "hold", "1 of 3 drifted"),
        ({"wind": 0.01, "hour": 0.02, "origin": 0.02}, "hold", "0 of 3 drifted"),
    ],
)
def test_inputs_decide_only_where_labels_are_missing(drift: dict[str, float], word: str, reason: str) -> None:
    judged = judge(window(labelled_rows=30, performance=auc(0.4, 0.3, 0.5), drift=drift))
    assert judged.verdict == word
    assert_matches(judged.reason, "Only 30 labels")
    assert_matches(judged.reason, reason)


def test_an_important_input_weighs_more() -> None:
    drift = {"wind": 0.3, "hour": 0.02, "origin": 0.02}
    seen = window(labelled_rows=0, drift=drift)
    weighed = replace(POLICY, importance={"wind": 5.0})
    assert judge_window(with_outcomes(seen, weighed), weighed).verdict == "retrain"


def test_an_input_weighs_what_it_is_worth_to_the_model_unless_the_policy_says_otherwise() -> None:
    drift = {"wind": 0.3, "hour": 0.02, "origin": 0.02}
    worth = window(labelled_rows=0, drift=drift, importance={"wind": 0.1, "hour": 0.01, "origin": -0.01})
    assert judge(worth).verdict == "retrain"
    useless = window(labelled_rows=0, drift=drift, importance={"wind": 0.001, "hour": 0.1})
    assert judge(useless).verdict == "hold"
    weighed = replace(POLICY, importance={"wind": 0.0})
    assert judge_window(with_outcomes(worth, weighed), weighed).verdict == "hold"


def test_what_was_so_a_season_earlier_is_no_drift() -> None:
    drift = {"wind": 0.3, "hour": 0.2}
    assert judge(window(labelled_rows=0, drift=drift)).verdict == "retrain"
    seasonal = window(labelled_rows=0, drift=drift, seasonal_drift={"wind": 0.02, "hour": 0.01})
    assert judge(seasonal).verdict == "hold"


@pytest.mark.parametrize(
    ("evidence", "word", "reason"),
    [
        (window(rows=0, labelled_rows=0, missing={}, drift={}), "page", "No prediction was logged"),
        (window(rows=0, other_rows=9_000, labelled_rows=0, missing={}, drift={}), "hold", "answered by other versions"),
        (window(rows=200, labelled_rows=200, performance=auc(0.5, 0.4, 0.6)), "hold", "200 predictions are too few"),
        (window(missing={"wind": 0.98, "hour": 0.0}), "page", r"1 of 2 inputs .* wind \(\+98%.* broken feed"),
        (window(broken={"wind": "its values are 10 times the reference's"}), "page", "wind .its values are 10 times"),
    ],
)
def test_what_is_broken_or_too_little_is_never_retrained_on(evidence: Evidence, word: str, reason: str) -> None:
    judged = judge(evidence)
    assert judged.verdict == word
    assert_matches(judged.reason, reason)


@pytest.mark.parametrize("by", ["rows", "since_promotion"])
def test_a_window_that_never_runs_empty_is_silent_once_its_newest_row_is_old(
    by: Literal["rows", "since_promotion"],
) -> None:
    policy = replace(POLICY, window=Window(by, length=timedelta(days=2)))
    fresh, old = (window(performance=auc(0.6, 0.59, 0.61), freshness_seconds=3_600 * hours) for hours in (47, 49))
    assert judge_window(fresh, policy).verdict == "retrain"
    assert judge_window(old, policy)[:2] == ("page", "silence")
    assert_matches(judge_window(old, policy).reason, "newest prediction is 49 hours old; .* allows 48")
    assert judge_window(old, POLICY).verdict == "retrain"  # a sliding window ends with what was asked in it
    silent = past(QUIET, old, old, window(rows=0, labelled_rows=0), BROKEN, old, policy=policy)
    assert [w.verdict for w in silent.windows] == ["hold", "page", "hold", "hold", "page", "page"]


def test_a_broken_feed_pages_even_when_performance_fell() -> None:
    assert judge(window(missing={"wind": 0.98}, performance=auc(0.60, 0.59, 0.61))).verdict == "page"


def test_one_trouble_is_one_page_however_many_windows_it_lasts() -> None:
    assert [w.verdict for w in past(QUIET, BROKEN, BROKEN, BROKEN, QUIET, BROKEN).windows] == [
        "hold", "page", "hold", "hold", "hold", "page",
    ]  # fmt: skip


def test_a_promise_that_stays_worthless_is_one_page_per_version() -> None:
    worthless = window(performance=auc(0.60, 0.59, 0.61, promised=0.49))
    other = worthless.model_copy(update={"version": 2})
    assert [w.verdict for w in past(QUIET, worthless, worthless, worthless, other, BROKEN, worthless).windows] == [
        "hold", "page", "hold", "hold", "page", "page", "page",
    ]  # fmt: skip


def test_a_loss_beyond_doubt_acts_at_once_and_a_doubtful_one_when_it_is_seen_again() -> None:
    assert verdict(SURE, past(QUIET)).verdict == "retrain"
    first = verdict(DOUBTFUL, past(QUIET))
    assert (first.verdict, first.guard and first.guard.name) == ("hold", "alarms")
    assert verdict(DOUBTFUL, past(QUIET, DOUBTFUL)).verdict == "retrain"
    assert verdict(DOUBTFUL, past(DOUBTFUL, QUIET, QUIET)).verdict == "hold"


def test_alarms_of_another_version_do_not_count() -> None:
    other = DOUBTFUL.model_copy(update={"version": 2})
    assert verdict(DOUBTFUL, past(QUIET, other)).verdict == "hold"


@pytest.mark.parametrize(
    ("retrains", "policy", "guard"),
    [
        ([retrain(2, "running")], {}, None),  # dead after a day
        ([retrain(2, "running", at=at(4) - timedelta(hours=3))], {}, "under_way"),
        ([retrain(2)], {"cool_down": timedelta(days=21)}, "cool_down"),
        ([retrain(1), retrain(2)], {"retrains": 2}, "budget"),
        ([retrain(w, "rejected") for w in (0, 1, 2)], {}, "breaker"),
        ([retrain(w, "rejected") for w in (0, 1, 2)], {"period": timedelta(days=6)}, None),
        ([retrain(0, "rejected"), retrain(1, "rejected"), retrain(2)], {}, None),
    ],
)
def test_guards_hold_a_retrain_back(retrains: list[PastRetrain], policy: dict[str, Any], guard: str | None) -> None:
    before = past(QUIET, QUIET, QUIET).model_copy(update={"retrains": retrains})
    judged = verdict(SURE, before, replace(POLICY, **policy))
    assert (judged.guard and judged.guard.name) == guard
    assert judged.verdict == ("retrain" if guard is None else "page" if guard == "breaker" else "hold")


def test_the_breaker_pages_once_and_a_promotion_closes_it() -> None:
    failed = [retrain(w, "rejected") for w in (0, 1, 2)]
    tripped = past(QUIET, QUIET, QUIET, SURE, retrains=failed)
    assert tripped.windows[-1].verdict == "page"
    assert verdict(SURE, tripped).verdict == "hold"
    assert verdict(SURE, tripped.model_copy(update={"promoted_at": at(4)})).verdict == "retrain"


def test_promotions_that_were_rolled_back_trip_the_breaker() -> None:
    def rows(week: int, ended: str) -> list[dict[str, Any]]:
        of_both = {"decision_id": f"week-{week}", "as_of": at(week + 1), "window_start": at(week)}
        of_both |= {"window_end": at(week + 1), "evidence": SURE.model_dump_json()}
        return [
            {"kind": "monitor", "version": 1, "verdict": "retrain"} | of_both,
            {"kind": "promotion", "version": week + 2, "verdict": "promote"} | of_both,
            {"kind": "retrain", "version": week + 2, "verdict": ended} | of_both,
        ]

    rolled_back = [row for week in (0, 1, 2) for row in rows(week, "rolled_back")]
    judged = verdict(SURE, read_past(rolled_back), week=3)
    assert (judged.verdict, judged.guard and judged.guard.name) == ("page", "breaker")
    kept = [*rolled_back[:6], *rows(2, "promoted")]
    assert read_past(kept).promoted_at == at(3)
    assert verdict(SURE, read_past(kept), week=3).verdict == "retrain"


def test_a_version_that_was_replaced_is_not_retrained() -> None:
    late = verdict(SURE.model_copy(update={"replaced_by": 2}), past(QUIET))
    assert (late.verdict, late.guard and late.guard.name) == ("hold", "replaced")
    assert_matches(late.reason, "version 2 has replaced version 1")


def test_nothing_that_was_decided_later_is_looked_at() -> None:
    later = past(QUIET).model_copy(update={"retrains": [retrain(9, "running")]})
    assert verdict(SURE, later) == verdict(SURE, past(QUIET))


def test_a_rejection_lowers_the_promise_for_a_while_and_a_window_that_keeps_it_ends_that() -> None:
    told = Interval(0.72, 0.712, 0.728)

    def promise(*evidence: Evidence) -> float:
        before = past(*evidence, retrains=[retrain(1, "rejected")])
        return promise_for(told, "roc_auc", 1, before, POLICY, at(len(evidence)), at(len(evidence) + 1)).value

    assert promise(QUIET) > 0.71
    assert promise(QUIET, SURE) == SURE.performance.measured  # type: ignore[union-attr]  # it has one
    assert promise(QUIET, SURE, SURE) == 0.66
    assert promise(QUIET, SURE, SURE, SURE, SURE) > 0.71
    assert promise(QUIET, SURE, QUIET) > 0.71


def test_what_was_lost_a_season_earlier_is_allowed_again() -> None:
    seasonal = replace(POLICY, season=4 * WEEK)
    told = Interval(0.72, 0.712, 0.728)
    winter = window(performance=auc(0.70, 0.69, 0.71))
    before = past(winter, QUIET, QUIET, QUIET)
    assert promise_for(told, "roc_auc", 1, before, seasonal, at(4), at(5)).value == pytest.approx(0.70, abs=0.004)
    assert promise_for(told, "roc_auc", 1, before, seasonal, at(5), at(6)).value > 0.715
    assert promise_for(told, "roc_auc", 1, before, POLICY, at(4), at(5)).value > 0.715


def test_harder_rows_are_no_gain_to_expect() -> None:
    seen = auc(0.66, 0.65, 0.67)
    guess = Estimate(metric="roc_auc", value=0.70, low=0.69, high=0.71, promised=0.72)
    assert verdict(window(performance=seen), past()).expected_gain == pytest.approx(0.06)
    assert verdict(window(performance=seen, estimate=guess), past()).expected_gain == pytest.approx(0.04)


def test_the_training_window_begins_where_the_losses_began() -> None:
    kept, lost = window(performance=auc(0.72, 0.71, 0.73)), window(performance=auc(0.70, 0.69, 0.71))
    before = past(kept, kept, kept, lost, lost)
    short: dict[str, Any] = {"training_length": timedelta(days=7)}
    assert verdict(SURE, before).train_from is None
    assert verdict(SURE, before, replace(POLICY, training="sliding", **short)).train_from == at(5)
    assert verdict(SURE, before, replace(POLICY, training="since_change", **short)).train_from == at(3)


def assert_matches(text: str, pattern: str) -> None:
    assert re.search(pattern, text), text
