"""Build a pipeline's features over years, window by window, in parallel; what stands already is left alone.

start ─► windows of a month ─► missing or stale ones (Ray, each a commit of its own) ─► end
"""

from datetime import datetime

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.features import build_window, plan_windows, show_windows


@flow(flow_run_name="backfill-{pipeline}", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]  # Prefect's own
def backfill(
    pipeline: str,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> dict[str, int]:
    """Return for every window of event time the rows that were built; none for those that stood already.

    Args:
        start, end: event times to cover, [start, end); by default all that the entity's rows have.
        as_of: rows and labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of or scheduled_start())
    windows = plan_windows(
        settings.lake, settings.pipelines_dir, pipeline, start and utc(start), end and utc(end), as_of
    )
    waiting = [
        build_window.submit(settings.compute, settings.lake, settings.pipelines_dir, pipeline, as_of, *window)
        for window in windows
    ]
    built = {f"{window[0]:%Y-%m-%d}": one.result() for window, one in zip(windows, waiting, strict=True)}
    show_windows(pipeline, as_of, built)
    return built
