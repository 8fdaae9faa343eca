"""Watch what a model answered in a window, decide, and ring where something is due.

predictions ─┐
labels ──────┼─► Evidently ─► verdict ─► decision ─► an event, once the row is committed ─► artifacts, story
reference ───┘
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.monitoring import (
    commit_shipped_predictions,
    find_verdict,
    record_verdict,
    show_verdict,
    watch_window,
)
from tasks.notices import tell_verdict
from tasks.story import show_story
from tasks.windows import find_reopened, find_window, pick_version


@flow(flow_run_name="monitor-{pipeline}")
def monitor(
    pipeline: str,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> str:
    """Return the verdict on a window of event time: retrain, hold or page. Running it again changes nothing.

    Windows before it that have got their labels since are judged again first, where the policy says so.

    Args:
        start, end: the window [start, end); by default what the pipeline's policy says of `as_of`.
        as_of: labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.lake, settings.pipelines_dir, pipeline)

    commit_shipped_predictions(settings.lake, pipeline)
    window = find_window(*place, utc(start) if start else None, utc(end) if end else None, as_of)
    for late in find_reopened(*place, window, as_of):
        watched = watch_window(settings.compute, *place, late.subject, late.window, as_of, late.times)
        tell_verdict(settings.lake, record_verdict(*place, watched, late.window, as_of, late.times))

    subject = pick_version(*place, window, as_of)
    if subject is None:
        return "hold"
    decision = find_verdict(*place, subject.version, window)
    if decision is None:
        watched = watch_window(settings.compute, *place, subject, window, as_of)
        decision = record_verdict(*place, watched, window, as_of)
    tell_verdict(settings.lake, decision)  # before what is drawn, which may fail
    show_verdict(decision, settings.reports_base)
    show_story(settings.lake, pipeline, settings.reports_base)
    return decision.verdict
