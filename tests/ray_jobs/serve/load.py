"""Clients that ask all the time, each on a schedule of its own, and remember when each request was under way."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Asked:
    """One request, from when it was sent until it was answered or lost.

    Args:
        status: 0 where there was no answer; `problem`: how it failed.
    """

    request_id: str
    began: float
    ended: float
    status: int
    version: int | None
    problem: str = ""


@dataclass
class Load:
    """What the clients met."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def failed(self) -> list[Asked]:
        """Requests without an answer of 200."""
        return [asked for asked in self.asked if asked.status != 200]

    @property
    def versions(self) -> Counter[int | None]:
        """How many were answered by each version."""
        return Counter(asked.version for asked in self.asked if asked.status == 200)

    def longest_gap(self) -> float:
        """Seconds between two successful answers, at most."""
        ends = sorted(asked.ended for asked in self.asked if asked.status == 200)
        return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)


@contextmanager
def steady_load(
    url: str, row: Mapping[str, Any], headers: Mapping[str, str], clients: int = 4, per_second: float = 40.0
) -> Iterator[Load]:
    """Ask `per_second` times a second until the block ends; a client that was held up does not send what it missed."""
    load, stop = Load(), threading.Event()

    def ask(client: int) -> None:
        with httpx.Client(headers=headers, timeout=30) as connection:
            number, due = 0, time.monotonic()
            while not stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + clients / per_second, time.monotonic() - 1)
                number += 1
                load.asked.append(_ask(connection, url, row, f"load-{client}-{number}"))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask(connection: httpx.Client, url: str, row: Mapping[str, Any], request_id: str) -> Asked:
    began = time.monotonic()
    status, version, problem = 0, None, ""
    try:
        answer = connection.post(url, json={"rows": [row], "request_id": request_id})
        status = answer.status_code
        version, problem = (answer.json()["version"], "") if status == 200 else (None, answer.text[:200])
    except httpx.HTTPError as error:
        problem = f"{type(error).__name__}: {error}"
    return Asked(request_id, began, time.monotonic(), status, version, problem)
