"""What history features are worth on flights: the shipped pipeline and model, with them and without, by month.

Each month is scored by a model of the months before. Prints ROC AUC of `late` with both sets of inputs and the difference, with
the interval of a paired bootstrap. Run it with `make bench-history` (MONTHS="4 9" SEEDS=0).
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from benchmarks.flights import LATE, PIPELINE, flights_table
from benchmarks.learn import learn
from perennial.rules.features import input_columns, input_names
from perennial.rules.metrics import evaluate, paired_bootstrap_by_group
from perennial.rules.tabular import InputKind
from perennial.spec import Pipeline, TabularModel, load_pipeline

METRIC = "roc_auc"
WITH, WITHOUT = "with history", "without: schedule, weather, planes, airports"
Paired = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, nargs="+", default=list(range(4, 13)), help="months to score, of 2 to 12")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pipeline, table = load_pipeline(PIPELINE), flights_table().sort("scheduled_at")
    assert isinstance(pipeline.model, TabularModel)
    sets = input_sets(pipeline)
    print(f"{WITH}: {len(sets[WITH])} inputs; {WITHOUT}: {len(sets[WITHOUT])}")
    print(f"| month | trained on rows | {WITH} | {WITHOUT} | difference | 95% | CPU s |")
    print("| ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    seeds: dict[int, list[Paired]] = {seed: [] for seed in asked.seeds}
    for month in asked.months:
        before, of_month = table.filter(pl.col("month") < month), table.filter(pl.col("month") == month)
        began = time.process_time()
        for seed in asked.seeds:
            model = replace(pipeline.model, seed=seed)
            scores = [learn(model, before, inputs, LATE).score(of_month) for inputs in sets.values()]
            seeds[seed].append((of_month[LATE].to_numpy(), scores[0], scores[1]))
        this = [found[-1:] for found in seeds.values()]
        print(f"| {month} | {len(before):,} | {_told(this)} | {time.process_time() - began:.0f} |", flush=True)
    print(f"| mean of {len(asked.months)} | | {_told(list(seeds.values()))} | |")


def input_sets(pipeline: Pipeline) -> dict[str, dict[str, InputKind]]:
    """The model's inputs, and those of them that no history feature goes into."""
    every = input_names(pipeline)
    history = {feature.name for feature in pipeline.history}
    plain = {name: kind for name, kind in every.items() if not history.intersection(input_columns(pipeline, name))}
    return {WITH: every, WITHOUT: plain}


def _told(seeds: list[list[Paired]]) -> str:
    """Mean figures over seeds and months, as cells of the table."""
    means = [
        np.mean([evaluate(METRIC, paired[0], paired[which]) for months in seeds for paired in months])
        for which in (1, 2)
    ]
    value, low, high = np.mean([paired_bootstrap_by_group(METRIC, months) for months in seeds], axis=0)
    return f"{means[0]:.4f} | {means[1]:.4f} | {value:+.4f} | {low:+.4f} to {high:+.4f}"


if __name__ == "__main__":
    main()
