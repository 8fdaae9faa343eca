"""Spark MLlib's and Dask-ML's classifiers on tables that `benchmarks.learning` wrote. Runs in the peers' environment.

A folder with `task.json`, `train.parquet`, `test.parquet`; out, for the contender that is named: `<name>.parquet`, a score per test
row and setting, and `<name>.json`, the seconds from the file to a fitted model. Each has done a small job before. Numbers get the
median where there is none, categories go in as each library asks for; everything else is as it comes.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.ingest.tree import cpu_seconds

WARM_ROWS = 5_000
Fitted = Callable[[Path], NDArray[Any]]
"""From a file to its rows' probabilities."""


def main(folder: Path, contender: str) -> None:
    """Fit every setting of a contender, once small, then on all rows."""
    told = json.loads((folder / "task.json").read_text())
    pl.read_parquet(folder / "train.parquet").tail(WARM_ROWS).write_parquet(folder / "warm.parquet")
    scores, costs = {}, {}
    for name, fit in CONTENDERS[contender](told["inputs"], told["label"]):
        fit(folder / "warm.parquet")(folder / "warm.parquet")
        cpu, wall = cpu_seconds(os.getpid()), time.perf_counter()
        fitted = fit(folder / "train.parquet")
        costs[name] = {"cpu": cpu_seconds(os.getpid()) - cpu, "wall": time.perf_counter() - wall}
        scores[name] = fitted(folder / "test.parquet")
    pl.DataFrame(scores).write_parquet(folder / f"{contender}.parquet")
    (folder / f"{contender}.json").write_text(json.dumps(costs))


def spark(inputs: dict[str, str], label: str) -> Iterator[tuple[str, Callable[[Path], Fitted]]]:
    """MLlib on two threads of one JVM: boosted trees and logistic regression, fewer rounds than the default's first."""
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import GBTClassifier, LogisticRegression
    from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, VectorAssembler
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "3g")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    categories = [name for name, kind in inputs.items() if kind == "category"]
    numbers = [name for name in inputs if name not in categories]
    slots, vectors, filled = (
        [f"{kind}_{name}" for name in of]
        for kind, of in (("slot", categories), ("vector", categories), ("filled", numbers))
    )
    prepare = [
        Imputer(strategy="median", inputCols=numbers, outputCols=filled),
        StringIndexer(inputCols=categories, outputCols=slots, handleInvalid="keep"),
    ]

    def chain(*stages: Any) -> Callable[[Path], Fitted]:
        def fit(rows: Path) -> Fitted:
            model = Pipeline(stages=[*prepare, *stages]).fit(session.read.parquet(str(rows)))

            def score(new: Path) -> NDArray[Any]:
                said = model.transform(session.read.parquet(str(new)))
                found = said.select("row", vector_to_array("probability")[1].alias("score")).orderBy("row").collect()
                return np.array([each["score"] for each in found])

            return score

        return fit

    trees = VectorAssembler(inputCols=[*filled, *slots], outputCol="features")
    lines = VectorAssembler(inputCols=[*filled, *vectors], outputCol="features")
    hot = OneHotEncoder(inputCols=slots, outputCols=vectors)
    for rounds in (10, 100):
        line = LogisticRegression(labelCol=label, maxIter=rounds)
        yield f"MLlib LogisticRegression, {rounds} iterations{' (default)' * (rounds == 100)}", chain(hot, lines, line)
    for rounds in (5, 20):
        # A category needs a bin of its own; the default of 32 is refused for the destinations.
        tree = GBTClassifier(labelCol=label, maxIter=rounds, maxBins=256, seed=0)
        yield f"MLlib GBTClassifier, {rounds} trees{' (default)' * (rounds == 20)}", chain(trees, tree)
    session.stop()


def dask(inputs: dict[str, str], label: str) -> Iterator[tuple[str, Callable[[Path], Fitted]]]:
    """Dask-ML's logistic regression on two threads: standardised numbers and one column per category."""
    import dask
    import dask.dataframe as dd
    from dask_ml.impute import SimpleImputer
    from dask_ml.linear_model import LogisticRegression
    from dask_ml.preprocessing import Categorizer, DummyEncoder, StandardScaler

    dask.config.set(scheduler="threads", num_workers=2)
    categories = [name for name, kind in inputs.items() if kind == "category"]
    numbers = [name for name in inputs if name not in categories]

    def read(rows: Path) -> Any:
        return dd.read_parquet(rows).repartition(npartitions=2).persist()

    def chain(**settings: Any) -> Callable[[Path], Fitted]:
        def fit(rows: Path) -> Fitted:
            table = read(rows)
            known, dummies = Categorizer(columns=categories), DummyEncoder(columns=categories)
            median, scale = SimpleImputer(strategy="median"), StandardScaler()
            coded = dummies.fit_transform(known.fit_transform(table[categories]))
            filled = scale.fit_transform(median.fit_transform(table[numbers]))
            model = LogisticRegression(**settings)
            model.fit(_matrix(filled, coded), table[label].to_dask_array(lengths=True))

            def score(new: Path) -> NDArray[Any]:
                arrived = read(new)
                filled = scale.transform(median.transform(arrived[numbers]))
                coded = dummies.transform(known.transform(arrived[categories]))
                return np.asarray(model.predict_proba(_matrix(filled, coded)))[:, 1]

            return score

        return fit

    yield "Dask-ML LogisticRegression, 10 iterations", chain(max_iter=10)
    yield "Dask-ML LogisticRegression, 100 iterations (default)", chain()
    yield "Dask-ML LogisticRegression, lbfgs", chain(solver="lbfgs")


def _matrix(*parts: Any) -> Any:
    import dask.dataframe as dd

    joined = dd.concat(list(parts), axis=1).astype("float64")
    matrix = joined.to_dask_array(lengths=True)
    return matrix.rechunk({1: -1})


CONTENDERS = {"spark": spark, "dask": dask}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
