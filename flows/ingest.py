"""Bring what is new in a pipeline's sources into the lakehouse, checked, exactly once.

source ─► stage (Ray) ─► verdict ─┬─► raw          one commit: rows, position, outbox
                                  ├─► quarantine   finished from the outbox, once
                                  └─► batches      likewise; from both, the page of data docs

A refused batch goes to quarantine whole; its commit brings no rows, and `repair` brings them back.
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from perennial.lakehouse.positions import PositionMoved
from perennial.rules.schema import SchemaRefused
from tasks.datadocs import show_batch
from tasks.lakehouse import (
    PartsLeftOut,
    finish_outbox,
    judge_staged,
    list_sources,
    plan_batch,
    publish_batch,
    report_unreadable,
    stage_batch,
)
from tasks.refusal import BatchRefused, refuse_batch, refused
from tasks.renamed import record_renamed

PLANS = 5  # how often another run may be faster before this one leaves the field to it


@flow(flow_run_name="ingest-{pipeline}")
def ingest(
    pipeline: str, source: str | None = None, as_of: datetime | None = None, settings: Settings | None = None
) -> dict[str, int]:
    """Return the rows published per source. Running it again publishes nothing twice.

    Args:
        source: one source of the pipeline; by default all.
        as_of: when rows of sources that do not declare it became known; by default the run's scheduled start.

    Raises:
        BatchRefused, SchemaRefused, PartsLeftOut: after every source had its turn; the message has each failure and what to do.
    """
    settings = settings or Settings()
    as_of = utc(as_of or scheduled_start())
    sources = [source] if source else list_sources(settings.pipelines_dir, pipeline)
    published: dict[str, int] = {}
    failures: list[BatchRefused | SchemaRefused | PartsLeftOut] = []
    for name in sources:
        try:
            published[name] = ingest_source(pipeline, name, as_of, settings)
        except (BatchRefused, SchemaRefused, PartsLeftOut) as failure:
            failures.append(failure)  # one source's bad batch is no reason to leave the others' data outside
    if failures:
        raise type(failures[0])("\n".join(str(failure) for failure in failures)) from failures[0]
    return published


def ingest_source(pipeline: str, source: str, as_of: datetime, settings: Settings) -> int:
    """Bring one source up to date; return the rows that were published.

    Raises:
        BatchRefused: once its commit and its quarantine stand.
        PartsLeftOut: some of what arrived cannot be read; the rest is published.
    """
    docs = (settings.lake, settings.pipelines_dir, pipeline, source, settings.reports_base)
    for plan in range(1, PLANS + 1):
        finish_outbox(settings.lake, pipeline, source)
        batch = plan_batch(settings.lake, settings.pipelines_dir, pipeline, source, as_of)
        if batch.is_empty:
            if batch.renamed:
                record_renamed(settings.lake, batch)
            show_batch(*docs)  # of a batch whose run was killed before this
            return 0
        staged = stage_batch(settings.compute, settings.lake, settings.pipelines_dir, batch)
        if staged.batch.is_empty:  # all of it changed while it was read, cannot be read, or came under another name
            if staged.batch.renamed:
                record_renamed(settings.lake, staged.batch)
            report_unreadable(staged)
            return 0
        if refusal := judge_staged(settings.lake, settings.pipelines_dir, staged):
            staged = refuse_batch(settings.compute, settings.lake, settings.pipelines_dir, staged, refusal)
        try:
            published = publish_batch(settings.lake, settings.pipelines_dir, staged)
        except PositionMoved:
            if plan == PLANS:
                raise
            continue
        finish_outbox(settings.lake, pipeline, source)
        show_batch(*docs)
        if published.refusal:
            raise refused(published)
        report_unreadable(staged)
        return published.rows
    raise AssertionError("the loop returns or raises")
