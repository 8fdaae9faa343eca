"""A server of asyncio in a thread of its own, so that a test can talk to it and change its mind meanwhile."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager


@contextmanager
def serving(start: Callable[[], Awaitable[asyncio.Server]]) -> Iterator[asyncio.Server]:
    """The server that `start` gives, until the block ends; connections still open then are dropped."""
    ready, started = threading.Event(), list[asyncio.Server]()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        started.append(await start())
        ready.set()
        await ended.wait()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # it cancels whatever is under way when it ends
            runner.run(serve())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield started[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
