"""Train one version: pinned rows ─► preprocessing ─► Ray Train ─► judged on the holdout ─► files on S3."""

import logging

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.rules.description import Architecture, ModelDescription, ModuleSource, check_labels, find_classes
from perennial.rules.features import code_hash, input_names, label_weights
from perennial.rules.metrics import best_threshold
from perennial.rules.scoring import Scorer
from perennial.rules.tabular import fit_preprocessing
from perennial.rules.windows import split_windows
from perennial.spec import Pipeline, TabularModel, TorchModel, load_pipeline
from ray_jobs.train.cluster import fit_on_ray
from ray_jobs.train.evaluate import evaluate_model
from ray_jobs.train.fit import FitOptions
from ray_jobs.train.request import TrainedModel, TrainRequest
from ray_jobs.train.rows import LABEL_KNOWN_AT, event_time_of, labelled, read_rows, row_hash
from ray_jobs.train.store import environment_hash, store_model
from ray_jobs.train.weights import weigh_rows

logger = logging.getLogger(__name__)


class NothingVaries(ValueError):
    """Every input has one value, or none, in all rows."""


def train(request: TrainRequest) -> TrainedModel:
    """Train, judge and store one model. Stopped at any point and asked again, it goes on from the last checkpoint."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    lake, event_time, label = request.lake, event_time_of(pipeline), pipeline.label.name
    times = read_rows(
        lake,
        pipeline,
        request.features_snapshot_id,
        labelled(pipeline, request.as_of, start=request.train_from),
        _time_columns(pipeline),
    )
    promotion = pipeline.promotion
    windows = split_windows(times[event_time], promotion.holdout, minimum_holdout_rows=promotion.minimum_rows)
    usable = labelled(pipeline, request.as_of, start=request.train_from, end=windows.holdout_start)
    rows = read_rows(lake, pipeline, request.features_snapshot_id, usable)
    training = rows.filter(pl.col(event_time) < windows.validation_start)
    logger.info(
        "%s rows to train on, %s to stop by, from %s to %s",
        f"{training.height:,}", f"{rows.height - training.height:,}", windows.train_start, windows.holdout_start,
    )  # fmt: skip

    check_labels(rows[label], pipeline.model.task)
    description = describe_model(pipeline, training, rows[label])
    weights = weigh_rows(pipeline, description, rows)
    description = description.model_copy(update={"class_weights": weights.by_class})
    options = FitOptions.of(pipeline.model, training.height, weighted=bool(label_weights(pipeline)))
    state = fit_on_ray(request, pipeline, description, options, windows, weights)
    validation = rows.filter(pl.col(event_time) >= windows.validation_start)
    threshold = decide_threshold(Scorer(description, state.kept_weights, pipeline.model), pipeline, validation)
    scorer = Scorer(description.model_copy(update={"threshold": threshold}), state.kept_weights, pipeline.model)
    holdout = read_rows(
        lake, pipeline, request.features_snapshot_id, labelled(pipeline, request.as_of, start=windows.holdout_start)
    )
    metrics = evaluate_model(
        pipeline.model.task, description.labels(holdout[label]), scorer.score(holdout), constant_answer(description, rows[label]),
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
        params=options.model_dump() | description.architecture.model_dump() | request.config.model_dump(),
        metrics=metrics,
        environment_hash=environment_hash(),
    )


def decide_threshold(scorer: Scorer, pipeline: Pipeline, validation: pl.DataFrame) -> float:
    """The probability to decide from that serves the validation rows best: the holdout has no say in it."""
    if scorer.description.task != "binary":
        return 0.5
    return best_threshold(validation[pipeline.label.name].to_numpy(), scorer.score(validation))


def _time_columns(pipeline: Pipeline) -> list[str]:
    return [event_time_of(pipeline), pipeline.label.name, LABEL_KNOWN_AT]


def describe_model(pipeline: Pipeline, rows: pl.DataFrame, labels: pl.Series) -> ModelDescription:
    """What is learned of the training rows; `labels` are those of the validation rows as well, where classes may be new."""
    model, label = pipeline.model, rows[pipeline.label.name]
    regression, preprocessing = model.task == "regression", fit_preprocessing(rows, input_names(pipeline))
    if not (preprocessing.number_width or preprocessing.categories):
        raise NothingVaries(
            f"none of {pipeline.name}'s inputs {list(input_names(pipeline))} varies over the {rows.height:,} rows to train "
            "on: there is nothing to learn from. Nothing was trained. Look at the feature page for what features() made."
        )
    return ModelDescription(
        task=model.task,
        architecture=_architecture(model),
        preprocessing=preprocessing,
        target_center=float(label.to_numpy().mean()) if regression else 0.0,
        target_scale=(float(label.to_numpy().std()) or 1.0) if regression else 1.0,
        classes=find_classes(labels) if model.task == "multiclass" else (),
    )


def _architecture(model: TabularModel | TorchModel) -> Architecture | ModuleSource:
    if isinstance(model, TorchModel):
        return ModuleSource(builder=model.builder.__name__, code_hash=code_hash(model.builder))
    return Architecture(hidden=model.hidden, dropout=model.dropout, members=model.members)


def constant_answer(description: ModelDescription, labels: pl.Series) -> NDArray[np.float64] | float:
    """What a model without inputs answers: the mean of the training labels, or the share of each class."""
    truth = description.labels(labels)
    if description.task == "multiclass":
        return np.bincount(truth.astype(np.int64), minlength=len(description.classes)) / len(truth)
    return float(truth.mean())
