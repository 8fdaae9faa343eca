"""How requests become batches: alone at once, together under load, and after company a moment for those who come back."""

import asyncio
import threading
import time
from collections.abc import Sequence

import polars as pl
import pytest

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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_panic_of_rust_code_fails_its_batch_alone_and_an_exit_ends_the_worker() -> None:
    def answer(batch: Sequence[Ask]) -> None:
        if batch[0].request_id == "panic":
            pl.Series([-(2**63)]).cast(pl.Datetime("us")).dt.truncate("1mo")
        if batch[0].request_id == "exit":
            raise SystemExit
        for ask in batch:
            ask.reply = Reply(200, b"")

    batcher = Batcher(answer, 64, 0.0, 100, 1.0)

    async def go() -> list[int]:
        return [(await batcher.submit(asked(name))).status for name in ("panic", "a")]

    assert asyncio.run(go()) == [500, 200]
    ask = asked("exit")
    ask.future = asyncio.new_event_loop().create_future()
    batcher._small.put(ask)
    batcher.threads[0].join(timeout=10)
    assert not batcher.threads[0].is_alive()
    batcher.close()
