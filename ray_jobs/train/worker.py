"""What runs in a training worker: Ray Data's blocks into one matrix, the loop, a checkpoint after each epoch."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perennial.lakehouse.artifacts import ArtifactRefused
from perennial.rules.description import ModelDescription
from perennial.rules.network import TabularNet
from ray_jobs.train.checkpoints import read_checkpoint, runs_path, storage_of, write_checkpoint
from ray_jobs.train.fit import Batch, EpochReport, FitState, fit
from ray_jobs.train.request import WorkerPlan
from ray_jobs.train.rows import CATEGORIES, EVENT_TIME, NUMBERS, TARGET, gather_blocks

logger = logging.getLogger(__name__)


def train_worker(config: dict[str, Any]) -> None:
    """Train one model to its end, from the newest complete checkpoint where there is one."""
    import ray
    import ray.train
    from ray.train.v2.api.report_config import CheckpointUploadMode

    # One long line per report, its checkpoint's address and all; the driver tells of every epoch in a short one.
    logging.getLogger("ray.train.v2._internal.execution.context").setLevel(logging.WARNING)
    plan = WorkerPlan.model_validate_json(config["plan"])
    torch.set_num_threads(plan.threads)  # Ray sets one thread per task, which halves torch on two cores
    torch.use_deterministic_algorithms(True)
    description = ModelDescription.model_validate_json(plan.description)
    columns = gather_blocks(ray.get(config["blocks"]))
    rows = _batch(columns, description)
    validating = torch.from_numpy(columns[EVENT_TIME] >= plan.validation_start_us)
    torch.manual_seed(plan.options.seed)
    net = TabularNet(description.preprocessing, description.architecture)

    storage = storage_of(plan.lake)

    def keep(state: FitState, report: EpochReport) -> None:
        # Written by ourselves, manifest last, before Ray hears of it: what it knows is complete.
        where = write_checkpoint(storage.handler.fs, f"{runs_path(plan.lake)}/{plan.run}", state, report)
        checkpoint = ray.train.Checkpoint(where, storage)
        ray.train.report(
            {"epoch": state.epoch, "validation_loss": report.validation_loss},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    training, validation = rows.at(torch.where(~validating)[0]), rows.at(torch.where(validating)[0])
    fit(net, training, validation, plan.options, state=_resume(plan, ray.train.get_checkpoint()), after_epoch=keep)


def _resume(plan: WorkerPlan, checkpoint: Any) -> FitState | None:
    if checkpoint is None:
        return None
    try:
        return read_checkpoint(plan.lake.files(), checkpoint.path)
    except ArtifactRefused as error:
        logger.warning("training starts over: %s", error)
        return None


def _batch(columns: dict[str, NDArray[Any]], description: ModelDescription) -> Batch:
    rows = len(columns[TARGET])
    preprocessing = description.preprocessing
    numbers = columns.get(NUMBERS, np.empty((rows, preprocessing.number_width), np.float32))
    categories = columns.get(CATEGORIES, np.empty((rows, len(preprocessing.categories)), np.int64))
    return Batch(torch.from_numpy(numbers), torch.from_numpy(categories), torch.from_numpy(columns[TARGET]))
