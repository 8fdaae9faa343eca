"""What the training job is asked for and what it answers: values that travel, rows that do not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from perennial.lakehouse.lake import Lake
from perennial.rules.windows import Windows
from ray_jobs.train.fit import FitOptions


class TrainRequest(BaseModel, frozen=True):
    """Train one version of a pipeline from one snapshot of its features.

    Args:
        training_key: the run's name on S3: the same key goes on from the checkpoints that are there.
        as_of: labels known by then count.
        threads: of torch; the weights are bitwise the same only for the same number. Two are a quarter faster on two
            idle cores than one, and six times slower where they share them: one waits for the other at every step.
        worker_cpus: slots the training worker takes; a reader takes a quarter, so that both fit beside Serve's.
    """

    lake: Lake
    pipeline: str
    pipelines: Path
    training_key: str
    features_snapshot_id: int
    as_of: datetime
    threads: int = Field(1, ge=1)
    worker_cpus: float = Field(1.0, gt=0)
    max_failures: int = Field(3, ge=0)


class TrainedModel(BaseModel, frozen=True):
    """A trained model that lies on S3 and waits for its number.

    Args:
        metrics: metric -> {value, low, high} on the holdout rows; `constant`, `curve` and more beside them.
    """

    artifact_id: str
    manifest_sha256: str
    windows: Windows
    training_rows: int
    validation_rows: int
    holdout_rows: int
    row_hash: str
    holdout_row_hash: str
    params: dict[str, Any]
    metrics: dict[str, Any]
    environment_hash: str


class WorkerPlan(BaseModel, frozen=True):
    """What the training worker needs beside the rows."""

    lake: Lake
    run: str
    description: str
    options: FitOptions
    validation_start: datetime
    threads: int

    @property
    def validation_start_us(self) -> int:
        """Microseconds since 1970, as the blocks carry event times."""
        return (self.validation_start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
