"""Bring a pipeline's topics into the lakehouse as messages arrive: `ingest`, again and again, a commit at a time.

Every commit is an ingest of its own, so what stops a stream (a signal, a cancellation, kill -9, its hour's end) stops
it between two commits or before one, and the next stream or ingest goes on from the table's position.
"""

import time
from datetime import UTC, datetime

from prefect import flow, get_run_logger

from flows.ingest import ingest_source
from flows.settings import Settings
from perennial.lakehouse.positions import PositionMoved
from tasks.refusal import BatchRefused
from tasks.streaming import await_messages, list_topics


@flow(flow_run_name="stream-{pipeline}")
def stream(
    pipeline: str,
    every_seconds: float = 10.0,
    every_rows: int = 100_000,
    minutes: float = 59.0,
    settings: Settings | None = None,
) -> int:
    """Return the rows published. Two streams at once, or a stream beside an ingest, publish every message once.

    Args:
        every_seconds: messages wait at most this long for their commit to begin.
        every_rows: as many waiting messages of one source are brought in at once.
        minutes: how long the run lasts; by default until an hourly schedule starts the next.

    Raises:
        BatchRefused: when the time is over; a refused batch is in quarantine and holds up none behind it.
    """
    settings = settings or Settings()
    sources = list_topics(settings.pipelines_dir, pipeline)
    until, rows, refusals = time.monotonic() + 60 * minutes, 0, []
    while (left := until - time.monotonic()) > 0:
        waiting = await_messages(
            settings.lake, settings.pipelines_dir, pipeline, sources, every_rows, every_seconds, left
        )
        for source in waiting:
            try:
                rows += ingest_source(pipeline, source, datetime.now(UTC), settings)
            except PositionMoved:
                continue  # another run is faster; what it leaves is there at the next look
            except BatchRefused as refusal:
                get_run_logger().error("%s", refusal)  # at once, not only when the run ends
                refusals.append(refusal)
    if refusals:
        raise BatchRefused(f"{len(refusals)} batches were refused; the last: {refusals[-1]}") from refusals[-1]
    return rows
