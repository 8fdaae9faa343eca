"""An S3 server that is busy, deaf, cut off or away: a run gets through it, and nothing is lost or doubled."""

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest

from tests.chaos.conftest import LONG, PATIENCE, LakeOn, Tally, long_or
from tests.chaos.proxy import FAULTS, FaultProxy
from tests.chaos.runs import run
from tests.chaos.world import World, settings_of
from tests.conftest import S3

ROUNDS = {"unavailable": 40, "hang": 10, "cut": 40, "lost": 40}


@pytest.fixture
def proxy(s3: S3, random: Random) -> FaultProxy:
    """The server's unreliable twin."""
    return FaultProxy(urlsplit(s3.endpoint).port or 0, random)


@pytest.fixture
def unreliable(proxy: FaultProxy) -> Iterator[str]:
    """Its address."""
    with proxy.running() as address:
        yield address


@pytest.mark.timeout(1800 * PATIENCE)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fifth_of_requests(
    fault: str,
    proxy: FaultProxy,
    unreliable: str,
    lake_on: LakeOn,
    pipelines: Path,
    ray_head: str,
    random: Random,
    tally: Tally,
) -> None:
    world = World(settings_of(lake_on("sqlite"), pipelines, ray_head), random)
    shaky = settings_of(world.lake, pipelines, ray_head, unreliable)
    for number in range(long_or(1, ROUNDS[fault])):
        world.arrive()
        before = proxy.met[fault]
        proxy.fault, proxy.share = fault, 0.2 if LONG else 0.04
        published = run(shaky, on_ray=number % 5 == 0)  # it gets through: twelve tries of each request
        proxy.fault = None
        assert published
        run(world.settings)
        tally.add(proxy.met[fault] - before, world.check())


@pytest.mark.timeout(1800 * PATIENCE)
def test_away_for_a_minute(
    proxy: FaultProxy, unreliable: str, lake_on: LakeOn, pipelines: Path, ray_head: str, random: Random, tally: Tally
) -> None:
    world = World(settings_of(lake_on("sqlite"), pipelines, ray_head), random)
    shaky = settings_of(world.lake, pipelines, ray_head, unreliable)
    for _ in range(long_or(1, 5)):
        world.arrive()
        leave = threading.Timer(random.uniform(0.05, 0.8), setattr, (proxy, "away", True))
        back = threading.Timer(60.0 if LONG else 3.0, setattr, (proxy, "away", False))
        leave.start()
        back.start()
        published = run(shaky)
        back.join()
        assert published
        run(world.settings)
        tally.add(1, world.check())
