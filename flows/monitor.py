"""Watch what a model answered in a window, decide, and ring where retraining is due.

predictions ─┐
labels ──────┼─► Evidently ─► verdict ─► decision ─┬─► artifacts, report
reference ───┘                                     └─► an event, once the row is committed
"""

from datetime import datetime, timedelta

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.monitoring import (
    commit_shipped_predictions,
    find_verdict,
    pick_version,
    record_verdict,
    show_verdict,
    watch_window,
)
from tasks.notices import tell_verdict

USUAL_WINDOW = timedelta(days=7)


@flow(flow_run_name="monitor-{pipeline}")
def monitor(
    pipeline: str,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> str:
    """Return the verdict on a window of event time: retrain, hold or page. Running it again changes nothing.

    Args:
        start, end: the window [start, end); by default the seven days before `as_of`.
        as_of: labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    end = utc(end) if end else as_of
    start = utc(start) if start else end - USUAL_WINDOW
    place = (settings.lake, settings.pipelines_dir, pipeline)

    commit_shipped_predictions(settings.lake, pipeline)
    subject = pick_version(*place, start, end, as_of)
    if subject is None:
        return "hold"
    decision = find_verdict(*place, subject.version, start, end)
    if decision is None:
        watched = watch_window(settings.compute, *place, subject, start, end, as_of)
        decision = record_verdict(*place, watched, start, end, as_of)
    show_verdict(decision, settings.reports_base)
    tell_verdict(settings.lake, decision)
    return decision.verdict
