"""Answer with whoever's turn it is, and try a challenger without letting a client feel it.

request ─► champion or canary ─► answer, a line in the log
              └─ a canary that fails: the champion answers, both lines are logged
           in shadow: (the same features) ─► queue ─► challenger's score, a line in the log, off the request's path
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from perennial.rules.sticky import takes_part
from ray_jobs.serve.answer_log import LogFull
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.keeper import Serving, Traffic
from ray_jobs.serve.values import BadRequest

logger = logging.getLogger("ray.serve")
MIRRORED_ROWS = 20_000  # that wait for the challenger at a time; a slow one loses requests, and no client waits for it
MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class Failure:
    """A version that could not score rows it was given. `error`: why, for the log."""

    serving: Serving
    role: str
    error: str


@dataclass(frozen=True)
class Scored:
    """An answer's scores, by whom, and which version had failed before.

    Args:
        milliseconds: of the forward pass.
    """

    serving: Serving
    role: str
    scores: NDArray[np.float64]
    milliseconds: float
    failed: Failure | None = None


class Unscorable(BadRequest):
    """The champion has no score for these rows. `failure` goes to the log."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"version {failure.serving.version.version} cannot score these rows: {failure.error}")
        self.failure = failure


def score(traffic: Traffic, computed: pl.DataFrame, key: str) -> Scored:
    """Scores by the version that answers this key; where a canary fails, by the champion.

    Raises:
        Unscorable: the champion failed too.
    """
    serving, role = traffic.choose(key)
    try:
        return _score(serving, role, computed)
    except _Failed as error:
        failed = Failure(serving, role, str(error))
    if role == "champion":
        raise Unscorable(failed)
    try:
        scored = _score(traffic.champion, "champion", computed)
    except _Failed as error:
        raise Unscorable(Failure(traffic.champion, "champion", str(error))) from None
    return Scored(scored.serving, scored.role, scored.scores, scored.milliseconds, failed)


def score_together(serving: Serving, role: str, computed: pl.DataFrame) -> Scored | None:
    """Scores of several requests by one version; None where it failed: then ask one by one, for not all may fail."""
    try:
        return _score(serving, role, computed)
    except _Failed:
        return None


def log_weight(traffic: Traffic, log_share: float, request_id: str) -> float | None:
    """How many requests a logged one stands for; None: this one is not logged. While a version is tried, every one is."""
    if log_share >= 1 or traffic.challenger is not None:
        return 1.0
    return 1 / log_share if takes_part(request_id, "log", log_share) else None


@dataclass(frozen=True)
class _Mirrored:
    traffic: Traffic
    computed: pl.DataFrame
    request_id: str
    answered_at: datetime
    latency_ms: float


class Mirror:
    """Lets the challenger score what the champion has answered, in a thread of its own.

    Its `latency_ms` is what the request would have taken with it: the champion's, with the forward pass exchanged. Both
    passes are timed here, one after the other in turns, so that neither profits from the other's warm caches.

    Args:
        append: writes rows to the prediction log.
    """

    def __init__(self, answers: Answers, append: Callable[[pa.Table], None]) -> None:
        self._answers, self._append = answers, append
        self._waiting: queue.SimpleQueue[_Mirrored | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_rows = 0
        self._turn = 0
        self.dropped = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def offer(
        self, traffic: Traffic, computed: pl.DataFrame, request_id: str, answered_at: datetime, latency_ms: float
    ) -> None:
        """Take an answered request, if there is room; this never waits."""
        with self._lock:
            if self._waiting_rows and self._waiting_rows + computed.height > MIRRORED_ROWS:
                self.dropped += 1
                return
            self._waiting_rows += computed.height
        self._waiting.put(_Mirrored(traffic, computed, request_id, answered_at, latency_ms))

    def close(self) -> None:
        """End the thread once it has scored what it was given."""
        self._waiting.put(None)
        self.thread.join(timeout=10)

    def _run(self) -> None:
        while (asked := self._waiting.get()) is not None:
            try:
                self._append(self._try(asked))
            except LogFull as error:
                self.dropped += 1
                logger.warning("a mirrored request is not logged: %s", error)
            except (Exception, pl.exceptions.PanicException) as error:  # our own mistake; its text may hold a value
                self.dropped += 1
                logger.error("a mirrored request is not logged: %s", type(error).__name__)
            with self._lock:
                self._waiting_rows -= asked.computed.height

    def _try(self, asked: _Mirrored) -> pa.Table:
        tried = asked.traffic.challenger
        assert tried is not None
        self._turn += 1
        champion_first = self._turn % 2 == 0
        scores, error, latency_ms = None, None, asked.latency_ms
        champion = _milliseconds(asked.traffic.champion, asked.computed) if champion_first else None
        try:
            scored = _score(tried.serving, "shadow", asked.computed)
            if champion is None:
                champion = _milliseconds(asked.traffic.champion, asked.computed)
            scores, latency_ms = scored.scores, asked.latency_ms - champion + scored.milliseconds
        except _Failed as failed:
            error = str(failed)
        return self._answers.to_log(
            asked.computed, scores, tried.serving, asked.request_id, asked.answered_at, latency_ms, "shadow", error
        )


class _Failed(Exception):
    pass


def _score(serving: Serving, role: str, computed: pl.DataFrame) -> Scored:
    started = time.perf_counter()
    try:
        scores = serving.scorer.score(computed)
    except (Exception, pl.exceptions.PanicException) as error:
        # Whatever a version's forward pass dies of is this version's failure, to be counted against it.
        raise _Failed(f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]) from error
    milliseconds = (time.perf_counter() - started) * 1000
    finite = np.isfinite(scores).reshape(len(scores), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise _Failed(f"row {row} gets the score {scores[row]}; {int((~finite).sum())} of {len(scores)} rows are so.")
    return Scored(serving, role, scores, milliseconds)


def _milliseconds(serving: Serving, computed: pl.DataFrame) -> float:
    started = time.perf_counter()
    serving.scorer.score(computed)
    return (time.perf_counter() - started) * 1000
