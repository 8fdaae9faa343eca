"""Bring rows back from quarantine that pass the contract of today, mended by the pipeline's repair function, exactly once.

open rows ─► as they arrived ─► repair function ─► contract ─┬─► raw   one commit: rows, and that they are repaired
                                                             └─► where they are, with what they still fail
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from perennial.lakehouse.quarantine import RepairMoved
from tasks.lakehouse import finish_outbox, list_sources
from tasks.repair import plan_repair, publish_repair, show_repair, stage_repair

PLANS = 5  # how often another run may be faster before this one leaves the field to it


@flow(flow_run_name="repair-{pipeline}")
def repair(
    pipeline: str,
    source: str | None = None,
    batch: str = "",
    check: str = "",
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> dict[str, int]:
    """Return the rows brought back per source. Running it again brings nothing back twice.

    Args:
        source: one source of the pipeline; by default all.
        batch: only rows of the batch with this id, such as a refused one; by default of all batches.
        check: only rows that failed a check whose name begins so: `amount_cents:`, `batch:refused`; by default all.
        as_of: the moment by whose knowledge rows refer to rows of other sources; by default the run's scheduled start.
    """
    settings = settings or Settings()
    sources = [source] if source else list_sources(settings.pipelines_dir, pipeline)
    as_of = utc(as_of or scheduled_start())
    return {name: repair_source(pipeline, name, batch, check, as_of, settings) for name in sources}


def repair_source(pipeline: str, source: str, batch: str, check: str, as_of: datetime, settings: Settings) -> int:
    """Judge a source's chosen rows again; return how many came back."""
    lake, pipelines = settings.lake, settings.pipelines_dir
    for plan in range(1, PLANS + 1):
        finish_outbox(lake, pipeline, source)
        chosen = plan_repair(lake, pipelines, pipeline, source, batch, check)
        if chosen.is_empty:
            return 0
        staged = stage_repair(settings.compute, lake, pipelines, chosen, as_of)
        try:
            rows = publish_repair(lake, pipelines, staged)
        except RepairMoved:
            if plan == PLANS:
                raise
            continue
        show_repair(staged)
        return rows
    raise AssertionError("the loop returns or raises")
