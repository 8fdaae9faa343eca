"""Training on the cluster: blocks by Ray Data, workers by Ray Train, and what their epochs tell."""

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from s3fs import S3FileSystem

from perennial.rules.description import ModelDescription
from perennial.rules.features import label_weights
from perennial.rules.windows import Windows
from perennial.spec import Pipeline
from ray_jobs.train.checkpoints import newest_checkpoint, runs_path, storage_of, told_lines
from ray_jobs.train.fit import FitOptions, FitState
from ray_jobs.train.request import TrainRequest, WorkerPlan
from ray_jobs.train.rows import PrepareFile, event_time_of, file_groups, labelled
from ray_jobs.train.waiting import WorkerWait, tell_of_full_cluster
from ray_jobs.train.weights import RowWeights
from ray_jobs.train.worker import train_worker

logger = logging.getLogger(__name__)
READERS, READER_CPUS = 2, 0.5  # both and a Serve replica fit two slots, and so do the worker and a replica
POLL_SECONDS = 1.0


def fit_on_ray(
    request: TrainRequest,
    pipeline: Pipeline,
    description: ModelDescription,
    options: FitOptions,
    windows: Windows,
    weights: RowWeights,
) -> FitState:
    """Train on the cluster that this process is a driver of, from the run's newest checkpoint where there is one."""
    import ray

    # From where they are: the names in ray.train are typed as those of the API before this one.
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    # An actor that asks for spot nodes about to go: a node that went is what `max_failures` is for.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # A report waits until the controller has taken the one before: every two seconds, as long as an epoch of flights.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    lake, run, config = request.lake, request.training_key, request.config
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call] # Ray's own
    on_gpu = config.on_gpu(found.get("GPU", 0))
    plan = WorkerPlan(
        lake=lake,
        pipeline=request.pipeline,
        pipelines=request.pipelines,
        run=run,
        description=description.model_dump_json(),
        options=options,
        validation_start=windows.validation_start,
        config=config,
        on_gpu=on_gpu,
        class_weights=weights.by_class,
        mean_weight=weights.mean,
    )
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "plan": plan.model_dump_json(),
            "blocks": _prepare_blocks(request, pipeline, description, windows),
        },
        scaling_config=ScalingConfig(
            num_workers=config.worker_count,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": config.worker_cpus, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=RunConfig(
            name=run,
            storage_path=runs_path(lake),
            storage_filesystem=storage_of(lake),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=3),
            # Waiting threads sleep instead of spinning: beside a busy neighbour that is six times faster.
            worker_runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}} if config.threads > 1 else None,
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    with _telling(lake.files(), f"{runs_path(lake)}/{run}", logger.info):
        trainer.fit()
    state = newest_checkpoint(lake.files(), f"{runs_path(lake)}/{run}")
    assert state is not None, "a run that ends without an error has written an epoch"
    return state


def _prepare_blocks(
    request: TrainRequest, pipeline: Pipeline, description: ModelDescription, windows: Windows
) -> list[Any]:
    """References to blocks of matrices in the object store, read by Ray Data from the snapshot's files.

    Handed over as references: as the trainer's dataset they would take two more processes of two seconds each.
    """
    import ray.data

    lake, snapshot_id = request.lake, request.features_snapshot_id
    usable = labelled(pipeline, request.as_of, start=request.train_from, end=windows.holdout_start)
    names = (event_time_of(pipeline), pipeline.label.name, *label_weights(pipeline))
    prepare: Any = PrepareFile(lake, pipeline.name, snapshot_id, usable, names, description)
    groups = file_groups(lake, pipeline.name, snapshot_id, usable, groups=READERS)
    ray.data.DataContext.get_current().enable_progress_bars = False  # they are drawn for a terminal that is not there
    tell_of_full_cluster({"CPU": READER_CPUS}, "readers of the training rows", logger.info)
    blocks = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
        prepare, batch_size=None, batch_format="pyarrow", num_cpus=READER_CPUS
    )
    return list(blocks.to_arrow_refs())


@contextmanager
def _telling(storage: S3FileSystem, run: str, tell: Callable[[str], Any]) -> Iterator[None]:
    """Tell of every epoch as its checkpoint appears, and of workers that wait for room.

    The workers' own output does not reach the driver's logger.
    """
    over, told, wait = threading.Event(), set(told_lines(storage, run)), WorkerWait(tell)

    def watch() -> None:
        last = False
        while not last:
            last = over.wait(POLL_SECONDS)
            wait.look()
            for name, line in told_lines(storage, run).items():
                if name not in told:
                    told.add(name)
                    tell(line)

    # A copy of the context: an orchestrator's log handler finds its run by it.
    watcher = threading.Thread(target=contextvars.copy_context().run, args=(watch,), name="epochs", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=10)
