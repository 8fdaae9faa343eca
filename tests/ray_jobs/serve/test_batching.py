"""How requests become batches: alone at once, together under load, and after company a moment for those who come back."""

import asyncio
import threading
import time
from collections.abc import Sequence

from ray_jobs.serve.batching import Ask, Batcher, Reply


class Worker:
    """Answers batches, writes down which requests each was of, and can be held at the first."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.hold = threading.Event()

    def answer(self, batch: Sequence[Ask]) -> None:
        self.batches.append([ask.request_id for ask in batch])
        self.hold.wait(timeout=10)
        for ask in batch:
            ask.reply = Reply(200, b"")


def asked(name: str) -> Ask:
    return Ask("rows", b"", name, "", {})


async def submitted(batcher: Batcher, *names: str) -> list["asyncio.Task[Reply]"]:
    tasks = [asyncio.create_task(batcher.submit(asked(name))) for name in names]
    await asyncio.sleep(0.05)
    return tasks


def test_one_that_comes_alone_waits_for_nobody() -> None:
    worker = Worker()
    worker.hold.set()
    batcher = Batcher(worker.answer, 64, 5.0, 100, 30.0)

    async def go() -> float:
        begun = time.monotonic()
        await batcher.submit(asked("a"))
        await batcher.submit(asked("b"))
        return time.monotonic() - begun

    assert asyncio.run(go()) < 1
    assert worker.batches == [["a"], ["b"]]
    batcher.close()


def test_what_waits_is_taken_together_and_after_company_the_next_are_waited_for_until_all_are_back() -> None:
    worker = Worker()
    batcher = Batcher(worker.answer, 64, 5.0, 100, 30.0)

    async def go() -> float:
        first = await submitted(batcher, "a")
        waiting = await submitted(batcher, "b", "c")
        worker.hold.set()
        await asyncio.gather(*first, *waiting)
        begun = time.monotonic()
        later = await submitted(batcher, "d")
        later += await submitted(batcher, "e")
        later += await submitted(batcher, "f")
        await asyncio.gather(*later)
        return time.monotonic() - begun

    assert asyncio.run(go()) < 1  # not all of the wait: as many are there as were on their way before
    assert worker.batches == [["a"], ["b", "c"], ["d", "e", "f"]]
    batcher.close()
