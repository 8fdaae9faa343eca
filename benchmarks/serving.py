"""What a request costs, and what happens when there are too many: the endpoint beside its peers, in one run.

    python -m benchmarks.serving cost       # CPU per request, requests per second per core: ours and the peers
    python -m benchmarks.serving shape      # latency at 70%, 100% and 300% of the most it can do, and after
    python -m benchmarks.serving soak       # ten minutes at half load: memory, and every answered row once

CPU is that of all of a server's processes (Ray, HAProxy and workers included), from outside; the generator's is not in
it. Contenders take turns. A contender whose scores differ from ours is no contender.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Load, closed_loop, http_request, open_loop
from benchmarks.serving_world import ROW, TOKEN, body, served_model
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers-serving" / "bin" / "python"
HEADERS = [("content-type", "application/json"), ("authorization", f"Bearer {TOKEN}")]
OURS = "/v2/models/houses/predict"
CLIENTS = 16


@dataclass(frozen=True)
class Contender:
    """A server: its name in `serving_servers`, where it is asked, and what a body looks like there."""

    name: str
    told: str
    path: str = "/predict"
    peer: bool = False
    scores: bool = True

    @property
    def body(self) -> bytes:
        """One row as this server wants it."""
        row: dict[str, Any] = {k: v for k, v in ROW.items() if k not in ("sale", "sold_at")}
        if self.name == "mlflow":
            return json.dumps({"dataframe_records": [row]}).encode()
        return json.dumps({"rows": [row]}).encode() if self.peer else body()


CONTENDERS = [
    Contender("fastapi_noop", "uvicorn + FastAPI, no-op", scores=False),
    Contender("ours_noop", "ours, no-op model, token, validation and log off", OURS, scores=False),
    Contender("ours", "ours, all on", OURS),
    Contender("fastapi_model", "the same model behind FastAPI"),
    Contender("ray_defaults", "Ray Serve's defaults, no-op", scores=False),
    Contender("litserve", "LitServe", peer=True),
    Contender("bentoml", "BentoML", peer=True),
    Contender("mlflow", "mlflow models serve", "/invocations", peer=True),
]


@dataclass
class Server:
    """A running contender."""

    process: subprocess.Popen[bytes]
    port: int
    _seen: dict[int, float] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """Of all its processes so far, those that have ended included as far as they were seen."""
        for process in self._tree():
            try:
                times = process.cpu_times()
                self._seen[process.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._seen.values())

    def memory(self) -> dict[str, int]:
        """Resident bytes of each of its processes."""
        found = {}
        for process in self._tree():
            try:
                found[f"{process.name()[:20]}:{process.pid}"] = process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return found

    def _tree(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@contextmanager
def started(contender: Contender, home: Path) -> Iterator[Server]:
    """The server, once it answers; stopped afterwards with all its children."""
    port = free_port()
    python = str(PEERS) if contender.peer else sys.executable
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "1"}
    log = (home / f"{contender.name}.log").open("ab")
    process = subprocess.Popen(
        [python, "-m", "benchmarks.serving_servers", contender.name, str(port), str(home)],
        env=environment, stdout=log, stderr=log, start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    server = Server(process, port)
    try:
        _wait(contender, server)
        yield server
    finally:
        children = server._tree()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in children:
            if child.is_running():
                child.kill()


def _wait(contender: Contender, server: Server, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{contender.name} ended with {server.process.returncode}; see its log")
        try:
            ask(contender, server.port)
            return
        except (OSError, ValueError) as error:
            last = error
            time.sleep(0.5)
    raise RuntimeError(f"{contender.name} does not answer: {last}")


def ask(contender: Contender, port: int) -> list[float]:
    """One row's score."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{contender.path}", contender.body, dict(HEADERS))
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
        content = json.load(answer)
    if isinstance(content, list):
        return [float(score) for score in content]
    return [float(score) for score in content.get("scores", content.get("predictions"))]


def cost(home: Path, names: list[str], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """CPU per request and requests per CPU-second of each contender, `CLIENTS` at a time, medians over rounds."""
    expected: list[float] | None = None
    table = []
    for contender in [c for c in CONTENDERS if c.name in names]:
        with started(contender, home) as server:
            scores = ask(contender, server.port)
            if contender.scores:
                expected = expected or scores
                if abs(scores[0] - expected[0]) > 1e-9 * abs(expected[0]):
                    raise RuntimeError(f"{contender.name} answers {scores}, and ours {expected}: no contender")
            request = http_request("127.0.0.1", contender.path, contender.body, HEADERS)
            loads, cpus = [], []
            _closed(server, request, 2)
            for _ in range(rounds):
                before = server.cpu_seconds()
                load = _closed(server, request, seconds)
                cpus.append((server.cpu_seconds() - before) / load.statuses[200])
                loads.append(load)
                if set(load.statuses) != {200}:
                    raise RuntimeError(f"{contender.name} answered {load.statuses}")
            table.append(
                {
                    "name": contender.name,
                    "told": contender.told,
                    "cpu_ms": statistics.median(cpus) * 1000,
                    "minimum_ms": min(cpus) * 1000,
                    "per_second": statistics.median(load.answered_per_second for load in loads),
                    "p50_ms": statistics.median(load.quantile(0.5) for load in loads),
                }
            )
            print(json.dumps(table[-1]), flush=True)
    return table


def shape(home: Path, seconds: float) -> None:
    """How the endpoint bears 70%, 100% and 300% of the most it can do, and 50% afterwards."""
    contender = next(c for c in CONTENDERS if c.name == "ours")
    with started(contender, home) as server:
        request = http_request("127.0.0.1", contender.path, contender.body, HEADERS)
        _closed(server, request, 3)
        most = _closed(server, request, seconds).answered_per_second
        print(f"the most, {CLIENTS} at a time: {most:.0f} requests/s")
        for share in (0.3, 0.7, 1.0, 3.0, 0.5):
            load = asyncio.run(open_loop("127.0.0.1", server.port, [request], share * most, seconds))
            print(
                f"{share:4.0%} of it: {load.sent} sent, {dict(load.statuses)}, {load.retry_after} with Retry-After, "
                f"{load.unfinished} unfinished; p50 {load.quantile(0.5):.1f} ms, p99 {load.quantile(0.99):.1f} ms, "
                f"ratio {load.quantile(0.99) / load.quantile(0.5):.1f}",
                flush=True,
            )


def _closed(server: Server, request: bytes, seconds: float) -> Load:
    return asyncio.run(closed_loop("127.0.0.1", server.port, [request], CLIENTS, seconds))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["cost", "shape", "soak"])
    parser.add_argument("--only", nargs="*", default=[c.name for c in CONTENDERS])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    home = Path(f"/tmp/ps-{secrets.token_hex(3)}")  # noqa: S108 - short, for Ray's sockets
    home.mkdir(mode=0o700)
    try:
        with served_model(home) as (_, lake):
            write_weights(lake, home)
            if asked.part == "cost":
                show(cost(home, asked.only, asked.seconds, asked.rounds))
            elif asked.part == "shape":
                shape(home, asked.seconds)
            else:
                from benchmarks.serving_soak import soak

                soak(lake, home, asked.seconds)
    except BaseException:
        for log in home.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)


def write_weights(lake: Any, home: Path) -> None:
    """The champion where peers find it, and the lake for the servers that read it."""
    from perennial.lakehouse.artifacts import MODEL, WEIGHTS, read_artifact_file
    from perennial.lakehouse.registry import read_version

    version = read_version(lake, "houses", 1)
    for name, place in ((MODEL, "model.json"), (WEIGHTS, "weights.safetensors")):
        content = read_artifact_file(lake, "houses", version.artifact_id, version.manifest_sha256, name)
        (home / place).write_bytes(content)
    (home / "lake.json").write_text(lake.model_dump_json())


def show(table: list[dict[str, Any]]) -> None:
    """The table, as docs/benchmarks.md has it."""
    least = next((row["cpu_ms"] for row in table if row["name"] == "fastapi_noop"), float("nan"))
    print(
        "| server | CPU per request | to the no-op | requests/s | per core | p50 |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in table:
        print(
            f"| {row['told']} | {row['cpu_ms']:.3f} ms | {row['cpu_ms'] / least:.1f} | {row['per_second']:.0f} "
            f"| {1000 / row['cpu_ms']:.0f} | {row['p50_ms']:.1f} ms |"
        )


if __name__ == "__main__":
    main()
