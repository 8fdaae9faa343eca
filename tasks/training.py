"""Training's effects: pin the features, train on Ray, register, keep the snapshot, show the version."""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import (
    ModelVersion,
    champion,
    find_training,
    register_version,
    snapshot_as_of,
)
from perennial.lakehouse.stages import record_stage
from perennial.lakehouse.tables import dotted, snapshot_summary
from perennial.lakehouse.tags import tag_snapshot, version_tag
from perennial.spec import Pipeline, load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, show_markdown, show_table

if TYPE_CHECKING:
    from ray_jobs.train.config import TrainConfig
    from ray_jobs.train.request import TrainedModel


class NoFeatures(LookupError):
    """There is no table of features to train on."""


class TrainingPlan(BaseModel, frozen=True):
    """One training: everything that decides its outcome, and the key that makes a rerun the same training."""

    pipeline: str
    training_key: str
    features_snapshot_id: int
    as_of: datetime
    feature_code_hash: str
    contract_hash: str
    code_hash: str
    seed: int
    reason: str
    train_from: datetime | None = None


@task
def plan_training(
    lake: Lake, pipelines: Path, pipeline: str, as_of: datetime, reason: str, train_from: datetime | None = None
) -> TrainingPlan:
    """Pin the features' snapshot of that moment and name the training after all that its outcome depends on.

    Raises:
        NoFeatures: nothing was built yet.
    """
    from perennial.rules.features import code_hash, pipeline_code_hash

    declared = load_pipeline(pipeline, pipelines)
    identifier = lake.table(pipeline, "features")
    snapshot_id = snapshot_as_of(lake, identifier, as_of)
    if snapshot_id is None:
        raise NoFeatures(f"{dotted(identifier)} has no rows: nothing was trained. Run ingest, then build_features.")
    # A network and a loss of the pipeline's own are functions: what they do is part of the outcome, not where they are.
    model = {name: code_hash(value) if callable(value) else value for name, value in asdict(declared.model).items()}
    holdout = [declared.promotion.holdout.total_seconds(), declared.promotion.minimum_rows]
    parts = [pipeline, snapshot_id, as_of.astimezone(UTC).isoformat(), pipeline_code_hash(declared), model, holdout]
    parts += [train_from.astimezone(UTC).isoformat()] if train_from else []
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return planned(declared, key, snapshot_id, as_of, reason, train_from)


def planned(
    declared: Pipeline, key: str, snapshot_id: int, as_of: datetime, reason: str, train_from: datetime | None = None
) -> TrainingPlan:
    """The training of a pipeline as it is declared here, on a snapshot of its features, under a key."""
    from perennial.rules.features import contract_hash, feature_code_hash, pipeline_code_hash

    return TrainingPlan(
        pipeline=declared.name,
        training_key=key,
        features_snapshot_id=snapshot_id,
        as_of=as_of,
        feature_code_hash=feature_code_hash(declared),
        code_hash=pipeline_code_hash(declared),
        contract_hash=json.dumps({source.name: contract_hash(source) for source in declared.sources}),
        seed=declared.model.seed,
        reason=reason,
        train_from=train_from,
    )


@task
def find_trained(lake: Lake, plan: TrainingPlan) -> ModelVersion | None:
    """The version an earlier run of this very training registered, or None."""
    return find_training(lake, plan.pipeline, plan.training_key)


@task(timeout_seconds=3600)  # no retries: Ray Train goes on from its checkpoints by itself, and a rerun does, too
def train_model(
    compute: Compute, config: "TrainConfig", lake: Lake, pipelines: Path, plan: TrainingPlan
) -> "TrainedModel":
    """Train on Ray; the model lies on S3 and has no number yet."""
    from ray_jobs.train.request import TrainRequest
    from ray_jobs.train.train import train

    request = TrainRequest(
        lake=lake,
        pipeline=plan.pipeline,
        pipelines=pipelines,
        training_key=plan.training_key,
        features_snapshot_id=plan.features_snapshot_id,
        as_of=plan.as_of,
        train_from=plan.train_from,
        config=config,
    )
    return run_job(compute, train, request)


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def register_trained(lake: Lake, plan: TrainingPlan, trained: "TrainedModel") -> ModelVersion:
    """Give the model its number and its row; the version there is, if another run was faster."""
    parent = champion(lake, plan.pipeline)
    table = lake.catalog().load_table(lake.table(plan.pipeline, "features"))
    version = ModelVersion(
        pipeline=plan.pipeline,
        training_key=plan.training_key,
        artifact_id=trained.artifact_id,
        manifest_sha256=trained.manifest_sha256,
        features_snapshot_id=plan.features_snapshot_id,
        raw_snapshot_ids=json.dumps(snapshot_summary(table, plan.features_snapshot_id), default=str),
        training_rows=trained.training_rows,
        validation_rows=trained.validation_rows,
        holdout_rows=trained.holdout_rows,
        row_hash=trained.row_hash,
        holdout_row_hash=trained.holdout_row_hash,
        contract_hash=plan.contract_hash,
        code_hash=plan.code_hash,
        feature_code_hash=plan.feature_code_hash,
        seed=plan.seed,
        params=json.dumps(trained.params),
        metrics=json.dumps(trained.metrics),
        lock_hash=trained.environment_hash,
        parent_version=parent.version if parent else None,
        reason=plan.reason,
        as_of=plan.as_of,
        train_start=trained.windows.train_start,
        holdout_start=trained.windows.holdout_start,
        holdout_end=trained.windows.holdout_end,
        created_at=datetime.now(UTC),
    )
    return register_version(lake, version)


@task(timeout_seconds=600)
def keep_snapshot(lake: Lake, version: ModelVersion) -> None:
    """Tag the snapshot a version was trained from, so that it can be trained again; expiry leaves tags alone."""
    identifier = lake.table(version.pipeline, "features")
    tag_snapshot(lake, identifier, version.features_snapshot_id, version_tag(version.version))


@task(timeout_seconds=600)
def record_challenger(lake: Lake, version: ModelVersion) -> None:
    """Record that a version wants to serve, once."""
    record_stage(
        lake,
        version.pipeline,
        version.version,
        "challenger",
        as_of=version.as_of,
        reason=version.reason,
        decision_id=version.training_key,
    )


@task
def show_version(version: ModelVersion) -> None:
    """Show a version in the UI: what it was trained on, and what it is worth on the rows kept from it."""
    metrics = version.read_metrics()
    get_run_logger().info("version %s of %s is registered", version.version, version.pipeline)
    show_markdown(
        f"version-{version.pipeline}",
        f"## Version {version.version} of {version.pipeline}\n\n{plain(version.reason)}\n\n"
        f"Trained on {version.training_rows:,} rows and stopped by {version.validation_rows:,} from "
        f"{version.train_start:%Y-%m-%d} to {version.holdout_start:%Y-%m-%d}; judged on {version.holdout_rows:,} rows "
        f"to {version.holdout_end:%Y-%m-%d}, with the labels known by {version.as_of:%Y-%m-%d %H:%M} UTC.\n\n"
        f"Features snapshot `{version.features_snapshot_id}`, rows `{version.row_hash[:16]}`, code "
        f"`{version.feature_code_hash}`, seed {version.seed}, epochs {metrics.get('epochs')}.\n",
        description=f"Version {version.version} of {version.pipeline}",
    )
    figures = [
        {"metric": name, **{key: _rounded(value) for key, value in found.items()}}
        for name, found in metrics.items()
        if isinstance(found, dict)
    ]
    show_table(
        f"metrics-{version.pipeline}",
        figures,
        description=f"Version {version.version} of {version.pipeline} on its holdout rows, 95% bootstrap intervals",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
