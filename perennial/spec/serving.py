"""How a pipeline's endpoint is run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

Stale = Literal["tell", "refuse"]


@dataclass(frozen=True)
class Serving:
    """How the endpoint is run.

    Args:
        replicas: processes that answer.
        maximum_replicas: up to so many are started under load, and stopped again; None: as many as `replicas`.
        target_ongoing_requests: requests a replica works on at a time, by which more or fewer are started.
        maximum_rows: rows one request may bring.
        batch_rows: rows of several requests that go through features and model together; 1: each request by itself.
        batch_requests: requests that may be taken into one batch.
        batch_wait_seconds: how long a request waits at most for company where the batch before was of several; one that
            comes alone never waits. 0: batches are what waits while another is computed.
        timeout_seconds: how long a request may take, and its body to arrive.
        refresh_seconds: how soon versions, shares and joined tables follow the lake.
        log_share: part of the requests that is written to the prediction log, in (0, 1], drawn by request id; `weight`
            says what each row stands for. While a challenger is tried, every request is written.
        freshness: by source that is joined or has history features, how long ago the newest of its rows that the replica
            holds may have become known.
        stale: beyond that, whether answers `tell` so or requests are `refuse`d; those that bring the source's columns
            themselves are answered as ever.
    """

    replicas: int = 1
    maximum_replicas: int | None = None
    target_ongoing_requests: float = 20.0
    maximum_rows: int = 10_000
    batch_rows: int = 1_024
    batch_requests: int = 64
    batch_wait_seconds: float = 0.004
    timeout_seconds: float = 30.0
    refresh_seconds: float = 2.0
    log_share: float = 1.0
    freshness: Mapping[str, timedelta] = field(default_factory=dict)
    stale: Stale = "tell"

    def mistakes(self, looked_up: Iterable[str]) -> list[tuple[str, str]]:
        """What cannot be right, each with the word to look for. `looked_up`: sources that the endpoint holds."""
        least = {
            "replicas": 1,
            "target_ongoing_requests": 0.1,
            "maximum_rows": 1,
            "batch_rows": 1,
            "batch_requests": 1,
            "batch_wait_seconds": 0,
            "timeout_seconds": 0.1,
            "refresh_seconds": 0.01,
        }
        found = [
            (f"Serving({name}={getattr(self, name)!r}) must be at least {low}.", name)
            for name, low in least.items()
            if not getattr(self, name) >= low
        ]
        if self.maximum_replicas is not None and self.maximum_replicas < self.replicas:
            found.append(
                (
                    f"Serving(maximum_replicas={self.maximum_replicas}) is below replicas={self.replicas}.",
                    "maximum_replicas",
                )
            )
        if self.batch_wait_seconds >= self.timeout_seconds:
            found.append(("Serving(batch_wait_seconds=...) must be below timeout_seconds.", "batch_wait_seconds"))
        held = list(looked_up)
        for name, bound in self.freshness.items():
            if name not in held:
                message = (
                    f"Serving(freshness=...) names {name!r}, which the endpoint does not look up; it holds {held}."
                )
                found.append((message, name))
            elif not isinstance(bound, timedelta) or bound <= timedelta(0):
                found.append((f"Serving(freshness={{{name!r}: {bound!r}}}) must be a timedelta above zero.", name))
        if self.stale not in get_args(Stale):
            found.append((f"Serving(stale={self.stale!r}) must be one of {list(get_args(Stale))}.", "stale"))
        return found
