"""Who served: found in the registry, shown with all that the answer rests on."""

from datetime import datetime
from typing import Any

from prefect import get_run_logger, task

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.served import Clock, Served, served_at
from tasks.telemetry import plain, show_table


@task
def find_served(lake: Lake, pipeline: str, at: datetime, clock: Clock) -> Served | None:
    """The version that was champion at a moment, with its training and its evidence."""
    return served_at(lake, pipeline, at, clock)


@task
def show_served(pipeline: str, at: datetime, served: Served | None) -> None:
    """Show the answer as a table: what is asked, what the row says."""
    moment = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    if served is None:
        get_run_logger().info("no version of %s served at %s", pipeline, moment)
        show_table(f"who-served-{pipeline}", [], description=f"No version of {pipeline} served at {moment}")
        return
    version, stage = served.version, served.stage
    get_run_logger().info("version %d of %s served at %s: %s", version.version, pipeline, moment, stage.reason)
    figures = {name: value for name, value in served.evidence().items() if isinstance(value, int | float | str)}
    found: dict[str, Any] = {
        "version": version.version,
        "since": stage.as_of.isoformat(),
        "recorded at": stage.recorded_at.isoformat(),
        "generation": stage.generation,
        "because": plain(stage.reason),
        "trained on rows": f"{version.training_rows:,} and {version.validation_rows:,} to stop by",
        "from": version.train_start.isoformat(),
        "to before": version.holdout_start.isoformat(),
        "features snapshot": version.features_snapshot_id,
        "hash of the rows": version.row_hash,
        "code": version.code_hash or version.feature_code_hash,
        "promoted by decision": served.promotion.decision_id if served.promotion else "none",
        **{f"evidence: {name}": plain(value) for name, value in figures.items()},
        "roll-out": served.rollout.verdict if served.rollout else "not ended",
    }
    rows = [{"what": name, "is": value} for name, value in found.items()]
    show_table(
        f"who-served-{pipeline}", rows, description=f"Version {version.version} of {pipeline} served at {moment}"
    )
