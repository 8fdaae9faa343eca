"""A stack of a test's own: its folder, its free ports, its command line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from flows.settings import ROOT, Settings

PORTS = (
    *("prefect", "ray", "ray_dashboard", "s3", "reports", "metrics"),
    *("serve", "serve_fallback", "haproxy_metrics", "haproxy_stats"),
)


def stack_settings(home: Path, **fields: object) -> Settings:
    """Settings on ports that were free a moment ago."""
    sockets = [socket.socket() for _ in PORTS]
    for each in sockets:
        each.bind(("", 0))
    ports = {f"{name}_port": each.getsockname()[1] for name, each in zip(PORTS, sockets, strict=True)}
    for each in sockets:
        each.close()
    return Settings.model_validate({"home": home, "minimum_free_bytes": 0, **ports, **fields})


def variables(settings: Settings, **more: str) -> dict[str, str]:
    """The environment of a command line that has these settings."""
    ports = {f"PERENNIAL_{name.upper()}_PORT": str(getattr(settings, f"{name}_port")) for name in PORTS}
    return {**os.environ, **ports, "PERENNIAL_HOME": str(settings.home), "PERENNIAL_MINIMUM_FREE_BYTES": "0", **more}


def command(settings: Settings, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m deployments.stack <words>` and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "deployments.stack", *words],
        cwd=ROOT,
        env=variables(settings, **more),
        capture_output=True,
        text=True,
        check=False,
    )
