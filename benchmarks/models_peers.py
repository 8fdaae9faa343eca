"""LightGBM's and scikit-learn's defaults on tables that `benchmarks.models` wrote. Runs in the peers' environment.

A folder with a task in it: `task.json`, `train.parquet`, `test.parquet`; `<peer>.parquet` out: a score per test row and seed.
Categories are handed over as such, in the way each library's documentation asks for.
"""

import json
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor


def main(task: Path) -> None:
    """Score the task's test rows with every peer."""
    told = json.loads((task / "task.json").read_text())
    train, test = (pl.read_parquet(task / f"{part}.parquet") for part in ("train", "test"))
    inputs, label = told["inputs"], train[told["label"]].to_numpy()
    frames = encode(train, inputs), encode(test, inputs)
    categories = [position for position, kind in enumerate(inputs.values()) if kind == "category"]
    for peer in (light, histogram):
        scores = {
            str(seed): peer(told["task"], *frames, label, categories, seed, told["threads"]) for seed in told["seeds"]
        }
        pl.DataFrame(scores).write_parquet(task / f"{peer.__name__}.parquet")


def encode(rows: pl.DataFrame, inputs: dict[str, str]) -> Any:
    """(n, inputs) float64: numbers as they are, categories as the code of their text in this benchmark's vocabulary."""
    columns = []
    for name, kind in inputs.items():
        values = rows[name]
        if kind == "category":
            codes = values.cast(pl.Int64).cast(pl.Float64)
            columns.append(codes.set(codes < 0, None).to_numpy())
        else:
            columns.append(values.cast(pl.Float64).to_numpy())
    return np.column_stack(columns)


def light(task: str, x: Any, new: Any, y: Any, categories: list[int], seed: int, threads: int) -> Any:
    """LightGBM as it comes."""
    settings: dict[str, Any] = {"n_jobs": threads, "random_state": seed, "verbose": -1}
    kind = lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier
    model = kind(**settings).fit(x, y, categorical_feature=categories or "auto")
    return answer(task, model, new)


def histogram(task: str, x: Any, new: Any, y: Any, categories: list[int], seed: int, threads: int) -> Any:
    """scikit-learn's histogram gradient boosting as it comes."""
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    model = kind(random_state=seed, categorical_features=categories or None).fit(x, y)
    return answer(task, model, new)


def answer(task: str, model: Any, rows: Any) -> Any:
    """The score of each row: a probability, a number, or a list of a probability per class."""
    if task == "regression":
        return model.predict(rows)
    found = model.predict_proba(rows)
    return found[:, 1] if task == "binary" else list(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
