"""The same, through Prefect: a process of its own runs the flow as a worker would, and is killed."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from random import Random

import pytest
from prefect.settings import PREFECT_API_URL

from flows.ingest import ingest
from flows.settings import Settings
from tasks.refusal import BatchRefused
from tests.chaos.conftest import LONG, PATIENCE, Tally
from tests.chaos.world import World
from tests.conftest import ROOT
from tests.shop import NOON

RUN = "from flows.ingest import ingest; ingest('shop', 'orders', as_of='2024-05-01T12:00:00Z')"
POINTS = ("files-written", "verdict", "metadata-written", "swapped", "committed")  # those outside of Ray's workers


@pytest.mark.skipif(not LONG, reason="a flow run costs seconds of imports; the rest of the chaos runs below Prefect")
@pytest.mark.timeout(1200 * PATIENCE)
def test_a_flow_run_that_is_killed(settings: Settings, random: Random, tally: Tally) -> None:
    world = World(settings, random)
    for _ in range(10):
        world.arrive()
        fault = random.choice(POINTS)
        ended = subprocess.run(
            [sys.executable, "-c", RUN],
            # the settings are in the environment already: the fixture put them there
            env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PERENNIAL_FAULT": fault},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
        with suppress(BatchRefused):
            ingest("shop", "orders", NOON, settings=settings)
        tally.add(1, world.check())
