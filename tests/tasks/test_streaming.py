"""Waiting for messages, without the run around it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perennial.lakehouse.lake import Lake
from tasks.streaming import NothingToStream, await_messages, list_topics
from tests.brokers import Brokers, running_brokers
from tests.web import declare, send


@pytest.fixture
def brokers() -> Iterator[Brokers]:
    with running_brokers() as brokers:
        brokers.make("clicks", 2)
        yield brokers


def test_a_source_is_named_once_enough_messages_wait_or_some_have_waited_long_enough(
    lake: Lake, pipelines: Path, brokers: Brokers
) -> None:
    declare(pipelines, brokers)
    sources = list_topics.fn(pipelines, "web")

    def wait(every_rows: int, every_seconds: float, at_most_seconds: float) -> tuple[list[str], float]:
        started = time.monotonic()
        found = await_messages.fn(lake, pipelines, "web", sources, every_rows, every_seconds, at_most_seconds)
        return found, time.monotonic() - started

    assert wait(every_rows=1, every_seconds=0.5, at_most_seconds=1.0)[0] == []  # nothing there
    send(brokers, 0, 100)
    found, seconds = wait(every_rows=100, every_seconds=60, at_most_seconds=60)
    assert (found, seconds < 30) == (["clicks"], True)
    found, seconds = wait(every_rows=101, every_seconds=0.5, at_most_seconds=60)
    assert (found, 0.5 <= seconds < 30) == (["clicks"], True)
    assert wait(every_rows=101, every_seconds=60, at_most_seconds=0)[0] == []


def test_a_pipeline_of_files_is_told_to_schedule_ingest(pipelines: Path) -> None:
    with pytest.raises(
        NothingToStream, match=r"shop has no Kafka source. Files are brought in by a schedule of ingest"
    ):
        list_topics.fn(pipelines, "shop")
