"""Half of the load it can bear, for a long time: memory of every process flat, every answered row in `predictions` once."""

import asyncio
import json
import time
from pathlib import Path

import polars as pl

from benchmarks.load import closed_loop, http_request, open_loop
from benchmarks.serving import CLIENTS, CONTENDERS, HEADERS, Server, started
from benchmarks.serving_world import body
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.tables import read_snapshot

GROWTH_BYTES = 64 << 20  # that a process may grow after the first fifth
SLICE_SECONDS = 30.0


def soak(lake: Lake, home: Path, seconds: float) -> None:
    """Run it, and print what was found.

    Raises:
        AssertionError: a request failed, a process grew, or a row is missing or there twice.
    """
    contender = next(c for c in CONTENDERS if c.name == "ours")
    with started(contender, home) as server:
        warm = http_request("127.0.0.1", contender.path, body(), HEADERS)
        load = asyncio.run(closed_loop("127.0.0.1", server.port, [warm], CLIENTS, 5))
        rate = load.answered_per_second / 2
        answered = load.statuses[200] + 1  # the one by which it was found to be up
        print(f"half of {load.answered_per_second:.0f} requests/s for {seconds:.0f} s", flush=True)
        begun, held, ids = time.monotonic(), {}, []
        while (gone := time.monotonic() - begun) < seconds:
            part = min(SLICE_SECONDS, seconds - gone)
            load = asyncio.run(open_loop("127.0.0.1", server.port, [warm], rate, part, keep_bodies=True))
            assert set(load.statuses) == {200}, load.statuses
            assert not load.unfinished
            ids += [json.loads(answer)["request_id"] for answer in load.bodies]
            answered += load.statuses[200]
            commit_predictions(lake, "houses")
            memory = server.memory()
            if not held and gone + part >= seconds / 5:
                held = memory
            print(f"{gone + part:5.0f} s: p99 {load.quantile(0.99):.0f} ms, {_megabytes(memory)}", flush=True)
        _check_memory(held, server)
        time.sleep(5)  # the replica ships every two seconds
        _check_rows(lake, ids, answered)


def _check_memory(held: dict[str, int], server: Server) -> None:
    for name, size in server.memory().items():
        grown = size - held.get(name, size)
        assert grown < GROWTH_BYTES, f"{name} grew by {grown >> 20} MB"


def _check_rows(lake: Lake, ids: list[str], answered: int) -> None:
    commit_predictions(lake, "houses")
    rows = pl.from_arrow(read_snapshot(lake, lake.table("houses", "predictions"), columns=["request_id"]))
    assert isinstance(rows, pl.DataFrame)
    doubled = int(rows["request_id"].is_duplicated().sum())
    missing = len(set(ids) - set(rows["request_id"]))
    print(f"{answered} answered, {rows.height} rows in predictions, {doubled} doubled, {missing} of {len(ids)} missing")
    assert (doubled, missing, rows.height) == (0, 0, answered)


def _megabytes(memory: dict[str, int]) -> str:
    largest = sorted(memory.items(), key=lambda item: -item[1])[:6]
    return ", ".join(f"{name.partition(':')[0]} {size >> 20} MB" for name, size in largest)
