"""What a training waits for where its cluster is full: Ray itself says nothing of it to the driver."""

import time
from collections.abc import Callable

Resources = dict[str, float]
LOOKS = 3  # in a row: what has just ended gives its slots back a moment later


def tell_of_full_cluster(need: Resources, what: str, tell: Callable[[str], None], seconds: float = 0.5) -> None:
    """Tell once if the cluster has no room for what is asked for next, which will wait for it.

    Args:
        what: it is for, as the line says it.
        seconds: between two looks; none are lost where there is room.
    """
    for look in range(LOOKS):
        time.sleep(seconds if look else 0)
        free = _free()
        if all(free.get(name, 0.0) >= amount for name, amount in need.items()):
            return
    tell(_line(need, what))


class WorkerWait:
    """Looks, again and again, whether this job's training workers wait for room; tells once of each wait."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.looks = tell, 0

    def look(self) -> None:
        """Tell if the workers' reservation has been pending for some looks."""
        import ray
        import ray.util

        job = ray.get_runtime_context().get_job_id()
        need: Resources = {}
        for name, group in ray.util.placement_group_table().items():
            if group["state"] == "PENDING" and name.endswith(job):  # a reservation's id ends with its job's
                for bundle in group["bundles"].values():
                    need |= {resource: need.get(resource, 0.0) + amount for resource, amount in bundle.items()}
        self.looks = self.looks + 1 if need else 0
        if self.looks == LOOKS:
            self.tell(_line(need, "training workers"))


def _free() -> Resources:
    import ray

    found: Resources = ray.available_resources()  # type: ignore[no-untyped-call] # Ray's own
    return found  # without those that are all taken


def _line(need: Resources, what: str) -> str:
    import ray

    free, found = _free(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    parts = [
        f"{amount:g} {name} ({free.get(name, 0.0):g} of the cluster's {found.get(name, 0.0):g} free)"
        for name, amount in need.items()
    ]
    return (
        f"{what} wait for {' and '.join(parts)}. Training goes on by itself when other work ends; "
        "`ray status` tells what is taken."
    )
