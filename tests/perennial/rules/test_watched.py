"""Which window a run watches, and which judged ones late labels reopen."""

from datetime import UTC, datetime, timedelta

import pytest

from perennial.rules.evidence import Evidence
from perennial.rules.past import Past, PastWindow, read_past
from perennial.rules.watched import could_reopen, reopened, window_at
from perennial.spec import Window

NOON = datetime(2024, 5, 15, 12, tzinfo=UTC)  # a Wednesday
WEEK = timedelta(days=7)
MONDAY = datetime(2024, 5, 13, tzinfo=UTC)


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


def judged(labelled: int, name: str = "w", week: int = 0) -> PastWindow:
    return PastWindow(
        decision_id=name, start=MONDAY + week * WEEK, end=MONDAY + (week + 1) * WEEK, at=MONDAY + (week + 1) * WEEK,
        verdict="hold", evidence=Evidence(version=1, rows=1_000, labelled_rows=labelled),
    )  # fmt: skip


def test_late_labels_reopen_a_window_once_and_only_when_they_are_many() -> None:
    later = MONDAY + 9 * WEEK
    waiting = Past(windows=[judged(100)])
    assert [w.decision_id for w in could_reopen(waiting, 0.2, later)] == ["w"]
    assert could_reopen(Past(windows=[judged(900)]), 0.2, later) == []
    assert could_reopen(waiting, None, later) == []
    assert reopened(waiting, {"w": 250}, 0.2) == []
    assert [w.decision_id for w in reopened(waiting, {"w": 300}, 0.2)] == ["w"]
    assert could_reopen(Past(windows=[judged(300, "w-late")]), 0.2, later) == []


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
