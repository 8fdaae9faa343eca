"""Serve, up with its proxy, and the way to an application's replicas from a job."""

import logging
import time
from typing import Any

import ray
from ray import serve

from ray_jobs.serve.config import ServeConfig

logger = logging.getLogger(__name__)


class ServeNotUp(RuntimeError):
    """Serve's proxy did not start in time; nothing was deployed."""


def start_serve(options: ServeConfig) -> None:
    """Start Serve with its proxy, unless it runs. On a busy machine a proxy takes longer than the minute Serve gives it.

    Raises:
        ServeNotUp: not within `options.rollout_seconds`.
    """
    deadline = time.monotonic() + options.rollout_seconds
    while True:
        try:
            serve.start(http_options={"host": options.host, "port": options.port})
            return
        except (TimeoutError, ray.exceptions.RayError) as error:
            if time.monotonic() > deadline:
                raise ServeNotUp(f"Serve's proxy at {options.url} did not start: {_reason(error)}") from error
            logger.warning("Serve's proxy is not up yet: %s", _reason(error))


def _reason(error: Exception) -> str:
    """What HAProxy says of itself, where it says anything: a port that is taken, a file that is not there."""
    alerts = [line.partition(") : ")[2] for line in str(error).splitlines() if line.startswith("[ALERT]")]
    return alerts[0] if alerts else type(error).__name__


def open_handle(application: str) -> Any:
    """The handle of an application that runs.

    Under RAY_SERVE_THROUGHPUT_OPTIMIZED a handle wants an event loop of the caller's, and a job has none.
    """
    handle = serve.get_app_handle(application)
    if not handle.is_initialized:  # Serve hands out the same one again
        handle._init(_run_router_in_separate_loop=True)  # type: ignore[no-untyped-call]
    return handle
