"""One thing to find out: train a model, look at a window, or compare two models. The code is that of the flows."""

import time
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel

from perennial.rules.contest import PromotionVerdict
from perennial.rules.description import ModelDescription
from perennial.rules.evidence import Evidence
from perennial.rules.features import input_names, label_weights
from perennial.rules.feeds import find_broken
from perennial.rules.metrics import Interval, Measure
from perennial.rules.past import Past
from perennial.rules.promotion import judge_promotion
from perennial.rules.replay import Trained, Work
from perennial.rules.scoring import Scorer, build_network
from perennial.rules.sketch import sketch_frame
from perennial.rules.tabular import InputKind
from perennial.rules.windows import TooFewRows, split_windows
from perennial.spec import Pipeline, TorchModel
from ray_jobs.backtest.history import KNOWN_AT, ROW, History
from ray_jobs.backtest.store import Store
from ray_jobs.drift.distances import column_evidence
from ray_jobs.drift.measure import SEED, estimate, measure, measure_slices
from ray_jobs.drift.states import reference_edges
from ray_jobs.drift.together import tell_apart
from ray_jobs.drift.window import LABEL, sample_evenly
from ray_jobs.train.card import measure_importance
from ray_jobs.train.evaluate import evaluate_model
from ray_jobs.train.fit import FitOptions, fit
from ray_jobs.train.objective import Batch
from ray_jobs.train.rows import event_time_of
from ray_jobs.train.train import constant_answer, decide_threshold, describe_model
from ray_jobs.train.weights import RowWeights, weigh_rows

REFERENCE_ROWS = 20_000
UNPROMISED = Interval(0.0, float("nan"), float("nan"))  # the replay knows what was promised, and puts it in


def do(work: Work, pipeline: Pipeline, history: History, store: Store, threads: int) -> BaseModel:
    """Find something out, or find that it is known already."""
    done = store.find(work)
    if done is not None:
        return done
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    if work.kind == "train":
        return _train(work, pipeline, history, store)
    result: BaseModel = (
        _look(work, pipeline, history, store) if work.kind == "look" else _judge(work, pipeline, history, store)
    )
    store.keep(work, result)
    return result


def _train(work: Work, pipeline: Pipeline, history: History, store: Store) -> Trained:
    """Train on the labelled rows known at a moment; score every row that is later than its training rows."""
    started, event_time, label = time.perf_counter(), event_time_of(pipeline), pipeline.label.name
    known = history.labelled(work.at, label)
    if work.train_from is not None:
        known = known.filter(pl.col(event_time) >= work.train_from)
    try:
        windows = split_windows(
            known[event_time], pipeline.promotion.holdout, minimum_holdout_rows=pipeline.promotion.minimum_rows
        )
        rows = known.filter(pl.col(event_time) < windows.holdout_start)
        scorer = _fit(pipeline, rows, windows.validation_start)
    except (TooFewRows, ValueError) as error:  # too few rows or one class: an answer, and the replay goes on
        failed = Trained(key=work.key, at=work.at, train_from=work.train_from, failure=str(error))
        store.keep(work, failed)
        return failed
    holdout = known.filter(pl.col(event_time) >= windows.holdout_start)
    metrics = evaluate_model(
        pipeline.model.task, scorer.description.labels(holdout[label]), scorer.score(holdout),
        constant_answer(scorer.description, rows[label]),
        threshold=scorer.description.threshold, quantile=pipeline.promotion.quantile,
    )  # fmt: skip
    told = metrics[pipeline.metric]
    seconds = time.perf_counter() - started
    goal = Measure(pipeline.metric, scorer.description.threshold, pipeline.promotion.quantile)
    worth = measure_importance(goal, scorer, holdout, label)
    later = history.rows.filter(pl.col(event_time) >= windows.holdout_start)
    scores = later.select(ROW).with_columns(score=pl.Series(scorer.score(later), dtype=pl.Float64))
    places = np.unique(np.linspace(0, rows.height - 1, min(REFERENCE_ROWS, rows.height)).round().astype(np.int64))
    reference = rows.select([event_time, *scorer.inputs, label])[places]
    reference = reference.with_columns(score=pl.Series(scorer.score(reference), dtype=pl.Float64))
    trained = Trained(
        key=work.key,
        at=work.at,
        train_from=work.train_from,
        holdout_start=windows.holdout_start,
        rows=rows.height,
        seconds=seconds,
        promised=(told["value"], told["low"], told["high"]),
        importance={each.input: each.loss for each in worth},
    )
    constant = pl.DataFrame({"constant": [float(np.mean(metrics["training_label_mean"]))]})
    store.keep(work, trained, {"scores": scores, "reference": reference, "constant": constant})
    return trained


def _fit(pipeline: Pipeline, rows: pl.DataFrame, validation_start: datetime) -> Scorer:
    event_time, label, model = event_time_of(pipeline), pipeline.label.name, pipeline.model
    training = rows.filter(pl.col(event_time) < validation_start)
    validation = rows.filter(pl.col(event_time) >= validation_start)
    description = describe_model(pipeline, training, rows[label])
    weights = weigh_rows(pipeline, description, training)
    options = FitOptions.of(model, training.height, weighted=bool(label_weights(pipeline)))
    torch.manual_seed(options.seed)
    net = build_network(description, model)
    learned, stopped_by = (_batch(part, pipeline, description, weights) for part in (training, validation))
    state = fit(net, learned, stopped_by, options, loss=model.loss if isinstance(model, TorchModel) else None)
    scorer = Scorer(description, state.kept_weights, model)
    threshold = decide_threshold(scorer, pipeline, validation)
    return Scorer(description.model_copy(update={"threshold": threshold}), state.kept_weights, model)


def _batch(rows: pl.DataFrame, pipeline: Pipeline, description: ModelDescription, weights: RowWeights) -> Batch:
    matrices = description.preprocessing.apply(rows)
    target = description.target(rows[pipeline.label.name]).astype(np.float32)
    weight = None
    for name in label_weights(pipeline):
        weight = rows[name].cast(pl.Float32).to_numpy()
    if weights.by_class:
        of_class = np.asarray(weights.by_class, dtype=np.float32)[target.astype(np.int64)]
        weight = of_class if weight is None else weight * of_class
    scaled = None if weight is None else torch.from_numpy(weight / np.float32(weights.mean))
    numbers, categories = torch.from_numpy(matrices.numbers), torch.from_numpy(matrices.categories)
    return Batch(numbers, categories, torch.from_numpy(target), scaled)


def _look(work: Work, pipeline: Pipeline, history: History, store: Store) -> Evidence:
    """The figures that `monitor` gathers, of the rows that a model would have answered."""
    assert work.window is not None
    assert work.since is not None
    assert work.model is not None
    assert work.drift_effect_size is not None
    assert work.sample_rows is not None
    event_time, metric = event_time_of(pipeline), pipeline.metric
    policy = replace(pipeline.monitoring, drift_effect_size=work.drift_effect_size, sample_rows=work.sample_rows)
    answered = pl.col(event_time).is_between(*work.window, closed="left") & (pl.col(KNOWN_AT) <= work.at)
    rows = history.rows.filter(answered)
    own = rows.filter(pl.col(KNOWN_AT) >= work.since)
    own = own.join(store.frame(work.model, "scores"), on=ROW, how="inner", maintain_order="left")
    own = history.with_labels(own, work.at, LABEL)
    reference = store.frame(work.model, "reference")
    inputs = _inputs(reference, pipeline)
    edges = reference_edges(reference, inputs)
    current, compared = (sample_evenly(frame, policy.sample_rows, SEED) for frame in (own, reference))
    performance = measure(own, metric, UNPROMISED)
    guess = estimate(own, reference, pipeline.label.name, 0, UNPROMISED, metric, Past(), performance)
    newest = own[event_time].max() if own.height else None
    assert newest is None or isinstance(newest, datetime)
    columns = column_evidence(sketch_frame(own, edges), reference, edges, inputs, policy) if own.height else {}
    return Evidence(
        version=0,
        rows=own.height,
        other_rows=rows.height - own.height,
        labelled_rows=own.height - own[LABEL].null_count(),
        performance=performance,
        slices=measure_slices(own, pipeline, metric, []),
        estimate=guess,
        broken=find_broken(current, compared, inputs) if own.height else {},
        together=tell_apart(current, compared, inputs, SEED) if own.height else None,
        newest_at=newest,
    ).model_copy(update=columns)


def _inputs(reference: pl.DataFrame, pipeline: Pipeline) -> dict[str, InputKind]:
    others = {event_time_of(pipeline), pipeline.label.name, "score"}
    declared = input_names(pipeline)
    return {name: kind for name, kind in declared.items() if name in reference.columns and name not in others}


def _judge(work: Work, pipeline: Pipeline, history: History, store: Store) -> PromotionVerdict:
    """Challenger and champion on the labelled rows known at a moment that neither was trained on."""
    assert work.model is not None
    assert work.champion is not None
    event_time, label = event_time_of(pipeline), pipeline.label.name
    both = store.frame(work.model, "scores").rename({"score": "_challenger"})
    both = both.join(store.frame(work.champion, "scores").rename({"score": "_champion"}), on=ROW, how="inner")
    rows = history.labelled(work.at, label).join(both, on=ROW, how="inner", maintain_order="left").sort(event_time)
    constant = float(store.frame(work.model, "constant")["constant"][0])
    return judge_promotion(
        pipeline.metric,
        rows[label].to_numpy(),
        rows["_challenger"].to_numpy(),
        rows["_champion"].to_numpy(),
        pipeline.promotion,
        constant=constant,
        slices={column: rows[column].to_list() for column in pipeline.promotion.slices},
    )
