"""Requests that nobody would send: whatever comes in, the answer is a score or a 4xx, and memory stays where it was.

Short here; `make fuzz-serving` sends 10,000 of each kind.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, S3
from tests.ray_jobs.serve.replica import PREFIX, ROW, changed, rows, served_replica, tensors

LONG = os.environ.get("PERENNIAL_FUZZ") == "long"
REQUESTS = int(os.environ.get("PERENNIAL_FUZZ_REQUESTS", 0)) or (10_000 if LONG else 150)
MEMORY_BYTES = 64 << 20  # what allocators may still take after the first fifth
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
    st.lists(st.just(ROW) | row, min_size=1, max_size=4) | st.lists(row | anything, max_size=4),
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
            [
                *["application/json"] * 6,  # most requests should come as far as their rows
                "application/octet-stream",
                "application/vnd.apache.arrow.stream",
                "text/csv",
                "",
            ]
        ),
        "inference-header-content-length": st.integers(-3, 400).map(str) | st.text("0123456789x ", max_size=5),
        "content-encoding": st.sampled_from([*["identity"] * 6, "gzip", "x"]),
        "accept": st.sampled_from(["application/vnd.apache.arrow.stream", "*/*"]),
        "x-request-id": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140),
    },
)


@pytest.fixture(scope="module")
def replica(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    with served_replica(s3, tmp_path_factory.mktemp("fuzz")) as served:
        yield served


def test_made_up_bodies_get_a_4xx_or_scores_and_memory_stays_flat(replica: tuple[str, psutil.Process]) -> None:
    url, process = replica
    statuses: Counter[int] = Counter()
    held = [0]
    connection = HTTPConnection(httpx.URL(url).netloc.decode(), timeout=30)

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
        connection.request("POST", PREFIX + path, body, {**sent, "authorization": "Bearer sesame"})
        with connection.getresponse() as answer:
            answer.read()
        assert answer.status < 500, (path, body, sent)
        statuses[answer.status] += 1
        if statuses.total() == REQUESTS // 5:
            held[0] = process.memory_info().rss

    try:
        send()
    finally:
        connection.close()
    assert statuses[200] > 0
    assert len(statuses) >= 3, statuses
    grown = process.memory_info().rss - held[0]

    print(f"\nfuzz-serving: {dict(statuses)}; memory {held[0] >> 20} MiB after a fifth, then {grown >> 20:+} MiB")
    assert grown < MEMORY_BYTES


def test_schemathesis_finds_no_error_of_ours_by_the_api_page(replica: tuple[str, psutil.Process]) -> None:
    url, process = replica
    python = ROOT / ".venv-peers-clients" / "bin"
    assert python.exists(), "schemathesis has an environment of its own: run `make peers-clients`"
    arguments = ["run", f"{url}/openapi.json", "--url", url, "--checks", "not_a_server_error", "--phases", "fuzzing"]
    arguments += ["--header", "Authorization: Bearer sesame", "--max-examples", str(REQUESTS // 5 if LONG else 20)]
    arguments += ["--seed", "7", "--generation-database", "none", "--mode", "all"]
    held = process.memory_info().rss
    done = subprocess.run(
        [python / "schemathesis", *arguments], capture_output=True, text=True, timeout=3_000, check=False
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
    grown = process.memory_info().rss - held
    print(f"\nfuzz-serving: {done.stdout.strip().splitlines()[-1]}; memory {held >> 20} MiB, then {grown >> 20:+} MiB")
    assert grown < MEMORY_BYTES
    answer = httpx.post(f"{url}/predict", content=rows(ROW), headers={"authorization": "Bearer sesame"})
    assert answer.status_code == 200
