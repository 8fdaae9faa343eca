"""A no-op model behind our way in and our batching, for the benchmark: what they cost by themselves."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.types import ASGIApp

from ray_jobs.serve.application import Gate
from ray_jobs.serve.batching import Ask, Batcher, Reply

ANSWER = Reply(200, b'{"scores":[0.0]}')


class NoopEndpoint:
    """A replica without anything behind it."""

    def __init__(self) -> None:
        self._batcher = Batcher(self._work, 64, 0.0, 200, 30.0)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Gate(self, None, 1 << 20, 30.0, Starlette())  # no pages, but Serve's lifespan has to be answered

    async def answer(self, ask: Ask) -> Reply:
        return await self._batcher.submit(ask)

    def refused(self, ask_id: str, client: str, status: int) -> None:
        pass

    def _work(self, batch: Sequence[Ask]) -> None:
        for ask in batch:
            ask.reply = ANSWER
