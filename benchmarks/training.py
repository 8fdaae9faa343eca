"""What Ray Train costs over the same loop without it, and what the loader feeds beside pre-sliced tensors and a DataLoader.

Synthetic rows in the shape of flights. The figures are medians of CPU-seconds of the process that trains, both trainings at
once, and of rows a second, by turns. A figure counts only if the weights, or the sums of what was fed, are equal.
"""

import argparse
import json
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

CONTENDERS = ("torch", "ray")
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
        torch.from_numpy(matrices.numbers), torch.from_numpy(matrices.categories), torch.from_numpy(target.copy())
    )


def timed(rows: int, epochs: int, folder: Path, name: str, after_epoch: Any = lambda state, report: None) -> None:
    """Train once the other one is ready, too; leave the CPU-seconds and the weights in the folder, under the name."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    description, whole = prepared(rows)
    cut = int(rows * 0.9)
    options = FitOptions.of(TabularModel("binary"), cut).model_copy(update={"epochs": epochs})
    torch.manual_seed(options.seed)
    net = build_network(description)
    (folder / f"{name}.ready").touch()
    deadline = time.monotonic() + 300
    while len(list(folder.glob("*.ready"))) < len(CONTENDERS):
        assert time.monotonic() < deadline, "the other one did not start within five minutes"
        time.sleep(0.02)
    whole_process, own_thread = time.process_time(), time.thread_time()
    state = fit(net, whole.at(slice(0, cut)), whole.at(slice(cut, rows)), options, after_epoch=after_epoch)
    used = {"process": time.process_time() - whole_process, "thread": time.thread_time() - own_thread}
    (folder / f"{name}.json").write_text(json.dumps(used))
    (folder / f"{name}.weights").write_bytes(dump_tensors(state.kept_weights))


def on_ray(rows: int, epochs: int, folder: Path) -> None:
    """In a Ray Train worker, which reports every epoch."""
    from ray.train.v2.api.config import RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    def work() -> None:
        import ray.train

        def tell(state: FitState, report: EpochReport) -> None:
            ray.train.report({"epoch": state.epoch, "loss": report.validation_loss})

        timed(rows, epochs, folder, "ray", tell)

    TorchTrainer(
        work, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path=str(folder / "runs"))
    ).fit()


def compare_steps(rows: int, epochs: int, rounds: int) -> None:
    """Print both trainings' CPU-seconds and their ratio; both run at once, so that what else runs slows both alike."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    shares, own = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = [sys.executable, "-m", "benchmarks.training", "--plain", name, "--rows", str(rows)]
            with subprocess.Popen([*command, "--epochs", str(epochs)]) as plain:
                on_ray(rows, epochs, folder)
            assert plain.returncode == 0, "the loop without Ray failed"
            torch_s, ray_s = (json.loads((folder / f"{who}.json").read_text()) for who in CONTENDERS)
            weights = {(folder / f"{who}.weights").read_bytes() for who in CONTENDERS}
        assert len(weights) == 1, "the two loops ended in different weights"
        shares.append(ray_s["process"] / torch_s["process"])
        own.append((ray_s["process"] - ray_s["thread"]) / ray_s["thread"])
        print(f"round {number + 1}: the loop alone {torch_s['process']:.2f} CPU-s, ", end="")
        print(f"in a Ray Train worker {ray_s['process']:.2f}, of these in other threads ", end="")
        print(f"{ray_s['process'] - ray_s['thread']:.2f}; ratio {shares[-1]:.3f}", flush=True)
    print(
        f"{rows:,} rows, {epochs} epochs, medians of {rounds} rounds: ratio {statistics.median(shares):.3f}, ", end=""
    )
    print(f"Ray's own threads {statistics.median(own):.1%} of the training thread; weights equal")
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
        print(f"shuffled / DataLoader {median['shuffled'] / median['DataLoader']:.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=["loaders", "steps"], default=["loaders", "steps"])
    parser.add_argument("--plain", type=Path, help="only the loop without Ray; seconds and weights go to this folder")
    asked = parser.parse_args()
    if asked.plain:
        timed(asked.rows, asked.epochs, asked.plain, "torch")
    else:
        if "loaders" in asked.parts:
            compare_loaders(asked.rows, 1024, asked.rounds)
        if "steps" in asked.parts:
            compare_steps(asked.rows, asked.epochs, asked.rounds)
