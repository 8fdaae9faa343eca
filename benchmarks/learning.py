"""Seconds until a classifier reaches a fixed ROC AUC: the default model beside Spark MLlib's and Dask-ML's, on flights.

Trained on three months, scored on the fourth, the same rows and inputs for all, from a Parquet file on the local disk. Every
contender runs in a process of its own that has done a small job before; scoring is not on the clock. Peers are fitted anew for
every setting; ours is one training, looked at after each pass. The fixed AUC is the best that the weakest library reaches.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.flights import LATE, PIPELINE, flights_table
from benchmarks.learn import learn
from perennial.rules.features import input_names
from perennial.rules.metrics import evaluate
from perennial.rules.scoring import Scorer
from perennial.spec import TabularModel, load_pipeline

PYTHON = Path(".venv-peers-learning/bin/python")
PEERS = ("spark", "dask")
Found = dict[str, dict[str, float]]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--month", type=int, default=4, help="to score; trained on all before")
    parser.add_argument("--who", nargs="+", choices=["ours", *PEERS], default=["ours", *PEERS])
    parser.add_argument("--ours", type=Path, help="train ours on the tables in this folder")
    asked = parser.parse_args()
    if asked.ours:
        _train_ours(asked.ours)
        return
    with tempfile.TemporaryDirectory(prefix="learning-") as folder:
        truth = _write(Path(folder), asked.month)
        libraries = {}
        for who in asked.who:
            mine = [sys.executable, "-m", "benchmarks.learning", "--ours", folder]
            subprocess.run(
                mine if who == "ours" else [PYTHON, "-m", "benchmarks.learning_peers", folder, who], check=True
            )
            libraries[who] = _judge(Path(folder), who, truth)
    _print_reached(libraries)


def _write(folder: Path, month: int) -> pl.Series:
    table, inputs = flights_table().sort("scheduled_at"), dict(input_names(load_pipeline(PIPELINE)))
    kinds = {"category": pl.String, "number": pl.Float64}
    columns = [*(pl.col(name).cast(kinds[kind]) for name, kind in inputs.items()), pl.col(LATE)]
    parts = {"train": table.filter(pl.col("month") < month), "test": table.filter(pl.col("month") == month)}
    for name, part in parts.items():
        part.select(columns).with_row_index("row").write_parquet(folder / f"{name}.parquet")
    (folder / "task.json").write_text(json.dumps({"inputs": inputs, "label": LATE}))
    print(f"{parts['train'].height:,} rows to train on, {parts['test'].height:,} of month {month} to score", flush=True)
    return parts["test"][LATE]


def _train_ours(folder: Path) -> None:
    torch.set_num_threads(1)
    told, test = json.loads((folder / "task.json").read_text()), pl.read_parquet(folder / "test.parquet")
    learn(TabularModel("binary", epochs=1), pl.read_parquet(folder / "train.parquet").tail(5_000), told["inputs"], LATE)
    scores: dict[str, Any] = {}
    costs: Found = {}
    paused_cpu, paused_wall = time.process_time(), time.perf_counter()

    def look(scorer: Scorer) -> None:
        nonlocal paused_cpu, paused_wall
        cpu, wall = time.process_time(), time.perf_counter()
        name = f"Perennial's default, pass {len(costs) + 1}"
        costs[name] = {"cpu": cpu - paused_cpu, "wall": wall - paused_wall}
        scores[name] = scorer.score(test)
        paused_cpu, paused_wall = paused_cpu + time.process_time() - cpu, paused_wall + time.perf_counter() - wall

    learn(TabularModel("binary"), pl.read_parquet(folder / "train.parquet"), told["inputs"], LATE, after_epoch=look)
    pl.DataFrame(scores).write_parquet(folder / "ours.parquet")
    (folder / "ours.json").write_text(json.dumps(costs))


def _judge(folder: Path, who: str, truth: pl.Series) -> Found:
    scores, found = pl.read_parquet(folder / f"{who}.parquet"), json.loads((folder / f"{who}.json").read_text())
    for name, cost in found.items():
        cost["auc"] = evaluate("roc_auc", truth.to_numpy(), scores[name].to_numpy())
        print(f"{name}: ROC AUC {cost['auc']:.4f}, {cost['cpu']:.1f} CPU-s, {cost['wall']:.1f} s", flush=True)
    return found


def _print_reached(libraries: dict[str, Found]) -> None:
    """Print what each library needs, by its cheapest setting, to the best AUC of each, the weakest first."""
    for weak in sorted(libraries, key=lambda who: _best(libraries[who])):
        target = _best(libraries[weak])
        told = []
        for who, found in libraries.items():
            enough = [cost for cost in found.values() if cost["auc"] >= target]
            least = min(enough, key=lambda cost: cost["cpu"], default=None)
            told.append(f"{who} {least['cpu']:.1f} CPU-s, {least['wall']:.1f} s" if least else f"{who} never")
        print(f"ROC AUC {target:.4f}, the best of {weak}: " + "; ".join(told), flush=True)


def _best(found: Found) -> float:
    return max(cost["auc"] for cost in found.values())


if __name__ == "__main__":
    main()
