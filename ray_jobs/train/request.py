"""What the training job is asked for and what it answers: values that travel, rows that do not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.rules.windows import Windows
from ray_jobs.train.config import TrainConfig
from ray_jobs.train.fit import FitOptions


class TrainRequest(BaseModel, frozen=True):
    """Train one version of a pipeline from one snapshot of its features.

    Args:
        training_key: the run's name on S3: the same key goes on from the checkpoints that are there.
        as_of: labels known by then count.
        train_from: the oldest event time that is learned from; None: everything.
    """

    lake: Lake
    pipeline: str
    pipelines: Path
    training_key: str
    features_snapshot_id: int
    as_of: datetime
    train_from: datetime | None = None
    config: TrainConfig = TrainConfig()


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
    """What the training workers need beside the rows.

    Args:
        class_weights: by the target's value, or none; `mean_weight`: what a training row weighs on average.
    """

    lake: Lake
    pipeline: str
    pipelines: Path
    run: str
    description: str
    options: FitOptions
    validation_start: datetime
    config: TrainConfig
    on_gpu: bool
    class_weights: tuple[float, ...] = ()
    mean_weight: float = 1.0

    @property
    def validation_start_us(self) -> int:
        """Microseconds since 1970, as the blocks carry event times."""
        return (self.validation_start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
