"""Streams as processes of their own, which are killed and stopped while messages arrive."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyiceberg.exceptions import NoSuchTableError

from flows.ingest import ingest
from flows.settings import Settings
from flows.stream import stream
from perennial.lakehouse.lake import Lake
from tests.brokers import Brokers, running_brokers
from tests.conftest import ROOT
from tests.shop import NOON
from tests.web import declare, rows, send

STREAM = "from flows.stream import stream; stream('web', every_seconds=0.2, every_rows=500, minutes=2)"


@pytest.fixture
def brokers() -> Iterator[Brokers]:
    with running_brokers() as brokers:
        brokers.make("clicks", 2)
        yield brokers


def start(log: Path) -> "subprocess.Popen[bytes]":
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", STREAM], env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT
    )


def published(lake: Lake) -> list[int]:
    try:
        return sorted(rows(lake, "raw_clicks")["click_id"])
    except NoSuchTableError:
        return []


def test_streams_that_are_killed_or_stopped_lose_and_double_nothing(
    settings: Settings, lake: Lake, brokers: Brokers, tmp_path: Path
) -> None:
    declare(settings.pipelines_dir, brokers, "maximum_messages=100_000")
    streams = [start(tmp_path / "killed.log"), start(tmp_path / "stopped.log")]  # two at once, on one source
    sent, deadline = 0, time.monotonic() + 120
    while len(published(lake)) < 400:
        assert time.monotonic() < deadline, (tmp_path / "stopped.log").read_text()[-2000:]
        send(brokers, sent, 50, partition=sent // 50 % 2)
        sent += 50
        time.sleep(0.1)
    killed, stopped = streams
    killed.kill()
    send(brokers, sent, 300)
    stopped.terminate()
    assert abs(stopped.wait(60)) == signal.SIGTERM  # by the signal itself, or by the handler that Ray puts in its place
    killed.wait(10)
    brokers.send("clicks", [b"poison"])
    ingest("web", "clicks", NOON, settings=settings)
    assert published(lake) == list(range(sent + 300))
    assert rows(lake, "quarantine")["failed_checks"].to_list() == [["json:syntax"]]


def test_a_stream_commits_what_waits_and_ends_in_time(settings: Settings, lake: Lake, brokers: Brokers) -> None:
    declare(settings.pipelines_dir, brokers)
    send(brokers, 0, 120)
    assert stream("web", every_seconds=60, every_rows=100, minutes=0.05, settings=settings) == 120
    send(brokers, 120, 30)
    assert stream("web", every_seconds=60, every_rows=100, minutes=0.01, settings=settings) == 0
    assert stream("web", every_seconds=0.1, every_rows=100, minutes=0.03, settings=settings) == 30
    assert published(lake) == list(range(150))
