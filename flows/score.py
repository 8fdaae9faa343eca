"""Score a window of event time with a version, in bulk.

raw (known by as_of) ─► joins and features ─► scores (Ray) ─► predictions, role "batch", once
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.scoring import score_window


@flow(flow_run_name="score-{pipeline}-v{version}")
def score(
    pipeline: str,
    version: int,
    start: datetime,
    end: datetime,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> int:
    """Return how many rows of [start, end) carry the version's batch scores. Running it again adds nothing.

    Args:
        as_of: rows known by then are scored; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.lake, settings.pipelines_dir, pipeline)
    return score_window(settings.compute, *place, version, utc(start), utc(end), as_of)
