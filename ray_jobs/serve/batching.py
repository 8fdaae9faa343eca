"""Requests gathered into batches: whatever waits when a worker is free goes through features and model together.

A request that comes alone is taken alone, at once. Under load more wait, and the batch grows by itself; then the worker
also gives those a moment who were just answered. Large bodies have a worker of their own, so that ten thousand rows do not hold up one.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import orjson

logger = logging.getLogger("ray.serve")
LARGE_BODY_BYTES = 128 << 10
SWEEP_SECONDS = 0.25


@dataclass(frozen=True)
class Reply:
    """What goes back to the client."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


@dataclass(eq=False)
class Ask:
    """One request on its way.

    Args:
        kind: which reader and writer it goes through.
        options: headers and parameters that they look at, by name.
        version: the version the client insists on; None: whichever serves.
    """

    kind: str
    body: bytes
    request_id: str
    client: str
    options: dict[str, str]
    version: int | None = None
    arrived: float = field(default_factory=time.perf_counter)
    reply: Reply | None = None
    future: "asyncio.Future[Reply] | None" = None


def refusal(status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """How every refusal looks, after the Open Inference Protocol: `{"error": "what and where"}`."""
    return Reply(status, orjson.dumps({"error": detail}), ((b"content-type", b"application/json"), *headers))


def mistake(ask: Ask, error: BaseException) -> Reply:
    """What a request is answered that failed for no reason of its own; the log says where."""
    # the type and the place, not the message: it may hold a value that was sent
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
    logger.error("request %s was not answered: %s at %s", ask.request_id, type(error).__name__, place)
    detail = f"request {ask.request_id} could not be answered, and that is a mistake of ours; its log line says where."
    return refusal(500, detail)


class Overloaded(Exception):
    """More waits than can be answered in time; the client should come back."""


class TimedOut(Exception):
    """The request was not answered in the time it may take."""


class Batcher:
    """The way from the event loop to the workers and back.

    Args:
        work: sets the reply of each request it is given; runs in a worker's thread.
        maximum_requests: that go into one batch.
        wait_seconds: how long at most a worker that has a request waits for more, where the batch before was of several:
            until as many have come as were lately on their way at a time, who are those just answered and coming back.
            The event loop gets its turn to read them. A lone client never waits.
        maximum_waiting: requests on their way at a time; more are refused.
        timeout_seconds: after which a request that was not answered is refused.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Ask]], None],
        maximum_requests: int,
        wait_seconds: float,
        maximum_waiting: int,
        timeout_seconds: float,
    ) -> None:
        self._work, self._maximum, self._wait = work, maximum_requests, wait_seconds
        self._maximum_waiting, self._timeout = maximum_waiting, timeout_seconds
        self._small: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._large: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._open: dict[Ask, None] = {}  # in the order of their arrival
        self._lately = 1.0  # requests that were on their way at a time, of late
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.threads = [
            threading.Thread(target=self._run, args=(self._small, self._maximum), daemon=True, name="batch-small"),
            threading.Thread(target=self._run, args=(self._large, 1), daemon=True, name="batch-large"),
        ]
        for thread in self.threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests on their way."""
        return len(self._open)

    async def submit(self, ask: Ask) -> Reply:
        """The request's reply. Called on the event loop.

        Raises:
            Overloaded: too many are on their way.
            TimedOut: it took too long; whatever comes of it later is not sent.
        """
        if len(self._open) >= self._maximum_waiting:
            raise Overloaded
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        ask.future = self._loop.create_future()
        self._open[ask] = None
        self._lately = max(self._lately, len(self._open))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        (self._small if len(ask.body) < LARGE_BODY_BYTES else self._large).put(ask)
        try:
            return await ask.future
        finally:
            self._open.pop(ask, None)

    def close(self) -> None:
        """Let the workers end when they have done what waits."""
        self._small.put(None)
        self._large.put(None)

    def _run(self, waiting: "queue.SimpleQueue[Ask | None]", maximum: int) -> None:
        company = False
        while (first := waiting.get()) is not None:
            batch = [first]
            until = time.perf_counter() + (self._wait if company else 0)
            self._lately = max(0.95 * self._lately, len(self._open))
            while len(batch) < maximum:
                try:
                    left = until - time.perf_counter() if len(batch) < self._lately else 0
                    more = waiting.get(timeout=left) if left > 0 else waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    waiting.put(None)
                    break
                batch.append(more)
            company = len(batch) > 1
            # What its client no longer waits for is not worth computing, nor logging as answered.
            alive = [ask for ask in batch if ask.future is not None and not ask.future.done()]
            if alive:
                self._answer(alive)
                assert self._loop is not None
                self._loop.call_soon_threadsafe(_resolve, alive)

    def _answer(self, batch: Sequence[Ask]) -> None:
        try:
            self._work(batch)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust code is no Exception, and the worker must outlive it
            for ask in batch:
                ask.reply = ask.reply or mistake(ask, error)

    def _sweep(self) -> None:
        """Refuse what has waited too long: one timer for all requests, not one for each."""
        assert self._loop is not None
        late = time.perf_counter() - self._timeout
        for ask in list(self._open):
            if ask.arrived > late:
                break
            if ask.future is not None and not ask.future.done():
                ask.future.set_exception(TimedOut())
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep) if self._open else None


def _resolve(batch: Sequence[Ask]) -> None:
    for ask in batch:
        if ask.future is not None and not ask.future.done() and ask.reply is not None:
            ask.future.set_result(ask.reply)
