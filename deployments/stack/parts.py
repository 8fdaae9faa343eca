"""What the stack is made of: each part's command line, environment, ports and the proof that it works."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.stack import health
from deployments.stack.environment import (
    WORK_POOL,
    client_environment,
    ray_folder,
    rclone_client_environment,
    rclone_server_environment,
    server_environment,
)
from flows.settings import LOOPBACK, Settings

REPORTS_POLICY = (  # every page brings a stricter one of its own; whatever else lies there gets no network and no origin
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Part:
    """One long-running process.

    Args:
        ports: what it listens on, by the setting that moves it.
        needs: parts that must work before it is started.
        probe: None when it does its work, else why not yet.
    """

    name: str
    argv: list[str]
    environment: dict[str, str]
    ports: dict[str, int]
    url: str
    probe: Callable[[Settings], str | None]
    needs: tuple[str, ...] = ()


def stack_parts(settings: Settings) -> list[Part]:
    """The parts that these settings want on this machine, in the order in which they are shown."""
    parts = [_s3(settings)] if settings.embedded_s3 else []
    parts += [_reports(settings), _metrics(settings), _prefect(settings), _worker(settings)]
    return parts if settings.ray_address else [*parts, _ray(settings)]


PART_NAMES = ("s3", "reports", "metrics", "prefect", "worker", "ray")


def _s3(settings: Settings) -> Part:
    argv = [_program("rclone"), "serve", "s3", "--addr", f"{LOOPBACK}:{settings.s3_port}"]
    # Without this every ranged read waits 20 ms for the one before it: 23 ms each, against 2.
    argv += ["--vfs-read-wait", "0", "--no-cleanup", str(settings.home / "s3")]
    environment = client_environment(settings) | rclone_server_environment(settings)
    url = f"http://{LOOPBACK}:{settings.s3_port}"
    return Part("s3", argv, environment, {"s3_port": settings.s3_port}, url, health.probe_s3)


def _reports(settings: Settings) -> Part:
    argv = [_program("rclone"), "serve", "http", f":s3:{settings.bucket}/{settings.environment}/reports"]
    argv += ["--addr", f"{LOOPBACK}:{settings.reports_port}", "--read-only", "--dir-cache-time", "1s"]
    argv += ["--vfs-read-wait", "0", "--disable-zip", "--response-header", "X-Content-Type-Options: nosniff"]
    argv += ["--response-header", f"Content-Security-Policy: {REPORTS_POLICY}"]
    environment = client_environment(settings) | rclone_client_environment(settings)
    needs = ("s3",) if settings.embedded_s3 else ()
    ports = {"reports_port": settings.reports_port}
    return Part("reports", argv, environment, ports, settings.reports_base, health.probe_reports, needs)


def _metrics(settings: Settings) -> Part:
    argv = [sys.executable, "-m", "deployments.metrics"]
    needs = ("s3",) if settings.embedded_s3 else ()
    ports = {"metrics_port": settings.metrics_port}
    url = f"http://{LOOPBACK}:{settings.metrics_port}/metrics"
    given = settings.model_dump(mode="json", include=settings.model_fields_set)
    told = {
        f"PERENNIAL_{n.upper()}": v if isinstance(v, str) else json.dumps(v) for n, v in given.items() if v is not None
    }
    environment = client_environment(settings) | told  # it reads settings itself, also those that were not variables
    return Part("metrics", argv, environment, ports, url, health.probe_metrics, needs)


def _prefect(settings: Settings) -> Part:
    argv = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        LOOPBACK,
        "--port",
        str(settings.prefect_port),
    ]
    environment = client_environment(settings) | server_environment(settings)
    ports = {"prefect_port": settings.prefect_port}
    return Part("prefect", argv, environment, ports, settings.prefect_url, health.probe_prefect)


def _worker(settings: Settings) -> Part:
    argv = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", WORK_POOL]
    argv += ["--name", "local", "--limit", str(max(4, 2 * settings.cpus)), "--install-policy", "never"]
    environment = client_environment(settings)
    return Part("worker", argv, environment, {}, f"work pool {WORK_POOL}", health.probe_worker, ("prefect",))


def _ray(settings: Settings) -> Part:
    argv = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    argv += ["--node-ip-address", LOOPBACK, "--port", str(settings.ray_port)]
    argv += ["--dashboard-host", LOOPBACK, "--dashboard-port", str(settings.ray_dashboard_port)]
    argv += ["--num-cpus", str(settings.cpus), "--object-store-memory", str(settings.object_store_bytes)]
    argv += ["--temp-dir", str(ray_folder(settings))]
    environment = client_environment(settings)
    environment["RAY_START_HOOK"] = "deployments.stack.ray_hook.keep_to_ourselves"
    names = ("ray", "ray_dashboard", "serve", "serve_fallback", "haproxy_metrics", "haproxy_stats")
    ports = {f"{name}_port": int(getattr(settings, f"{name}_port")) for name in names}
    return Part("ray", argv, environment, ports, settings.dashboard_url, health.probe_ray)


def _program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise FileNotFoundError(f"{name} is not beside {sys.executable}: the set-up is incomplete. Run `make setup`.")
    return found
