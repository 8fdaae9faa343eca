"""Care for a pipeline's tables and the system's, beside writers at work.

versions that ended long ago ─► their training rows may expire; reports past their time go
each table ─► rows past their time dropped ─► small files compacted (Ray) ─► old snapshots expired
then       ─► what nobody needs any more: listed, and deleted where that is asked for
"""

from prefect import flow

from flows.clock import scheduled_start
from flows.settings import Settings
from tasks.maintenance import (
    Cared,
    cared_for,
    drop_reports,
    expire_snapshots,
    list_tables,
    release_versions,
    rewrite_table,
    show_care,
    sweep,
)


@flow(flow_run_name="maintain-{pipeline}")
def maintain(pipeline: str, delete: bool = False, settings: Settings | None = None) -> list[Cared]:
    """Return what was done to each table. Running it again, or beside any other flow, loses nothing.

    Args:
        delete: whether leftovers are deleted, also where the pipeline does not declare `Upkeep(deletes=True)`; by
            default they are listed only.
    """
    settings = settings or Settings()
    lake, pipelines, now = settings.lake, settings.pipelines_dir, scheduled_start()
    tables = list_tables(lake, pipeline)
    release_versions(lake, pipelines, pipeline, now)
    drop_reports(lake, pipelines, pipeline, now)
    cared: list[Cared] = []
    for table in tables:
        rewritten = rewrite_table(settings.compute, lake, pipelines, pipeline, table, now)
        cared.append(cared_for(table, rewritten, expire_snapshots(lake, table, now)))
    show_care(pipeline, cared)
    sweep(lake, pipelines, pipeline, tables, now, delete)
    return cared
