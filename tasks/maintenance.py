"""The care of tables in a run: rewrite, expire, and look for what is left over."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from pydantic import BaseModel
from pyiceberg.exceptions import NoSuchNamespaceError

from perennial.lakehouse.commit import expire_snapshots as expire
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.leftovers import Leftover, delete_leftovers, find_leftovers, note_state
from perennial.lakehouse.tables import Identifier, dotted
from perennial.lakehouse.tags import release_tags
from perennial.lakehouse.uploads import abandoned_uploads, abort_uploads
from perennial.spec import load_pipeline
from perennial.spec.upkeep import PREDICTIONS, QUARANTINE, REPORTS, VERSIONS
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, show_table

if TYPE_CHECKING:
    from ray_jobs.maintain.rewrite import Rewritten

SNAPSHOT_AGE = timedelta(days=7)
NEWEST_SNAPSHOTS = 10
SHOWN = 200  # leftovers in the artifact; the count is of all


class Cared(BaseModel, frozen=True):
    """What was done to one table."""

    table: str
    files_before: int
    files_after: int
    dropped_rows: int
    expired_snapshots: int


@task
def list_tables(lake: Lake, pipeline: str) -> list[Identifier]:
    """The tables of a pipeline that exist, and the system's."""
    catalog = lake.catalog()
    found: list[Identifier] = []
    for namespace in (lake.table(pipeline, "")[0], lake.system("")[0]):
        try:
            found += [(name[0], name[1]) for name in catalog.list_tables(namespace)]
        except NoSuchNamespaceError:
            continue  # nothing was ever written there
    return sorted(found)


@task(timeout_seconds=4 * 3600)
def rewrite_table(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, table: Identifier, now: datetime
) -> "Rewritten":
    """Drop a table's rows past their time, as the pipeline declares it, and compact it on Ray."""
    from ray_jobs.maintain.rewrite import RewriteRequest
    from ray_jobs.maintain.rewrite import rewrite_table as job

    column, kept = _ageing(pipelines, pipeline, table[1]) if table[0] == lake.table(pipeline, "")[0] else (None, None)
    request = RewriteRequest(
        lake=lake, namespace=table[0], table=table[1], column=column, cutoff=now - kept if kept else None
    )
    return run_job(compute, job, request)


@task(timeout_seconds=600)
def release_versions(lake: Lake, pipelines: Path, pipeline: str, now: datetime) -> list[int]:
    """Let the training rows of versions go that were archived or rejected long enough ago, where the pipeline says how long.

    Returns the versions whose rows may expire from now on; what a version needs that may still serve is never among them.
    """
    kept = load_pipeline(pipeline, pipelines).upkeep.keep.get(VERSIONS)
    released = release_tags(lake, pipeline, now - kept) if kept else []
    if released:
        get_run_logger().info("%s: the training rows of versions %s may expire now", pipeline, released)
    return released


@task(timeout_seconds=600)
def drop_reports(lake: Lake, pipelines: Path, pipeline: str, now: datetime) -> int:
    """Delete the reports of windows that ended long enough ago, where the pipeline says how long; return of how many."""
    from perennial.story.reports import expire_reports, publish_index

    kept = load_pipeline(pipeline, pipelines).upkeep.keep.get(REPORTS)
    expired = expire_reports(lake, pipeline, now - kept) if kept else []
    if expired:
        publish_index(lake, pipeline)
        get_run_logger().info("%s: the reports of %d windows were past their time", pipeline, len(expired))
    return len(expired)


@task(timeout_seconds=600)
def expire_snapshots(lake: Lake, table: Identifier, now: datetime) -> int:
    """Let go of snapshots older than a week, but for the newest ten and those of branches and tags."""
    return expire(lake, table, now - SNAPSHOT_AGE, NEWEST_SNAPSHOTS)


@task(timeout_seconds=4 * 3600)
def sweep(
    lake: Lake, pipelines: Path, pipeline: str, tables: Sequence[Identifier], now: datetime, deletes: bool
) -> int:
    """Find what is left over and show it; delete it where that was asked for. Returns how many objects were found."""
    deletes = deletes or load_pipeline(pipeline, pipelines).upkeep.deletes
    found, uploads = find_leftovers(lake, tables, now), abandoned_uploads(lake, now)
    show_leftovers(pipeline, [*found, *uploads], deletes)
    if deletes:
        number = delete_leftovers(lake, tables, found, now) + abort_uploads(lake, uploads)
        get_run_logger().info("%s: %d leftovers deleted", pipeline, number)
    for table in tables:  # after the sweep: what was noted before it is what it went by
        note_state(lake, table, now)
    return len(found) + len(uploads)


def show_leftovers(pipeline: str, found: Sequence[Leftover], deletes: bool) -> None:
    """Show what is left over, the largest first."""
    largest = sorted(found, key=lambda left: -left.bytes)[:SHOWN]
    rows: list[dict[str, object]] = [
        {"kind": left.kind, "object": plain(left.path), "bytes": left.bytes, "since": left.modified_at.isoformat()}
        for left in largest
    ]
    size = sum(left.bytes for left in found)
    what = "deleted" if deletes else "kept: run with delete=true, or declare Upkeep(deletes=True)"
    show_table(f"leftovers-{pipeline}", rows, f"{len(found)} objects, {size:,} bytes, that nobody needs ({what})")


@task
def show_care(pipeline: str, cared: Sequence[Cared]) -> None:
    """Show what was done to each table."""
    show_table(f"maintain-{pipeline}", [one.model_dump() for one in cared], f"Care of the tables of {pipeline}")
    for one in cared:
        if one.files_before or one.dropped_rows or one.expired_snapshots:
            get_run_logger().info(
                "%s: %d files became %d, %d rows dropped, %d snapshots expired",
                *(one.table, one.files_before, one.files_after, one.dropped_rows, one.expired_snapshots),
            )


def cared_for(table: Identifier, rewritten: "Rewritten", expired: int) -> Cared:
    """One table's line of the report."""
    return Cared(table=dotted(table), **rewritten.model_dump(), expired_snapshots=expired)


def _ageing(pipelines: Path, pipeline: str, table: str) -> tuple[str | None, timedelta | None]:
    """The column that a table's rows are aged by, and how long they are kept; nothing where they are kept for ever."""
    declared = load_pipeline(pipeline, pipelines)
    columns = {PREDICTIONS: ("answered_at", PREDICTIONS), QUARANTINE: ("quarantined_at", QUARANTINE)}
    columns |= {f"raw_{source.name}": (source.event_time or "", source.name) for source in declared.sources}
    column, name = columns.get(table, ("", ""))
    kept = declared.upkeep.keep.get(name)
    return (column, kept) if kept else (None, None)
