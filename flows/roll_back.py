"""Return to an earlier version in one step; whatever is being tried ends with it.

served before, and today's feature code? ─► champion in the registry ─► replicas swap ─► returned
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.card import redraw_cards
from tasks.rollback import choose_former, record_return, return_to, return_to_former, tell_rolled_back
from tasks.serving import RolledBack, roll_endpoint


@flow(flow_run_name="roll-back-{pipeline}")
def roll_back(
    pipeline: str,
    version: int | None = None,
    reason: str = "somebody asked for it",
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> int:
    """Return the version that serves now. Running it again with a version changes nothing.

    Args:
        version: which served before; None: where a challenger is being tried, the champion, which then gets all requests
            again; else the version that served before the champion.

    Raises:
        NothingBefore: there is no such version; nothing was changed.
        OtherRevision: it needs other feature code than today's, which the message names; nothing was changed.
        RolledBack: a replica refused it; the version that served before this run serves.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.compute, settings.serve, settings.lake, settings.pipelines_dir)

    former = choose_former(settings.lake, settings.pipelines_dir, pipeline, version, as_of)
    step = return_to(settings.lake, former, as_of, reason)
    report = roll_endpoint(*place, step)
    if report.failure:
        tell_rolled_back(return_to_former(settings.lake, step, as_of, report.failure))
        raise RolledBack(pipeline, former.version, step.former, report.failure)
    if former.trial or not former.serves:
        tell_rolled_back(record_return(settings.lake, step, former, as_of, reason))
        redraw_cards(settings.lake, pipeline, [former.version, step.former], settings.reports_base, return_state=True)
    return former.version
