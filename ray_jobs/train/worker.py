"""What runs in a training worker: rows from Ray Data into one matrix, the loop, a checkpoint after each epoch."""

import logging
from typing import Any

import numpy as np
import torch

from perennial.lakehouse.artifacts import ArtifactRefused
from perennial.rules.network import TabularNet
from perennial.rules.scoring import ModelDescription
from ray_jobs.train.checkpoints import read_checkpoint, runs_path, storage_of, write_checkpoint
from ray_jobs.train.fit import Batch, EpochReport, FitState, fit
from ray_jobs.train.request import WorkerPlan
from ray_jobs.train.rows import CATEGORIES, EVENT_TIME, NUMBERS, POSITION, TARGET

logger = logging.getLogger(__name__)


def train_worker(config: dict[str, Any]) -> None:
    """Train one model to its end, from the newest complete checkpoint where there is one."""
    import ray.train
    from ray.train.v2.api.report_config import CheckpointUploadMode

    plan = WorkerPlan.model_validate_json(config["plan"])
    torch.set_num_threads(plan.threads)  # Ray sets one thread per task, which halves torch on two cores
    torch.use_deterministic_algorithms(True)
    description = ModelDescription.model_validate_json(plan.description)
    rows, times = _gather(ray.train.get_dataset_shard("train"), description)
    validating = torch.from_numpy(times >= np.int64(plan.validation_start.timestamp() * 1_000_000))
    torch.manual_seed(plan.options.seed)
    net = TabularNet(description.preprocessing, description.architecture)

    def keep(state: FitState, report: EpochReport) -> None:
        name = write_checkpoint(plan.lake, plan.run, state, report)
        # Written by ourselves, manifest last, before Ray hears of it: what it knows is complete.
        checkpoint = ray.train.Checkpoint(f"{runs_path(plan.lake)}/{plan.run}/{name}", storage_of(plan.lake))
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
        return read_checkpoint(plan.lake, checkpoint.path)
    except ArtifactRefused as error:
        logger.warning("training starts over: %s", error)
        return None


def _gather(shard: Any, description: ModelDescription) -> tuple[Batch, np.ndarray[Any, np.dtype[np.int64]]]:
    parts: dict[str, list[Any]] = {}
    for batch in shard.iter_batches(batch_size=None, batch_format="numpy"):
        for name, values in batch.items():
            parts.setdefault(name, []).append(np.asarray(values))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    # One order, however Ray delivered the blocks: by event time, then file and row.
    order = np.lexsort((columns[POSITION], columns[EVENT_TIME]))
    width = description.preprocessing.number_width
    categories = len(description.preprocessing.categories)
    rows = len(order)
    return Batch(
        torch.from_numpy(columns.get(NUMBERS, np.empty((rows, width), np.float32))[order]),
        torch.from_numpy(columns.get(CATEGORIES, np.empty((rows, categories), np.int64))[order]),
        torch.from_numpy(columns[TARGET][order]),
    ), columns[EVENT_TIME][order]
