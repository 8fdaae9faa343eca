"""Answer which version served at a moment, trained on which rows, promoted on what evidence."""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from perennial.lakehouse.served import Clock
from tasks.served import find_served, show_served


@flow(flow_run_name="who-served-{pipeline}")
def who_served(
    pipeline: str, at: datetime | None = None, clock: Clock = "as_of", settings: Settings | None = None
) -> int | None:
    """Return the number of the version that served, or None. It only reads: the same question has the same answer.

    Args:
        at: the moment asked about; by default the run's scheduled start.
        clock: `as_of` goes by the moments that decisions rest on, as replays do; `recorded_at` by the clock on the wall.
    """
    settings = settings or Settings()
    at = utc(at) if at else scheduled_start()
    served = find_served(settings.lake, pipeline, at, clock)
    show_served(pipeline, at, served)
    return served.version.version if served else None
