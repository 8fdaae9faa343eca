"""What runs in a training worker: its share of Ray Data's blocks as matrices, the loop, checkpoints between epochs."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from perennial.rules.description import ModelDescription
from perennial.rules.scoring import build_network
from perennial.spec import TorchModel, load_pipeline
from ray_jobs.train.checkpoints import newest_checkpoint, runs_path, storage_of, write_checkpoint
from ray_jobs.train.fit import EpochReport, Figures, FitState, Group, fit
from ray_jobs.train.objective import Batch
from ray_jobs.train.request import WorkerPlan
from ray_jobs.train.rows import CATEGORIES, NUMBERS, TARGET, WEIGHT, Blocks


def train_worker(config: dict[str, Any]) -> None:
    """Train one model to its end, from the newest complete checkpoint where there is one."""
    import ray
    import ray.train
    import ray.train.torch
    from ray.train.v2.api.report_config import CheckpointUploadMode

    # One long line per report, its checkpoint's address and all; the driver tells of every epoch in a short one.
    logging.getLogger("ray.train.v2._internal.execution.context").setLevel(logging.WARNING)
    plan = WorkerPlan.model_validate_json(config["plan"])
    torch.set_num_threads(plan.config.threads)  # Ray sets one thread per task
    torch.use_deterministic_algorithms(not plan.on_gpu)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device() if plan.on_gpu else torch.device("cpu")
    description = ModelDescription.model_validate_json(plan.description)
    model = load_pipeline(plan.pipeline, plan.pipelines).model

    blocks = Blocks(ray.get(config["blocks"]))
    validating = blocks.event_times >= plan.validation_start_us
    training = _batch(blocks.take(share(np.flatnonzero(~validating), rank, size)), description, plan).to(device)
    validation = _batch(blocks.take(np.flatnonzero(validating & (rank == 0))), description, plan).to(device)
    torch.manual_seed(plan.options.seed)
    net = build_network(description, model).to(device)
    storage, run = storage_of(plan.lake), f"{runs_path(plan.lake)}/{plan.run}"

    kept_at = time.monotonic()

    def keep(state: FitState, report: EpochReport) -> None:
        nonlocal kept_at
        waited = _from_first(time.monotonic() - kept_at, size, device)
        if waited < plan.config.checkpoint_seconds and not state.finished(plan.options):
            return
        kept_at, checkpoint = time.monotonic(), None
        if rank == 0:  # written by ourselves, manifest last, before Ray hears of it: what it knows is complete
            where = write_checkpoint(storage.handler.fs, run, state, report)
            checkpoint = ray.train.Checkpoint(where, storage)
        ray.train.report(
            {"epoch": state.epoch, "validation_loss": report.validation_loss},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    fit(
        net,
        training,
        validation,
        plan.options,
        state=newest_checkpoint(storage.handler.fs, run),
        after_epoch=keep,
        loss=model.loss if isinstance(model, TorchModel) else None,
        group=_group(rank, size, plan, device),
    )


def _from_first(figure: float, size: int, device: torch.device) -> float:
    """The first worker's figure, for all workers."""
    if size == 1:
        return figure
    told = torch.tensor(figure, dtype=torch.float64, device=device)
    torch.distributed.broadcast(told, src=0)
    return told.item()


def share(rows: NDArray[np.int64], rank: int, size: int) -> NDArray[np.int64]:
    """Every `size`-th row from `rank` on; as many for every worker, so that the first rows may come twice."""
    each = -(-len(rows) // size)
    return rows[(np.arange(each) * size + rank) % max(1, len(rows))]


def _group(rank: int, size: int, plan: WorkerPlan, device: torch.device) -> Group:
    def spread(net: nn.Module) -> nn.Module:
        if size > 1:
            net = DistributedDataParallel(net, device_ids=[device] if plan.on_gpu else None)
        return torch.compile(net) if plan.on_gpu and plan.config.compile else net  # type: ignore[return-value]

    def agree(judge: Callable[[], Figures]) -> Figures:
        # One decides for all: two machines may round differently, and then one would stop and the other wait for it.
        loss, miss, error = judge() if rank == 0 else (0.0, 0.0, 0.0)
        return tuple(_from_first(figure, size, device) for figure in (loss, miss, error))  # type: ignore[return-value]

    return Group(rank, size, spread, agree)


def _batch(columns: dict[str, NDArray[Any]], description: ModelDescription, plan: WorkerPlan) -> Batch:
    rows, preprocessing = len(columns[TARGET]), description.preprocessing
    numbers = columns.get(NUMBERS, np.empty((rows, preprocessing.number_width), np.float32))
    categories = columns.get(CATEGORIES, np.empty((rows, len(preprocessing.categories)), np.int64))
    target = columns[TARGET]
    weight = columns.get(WEIGHT)
    if plan.class_weights:
        of_class = np.asarray(plan.class_weights, dtype=np.float32)[target.astype(np.int64)]
        weight = of_class if weight is None else weight * of_class
    scaled = None if weight is None else torch.from_numpy(weight / np.float32(plan.mean_weight))
    return Batch(torch.from_numpy(numbers), torch.from_numpy(categories), torch.from_numpy(target), scaled)
