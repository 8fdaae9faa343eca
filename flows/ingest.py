"""Bring what is new in a pipeline's sources into the lakehouse, checked, exactly once.

source ─► stage (Ray) ─► verdict ─┬─► raw          one commit: rows, position, outbox
                                  └─► quarantine   finished from the outbox, once
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from perennial.lakehouse.positions import PositionMoved
from tasks.lakehouse import finish_quarantine, list_sources, plan_batch, publish_batch, show_batch, stage_batch

PLANS = 5  # how often another run may be faster before this one leaves the field to it


@flow(flow_run_name="ingest-{pipeline}")
def ingest(
    pipeline: str, source: str | None = None, as_of: datetime | None = None, settings: Settings | None = None
) -> dict[str, int]:
    """Return the rows published per source. Running it again publishes nothing twice.

    Args:
        source: one source of the pipeline; by default all.
        as_of: when rows of sources that do not declare it became known; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of or scheduled_start())
    sources = [source] if source else list_sources(settings.pipelines_dir, pipeline)
    return {name: ingest_source(pipeline, name, as_of, settings) for name in sources}


def ingest_source(pipeline: str, source: str, as_of: datetime, settings: Settings) -> int:
    """Bring one source up to date; return the rows that were published."""
    for plan in range(1, PLANS + 1):
        finish_quarantine(settings.lake, pipeline, source)
        batch = plan_batch(settings.lake, settings.pipelines_dir, pipeline, source, as_of)
        if batch.is_empty:
            return 0
        staged = stage_batch(settings.compute, settings.lake, settings.pipelines_dir, batch)
        try:
            rows = publish_batch(settings.lake, settings.pipelines_dir, staged)
        except PositionMoved:
            if plan == PLANS:
                raise
            continue
        finish_quarantine(settings.lake, pipeline, source)
        show_batch(staged)
        return rows
    raise AssertionError("the loop returns or raises")
