"""Train a version again from the rows it was trained on, and say what came out otherwise and what has changed since."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run
from pydantic import BaseModel
from pyiceberg.exceptions import NoSuchTableError

from perennial.lakehouse.artifacts import (
    ENVIRONMENT,
    PIPELINE,
    WEIGHTS,
    delete_artifact,
    read_artifact_file,
    read_manifest,
)
from perennial.lakehouse.decisions import Decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.tables import dotted
from perennial.lakehouse.tags import version_tag
from perennial.rules.rebuilt import Difference, Rebuilt, diff_metrics, diff_text, diff_values, judge_rebuild
from perennial.spec import load_pipeline
from tasks.telemetry import plain, show_markdown, show_table
from tasks.training import TrainingPlan, planned

if TYPE_CHECKING:
    from ray_jobs.train.config import TrainConfig
    from ray_jobs.train.request import TrainedModel


class Rebuild(BaseModel, frozen=True):
    """A version to be trained again. `obstacle`: why it cannot be; there is no plan then."""

    version: ModelVersion
    plan: TrainingPlan | None = None
    obstacle: Rebuilt | None = None


@task
def plan_rebuild(lake: Lake, pipelines: Path, pipeline: str, version: int) -> Rebuild:
    """Find the version's rows, and whether the pipeline's file of today can be trained on them."""
    from perennial.rules.features import input_names

    found = read_version(lake, pipeline, version)
    declared = load_pipeline(pipeline, pipelines)
    identifier = lake.table(pipeline, "features")
    try:
        table = lake.catalog().load_table(identifier)
        snapshot = table.snapshot_by_id(found.features_snapshot_id)
    except NoSuchTableError:
        snapshot = None
    if snapshot is None:
        reason = (
            f"snapshot {found.features_snapshot_id} of {dotted(identifier)}, which holds its training rows, is gone: its tag "
            f"{version_tag(version)} was released after the version had ended, or the table was made anew. Nothing was trained"
        )
        return Rebuild(version=found, obstacle=Rebuilt(verdict="rows_gone", reason=reason))
    there = {field.name for field in table.schemas()[snapshot.schema_id or 0].fields}
    missing = [name for name in input_names(declared) if name not in there]
    if missing:
        gone = Difference(what="inputs", then=str(sorted(there)), now=str(missing))
        reason = (
            f"the pipeline's file of today wants the inputs {missing}, which its training rows do not have. Nothing was "
            "trained. Check out the revision whose text is shown below, then run again"
        )
        return Rebuild(version=found, obstacle=Rebuilt(verdict="differs", reason=reason, differences=[gone]))
    key = f"again-{found.training_key[:16]}-{str(flow_run.get_id() or 'local')[-12:]}"
    plan = planned(
        declared, key, found.features_snapshot_id, found.as_of, f"version {version} again", found.train_start
    )
    return Rebuild(version=found, plan=plan)


def config_of(version: ModelVersion, config: "TrainConfig") -> "TrainConfig":
    """How the version was trained, as far as its weights depend on it; where it runs is for this place to say."""
    recorded = json.loads(version.params)
    names = ("workers", "maximum_workers", "threads")
    return config.model_copy(update={name: recorded[name] for name in names if name in recorded})


@task(timeout_seconds=600)
def compare_rebuild(lake: Lake, pipelines: Path, rebuild: Rebuild, trained: "TrainedModel | None") -> Rebuilt:
    """What came out otherwise, and what has changed since that it may come from; the copy's files are removed then."""
    version = rebuild.version
    then = _environment(lake, version.pipeline, version.artifact_id, version.manifest_sha256)
    if trained is None:
        assert rebuild.obstacle is not None
        return rebuild.obstacle
    assert rebuild.plan is not None
    now = _environment(lake, version.pipeline, trained.artifact_id, trained.manifest_sha256)
    differences = _changes(rebuild, trained, then, now)
    outcome = [
        Difference(what=what, then=before, now=after)
        for what, before, after in (
            ("the training rows", version.row_hash, trained.row_hash),
            ("the holdout's rows", version.holdout_row_hash or trained.holdout_row_hash, trained.holdout_row_hash),
            ("the weights", *(_weights(lake, version.pipeline, *m) for m in _both(version, trained))),
        )
        if before != after
    ]
    outcome[-1:-1] = diff_metrics(version.read_metrics(), json.loads(json.dumps(trained.metrics)))
    delete_artifact(lake, version.pipeline, trained.artifact_id)
    storage, run = lake.files(), lake.uri(f"training/{rebuild.plan.training_key}")
    if storage.exists(run):
        storage.rm(run, recursive=True)
    return judge_rebuild(differences, outcome)


@task(timeout_seconds=600)
def record_rebuild(lake: Lake, rebuild: Rebuild, rebuilt: Rebuilt) -> Decision:
    """Commit how a rebuild came out; every run of the flow is one row."""
    version = rebuild.version
    run = str(flow_run.get_id() or "local")
    decision = Decision(
        decision_id=f"{version.pipeline}-v{version.version}-again-{run[-12:]}",
        pipeline=version.pipeline,
        kind="reproduction",
        version=version.version,
        verdict=rebuilt.verdict,
        reason=rebuilt.reason,
        evidence=rebuilt.model_dump_json(include={"differences", "outcome"}),
        run_id=run,
        as_of=datetime.now(UTC),
    )
    return record_decision(lake, decision)


@task
def show_rebuild(lake: Lake, pipelines: Path, rebuild: Rebuild, decision: Decision) -> None:
    """Show how a rebuild came out: the sentence, what differs, and the lines of the pipeline's file that changed."""
    version = rebuild.version
    get_run_logger().info(
        "version %d of %s: %s: %s", version.version, version.pipeline, decision.verdict, decision.reason
    )
    evidence: dict[str, list[dict[str, Any]]] = json.loads(decision.evidence)
    stored = _text(lake, version)
    today = (pipelines / f"{version.pipeline}.py").read_text()
    changed = "" if stored is None else diff_text(stored, today)
    code = "".join(f"    {line}\n" for line in changed.splitlines())
    shown = f"\nLines of the pipeline's file that changed since:\n\n{code}\n" if changed else ""
    show_markdown(
        f"reproduce-{version.pipeline}",
        f"## Version {version.version} of {version.pipeline}: {decision.verdict.replace('_', ' ')}\n\n"
        f"{plain(decision.reason)}.\n\nRows `{version.row_hash}`, snapshot `{version.features_snapshot_id}`.\n{shown}\n"
        f"Decision `{decision.decision_id}`.\n",
        description=f"Version {version.version} of {version.pipeline}, trained again: {decision.verdict}",
    )
    rows = [{"kind": kind, **row} for kind in ("outcome", "differences") for row in evidence[kind]]
    if rows:
        show_table(
            f"reproduce-differences-{version.pipeline}", rows, description=f"What differs; {decision.decision_id}"
        )


def _changes(
    rebuild: Rebuild, trained: "TrainedModel", then: dict[str, Any] | None, now: dict[str, Any] | None
) -> list[Difference]:
    version, plan = rebuild.version, rebuild.plan
    assert plan is not None
    found = diff_values("parameter", json.loads(version.params), json.loads(json.dumps(trained.params)))
    code = {"features": version.feature_code_hash, "whole pipeline": version.code_hash or plan.code_hash}
    found += diff_values("code of the", code, {"features": plan.feature_code_hash, "whole pipeline": plan.code_hash})
    found += diff_values("contract of", json.loads(version.contract_hash), json.loads(plan.contract_hash))
    if then is None or now is None:
        return found + diff_values("environment", {"hash": version.lock_hash}, {"hash": trained.environment_hash})
    found += diff_values("package", then["packages"], now["packages"])
    machine = ("python", "machine", "cpu_capability")
    return found + diff_values("machine's", {n: then.get(n) for n in machine}, {n: now.get(n) for n in machine})


def _both(version: ModelVersion, trained: "TrainedModel") -> list[tuple[str, str]]:
    return [(version.artifact_id, version.manifest_sha256), (trained.artifact_id, trained.manifest_sha256)]


def _weights(lake: Lake, pipeline: str, artifact_id: str, manifest_sha256: str) -> str:
    return read_manifest(lake, pipeline, artifact_id, manifest_sha256).files[WEIGHTS].sha256


def _environment(lake: Lake, pipeline: str, artifact_id: str, manifest_sha256: str) -> dict[str, Any] | None:
    """What was installed; None for a version that was stored before that was kept."""
    if ENVIRONMENT not in read_manifest(lake, pipeline, artifact_id, manifest_sha256).files:
        return None
    found: dict[str, Any] = json.loads(read_artifact_file(lake, pipeline, artifact_id, manifest_sha256, ENVIRONMENT))
    return found


def _text(lake: Lake, version: ModelVersion) -> str | None:
    place = (lake, version.pipeline, version.artifact_id, version.manifest_sha256)
    if PIPELINE not in read_manifest(*place).files:
        return None
    return read_artifact_file(*place, PIPELINE).decode(errors="replace")
