"""Which window a run watches, and which judged ones late labels reopen."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from perennial.rules.drift import monitor_decision_id
from perennial.rules.evidence import Evidence
from perennial.rules.past import Past, PastWindow, asked_of, read_past
from perennial.rules.watched import Stretch, could_reopen, reopened, window_at
from perennial.spec import Monitoring, Window

NOON = datetime(2024, 5, 15, 12, tzinfo=UTC)  # a Wednesday
WEEK = timedelta(days=7)
MONDAY = datetime(2024, 5, 13, tzinfo=UTC)
POLICY = Monitoring(minimum_rows=250, reopen_share=0.2)


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        (Window(), NOON - WEEK, NOON),
        (Window("fixed"), MONDAY - WEEK, MONDAY),
        (Window("fixed", timedelta(days=1)), NOON.replace(hour=0) - timedelta(days=1), NOON.replace(hour=0)),
        (Window("since_promotion"), MONDAY, NOON),
        (Window("rows", rows=9), MONDAY + timedelta(hours=5), NOON),
    ],
)
def test_each_kind_of_window_ends_where_it_should(window: Window, start: datetime, end: datetime) -> None:
    found = window_at(window, NOON, promoted_at=MONDAY, oldest_of_rows=MONDAY + timedelta(hours=5))
    assert found == (start, end)


def test_two_runs_within_one_length_watch_the_same_fixed_window() -> None:
    assert window_at(Window("fixed"), NOON) == window_at(Window("fixed"), NOON + timedelta(days=3))


def judged(labelled: int, name: str = "w", end: datetime = MONDAY, length: timedelta = WEEK) -> PastWindow:
    return PastWindow(
        decision_id=name, start=end - length, end=end, at=end, verdict="hold",
        evidence=Evidence(version=1, rows=1_000, labelled_rows=labelled),
    )  # fmt: skip


def waiting(
    past: Past, policy: Monitoring = POLICY, start: datetime = MONDAY, end: datetime = MONDAY + WEEK
) -> list[str]:
    return [w.decision_id for w in could_reopen(past, policy, Stretch(start, end))]


def again(past: Past, labelled: int, end: datetime = MONDAY + WEEK, length: timedelta = WEEK) -> list[str]:
    """The windows reopened where each that waits has so many labels."""
    found = could_reopen(past, POLICY, Stretch(end - length, end))
    return [w.decision_id for w in reopened(past, found, [labelled] * len(found), POLICY, end)]


def test_late_labels_reopen_a_window_once_they_are_many() -> None:
    past = Past(windows=[judged(100)])
    assert waiting(past) == ["w"]
    assert waiting(Past(windows=[judged(900)])) == []
    assert waiting(past, replace(POLICY, reopen_share=None)) == []
    assert again(past, 250) == []
    assert again(past, 300) == ["w"]


def test_too_few_labels_do_not_use_a_reopening_up() -> None:
    past = Past(windows=[judged(0)])
    found = could_reopen(past, Monitoring(), Stretch(MONDAY, MONDAY + WEEK))
    assert reopened(past, found, [200], Monitoring(), MONDAY) == []  # minimum_rows is 500
    assert reopened(past, found, [500], Monitoring(), MONDAY) == found


def test_a_window_is_reopened_again_when_a_further_share_has_come_under_an_id_of_its_own() -> None:
    past = Past(windows=[judged(300, "w-late")])
    assert again(past, 450) == []
    assert again(past, 500) == ["w-late"]
    names = [monitor_decision_id("w", 1, MONDAY - WEEK, MONDAY, POLICY, late) for late in (0, 1, 2, 10)]
    assert [judged(0, name).late for name in names] == [0, 1, 2, 10]
    assert {asked_of(name) for name in names} == {names[0]}


def test_windows_that_slide_by_an_hour_are_reopened_though_they_overlap_and_each_row_in_one_window_only() -> None:
    hours = [judged(0, f"h{hour}", MONDAY - hour * timedelta(hours=1)) for hour in range(24 * 27, 0, -1)]
    newest_first = ["h504", "h336", "h168"]
    assert again(Past(windows=hours), 900, end=MONDAY)[-1] == "h1"
    assert again(Past(windows=hours[: -7 * 24 + 1]), 900, end=MONDAY) == newest_first
    late = [judged(900, "h168-late", MONDAY - WEEK), *(w for w in hours if w.decision_id != "h168")]
    before = sorted(late, key=lambda w: w.end)[: -7 * 24 + 1]
    assert again(Past(windows=before), 900, end=MONDAY) == newest_first[:2]


def test_a_window_of_a_month_that_is_looked_at_daily_is_reopened_when_its_labels_come_a_month_late() -> None:
    month = timedelta(days=30)
    days = [judged(0, f"d{day}", MONDAY - day * timedelta(days=1), month) for day in range(90, 0, -1)]
    labelled = [1_000 if w.end <= MONDAY - month else 0 for w in days]
    past = Past(windows=days)
    found = could_reopen(past, POLICY, Stretch(MONDAY - month, MONDAY))
    assert found == days
    assert [w.decision_id for w in reopened(past, found, labelled, POLICY, MONDAY)] == ["d90", "d60", "d30"]


def test_labels_that_come_very_late_change_nothing_any_more_and_one_run_reopens_only_so_many() -> None:
    hour = timedelta(hours=1)
    hours = Past(windows=[judged(0, f"h{n}", MONDAY - n * hour, hour) for n in range(24 * 40, 0, -1)])
    found = could_reopen(hours, POLICY, Stretch(MONDAY - hour, MONDAY))
    assert found[0].decision_id == f"h{24 * 30 - 1}"
    assert again(hours, 900, MONDAY, hour) == [f"h{n}" for n in range(12, 0, -1)]
    done = [w.model_copy(update={"decision_id": f"{w.decision_id}-late", "at": MONDAY}) for w in hours.windows[-12:]]
    started_again = Past(windows=[*hours.windows[:-12], *done])
    assert again(started_again, 900, MONDAY, hour) == []
    assert len(again(started_again, 900, MONDAY + hour, hour)) == 12


def test_windows_since_a_promotion_are_not_reopened_while_the_newest_holds_their_rows() -> None:
    since = [judged(0, f"d{day}", MONDAY + timedelta(days=day), timedelta(days=day)) for day in (1, 2, 3)]
    assert again(Past(windows=since), 900, MONDAY + timedelta(days=4), timedelta(days=4)) == []
    assert again(Past(windows=since), 900, MONDAY + timedelta(days=4), timedelta(days=1)) == ["d3"]


def test_a_window_that_was_judged_again_counts_once_as_it_was_judged_last() -> None:
    row = {
        "kind": "monitor", "version": 1, "window_start": MONDAY - WEEK, "window_end": MONDAY, "verdict": "hold",
        "evidence": '{"rows": 10, "labelled_rows": 0}', "decision_id": "w", "as_of": MONDAY,
    }  # fmt: skip
    again = row | {
        "decision_id": "w-late",
        "as_of": NOON,
        "verdict": "retrain",
        "evidence": '{"rows": 10, "labelled_rows": 9}',
    }
    past = read_past([again, row])
    assert [(w.decision_id, w.asked, w.evidence.labelled_rows) for w in past.windows] == [("w-late", "w", 9)]
    assert [r.ended for r in past.retrains] == ["running"]
    assert past.without("w").windows == []
