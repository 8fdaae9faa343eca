"""What would stop the stack, found before anything is started: each in one message that says what to do."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence

import psutil

from deployments.stack.health import probe_s3
from deployments.stack.parts import Part
from flows.settings import Settings


class StackProblem(RuntimeError):
    """The stack cannot start or has failed to; nothing that this call started is left running."""


def check_disk(settings: Settings) -> None:
    """Refuse to start on a nearly full disk, where writes would fail half way."""
    free = shutil.disk_usage(settings.home).free
    if free < settings.minimum_free_bytes:
        raise StackProblem(
            f"the disk of {settings.home} is nearly full: {free / 1e9:.1f} GB are free and the stack asks for "
            f"{settings.minimum_free_bytes / 1e9:.1f} GB. Nothing was started. Free some space, put the data elsewhere "
            f"(PERENNIAL_HOME), or lower PERENNIAL_MINIMUM_FREE_BYTES."
        )


def check_ports(parts: Sequence[Part]) -> None:
    """Refuse to start where a stranger listens already; the message names who, and the setting that moves us."""
    taken = [(setting, port) for part in parts for setting, port in part.ports.items() if not _is_free(port)]
    if taken:
        lines = [
            f"port {port} is taken by {_listener(port)}; stop it or set PERENNIAL_{setting.upper()}"
            for setting, port in taken
        ]
        raise StackProblem("; ".join(lines) + ". Nothing was started.")


def check_external_s3(settings: Settings) -> None:
    """Refuse to start without the S3 server that the settings name."""
    problem = probe_s3(settings)
    if problem:
        raise StackProblem(
            f"{problem}. Nothing was started. Check PERENNIAL_S3_ENDPOINT and the network, or unset it to use the "
            "embedded S3 server."
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # other users' processes are not ours to see
    return "another user's process"
