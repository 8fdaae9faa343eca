"""Train a version of a pipeline's model from a pinned snapshot of its features.

features (pinned) ─► Ray Train ─► files on S3 ─► version: one row, its snapshot kept, stage challenger
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.card import show_card
from tasks.training import (
    find_trained,
    keep_snapshot,
    plan_training,
    record_challenger,
    register_trained,
    show_version,
    train_model,
)


@flow(flow_run_name="train-{pipeline}")
def train(
    pipeline: str,
    as_of: datetime | None = None,
    reason: str = "asked for",
    settings: Settings | None = None,
    train_from: datetime | None = None,
) -> int:
    """Return the number of the trained version. The same features, moment and code give the version there is.

    Args:
        as_of: labels known by then count; by default the run's scheduled start.
        reason: why it is trained, as the version's row will say.
        train_from: the oldest event time to learn from; by default everything.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    plan = plan_training(
        settings.lake, settings.pipelines_dir, pipeline, as_of, reason, utc(train_from) if train_from else None
    )

    version = find_trained(settings.lake, plan)
    if version is None:
        trained = train_model(settings.compute, settings.training, settings.lake, settings.pipelines_dir, plan)
        version = register_trained(settings.lake, plan, trained)
    keep_snapshot(settings.lake, version)
    record_challenger(settings.lake, version)
    show_version(version)
    # a card that cannot be drawn is a failed task that people see; it holds up no version
    show_card(
        settings.compute,
        settings.lake,
        settings.pipelines_dir,
        pipeline,
        version.version,
        settings.reports_base,
        return_state=True,
    )
    return version.version
