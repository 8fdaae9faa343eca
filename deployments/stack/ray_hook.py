"""What `ray start` has no flag for, set through Ray's own `RAY_START_HOOK`."""

from typing import Any


def keep_to_ourselves(parameters: Any, is_head: bool) -> None:
    """Leave out the autoscaler's monitor and the Ray Client server: a port that runs code and that nobody here uses."""
    parameters.ray_client_server_port = None
    parameters.no_monitor = True
