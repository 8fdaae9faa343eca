"""Jobs on a cluster that is reached through its Jobs API alone: a Ray head in processes of its own, with a token."""

import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from ray.exceptions import AuthenticationError

from deployments.stack.processes import start_process, stop_processes
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import plan_batch
from perennial.lakehouse.secrets import SecretRef
from ray_jobs.features.build import BuildRequest, BuiltFeatures, build
from ray_jobs.ingest.stage import StageRequest, stage
from tasks.compute import Compute, RayJobFailed, _job_name, _jobs_client, run_job
from tests.conftest import ROOT, free_port, wait_until_answers
from tests.shop import FILE, NOON, orders, put, remember, shop, write_shop

# The pipeline's file is read by the job first of all: there it can be held, once, until the test lets it go on.
GATE = """
import os
if os.path.exists({gate!r}):
    print("the shop is closed", flush=True)
    os.rename({gate!r}, {gate!r} + ".reached")
    open({gate!r} + ".reached").read(1)
"""


@dataclass(frozen=True)
class Gate:
    """A FIFO that the job reads from: where it waits."""

    path: Path
    end: int

    def open(self) -> None:
        """Let the job go on."""
        os.write(self.end, b"1")

    def wait_for_the_job(self) -> None:
        """Return when the job stands at the gate."""
        until(self.path.with_name("gate.reached").exists)


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compute]:
    """A Ray head that only its Jobs API leads to; it reads our code and nothing else of ours."""
    home = tmp_path_factory.mktemp("cluster")
    for name in ("logs", "run", "secrets"):
        (home / name).mkdir()
    (home / "secrets" / "ray_token").write_text(secrets.token_hex(32))
    session = Path(f"/tmp/pj-{secrets.token_hex(3)}")  # noqa: S108 - a socket's path has at most 107 characters
    dashboard, gcs = free_port(), free_port()
    argv = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    argv += ["--node-ip-address", "127.0.0.1", "--port", str(gcs), "--num-cpus", "2"]
    argv += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    argv += ["--dashboard-agent-listen-port", str(free_port())]  # else the other tests' Ray has it, and no agent comes
    argv += ["--object-store-memory", str(128 * 1024**2), "--temp-dir", str(session)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PREFECT_"))}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "secrets" / "ray_token"),
    }
    start_process(home, "ray", argv, environment)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_until_answers(address, None, seconds=60)
        compute = Compute(
            ray_address="127.0.0.1:1",  # nothing is there: a job that is not sent away fails
            jobs_address=address,
            token_secret=SecretRef(name="ray_token"),
            secrets_dir=home / "secrets",
        )
        until(lambda: takes_jobs(compute))
        yield compute
    finally:
        stop_processes(home, ["ray"], grace_seconds=5)
        shutil.rmtree(session, ignore_errors=True)


def takes_jobs(cluster: Compute) -> bool:
    """Whether the head, which answers sooner, has its agent."""
    try:
        return bool(_jobs_client(cluster).submit_job(entrypoint="true"))
    except RuntimeError as error:
        if "No available agent" not in str(error):
            raise
        return False


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate that is closed."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    yield Gate(path, end)
    os.close(end)


@pytest.fixture
def request_at_gate(lake: Lake, tmp_path: Path, gate: Gate) -> BuildRequest:
    """To build the features of a shop with one order, by a job that stops at the gate."""
    folder = write_shop(tmp_path / "pipelines")
    order = {"order_id": 1, "product": "pen", "ordered_at": NOON, "pieces": 1, "returned": True, "_known_at": NOON}
    remember(lake, folder, "orders", [order], "first")
    write_shop(folder, GATE.format(gate=str(gate.path)) + FILE)
    return BuildRequest(lake=lake, pipeline="shop", as_of=NOON, pipelines=folder)


def jobs_of(cluster: Compute, run_id: str) -> list[Any]:
    """The jobs that a flow run submitted."""
    return [job for job in _jobs_client(cluster).list_jobs() if str(job.submission_id).startswith(run_id)]


def test_a_remote_job_returns_its_result(
    cluster: Compute, lake: Lake, pipelines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run_id := str(uuid4()))
    put(lake, "orders/1.csv", orders(1, 7))
    pipeline = shop(pipelines)
    batch = plan_batch(lake, pipeline, pipeline.source("orders"), NOON)
    request = StageRequest(lake=lake, batch=batch, run_id=run_id, committed_at=NOON, pipelines=pipelines)
    staged = run_job(cluster, stage, request)
    assert staged.batch == batch
    assert staged.counts.rows == 7

    # restarted at a later time, the run finds the job that ended; other work of the same run is another job
    later = request.model_copy(update={"committed_at": NOON.replace(hour=13)})
    assert run_job(cluster, stage, later) == staged
    assert len(jobs_of(cluster, run_id)) == 1
    other = request.model_copy(update={"batch": batch.model_copy(update={"source": "prices"})})
    assert _job_name(stage, later) == _job_name(stage, request) != _job_name(stage, other)


def test_a_restarted_flow_run_finds_the_job_that_still_runs(
    cluster: Compute, request_at_gate: BuildRequest, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run_id := str(uuid4()))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run_job, cluster, build, request_at_gate)
        gate.wait_for_the_job()
        again = pool.submit(run_job, cluster, build, request_at_gate)
        gate.open()
    assert first.result() == again.result()
    assert isinstance(first.result(), BuiltFeatures)
    assert first.result().model_dump()["labelled_rows"] == 1
    assert len(jobs_of(cluster, run_id)) == 1


def test_a_job_that_fails_says_why_and_its_lines_are_in_the_flow_runs_log(
    cluster: Compute, lake: Lake, pipelines: Path, prefect_server: None
) -> None:
    seen: list[str] = []

    @flow
    def build_nothing() -> None:
        seen.append(str(flow_run.id))
        run_job(cluster, build, BuildRequest(lake=lake, pipeline="shop", as_of=NOON, pipelines=pipelines))

    with pytest.raises(
        RayJobFailed, match=r"(?s)FAILED.*NothingToBuild: pipeline shop: no row.*running the flow again"
    ):
        build_nothing()
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(seen[0])]))
    with get_client(sync_client=True) as client:
        until(lambda: any("NothingToBuild: pipeline shop" in entry.message for entry in client.read_logs(mine)))
    assert [job.submission_id.startswith(f"{seen[0]}-build-") for job in jobs_of(cluster, seen[0])] == [True]


def test_cancelling_a_flow_run_stops_its_job(
    cluster: Compute, request_at_gate: BuildRequest, gate: Gate, prefect_server: None
) -> None:
    seen: list[str] = []

    @flow
    def held() -> None:
        seen.append(str(flow_run.id))
        run_job(cluster, build, request_at_gate)

    def cancel() -> None:
        gate.wait_for_the_job()
        os.kill(os.getpid(), signal.SIGTERM)

    def terminated(number: int, frame: FrameType | None) -> None:  # as the process of a flow run does it
        raise TerminationSignal(number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(cancel)
            with pytest.raises(TerminationSignal):
                held()
    finally:
        signal.signal(signal.SIGTERM, before)
    until(lambda: [job.status for job in jobs_of(cluster, seen[0])] == ["STOPPED"])


def test_a_token_that_is_not_the_clusters_is_refused(cluster: Compute, lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "ray_token").write_text("another")
    stranger = cluster.model_copy(update={"secrets_dir": tmp_path})
    request = BuildRequest(lake=lake, pipeline="shop", as_of=NOON, pipelines=tmp_path)
    with pytest.raises(AuthenticationError, match="Invalid authentication token"):
        run_job(stranger, build, request)
