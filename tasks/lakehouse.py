"""The lakehouse's effects in a run: plan a batch, publish it, finish its quarantine."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.runtime import flow_run
from pyiceberg.table import Table

from perennial.faults import fault_point
from perennial.lakehouse import batches, quarantine
from perennial.lakehouse.commit import Expectation, append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import POSITION, Batch, PositionMoved, expect_position, position_after
from perennial.lakehouse.positions import plan_batch as plan
from perennial.lakehouse.raw import BATCH_ROWS, published_rows, raw_table
from perennial.lakehouse.results import RESULT, batch_result, stage_result
from perennial.lakehouse.staging import staged_files
from perennial.lakehouse.tables import snapshot_summary
from perennial.rules.batch import judge_batch
from perennial.rules.features import contract_hash
from perennial.spec import load_pipeline
from perennial.spec.checks import MOST_HISTORY
from tasks.compute import Compute, run_job
from tasks.renamed import tell_renamed
from tasks.telemetry import show_table

if TYPE_CHECKING:
    from ray_jobs.features.build import BuiltFeatures
    from ray_jobs.ingest.stage import StagedBatch


@dataclass(frozen=True)
class PublishedBatch:
    """A batch as it stands in `raw`: the rows it brought, or why it was refused."""

    batch: Batch
    rows: int
    refusal: str = ""


class PartsLeftOut(ValueError):
    """Files that arrived are not what they should be: a failure of the data. They are where they were, and stay new."""


@task
def list_sources(pipelines: Path, pipeline: str) -> list[str]:
    """Names of a pipeline's sources."""
    return [source.name for source in load_pipeline(pipeline, pipelines).sources]


@task(timeout_seconds=600)
def finish_outbox(lake: Lake, pipeline: str, source: str) -> None:
    """Append what the last batch of a source left in its outbox; a no-op when nothing is left."""
    if quarantine.finish_quarantine(lake, pipeline, source):
        get_run_logger().info("quarantined rows of %s/%s appended", pipeline, source)
    batches.finish_batch(lake, pipeline, source)


@task(timeout_seconds=600)
def plan_batch(lake: Lake, pipelines: Path, pipeline: str, source: str, as_of: datetime) -> Batch:
    """What arrived since the last committed position."""
    declared = load_pipeline(pipeline, pipelines)
    batch = plan(lake, declared, declared.source(source), as_of)
    logger = get_run_logger()
    logger.info("%s/%s: %s", pipeline, source, "nothing new" if batch.is_empty else f"new: {batch.contents}")
    if batch.alarm:
        logger.error("%s/%s: %s", pipeline, source, batch.alarm)
    tell_renamed(batch.renamed)
    return batch


@task(timeout_seconds=4 * 3600)
def stage_batch(compute: Compute, lake: Lake, pipelines: Path, batch: Batch) -> "StagedBatch":
    """Check the batch on Ray and write both halves as files that no table refers to."""
    return stage(compute, lake, pipelines, batch)


def stage(compute: Compute, lake: Lake, pipelines: Path, batch: Batch, refused: bool = False) -> "StagedBatch":
    """As `stage_batch`; a refused batch goes to quarantine, all of it."""
    from ray_jobs.ingest.stage import StageRequest
    from ray_jobs.ingest.stage import stage as job

    request = StageRequest(
        lake=lake,
        batch=batch,
        run_id=str(flow_run.id or ""),
        committed_at=datetime.now(UTC),
        pipelines=pipelines,
        refused=refused,
    )
    staged = run_job(compute, job, request)
    tell_renamed(staged.batch.renamed[len(batch.renamed) :])
    return staged


@task
def judge_staged(lake: Lake, pipelines: Path, staged: "StagedBatch") -> str:
    """Why a staged batch is refused whole, as people read it; empty to publish it."""
    batch = staged.batch
    source = load_pipeline(batch.pipeline, pipelines).source(batch.source)
    table = lake.catalog().load_table(raw_table(lake, batch.pipeline, batch.source))
    verdict = judge_batch(source, staged.counts, batch.as_of, published_rows(table))
    for rule in verdict.rules:
        if not rule.passed:
            get_run_logger().warning(
                "%s/%s: batch %s: %s: %s", batch.pipeline, batch.source, batch.batch_id, rule.name, rule.detail
            )
    return verdict.refusal or ""


@task(timeout_seconds=1200)  # no retries: the committer has its own, and only it knows what landed
def publish_batch(lake: Lake, pipelines: Path, staged: "StagedBatch") -> PublishedBatch:
    """Make a staged batch visible in one commit with its position and outbox.

    A refused one commits no rows, but the position, so that newer data is not held up, and the outbox, so that all its
    rows come to quarantine.

    Returns:
        What stands in `raw`: also when another run had published the batch already, perhaps with another verdict.

    Raises:
        PositionMoved: another run committed data of this source meanwhile; plan again.
    """
    batch, counts = staged.batch, staged.counts
    source = load_pipeline(batch.pipeline, pipelines).source(batch.source)
    name = f"{batch.pipeline}/{batch.source}"
    fault_point("verdict")
    # the commit before may have been another run's that was killed: its outbox would be overwritten by ours
    quarantine.finish_quarantine(lake, batch.pipeline, batch.source)
    batches.finish_batch(lake, batch.pipeline, batch.source)
    table = lake.catalog().load_table(raw_table(lake, batch.pipeline, batch.source))
    position = position_after(lake, batch)
    judged = judge_batch(source, counts, batch.as_of, published_rows(table)).model_copy(
        update={"refusal": staged.refusal or None}
    )
    kept = counts.rows - staged.published_rows
    result = batch_result(source, batch, counts, judged, kept, str(flow_run.id or ""))
    told = {
        "perennial.source-id": batch.source_id,
        "perennial.positions": position,
        "perennial.run-id": str(flow_run.id or ""),
        "perennial.code": contract_hash(source),
        "perennial.rows": str(counts.rows),
        "perennial.quarantined-rows": str(kept),
        "perennial.refusal": staged.refusal,
    }
    history = published_rows(table) if staged.refusal else [*published_rows(table), counts.rows]
    committed = append_once(
        lake,
        raw_table(lake, batch.pipeline, batch.source),
        staged_files(table, staged.rows),
        batch.batch_id,
        summary=told,
        properties={
            POSITION: position,
            quarantine.OUTBOX: " ".join([batch.batch_id, *staged.quarantine]),
            BATCH_ROWS: " ".join(str(rows) for rows in history[-MOST_HISTORY:]),
            RESULT: stage_result(lake, batch.pipeline, result),
        },
        expect=_expect(staged),
    )
    fault_point("committed")
    # what another run committed of this batch is told by its snapshot, unless that has expired since
    stands = told | snapshot_summary(table.refresh(), committed.snapshot_id)
    quarantined = int(stands["perennial.quarantined-rows"])
    published = PublishedBatch(
        batch=batch, rows=int(stands["perennial.rows"]) - quarantined, refusal=stands["perennial.refusal"]
    )
    get_run_logger().info(
        "%s: batch %s %s%s: %s rows, %s quarantined",
        name,
        batch.batch_id,
        "was already " if committed.already else "",
        "refused" if published.refusal else "published",
        f"{published.rows:,}",
        f"{quarantined:,}",
    )
    return published


def _expect(staged: "StagedBatch") -> Expectation:
    """The committer's check: position, and the table that the batch's keys were compared with, are still the same."""
    position = expect_position(staged.batch)

    def check(table: Table) -> None:
        position(table)
        current = table.current_snapshot()
        if staged.compared_with is not None and (current is None or current.snapshot_id != staged.compared_with):
            raise PositionMoved(
                f"batch {staged.batch.batch_id} of {staged.batch.pipeline}/{staged.batch.source}: rows were committed since "
                "its keys were compared with the table's. Nothing of this batch was; running ingest again brings it in."
            )

    return check


@task
def report_unreadable(staged: "StagedBatch") -> None:
    """Fail where files of a batch could not be read, after the others were published.

    Raises:
        PartsLeftOut: names them, and what is wrong with each.
    """
    if staged.unreadable:
        some = "; ".join(f"{part}: {reason}" for part, reason in list(staged.unreadable.items())[:10])
        raise PartsLeftOut(
            f"{staged.batch.pipeline}/{staged.batch.source}: {len(staged.unreadable)} of what arrived cannot be read and "
            f"was left out; everything else of the batch is published. {some}. Write them anew or take them away; until "
            "then each run tries them again."
        )


@task(timeout_seconds=4 * 3600)
def build_on_ray(compute: Compute, lake: Lake, pipelines: Path, pipeline: str, as_of: datetime) -> "BuiltFeatures":
    """Build the features as of a moment; one commit publishes them."""
    from ray_jobs.features.build import BuildRequest, build

    built = run_job(compute, build, BuildRequest(lake=lake, pipeline=pipeline, as_of=as_of, pipelines=pipelines))
    how = "already stood" if built.already else "built"
    get_run_logger().info(
        "features of %s as of %s %s: %s rows, %s labelled, %s came or changed",
        pipeline,
        as_of.date(),
        how,
        f"{built.rows:,}",
        f"{built.labelled_rows:,}",
        f"{built.rebuilt_rows:,}",
    )
    return built


@task
def show_features(pipeline: str, as_of: datetime, built: "BuiltFeatures") -> None:
    """Show what was built, and from which snapshots."""
    rows: list[dict[str, object]] = [
        {"what": "rows", "value": built.rows},
        {"what": "rows with a known label", "value": built.labelled_rows},
        {"what": "rows without one (not arrived yet, cancelled, diverted)", "value": built.rows - built.labelled_rows},
        {"what": "rows that came or changed with this build", "value": built.rebuilt_rows},
        {"what": "features whose code had changed", "value": ", ".join(built.stale) or "none"},
        {"what": "snapshot", "value": str(built.snapshot_id)},
        {"what": "built from", "value": json.dumps(built.inputs)},
    ]
    show_table(f"features-{pipeline}", rows, f"Features of {pipeline} as of {as_of.isoformat()}")
