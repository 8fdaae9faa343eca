"""A stack of a test's own: its folder, its free ports, its command line."""

import os
import subprocess
import sys
from pathlib import Path

from flows.settings import ROOT, Settings
from tests.conftest import free_port

PORTS = (
    *("prefect", "ray", "ray_dashboard", "s3", "reports", "metrics"),
    *("serve", "serve_fallback", "haproxy_metrics", "haproxy_stats"),
)


def stack_settings(home: Path, **fields: object) -> Settings:
    """Settings on ports that were free a moment ago."""
    free: set[int] = set()
    while len(free) < len(PORTS):
        free.add(free_port())
    ports = {f"{name}_port": port for name, port in zip(PORTS, free, strict=True)}
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
