"""Rows a second through a 100-input 3x512 network on one GPU, read from an Iceberg table's files in the page cache.

Threads decode Parquet into pinned blocks, column by column, while the device trains on the block before: the transpose to
rows is the device's. `--device cpu` with few rows only shows that it runs.
"""

import argparse
import itertools
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyiceberg.catalog.sql import SqlCatalog
from torch import Tensor, nn

COLUMNS, UNITS, LAYERS = 100, 512, 3


def make_table(folder: Path, files: int, rows: int) -> list[str]:
    """An Iceberg table of float32 columns; return its planned files."""
    catalog = SqlCatalog("bench", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/lake")
    catalog.create_namespace("bench")
    names = [f"x{number}" for number in range(COLUMNS)]
    schema = pa.schema([(name, pa.float32()) for name in [*names, "y"]])
    properties = {"write.parquet.compression-codec": "uncompressed"}
    table = catalog.create_table("bench.rows", schema, properties=properties)
    generator = np.random.default_rng(0)
    for _ in range(files):
        values = [generator.standard_normal(rows, dtype=np.float32) for _ in names]
        table.append(pa.table([*values, (values[0] > 0).astype(np.float32)], schema=schema))
    paths = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    for path in paths:
        Path(path).read_bytes()  # into the page cache
    return paths


def read_block(path: str, pinned: bool) -> Tensor:
    """(columns + 1, rows) float32 of one file."""
    table = pq.read_table(path, use_threads=False, memory_map=True)
    block = torch.empty((COLUMNS + 1, table.num_rows), pin_memory=pinned)
    whole = block.numpy()
    for number, column in enumerate(table.columns):
        start = 0
        for chunk in column.chunks:
            whole[number, start : start + len(chunk)] = chunk.to_numpy()
            start += len(chunk)
    return block


def blocks(paths: list[str], passes: int, readers: int, pinned: bool) -> Iterator[Tensor]:
    """The files' blocks, `passes` times over, read ahead by threads."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=2)

    def read() -> None:
        with ThreadPoolExecutor(readers) as pool:
            for _ in range(passes):
                for block in pool.map(lambda path: read_block(path, pinned), paths):
                    ready.put(block)
        ready.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (block := ready.get()) is not None:
        yield block


def network() -> nn.Module:
    """The 100-input 3x512 network."""
    widths = [COLUMNS, *[UNITS] * LAYERS]
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(UNITS, 1))


def train(paths: list[str], asked: argparse.Namespace) -> None:
    """Train over the files, and print rows a second and the device's idle share."""
    device = torch.device(asked.device)
    cuda = device.type == "cuda"
    net: Any = network().to(device)
    if asked.compile:
        net = torch.compile(net)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    rows, waited, started = 0, 0.0, 0.0
    feed = blocks(paths, asked.passes, asked.readers, cuda)
    while True:
        before = time.perf_counter()
        block = next(feed, None)
        if block is None:
            break
        if started:
            waited += time.perf_counter() - before
        batch = block.to(device, non_blocking=True)
        for start in range(0, batch.shape[1], asked.batch):
            part = batch[:, start : start + asked.batch]
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                output = net(part[:COLUMNS].t())[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(output.float(), part[COLUMNS])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if not started:  # the first block warms up
            if cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
        else:
            rows += block.shape[1]
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    name = torch.cuda.get_device_name() if cuda else "CPU"
    print(
        f"{name}: {rows / seconds:,.0f} rows/s over {rows:,} rows, waited for data {waited / seconds:.1%} of the time, "
        f"last loss {loss.item():.4f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a file")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--readers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=262_144)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here. Nothing was measured; --device cpu only shows that it runs.")
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        train(make_table(Path(folder), asked.files, asked.rows), asked)
