"""A batch that is refused whole: nothing of it becomes readable, all of it is kept, and the run says so."""

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from perennial.lakehouse.lake import Lake
from tasks.compute import Compute
from tasks.lakehouse import PublishedBatch, stage

if TYPE_CHECKING:
    from ray_jobs.ingest.stage import StagedBatch


class BatchRefused(ValueError):
    """A batch broke the contract as a whole. Nothing of it is readable; all its rows are in quarantine."""


class BatchChanged(RuntimeError):
    """What arrived read differently the second time. Nothing of the batch was committed; it is still new."""


@task(timeout_seconds=4 * 3600)
def refuse_batch(compute: Compute, lake: Lake, pipelines: Path, staged: "StagedBatch", refusal: str) -> "StagedBatch":
    """Stage a refused batch again, all of it for quarantine.

    What was staged of it for `raw` is parsed, and lacks the fields that the contract does not name: only what arrived
    says what arrived. No table will refer to the first files.

    Raises:
        BatchChanged: reading it again gave other rows.
    """
    batch, first = staged.batch, staged.counts
    again = stage(compute, lake, pipelines, batch, refused=True)
    if (again.counts.rows, again.counts.quarantined_rows) != (first.rows, first.quarantined_rows):
        raise BatchChanged(
            f"batch {batch.batch_id} of {batch.pipeline}/{batch.source} had {first.rows:,} rows, {first.quarantined_rows:,} "
            f"of them broken, and when it was read again {again.counts.rows:,} and {again.counts.quarantined_rows:,}. "
            "Nothing of it was committed. Run ingest again."
        )
    return again.model_copy(update={"refusal": refusal, "unreadable": staged.unreadable})


def refused(published: PublishedBatch) -> BatchRefused:
    """What the run of a refused batch fails with: why, what state things are in, and the next step."""
    batch = published.batch
    return BatchRefused(
        f"batch {batch.batch_id} of {batch.pipeline}/{batch.source} ({batch.contents}) is refused: {published.refusal} "
        "Nothing of it is readable and every row of it is kept in quarantine; newer data comes in as before. Correct the "
        "contract, or declare a repair function, in the pipeline's file, and run: make run FLOW=repair "
        f"PIPELINE={batch.pipeline} SOURCE={batch.source} BATCH={batch.batch_id}"
    )
