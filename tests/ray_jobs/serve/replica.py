"""One replica in this process or in one of its own, without Ray around it, and what tests send it."""

import asyncio
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import make_champion
from perennial.rules.features import pipeline_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.config import EndpointConfig, ServeConfig
from ray_jobs.serve.endpoint import Endpoint
from tests.conftest import S3, empty_lake, free_port
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

FOLDER = Path(__file__).parent / "pipelines"
PREFIX = "/v2/models/trips"
START_SECONDS = 120
ROW = {"trip": 1, "station": "north", "start_at": "2024-05-01T18:00:00Z", "distance_km": 2.5, "member": True}
KINDS = {"trip": "INT64", "station": "BYTES", "start_at": "BYTES", "distance_km": "FP64", "member": "BOOL"}


@dataclass
class Replica:
    """A replica and a way to ask it."""

    endpoint: Endpoint
    app: ASGIApp
    lake: Lake
    version: int
    requests: Path

    def ask(self, path: str, content: bytes | None = None, token: str = "sesame", **headers: str) -> httpx.Response:
        """POST the content, or GET where there is none."""
        (answer,) = self.ask_all([(path, content)], token, **headers)
        return answer

    def ask_all(
        self, asked: Sequence[tuple[str, bytes | None]], token: str = "sesame", **headers: str
    ) -> list[httpx.Response]:
        """All at once."""
        sent = {k.replace("_", "-"): v for k, v in headers.items()} | {"authorization": f"Bearer {token}"}

        async def go() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, root_path="/v2/models/trips", raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test/v2/models/trips") as client:
                self.endpoint._batcher._loop = None  # a loop of its own for every call here; a replica has one
                self.endpoint._batcher._sweeper = None
                return await asyncio.gather(
                    *(
                        client.get(path, headers=sent)
                        if content is None
                        else client.post(path, content=content, headers=sent)
                        for path, content in asked
                    )
                )

        return asyncio.run(go())


@contextmanager
def running_replica(s3: S3, home: Path, folder: Path = FOLDER) -> Iterator[Replica]:
    """A replica of `trips`, as declared in a folder, with a champion of its own."""
    (s3.secrets_dir / "serve_token").write_text("sesame")
    lake = empty_lake(s3, home)
    pipeline = load_pipeline("trips", folder)
    fill_raw(lake, pipeline)
    version = register_model(lake, pipeline, 1)
    make_champion(lake, "trips", version, expected_generation=0, as_of=NOON, reason="a test", decision_id="d")
    options = ServeConfig(
        log_folder=home / "log", ship_seconds=0.5, maximum_body_bytes=1 << 20, maximum_ongoing_requests=100
    )
    endpoint = Endpoint(
        EndpointConfig(
            lake=lake, pipeline="trips", pipelines=folder, code_hash=pipeline_code_hash(pipeline), serve=options
        )
    )
    try:
        yield Replica(endpoint, endpoint.__serve_build_asgi_app__(), lake, version, home / "logs" / "requests")
    finally:
        endpoint.__del__()


@contextmanager
def served_replica(s3: S3, home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A replica over HTTP in a process of its own, which holds nothing that is not the replica's; its URL."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(s3, home, port))
    process.start()
    url, deadline = f"http://127.0.0.1:{port}{PREFIX}", time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.TransportError as error:
                if not process.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError(f"the replica at {url} did not start within {START_SECONDS} s") from error
                time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join(30)


def _serve(s3: S3, home: Path, port: int) -> None:
    with running_replica(s3, home) as replica:

        async def under_prefix(scope: Scope, receive: Receive, send: Send) -> None:
            await replica.app({**scope, "root_path": PREFIX}, receive, send)

        uvicorn.run(under_prefix, port=port, log_level="error", lifespan="off")


@contextmanager
def full_disk(file_bytes: int = 0) -> Iterator[None]:
    """No file of this process grows beyond this; the kernel answers a write as a disk with so much room would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rows(*rows: dict[str, Any], **more: Any) -> bytes:
    """A body of plain rows."""
    return json.dumps({"rows": rows, **more}).encode()


def changed(**values: Any) -> dict[str, Any]:
    """A row that works, with other values."""
    return {**ROW, **values}


def tensors(*rows: dict[str, Any], **more: Any) -> bytes:
    """An inference request with JSON tensors."""
    inputs = [
        {"name": n, "datatype": kind, "shape": [len(rows)], "data": [row[n] for row in rows]}
        for n, kind in KINDS.items()
    ]
    return json.dumps({"inputs": inputs, **more}).encode()
