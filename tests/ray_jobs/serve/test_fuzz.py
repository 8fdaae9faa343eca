"""Requests that nobody would send: whatever comes in, the answer is a score or a 4xx, and memory stays where it was.

Short here; `make fuzz-serving` sends 10,000 of each kind.
"""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from tests.conftest import ROOT, S3, free_port
from tests.ray_jobs.serve.replica import ROW, Replica, changed, rows, running_replica, tensors

LONG = os.environ.get("PERENNIAL_FUZZ") == "long"
REQUESTS = int(os.environ.get("PERENNIAL_FUZZ_REQUESTS", 0)) or (10_000 if LONG else 150)
MEMORY_BYTES = 64 << 20  # what allocators may still take after the first fifth
PREFIX = "/v2/models/trips"
pytestmark = pytest.mark.timeout(3_600 if LONG else 300)

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(
        ["north", "2024-05-01T18:00:00Z", "INT64", "FP64", "BYTES", "BOOL", "trip", "score", -1, 0, 1e308]
    )
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
columns = st.sampled_from([*ROW, "note", "minutes", "weather_rain_mm", "stations_docks", "no_such"])
row = st.builds(
    lambda base, changes, gone: {k: v for k, v in {**base, **changes}.items() if k not in gone},
    st.just(ROW),
    st.dictionaries(columns, anything, max_size=3),
    st.sets(columns, max_size=1),
)
plain = st.builds(
    lambda rows, more: {"rows": rows, **more},
    st.lists(row | anything, max_size=4),
    st.dictionaries(st.just("request_id"), anything),
)


@st.composite
def inference(draw: st.DrawFn) -> dict[str, Any]:
    """A request of the protocol that is right but for some places."""
    body: dict[str, Any] = json.loads(tensors(*draw(st.sampled_from([[ROW], [ROW, changed(trip=2)]]))))
    for _ in range(draw(st.integers(0, 3))):
        tensor = draw(st.sampled_from(body["inputs"])) if body["inputs"] else {}
        if not isinstance(tensor, dict):
            continue
        field = draw(st.sampled_from(["name", "datatype", "shape", "data", "parameters", "gone"]))
        values = {
            "shape": st.lists(st.integers(-2, 2**40) | anything, max_size=3),
            "data": st.lists(anything, max_size=3),
            "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "shared_memory_region", "x"]), anything),
        }
        if field == "gone":
            body["inputs"].remove(tensor)
        else:
            tensor[field] = draw(values.get(field, anything) | anything)
    body |= draw(st.dictionaries(st.sampled_from(["id", "outputs", "parameters", "inputs"]), anything, max_size=1))
    return body


bodies = st.one_of(
    plain.map(lambda b: ("/predict", json.dumps(b).encode())),
    inference().map(lambda b: ("/infer", json.dumps(b).encode())),
    st.tuples(
        st.sampled_from(["/predict", "/infer", "/versions/1/infer", "/versions/x/infer"]), st.binary(max_size=200)
    ),
    anything.map(lambda b: ("/predict", json.dumps(b).encode())),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(
            ["application/json", "application/octet-stream", "application/vnd.apache.arrow.stream", "text/csv", ""]
        ),
        "inference-header-content-length": st.integers(-3, 400).map(str) | st.text("0123456789x ", max_size=5),
        "content-encoding": st.sampled_from(["identity", "gzip", "x"]),
        "accept": st.sampled_from(["application/vnd.apache.arrow.stream", "*/*"]),
        "x-request-id": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140),
    },
)


@pytest.fixture(scope="module")
def replica(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with running_replica(s3, tmp_path_factory.mktemp("fuzz")) as replica:
        yield replica


def test_made_up_bodies_get_a_4xx_or_scores_and_memory_stays_flat(replica: Replica) -> None:
    statuses: Counter[int] = Counter()
    process, held = psutil.Process(), [0]
    loop = asyncio.new_event_loop()

    @settings(
        max_examples=REQUESTS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(bodies, headers, st.integers(0, 20))
    def send(request: tuple[str, bytes], sent: dict[str, str], cut: int) -> None:
        path, body = request
        body = body[:-cut] if cut > 17 else body
        status = loop.run_until_complete(_ask(replica, path, body, sent))
        assert status < 500, (path, body, sent)
        statuses[status] += 1
        if statuses.total() == REQUESTS // 5:
            held[0] = process.memory_info().rss

    try:
        send()
    finally:
        loop.close()
    assert statuses[200] > 0
    assert len(statuses) >= 3, statuses
    assert process.memory_info().rss - held[0] < MEMORY_BYTES


def test_schemathesis_finds_no_error_of_ours_by_the_api_page(replica: Replica) -> None:
    python = ROOT / ".venv-peers-clients" / "bin"
    assert python.exists(), "schemathesis has an environment of its own: run `make peers-clients`"
    with _served(replica) as url:
        arguments = [
            "run",
            f"{url}/openapi.json",
            "--url",
            url,
            "--checks",
            "not_a_server_error",
            "--phases",
            "fuzzing",
        ]
        arguments += ["--header", "Authorization: Bearer sesame", "--max-examples", str(REQUESTS // 5 if LONG else 20)]
        arguments += ["--seed", "7", "--generation-database", "none", "--mode", "all"]
        done = subprocess.run(
            [python / "schemathesis", *arguments], capture_output=True, text=True, timeout=3_000, check=False
        )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
    assert replica.ask("/predict", rows(ROW)).status_code == 200


async def _ask(replica: Replica, path: str, body: bytes, sent: dict[str, str]) -> int:
    messages, statuses = iter([{"type": "http.request", "body": body, "more_body": False}]), []

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    named = [(k.encode(), v.encode("latin-1")) for k, v in {**sent, "authorization": "Bearer sesame"}.items()]
    scope = {
        "type": "http", "method": "POST", "path": PREFIX + path, "root_path": PREFIX, "query_string": b"", "headers": named
    }  # fmt: skip
    await replica.app(scope, receive, send)
    return int(statuses[0])


@contextmanager
def _served(replica: Replica) -> Iterator[str]:
    """The replica over HTTP, its path as Serve gives it."""

    async def under_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": PREFIX}
        await replica.app(scope, receive, send)

    port = free_port()
    replica.endpoint._batcher._loop = replica.endpoint._batcher._sweeper = None
    server = uvicorn.Server(uvicorn.Config(under_prefix, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        server.should_exit = True
        thread.join(10)
