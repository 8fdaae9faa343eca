"""Commits that landed and whose answers were lost: the committer looks, and does not commit them again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import pytest
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from sqlalchemy.exc import OperationalError

from perennial.lakehouse.lake import Lake
from tests.chaos.conftest import PATIENCE, LakeOn, Tally, WorldOn, long_or
from tests.chaos.runs import run
from tests.chaos.wire import DeafWire
from tests.chaos.world import World, settings_of


class Losses:
    """How many answers were lost."""

    count = 0


@contextmanager
def answers_get_lost(lake: Lake, random: Random, share: float) -> Iterator[Losses]:
    """The catalog of this process carries a commit out and then fails, as a gateway or a driver does."""
    catalog, losses = lake.catalog(), Losses()
    commit = catalog.commit_table

    def commit_table(*arguments: object) -> object:
        answer = commit(*arguments)  # type: ignore[arg-type]  # passed on as they came
        if random.random() >= share:
            return answer
        losses.count += 1
        raise random.choice(
            (
                CommitStateUnknownException("502: the gateway gave up"),
                CommitFailedException("409, of a request that a proxy sent twice"),
                OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly")),
                TimeoutError("read timed out"),
            )
        )

    catalog.commit_table = commit_table  # type: ignore[method-assign,assignment]  # the library's, for this test
    try:
        yield losses
    finally:
        catalog.commit_table = commit  # type: ignore[method-assign]


@pytest.mark.timeout(1800 * PATIENCE)
def test_answers_lost_by_the_catalog(world_on: WorldOn, tally: Tally) -> None:
    world = world_on("sqlite")
    while tally.faults < long_or(3, 100):
        world.arrive()
        with answers_get_lost(world.lake, world.random, 0.5) as losses:
            run(world.settings)
        run(world.settings)
        tally.add(losses.count, world.check())


@pytest.mark.timeout(1800 * PATIENCE)
def test_answers_lost_on_the_wire(
    lake_on: LakeOn, pipelines: Path, ray_head: str, random: Random, tally: Tally
) -> None:
    lake = lake_on("postgresql")
    (folder,) = parse_qs(urlsplit(lake.catalog_uri).query)["host"]
    wire = DeafWire(Path(folder), random, 0.5)
    with TemporaryDirectory(prefix="wire-", dir="/tmp") as between, wire.running(Path(between)):
        through = lake.model_copy(update={"catalog_uri": lake.catalog_uri.replace(folder, between)})
        world = World(settings_of(lake, pipelines, ray_head), random)
        while tally.faults < long_or(3, 100):
            world.arrive()
            before = wire.lost
            run(settings_of(through, pipelines, ray_head))
            run(world.settings)
            tally.add(wire.lost - before, world.check())
