"""Score a table, a snapshot or a window of event time with a version, in bulk.

rows (known by as_of) ─► joins and features ─► scores (Ray) ─► predictions or scores, role "batch", once
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.scoring import score_rows


@flow(flow_run_name="score-{pipeline}-v{version}")
def score(
    pipeline: str,
    version: int,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
    table: str | None = None,
    snapshot_id: int | None = None,
    into: str = "predictions",
) -> int:
    """Return how many rows carry the version's batch scores. Running it again adds nothing.

    Args:
        start, end: only rows whose event time lies in [start, end); left out: all rows.
        as_of: rows known by then are scored; by default the run's scheduled start.
        table: another table of the pipeline's namespace with the entity's columns; by default the entity's raw table.
        snapshot_id: of that table; by default its current one.
        into: the table of the scores: `predictions`, `scores` or `scores_<name>`. Each row says by which version, and from
            which snapshot (`_input_snapshot_id`).

    Raises:
        ScoreRefused: the version needs other feature code, or a table is not what it should be; nothing was written.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.lake, settings.pipelines_dir, pipeline)
    span = (start and utc(start), end and utc(end))
    return score_rows(settings.compute, *place, version, *span, as_of, table, snapshot_id, into)
