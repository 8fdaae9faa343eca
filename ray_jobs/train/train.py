"""Train one version: pinned rows ─► preprocessing ─► Ray Train ─► judged on the holdout ─► files on S3."""

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
from s3fs import S3FileSystem

from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.features import input_names
from perennial.rules.metrics import best_threshold
from perennial.rules.scoring import Scorer
from perennial.rules.tabular import fit_preprocessing
from perennial.rules.windows import Windows, split_windows
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.train.checkpoints import read_checkpoint, runs_path, storage_of, told_lines
from ray_jobs.train.evaluate import evaluate_model
from ray_jobs.train.fit import FitOptions, FitState
from ray_jobs.train.request import TrainedModel, TrainRequest, WorkerPlan
from ray_jobs.train.rows import LABEL_KNOWN_AT, PrepareFile, event_time_of, file_groups, labelled, read_rows, row_hash
from ray_jobs.train.store import environment_hash, store_model
from ray_jobs.train.worker import train_worker

logger = logging.getLogger(__name__)
READERS, READER_CPUS = 2, 0.5  # both and a Serve replica fit two slots, and so do the worker and a replica
POLL_SECONDS = 1.0


def train(request: TrainRequest) -> TrainedModel:
    """Train, judge and store one model. Stopped at any point and asked again, it goes on from the last checkpoint."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    lake, event_time = request.lake, event_time_of(pipeline)
    times = read_rows(
        lake, pipeline, request.features_snapshot_id, labelled(pipeline, request.as_of), _time_columns(pipeline)
    )
    windows = split_windows(times[event_time], pipeline.promotion.holdout)
    usable = labelled(pipeline, request.as_of, end=windows.holdout_start)
    rows = read_rows(lake, pipeline, request.features_snapshot_id, usable)
    training = rows.filter(pl.col(event_time) < windows.validation_start)
    logger.info(
        "%s rows to train on, %s to stop by, from %s to %s",
        f"{training.height:,}", f"{rows.height - training.height:,}", windows.train_start, windows.holdout_start,
    )  # fmt: skip

    description = _describe(pipeline, training)
    options = FitOptions.of(pipeline.model, training.height)
    state = _fit_on_ray(request, pipeline, description, options, windows)
    threshold = _threshold(Scorer(description, state.kept_weights), pipeline, rows, windows)
    scorer = Scorer(description.model_copy(update={"threshold": threshold}), state.kept_weights)
    holdout = read_rows(
        lake, pipeline, request.features_snapshot_id, labelled(pipeline, request.as_of, start=windows.holdout_start)
    )
    label = pipeline.label.name
    constant = float(rows[label].to_numpy().mean())
    metrics = evaluate_model(
        pipeline.model.task, holdout[label].to_numpy(), scorer.score(holdout), constant,
        threshold=scorer.description.threshold, quantile=pipeline.promotion.quantile,
    )  # fmt: skip
    metrics |= {"epochs": state.epoch, "kept_epoch": state.kept_epoch, "curve": state.curve}
    artifact_id, checksum = store_model(
        lake, pipeline, request.pipelines / f"{pipeline.name}.py", request.training_key, scorer, state.kept_weights,
        rows, metrics,
    )  # fmt: skip
    logger.info("%s of %s holdout rows: %s", pipeline.metric, f"{holdout.height:,}", metrics[pipeline.metric])
    return TrainedModel(
        artifact_id=artifact_id,
        manifest_sha256=checksum,
        windows=windows,
        training_rows=training.height,
        validation_rows=rows.height - training.height,
        holdout_rows=holdout.height,
        row_hash=row_hash(rows),
        holdout_row_hash=row_hash(holdout),
        params=options.model_dump() | description.architecture.model_dump() | {"threads": request.threads},
        metrics=metrics,
        environment_hash=environment_hash(),
    )


def _threshold(scorer: Scorer, pipeline: Pipeline, rows: pl.DataFrame, windows: Windows) -> float:
    """The probability to decide from that serves the validation rows best: the holdout has no say in it."""
    if scorer.description.task != "binary":
        return 0.5
    validation = rows.filter(pl.col(event_time_of(pipeline)) >= windows.validation_start)
    return best_threshold(validation[pipeline.label.name].to_numpy(), scorer.score(validation))


def _time_columns(pipeline: Pipeline) -> list[str]:
    return [event_time_of(pipeline), pipeline.label.name, LABEL_KNOWN_AT]


def _describe(pipeline: Pipeline, rows: pl.DataFrame) -> ModelDescription:
    model, label = pipeline.model, rows[pipeline.label.name].to_numpy()
    regression = model.task == "regression"
    return ModelDescription(
        task=model.task,
        architecture=Architecture(hidden=model.hidden, dropout=model.dropout),
        preprocessing=fit_preprocessing(rows, input_names(pipeline)),
        target_center=float(label.mean()) if regression else 0.0,
        target_scale=(float(label.std()) or 1.0) if regression else 1.0,
    )


def _fit_on_ray(
    request: TrainRequest, pipeline: Pipeline, description: ModelDescription, options: FitOptions, windows: Windows
) -> FitState:
    # From where they are: the names in ray.train are typed as those of the API before this one.
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    # An actor that asks for spot nodes about to go: a node that went is what `max_failures` is for.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # A report waits until the controller has taken the one before: every two seconds, as long as an epoch of flights.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    lake, run = request.lake, request.training_key
    plan = WorkerPlan(
        lake=lake,
        run=run,
        description=description.model_dump_json(),
        options=options,
        validation_start=windows.validation_start,
        threads=request.threads,
    )
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "plan": plan.model_dump_json(),
            "blocks": _prepare_blocks(request, pipeline, description, windows),
        },
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": request.worker_cpus}),
        run_config=RunConfig(
            name=run,
            storage_path=runs_path(lake),
            storage_filesystem=storage_of(lake),
            failure_config=FailureConfig(max_failures=request.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=3),
            # Waiting threads sleep instead of spinning: beside a busy neighbour that is six times faster.
            worker_runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}} if request.threads > 1 else None,
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    with _telling(lake.files(), f"{runs_path(lake)}/{run}", logger.info):
        result = trainer.fit()
    assert result.checkpoint is not None, "a run that ends without an error has reported an epoch"
    return read_checkpoint(lake.files(), result.checkpoint.path)


def _prepare_blocks(
    request: TrainRequest, pipeline: Pipeline, description: ModelDescription, windows: Windows
) -> list[Any]:
    """References to blocks of matrices in the object store, read by Ray Data from the snapshot's files.

    Handed over as references: as the trainer's dataset they would take two more processes of two seconds each.
    """
    import ray.data

    lake, snapshot_id = request.lake, request.features_snapshot_id
    usable = labelled(pipeline, request.as_of, end=windows.holdout_start)
    names = (event_time_of(pipeline), pipeline.label.name)
    prepare: Any = PrepareFile(lake, pipeline.name, snapshot_id, usable, names, description)
    groups = file_groups(lake, pipeline.name, snapshot_id, usable, groups=READERS)
    ray.data.DataContext.get_current().enable_progress_bars = False  # they are drawn for a terminal that is not there
    blocks = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
        prepare, batch_size=None, batch_format="pyarrow", num_cpus=READER_CPUS
    )
    return list(blocks.to_arrow_refs())


@contextmanager
def _telling(storage: S3FileSystem, run: str, tell: Callable[[str], Any]) -> Iterator[None]:
    """Tell of every epoch as its checkpoint appears: the workers' own output does not reach the driver's logger."""
    over, told = threading.Event(), set(told_lines(storage, run))

    def watch() -> None:
        last = False
        while not last:
            last = over.wait(POLL_SECONDS)
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
