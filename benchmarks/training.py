"""What Ray Train costs over the same loop without it, and what the loader feeds beside pre-sliced tensors and a DataLoader.

Synthetic rows in the shape of flights. Rounds are interleaved; the figures are medians of CPU-seconds of the process that
trains, and of rows a second. A figure counts only if the weights, or the sums of what was fed, are equal.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from perennial.lakehouse.scorers import dump_tensors
from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.scoring import build_network
from perennial.rules.tabular import InputKind, fit_preprocessing
from perennial.spec import TabularModel
from ray_jobs.train.fit import EpochReport, FitOptions, FitState, fit, shuffled
from ray_jobs.train.objective import Batch, row_losses

INPUTS: dict[str, InputKind] = {**{f"n{i}": "number" for i in range(12)}, **{f"c{i}": "category" for i in range(5)}}


def prepared(rows: int) -> tuple[ModelDescription, Batch]:
    """A table of flights' shape as matrices."""
    generator = np.random.default_rng(1)
    columns: dict[str, Any] = {f"n{i}": generator.normal(size=rows) for i in range(12)}
    columns |= {f"c{i}": generator.integers(0, 10 * (i + 1), rows).astype(str) for i in range(5)}
    table = pl.DataFrame(columns)
    model = TabularModel("binary")
    architecture = Architecture(hidden=model.hidden, dropout=model.dropout, members=model.members)
    description = ModelDescription(
        task="binary", architecture=architecture, preprocessing=fit_preprocessing(table, INPUTS)
    )
    matrices = description.preprocessing.apply(table)
    target = (table["n0"] + table["n1"] * table["n2"] > 0).cast(pl.Float32).to_numpy()
    return description, Batch(
        torch.from_numpy(matrices.numbers), torch.from_numpy(matrices.categories), torch.from_numpy(target)
    )


def timed(rows: int, epochs: int, after_epoch: Any = lambda state, report: None) -> tuple[float, bytes]:
    """CPU-seconds of a training, and the weights it ended in."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    description, whole = prepared(rows)
    cut = int(rows * 0.9)
    options = FitOptions.of(TabularModel("binary"), cut).model_copy(update={"epochs": epochs})
    torch.manual_seed(options.seed)
    net = build_network(description)
    started = time.process_time()
    state = fit(net, whole.at(slice(0, cut)), whole.at(slice(cut, rows)), options, after_epoch=after_epoch)
    return time.process_time() - started, dump_tensors(state.kept_weights)


def on_ray(rows: int, epochs: int, folder: Path) -> tuple[float, bytes]:
    """The same in a Ray Train worker, which reports every epoch."""
    from ray.train.v2.api.config import RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    def work() -> None:
        import ray.train

        def tell(state: FitState, report: EpochReport) -> None:
            ray.train.report({"epoch": state.epoch, "loss": report.validation_loss})

        seconds, weights = timed(rows, epochs, tell)
        (folder / "seconds").write_text(str(seconds))
        (folder / "weights").write_bytes(weights)

    TorchTrainer(
        work, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path=str(folder / "runs"))
    ).fit()
    return float((folder / "seconds").read_text()), (folder / "weights").read_bytes()


def plain(rows: int, epochs: int, folder: Path) -> tuple[float, bytes]:
    """The same in a process of its own without Ray."""
    command = [sys.executable, "-m", "benchmarks.training", "--plain", str(folder), "--rows", str(rows)]
    subprocess.run([*command, "--epochs", str(epochs)], check=True)
    return float((folder / "seconds").read_text()), (folder / "weights").read_bytes()


def compare_steps(rows: int, epochs: int, rounds: int) -> None:
    """Print both trainings' CPU-seconds and their ratio."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    found: dict[str, list[float]] = {"torch": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            weights = []
            for name, run in (("torch", plain), ("ray", on_ray)):
                seconds, told = run(rows, epochs, Path(folder))
                found[name].append(seconds)
                weights.append(told)
            assert weights[0] == weights[1], "the two loops ended in different weights"
    torch_seconds, ray_seconds = (statistics.median(found[name]) for name in ("torch", "ray"))
    print(f"{rows:,} rows, {epochs} epochs, {rounds} rounds: the loop alone {torch_seconds:.2f} CPU-s, ", end="")
    print(f"in a Ray Train worker {ray_seconds:.2f} CPU-s, ratio {ray_seconds / torch_seconds:.3f}; weights equal")
    ray.shutdown()


def compare_loaders(rows: int, batch_rows: int, rounds: int) -> None:
    """Print the rows a second that three ways of feeding reach, alone and with a training step."""
    torch.set_num_threads(1)
    description, whole = prepared(rows)
    slices = [whole.at(slice(start, start + batch_rows)) for start in range(0, rows, batch_rows)]
    table = TensorDataset(whole.numbers, whole.categories, whole.target)

    def by_row() -> Iterator[Batch]:
        for numbers, categories, target in DataLoader(table, batch_size=batch_rows, shuffle=True):
            yield Batch(numbers, categories, target)

    net = build_network(description)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)

    def step(batch: Batch) -> None:
        loss = row_losses(net(batch.numbers, batch.categories), batch.target, "binary").mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    feeds = {"pre-sliced": lambda: iter(slices), "shuffled": lambda: shuffled(whole, batch_rows), "DataLoader": by_row}
    for what, use in (("fed", lambda batch: None), ("trained on", step)):
        speeds: dict[str, list[float]] = {name: [] for name in feeds}
        for _ in range(rounds):
            sums = set()
            for name, feed in feeds.items():
                started, total = time.perf_counter(), 0.0
                for batch in feed():
                    total += float(batch.numbers.sum(dtype=torch.float64)) + float(batch.target.sum())
                    use(batch)
                speeds[name].append(rows / (time.perf_counter() - started))
                sums.add(round(total, 3))
            assert len(sums) == 1, sums
        median = {name: statistics.median(found) for name, found in speeds.items()}
        print(f"{what}: " + ", ".join(f"{name} {speed:,.0f} rows/s" for name, speed in median.items()), end="; ")
        print(f"shuffled / pre-sliced {median['shuffled'] / median['pre-sliced']:.2f}, ", end="")
        print(f"shuffled / DataLoader {median['shuffled'] / median['DataLoader']:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", type=Path, help="only the loop without Ray; seconds and weights go to this folder")
    asked = parser.parse_args()
    if asked.plain:
        seconds, weights = timed(asked.rows, asked.epochs)
        (asked.plain / "seconds").write_text(str(seconds))
        (asked.plain / "weights").write_bytes(weights)
    else:
        compare_loaders(asked.rows, 1024, asked.rounds)
        compare_steps(asked.rows, asked.epochs, asked.rounds)
