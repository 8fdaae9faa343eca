"""Waiting for messages, in a run that goes on for long."""

import time
from datetime import UTC, datetime
from pathlib import Path

from prefect import task

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import plan_batch
from perennial.spec import Kafka, load_pipeline

POLL_SECONDS = 2.0


class NothingToStream(ValueError):
    """A pipeline without a source that can be streamed."""


@task
def list_topics(pipelines: Path, pipeline: str) -> list[str]:
    """Names of a pipeline's Kafka sources.

    Raises:
        NothingToStream: it has none.
    """
    sources = [source.name for source in load_pipeline(pipeline, pipelines).sources if isinstance(source, Kafka)]
    if not sources:
        raise NothingToStream(f"pipeline {pipeline} has no Kafka source. Files are brought in by a schedule of ingest.")
    return sources


@task
def await_messages(
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    sources: list[str],
    every_rows: int,
    every_seconds: float,
    at_most_seconds: float,
) -> list[str]:
    """Return the sources that have messages once one has `every_rows`, or any has some after `every_seconds`.

    None after `at_most_seconds`: the next run brings them.
    """
    declared, started = load_pipeline(pipeline, pipelines), time.monotonic()
    while True:
        batches = [plan_batch(lake, declared, declared.source(name), datetime.now(UTC)) for name in sources]
        waiting = {batch.source: sum(part.weight for part in batch.parts) for batch in batches if not batch.is_empty}
        seconds = time.monotonic() - started
        if any(rows >= every_rows for rows in waiting.values()) or (waiting and seconds >= every_seconds):
            return list(waiting)
        if seconds >= at_most_seconds:
            return []
        time.sleep(min(POLL_SECONDS, every_seconds / 5))
