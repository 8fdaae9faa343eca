"""The default model beside LightGBM's and scikit-learn's defaults on flights: each month, trained on the months before.

Prints ROC AUC of `late` and RMSE of the arrival delay by month, and the mean difference with its paired bootstrap interval.
"""

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from benchmarks.flights import DELAY, LATE, PIPELINE, flights_table
from benchmarks.learn import learn
from perennial.rules.features import input_names
from perennial.rules.metrics import evaluate, paired_bootstrap_by_group
from perennial.spec import TabularModel, load_pipeline

TASKS = {"binary": (LATE, "roc_auc"), "regression": (DELAY, "rmse")}
PEERS = ("light", "histogram")
PYTHON = Path(".venv-peers-models/bin/python")
Scores = dict[str, list[NDArray[Any]]]


def main() -> None:
    """See the module."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    table, inputs = flights_table().sort("scheduled_at"), dict(input_names(load_pipeline(PIPELINE)))
    with tempfile.TemporaryDirectory(prefix="models-") as passing:
        folder = asked.folder or Path(passing)
        for task in asked.tasks:
            label, metric = TASKS[task]
            months = {}
            for month in asked.months:
                parts = table.filter(pl.col("month") < month), table.filter(pl.col("month") == month)
                kept = folder / f"{task}-{month:02}"
                found = Month(kept, task, label, *parts, inputs, asked.seeds, asked.threads).scores()
                months[month] = parts[1][label].cast(pl.Float64).to_numpy(), found
                _print_month(metric, month, *months[month])
            _print_total(metric, months)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, nargs="+", default=[4, 9, 12], help="months to score, of 2 to 12")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="keeps scores: what lies there from an earlier run is not made again"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class Month:
    """One month to score, all months before it to train on, and the folder that keeps what came of it."""

    folder: Path
    task: Any
    label: str
    train: pl.DataFrame
    test: pl.DataFrame
    inputs: dict[str, Any]
    seeds: list[int]
    threads: int

    def scores(self) -> Scores:
        """Every model's scores by seed; only those that the folder has none of are made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._train_ours()
        if any(set(map(str, self.seeds)) - self._kept(peer).keys() for peer in PEERS):
            self._train_peers()
        return {name: [self._kept(name)[str(seed)] for seed in self.seeds] for name in ("perennial", *PEERS)}

    def _kept(self, name: str) -> dict[str, NDArray[Any]]:
        path = self.folder / f"{name}.parquet"
        return (
            {seed: found.to_numpy() for seed, found in pl.read_parquet(path).to_dict().items()} if path.exists() else {}
        )

    def _train_ours(self) -> None:
        kept = self._kept("perennial")
        for seed in self.seeds:
            if str(seed) in kept:
                continue
            started, used = time.perf_counter(), time.process_time()
            model = replace(TabularModel(self.task), seed=seed)
            kept[str(seed)] = learn(model, self.train, self.inputs, self.label).score(self.test)
            wall, cpu = time.perf_counter() - started, time.process_time() - used
            print(f"{self.task} {self.train.height:,} rows, seed {seed}: {wall:.0f} s, {cpu:.0f} CPU-s", flush=True)
            pl.DataFrame(kept).write_parquet(self.folder / "perennial.parquet")

    def _train_peers(self) -> None:
        for name, part in (("train", self.train), ("test", self.test)):
            _encoded(part, self.train, self.inputs, self.label).write_parquet(self.folder / f"{name}.parquet")
        told = {name: getattr(self, name) for name in ("task", "label", "inputs", "seeds", "threads")}
        (self.folder / "task.json").write_text(json.dumps(told))
        # One OpenMP thread per core asked for: scikit-learn has no other setting, and spinning threads starve their neighbours.
        environment = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE", "PATH": "/usr/bin:/bin"}
        command = [str(PYTHON.absolute()), "benchmarks/models_peers.py", str(self.folder)]
        subprocess.run(command, check=True, env=environment)


def _encoded(rows: pl.DataFrame, train: pl.DataFrame, inputs: dict[str, Any], label: str) -> pl.DataFrame:
    columns = []
    for name, kind in inputs.items():
        values = rows[name]
        if kind == "category":
            known = train[name].drop_nulls().unique().sort()
            codes = pl.Series(range(len(known)), dtype=pl.Int64)
            values = values.replace_strict(known, codes, default=-1, return_dtype=pl.Int64).alias(name)
        columns.append(values)
    return pl.DataFrame([*columns, rows[label].cast(pl.Float64)])


def _print_month(metric: str, month: int, truth: NDArray[Any], scores: Scores) -> None:
    figures = {name: np.mean([evaluate(metric, truth, each) for each in found]) for name, found in scores.items()}
    print(
        f"month {month:2} {metric}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True
    )


def _print_total(metric: str, months: dict[int, tuple[NDArray[Any], Scores]]) -> None:
    for peer in PEERS:
        seeds = range(len(next(iter(months.values()))[1][peer]))
        found = [
            paired_bootstrap_by_group(
                metric, [(truth, scores["perennial"][seed], scores[peer][seed]) for truth, scores in months.values()]
            )
            for seed in seeds
        ]
        value, low, high = np.mean(found, axis=0)
        print(
            f"{metric}, perennial less {peer}, mean of {len(months)} months and {len(found)} seeds: {value:+.4f} "
            f"(95% from {low:+.4f} to {high:+.4f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
