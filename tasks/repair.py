"""A repair's effects: choose open rows, judge them again, publish those that pass now, show the rest."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from perennial.faults import fault_point
from perennial.lakehouse import quarantine
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.quarantine import LAST_REPAIR, Repair, expect_repair
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.staging import staged_files
from perennial.rules.features import contract_hash
from perennial.spec import load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, show_table

if TYPE_CHECKING:
    from ray_jobs.ingest.repair import StagedRepair


@task(timeout_seconds=600)
def plan_repair(lake: Lake, pipelines: Path, pipeline: str, source: str, batch: str, check: str) -> Repair:
    """The open rows of a source that were chosen, as they stand now."""
    declared = load_pipeline(pipeline, pipelines)
    return quarantine.plan_repair(lake, declared, declared.source(source), batch, check)


@task(timeout_seconds=4 * 3600)
def stage_repair(compute: Compute, lake: Lake, pipelines: Path, repair: Repair, as_of: datetime) -> "StagedRepair":
    """Judge the rows again on Ray and write those that pass as files that no table refers to."""
    from ray_jobs.ingest.repair import RepairRequest, stage_repair

    request = RepairRequest(lake=lake, repair=repair, as_of=as_of, committed_at=datetime.now(UTC), pipelines=pipelines)
    return run_job(compute, stage_repair, request)


@task(timeout_seconds=1200)  # no retries: the committer has its own, and only it knows what landed
def publish_repair(lake: Lake, pipelines: Path, staged: "StagedRepair") -> int:
    """Bring back the rows that pass now, in one commit; return how many. Without any, nothing is committed.

    Raises:
        RepairMoved: another run repaired rows of this source meanwhile; plan again.
    """
    repair = staged.repair
    name = f"{repair.pipeline}/{repair.source}"
    still = f"{staged.counts.quarantined_rows:,} still break the contract"
    if not staged.rows:
        get_run_logger().info("%s: nothing to bring back; %s", name, still)
        return 0
    source = load_pipeline(repair.pipeline, pipelines).source(repair.source)
    identifier = raw_table(lake, repair.pipeline, repair.source)
    table = lake.catalog().load_table(identifier)
    append_once(
        lake,
        identifier,
        staged_files(table, staged.rows),
        repair.repair_id,
        summary={
            "perennial.run-id": str(flow_run.id or ""),
            "perennial.code": contract_hash(source),
            "perennial.repaired-rows": str(staged.repaired_rows),
        },
        properties={LAST_REPAIR: repair.repair_id},
        expect=expect_repair(repair, staged.compared_with),
    )
    fault_point("committed")
    get_run_logger().info("%s: %s brought back %s rows; %s", name, repair.repair_id, f"{staged.repaired_rows:,}", still)
    return staged.repaired_rows


@task
def show_repair(staged: "StagedRepair") -> None:
    """Show in the UI what came back and what the other rows still fail."""
    repair, counts = staged.repair, staged.counts
    rows: list[dict[str, object]] = [
        {"what": "open rows looked at", "rows": counts.rows},
        {"what": "brought back to raw", "rows": staged.repaired_rows},
        {"what": "still in quarantine", "rows": counts.quarantined_rows},
        *({"what": f"still fail {plain(name)}", "rows": check.rows} for name, check in counts.failed.items()),
    ]
    chosen = [f"batch {repair.batch}"] * bool(repair.batch) + [f"check {plain(repair.check)}"] * bool(repair.check)
    show_table(
        f"repair-{repair.pipeline}-{repair.source}",
        rows,
        f"Quarantine of {repair.pipeline}/{repair.source}, {' and '.join(chosen) or 'all open rows'}",
    )
