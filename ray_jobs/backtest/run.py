"""Run a backtest: replay every policy, find out side by side on Ray what they ask for, and begin again until all is known."""

import hashlib
import json
import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

from perennial.rules.contest import PromotionVerdict
from perennial.rules.evidence import Evidence
from perennial.rules.features import pipeline_code_hash
from perennial.rules.metrics import evaluate, gain
from perennial.rules.recommend import BASELINES, Backtest, recommend, settle
from perennial.rules.replay import Course, NotKnownYet, Span, Trained, Work, replay
from perennial.spec import Monitoring, Pipeline, load_pipeline
from ray_jobs.backtest.history import KNOWN_AT, ROW, History, pack, read_history, unpack
from ray_jobs.backtest.request import BacktestRequest
from ray_jobs.backtest.store import Store
from ray_jobs.train.rows import event_time_of

logger = logging.getLogger(__name__)
LABEL = "_label"
CODE = ("perennial/rules", "perennial/spec", "ray_jobs/backtest", "ray_jobs/drift", "ray_jobs/train")
WORK_CPUS = 0.5  # of a slot: on two cores a training still finds its whole one beside it


class UnfitForBacktest(ValueError):
    """The pipeline's history cannot be replayed; nothing was changed."""


def backtest(request: BacktestRequest) -> Backtest:
    """Replay the history. Stopped at any point and asked again, it goes on with what was found out.

    Raises:
        UnfitForBacktest: the first model cannot be trained, or the model is of many classes.
    """
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    if pipeline.model.task == "multiclass":
        raise UnfitForBacktest(
            f"pipeline {pipeline.name} tells many classes apart; a backtest replays binary and regression models. Nothing "
            "was changed."
        )
    end, last = request.windows[-1].end, request.windows[-1].end + request.lag
    history = read_history(request.lake, pipeline, request.snapshot_id, request.as_of, end, last)
    known = history.until(last)  # all that any decision may see: what is found out depends on nothing else
    store = Store(lake=request.lake, folder=f"backtests/{pipeline.name}/{_data_key(request, pipeline, known)}")
    found = _Found(store, pipeline)
    worked = 0
    courses: list[Course]
    while True:
        courses, asked = _replay_all(request, pipeline, found)
        if not asked:
            break
        _find_out(asked, request, known, store)
        worked += len(asked)
        logger.info("%d of %d policies replayed, %d things found out", len(courses), len(request.strategies), worked)
    return _account(request, pipeline, history, store, courses, found, worked)


def _replay_all(request: BacktestRequest, pipeline: Pipeline, found: "_Found") -> tuple[list[Course], dict[str, Work]]:
    courses: list[Course] = []
    asked: dict[str, Work] = {}
    for strategy in request.strategies:
        try:
            courses.append(replay(strategy, request.windows, request.bootstrap, request.lag, pipeline.metric, found))
        except NotKnownYet as question:
            asked[question.work.key] = question.work
            if strategy.every_window:  # its models are no question of what the others showed: all side by side
                ats = (window.end + request.lag for window in request.windows)
                models = [_work("train", at=at, train_from=None) for at in ats]
                asked |= {work.key: work for work in models if found.store.find(work) is None}
    return courses, asked


class _Found:
    """What is known so far: in memory, else on S3, else asked for."""

    def __init__(self, store: Store, pipeline: Pipeline) -> None:
        self.store, self.pipeline = store, pipeline
        self.known: dict[str, BaseModel] = {}

    def train(self, at: datetime, train_from: datetime | None) -> Trained:
        """See `Knowledge`."""
        trained = self._get(_work("train", at=at, train_from=train_from))
        assert isinstance(trained, Trained)
        if trained.failure and not any(isinstance(one, Trained) and not one.failure for one in self.known.values()):
            raise UnfitForBacktest(
                f"the first model of {self.pipeline.name} cannot be trained with what was known by {at.isoformat()}: "
                f"{trained.failure} Begin the backtest later."
            )
        return trained

    def look(self, model: Trained, since: datetime, window: Span, at: datetime, policy: Monitoring) -> Evidence:
        """See `Knowledge`."""
        how = {"drift_effect_size": policy.drift_effect_size, "sample_rows": policy.sample_rows}
        seen = self._get(_work("look", at=at, model=model.key, since=since, window=window, **how))
        assert isinstance(seen, Evidence)
        return seen

    def judge(self, challenger: Trained, champion: Trained, at: datetime, policy: Monitoring) -> PromotionVerdict:
        """See `Knowledge`."""
        verdict = self._get(_work("judge", at=at, model=challenger.key, champion=champion.key))
        assert isinstance(verdict, PromotionVerdict)
        return verdict

    def trained(self) -> list[Trained]:
        """Every model that was trained."""
        return [one for one in self.known.values() if isinstance(one, Trained) and not one.failure]

    def _get(self, work: Work) -> BaseModel:
        if work.key not in self.known:
            result = self.store.find(work)
            if result is None:
                raise NotKnownYet(work)
            self.known[work.key] = result
        return self.known[work.key]


def _work(kind: str, **what: Any) -> Work:
    words = json.dumps([kind, what], sort_keys=True, default=str)
    return Work.model_validate(
        {"key": f"{kind}-{hashlib.sha256(words.encode()).hexdigest()[:20]}", "kind": kind, **what}
    )


def _data_key(request: BacktestRequest, pipeline: Pipeline, known: History) -> str:
    """What every result depends on beside its own question: data, code, model, and how models are compared.

    Not `as_of`, nor a snapshot's id: either is another in a run an hour later, over the very same history.
    """
    words: list[object] = [known.fingerprint, pipeline_code_hash(pipeline), pipeline.model, pipeline.promotion]
    words += [request.threads, _own_code()]
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:16]


@lru_cache
def _own_code() -> str:
    """Changes with the code that finds things out: what another release found out is found out anew."""
    root = Path(__file__).parents[2]
    files = sorted(path for part in CODE for path in (root / part).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _find_out(asked: dict[str, Work], request: BacktestRequest, history: History, store: Store) -> None:
    import ray

    shared = [ray.put(part) for part in pack(history)]
    remote = ray.remote(num_cpus=WORK_CPUS, max_retries=2)(_do_remotely)
    place = (request.pipeline, str(request.pipelines), store.model_dump_json(), request.threads)
    # One CPU is left to the flows: a retrain that falls due meanwhile must not wait for a history to be replayed.
    most = max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)  # type: ignore[no-untyped-call]  # Ray's own
    under_way: list[Any] = []
    for work in asked.values():
        if len(under_way) == most:
            ended, under_way = ray.wait(under_way)
            ray.get(ended)
        under_way.append(remote.remote(work.model_dump_json(), *place, *shared))
    ray.get(under_way)


def _do_remotely(
    work: str, pipeline: str, pipelines: str, store: str, threads: int, rows: pa.Table, labels: pa.Table
) -> str:
    from ray_jobs.backtest.work import do

    asked = Work.model_validate_json(work)
    place = Store.model_validate_json(store)
    do(asked, load_pipeline(pipeline, Path(pipelines)), unpack(rows, labels), place, threads)
    return asked.key


def _account(
    request: BacktestRequest,
    pipeline: Pipeline,
    history: History,
    store: Store,
    courses: list[Course],
    found: _Found,
    worked: int,
) -> Backtest:
    event_time, metric = event_time_of(pipeline), pipeline.metric
    rows = history.with_labels(history.rows.select(ROW, KNOWN_AT, event_time), request.as_of, LABEL).drop_nulls(LABEL)
    parts = [rows.filter(pl.col(event_time).is_between(*window, closed="left")) for window in request.windows]
    scores = {model.key: store.frame(model.key, "scores") for model in found.trained()}
    by_window = {course.strategy.name: [_served(part, course, scores, metric) for part in parts] for course in courses}
    baselines = zip(BASELINES, zip(*(_baselines(part, history, metric) for part in parts), strict=True), strict=True)
    by_window |= {name: list(values) for name, values in baselines}
    best = [
        _best(part, [m for m in found.trained() if m.at <= window.start], scores, metric)
        for part, window in zip(parts, request.windows, strict=True)
    ]
    accounts = settle(metric, courses, by_window, best)
    return Backtest(
        pipeline=pipeline.name,
        metric=metric,
        windows=request.windows,
        bootstrap=request.bootstrap,
        lag=request.lag,
        as_of=request.as_of,
        courses=courses,
        accounts=accounts,
        best=best,
        recommendation=recommend(metric, accounts),
        folder=store.folder,
        worked=worked,
    )


def _served(rows: pl.DataFrame, course: Course, scores: dict[str, pl.DataFrame], metric: str) -> float | None:
    """The metric on a window's rows, each scored by whoever was champion at its moment."""
    ends = [since for since, _ in course.reigns[1:]] + [None]
    parts = []
    for (since, key), end in zip(course.reigns, ends, strict=True):
        own = rows.filter(pl.col(KNOWN_AT) >= since)
        own = own.filter(pl.col(KNOWN_AT) < end) if end else own
        parts.append(own.join(scores[key], on=ROW, how="inner"))
    return _metric(metric, pl.concat(parts))


def _best(rows: pl.DataFrame, models: Sequence[Trained], scores: dict[str, pl.DataFrame], metric: str) -> float | None:
    values = [_metric(metric, rows.join(scores[model.key], on=ROW, how="inner")) for model in models]
    known = [value for value in values if value is not None]
    return max(known, key=lambda value: gain(metric, value, 0.0)) if known else None


def _baselines(rows: pl.DataFrame, history: History, metric: str) -> tuple[float | None, float | None]:
    """The last label that was known at each row's moment, and the mean of those known by the window's first moment."""
    if rows.is_empty():
        return None, None
    log = history.labels.drop_nulls("label").sort("known_at").select("known_at", score="label")
    last = rows.sort(KNOWN_AT).join_asof(log, left_on=KNOWN_AT, right_on="known_at", strategy="backward")
    first = rows[KNOWN_AT].min()
    known = log.filter(pl.col("known_at") <= first)["score"]
    mean = float(known.to_numpy().mean()) if known.len() else float("nan")
    return _metric(metric, last.drop_nulls("score")), _metric(metric, rows.with_columns(score=pl.lit(mean)))


def _metric(metric: str, rows: pl.DataFrame) -> float | None:
    if rows.is_empty():
        return None
    value = evaluate(metric, rows[LABEL].to_numpy(), rows["score"].to_numpy())
    return None if np.isnan(value) else value
