"""What retraining brought: served scores beside those of a version that was never replaced, month by month."""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.comparison import compare_versions, show_comparison
from tasks.monitoring import commit_shipped_predictions


@flow(flow_run_name="compare-{pipeline}-v{baseline_version}")
def compare(
    pipeline: str,
    start: datetime,
    end: datetime,
    baseline_version: int = 1,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> str:
    """Return where the picture lies below the environment, `reports/...`; the figures stand beside it as JSON.

    Args:
        start, end: the stretch of event time; `score` must have scored it with the baseline where others served.
        as_of: labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.lake, settings.pipelines_dir, pipeline)
    commit_shipped_predictions(settings.lake, pipeline)
    compared = compare_versions(settings.compute, *place, baseline_version, utc(start), utc(end), as_of)
    show_comparison(compared, settings.reports_base)
    return compared.picture
