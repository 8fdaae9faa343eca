"""Build a pipeline's features, right in both times: each row with what was known at its prediction's moment.

raw, joined tables, labels ─► features (Ray) ─► one commit, with the snapshots it was built from ─► feature page
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.features import show_feature_page
from tasks.lakehouse import build_on_ray, show_features


@flow(flow_run_name="build-features-{pipeline}")
def build_features(pipeline: str, as_of: datetime | None = None, settings: Settings | None = None) -> int:
    """Return the snapshot id of the features as of `as_of`. Running it again finds the same snapshot."""
    settings = settings or Settings()
    as_of = utc(as_of or scheduled_start())
    built = build_on_ray(settings.compute, settings.lake, settings.pipelines_dir, pipeline, as_of)
    show_features(pipeline, as_of, built)
    show_feature_page(
        settings.compute, settings.lake, settings.pipelines_dir, pipeline, as_of, built, settings.reports_base
    )
    return built.snapshot_id
