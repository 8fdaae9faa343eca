"""A version with figures, a history and a verdict, as the tables and the card's job leave them; some text means harm."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from perennial.datadocs.card import Card, Figures
from perennial.lakehouse.decisions import Decision
from perennial.lakehouse.registry import ModelVersion
from perennial.lakehouse.stages import Stage
from perennial.rules import curves
from perennial.rules.metrics import Measure
from ray_jobs.train.evaluate import evaluate_model

HARM = "<script>alert(1)</script>"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def card(task: str = "binary", rows: int = 3_000) -> Card:
    generator = np.random.default_rng(4)
    inputs = pl.DataFrame({name: generator.normal(size=rows) for name in ("distance", "rain", HARM)})
    signal = inputs["distance"].to_numpy() + 0.5 * inputs["rain"].to_numpy()
    classes: list[str] = []
    if task == "binary":
        y = (signal + generator.normal(0, 1, rows) > 0.5).astype(float)
    elif task == "regression":
        y = 20 + 5 * signal + generator.normal(0, 3, rows)
    else:
        classes = ["early", "on time", HARM]
        y = np.digitize(signal + generator.normal(0, 1, rows), [-0.5, 0.5]).astype(float)

    def score(frame: pl.DataFrame) -> curves.Floats:
        told = frame["distance"].to_numpy() + 0.5 * frame["rain"].to_numpy()
        if task == "regression":
            return np.asarray(20 + 5 * told)
        if task == "binary":
            return np.asarray(1 / (1 + np.exp(-1.6 * (told - 0.5))))
        odds = np.exp(np.stack([-1.6 * told - 0.4, 0 * told, 1.6 * told - 0.4], axis=1))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    metric = Measure("rmse" if task == "regression" else "roc_auc")
    scores = score(inputs)
    constant = np.bincount(y.astype(int)) / rows if classes else float(y.mean())
    told = evaluate_model(task, y, scores, constant)
    told["curve"] = [
        {"epoch": n, "training_loss": 0.7 / n**0.5, "validation_loss": 0.72 / n**0.4, "validation_miss": 0.3}
        for n in range(1, 9)
    ]
    told["kept_epoch"] = 8
    times = pl.Series([NOON - 60 * DAY + n * 60 * DAY / rows for n in range(rows)], dtype=pl.Datetime("us", "UTC"))
    figures = Figures(
        pipeline="rides", version=3, task=task, metric=metric.name, table="local_rides.features", snapshot_id=77,
        rows=rows, row_hash="ab" * 32,
        roc=[] if task == "regression" else curves.roc_curves(y, scores, classes),
        pr=[] if task == "regression" else curves.pr_curves(y, scores, classes),
        calibration=(curves.predicted_bins if task == "regression" else curves.calibration_bins)(y, scores),
        residuals=curves.residual_bins(y, scores) if task == "regression" else [],
        slices=curves.slice_values(metric, y, scores, {"city": [("Oslo", "Rome", HARM)[n % 3] for n in range(rows)]}, 50),
        importance=curves.permutation_importance(metric, inputs, y, score, inputs.columns), importance_rows=rows,
        periods=curves.periods(times, y, {"training": NOON - 60 * DAY, "holdout": NOON - 7 * DAY}),
    )  # fmt: skip
    version = ModelVersion(
        pipeline="rides", version=3, training_key="k", artifact_id="a-1", manifest_sha256="0" * 64,
        features_snapshot_id=77, training_rows=2_400, validation_rows=200, holdout_rows=400, row_hash="cd" * 32,
        contract_hash='{"rides": "c0ffee"}', feature_code_hash="f00d", seed=13, params='{"hidden": [64, 64]}',
        metrics=json.dumps(told), lock_hash="l0c4", parent_version=2, reason=f"drift {HARM}", as_of=NOON,
        train_start=NOON - 60 * DAY, holdout_start=NOON - 7 * DAY, holdout_end=NOON, created_at=NOON,
    )  # fmt: skip
    judged = Decision(
        decision_id="rides-v3-against-v2", pipeline="rides", kind="promotion", version=3, verdict="promote",
        reason=f"gain +0.01 {HARM}", as_of=NOON, run_id="0f1e2d3c-0000",
    )  # fmt: skip
    history = [
        Stage(pipeline="rides", version=3, stage=stage, generation=n, as_of=NOON, reason=f"because {HARM}", decision_id=f"d{n}",
              recorded_at=NOON + n * DAY)
        for n, stage in enumerate(("challenger", "champion"))
    ]  # fmt: skip
    return Card(
        environment="local", version=version, figures=figures, history=history, judged=[judged],
        versions="local_perennial.versions", stages="local_perennial.stages", decisions="local_perennial.decisions",
        runs="http://127.0.0.1:4200/runs/flow-run/",
    )  # fmt: skip
