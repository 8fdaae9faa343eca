"""Sketches beside Evidently's drift preset on the same full data: cells per CPU-second, exactness, verdicts.

`make bench-sketch`. Both score Wasserstein in the reference's standard deviations for numbers and Jensen-Shannon for
categories, against 0.1. CPU-seconds of this process, best of the rounds; Evidently's include no drawing of a page.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from evidently import DataDefinition, Dataset, Report
from evidently.core.metric_types import SingleValue
from evidently.presets import DataDriftPreset
from scipy.stats import ks_2samp, wasserstein_distance

from perennial.rules.sketch import Edges, Sketch, sketch_frame
from perennial.rules.sketch_scores import compare

THRESHOLD, SHIFTS = 0.1, (0.0, 0.02, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.5)
NUMBERS = [f"number_{i}" for i in range(9)]
CATEGORY = "category"


def world(rows: int, shift: float, seed: int) -> pl.DataFrame:
    """Nine numbers of several shapes and a category; a shift is in standard deviations."""
    random = np.random.default_rng(seed)
    shapes: tuple[Callable[[], np.ndarray], ...] = (
        lambda: random.normal(0, 1, rows),
        lambda: random.gamma(3, 1 / np.sqrt(3), rows),
        lambda: random.uniform(0, np.sqrt(12), rows),
    )
    columns = {name: shapes[i % 3]() + shift for i, name in enumerate(NUMBERS)}
    odds = np.exp(shift * np.arange(6))
    category = random.choice(list("abcdef"), rows, p=odds / odds.sum())
    return pl.DataFrame({**columns, CATEGORY: category})


def edges_of(reference: pl.DataFrame) -> dict[str, Edges]:
    """As a version's reference fixes them: from a sample of it."""
    sample = reference.sample(min(reference.height, 20_000), seed=1)
    return {n: Edges.of(sample[n], "category" if n == CATEGORY else "number") for n in reference.columns}


def ours(current: pl.DataFrame, then: dict[str, Sketch], edges: dict[str, Edges]) -> dict[str, float]:
    """One pass and the scores; the reference's states are kept, as its are."""
    now = sketch_frame(current, edges)
    scores = {name: compare(now[name], then[name]) for name in edges}
    return {n: s.jensen_shannon if n == CATEGORY else s.wasserstein for n, s in scores.items()}


def dataset(rows: pl.DataFrame) -> Dataset:
    """For Evidently, which reads pandas."""
    definition = DataDefinition(numerical_columns=NUMBERS, categorical_columns=[CATEGORY])
    return Dataset.from_pandas(rows.to_pandas(), data_definition=definition)


def theirs(current: Dataset, reference: Dataset) -> dict[str, float]:
    """Evidently's preset with the same scores and threshold."""
    preset = DataDriftPreset(num_method="wasserstein", cat_method="jensenshannon", num_threshold=THRESHOLD, cat_threshold=THRESHOLD)  # fmt: skip
    snapshot = Report([preset]).run(current, reference)
    found = {}
    for result in snapshot.metric_results.values():
        place = result.metric_value_location
        if place is not None and isinstance(result, SingleValue) and "column" in place.metric.params:
            found[str(place.metric.params["column"])] = float(result.value)
    return found


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The best of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def speed(rows: int, rounds: int) -> dict[str, float]:
    """Cells of the current window per CPU-second, both on the same rows; and ours on numbers alone."""
    reference, current = world(rows, 0.0, 1), world(rows, 0.1, 2)
    edges = edges_of(reference)
    then = sketch_frame(reference, edges)
    large = pl.concat([current] * 20)
    numbers = {name: edges[name] for name in NUMBERS}
    cells = rows * len(edges)
    ours_s = cpu_seconds(lambda: ours(large, then, edges), rounds) / 20
    numbers_s = cpu_seconds(lambda: sketch_frame(large, numbers), rounds) / 20
    pair = dataset(current), dataset(reference)
    theirs_s = cpu_seconds(lambda: theirs(*pair), min(rounds, 2))
    return {
        "cells": cells,
        "ours_million_cells_per_cpu_second": cells / ours_s / 1e6,
        "ours_numbers_million_cells_per_cpu_second": rows * len(NUMBERS) / numbers_s / 1e6,
        "evidently_million_cells_per_cpu_second": cells / theirs_s / 1e6,
        "ratio": theirs_s / ours_s,
    }


def agreement(rows: int) -> dict[str, object]:
    """Largest errors against scipy, and verdicts that differ from Evidently's, over a grid of shifts."""
    reference = world(rows, 0.0, 1)
    edges = edges_of(reference)
    then, theirs_reference = sketch_frame(reference, edges), dataset(reference)
    ks = wasserstein = 0.0
    differing = []
    for number, shift in enumerate(SHIFTS):
        current = world(rows, shift, 100 + number)
        now = sketch_frame(current, edges)
        for name in NUMBERS:
            scores, a, b = compare(now[name], then[name]), current[name].to_numpy(), reference[name].to_numpy()
            ks = max(ks, abs(scores.ks - float(ks_2samp(a, b).statistic)))
            wasserstein = max(wasserstein, abs(scores.wasserstein - float(wasserstein_distance(a, b)) / float(b.std())))
        mine, other = ours(current, then, edges), theirs(dataset(current), theirs_reference)
        differing += [(shift, n) for n in edges if (mine[n] >= THRESHOLD) != (other[n] >= THRESHOLD)]
    compared = len(SHIFTS) * len(edges)
    return {
        "largest_ks_error": ks,
        "largest_wasserstein_error": wasserstein,
        "verdicts": compared,
        "differing": differing,
    }


def main() -> None:
    """Print both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    print(json.dumps({"speed": speed(chosen.rows, chosen.rounds), "agreement": agreement(chosen.rows // 2)}, indent=1))


if __name__ == "__main__":
    main()
