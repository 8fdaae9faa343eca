"""`kill -9` of `ingest`, at every fault point and at any instant; then the next ordinary run, without help."""

import signal
import time

import pytest

from perennial.faults import POINTS
from tests.chaos.conftest import LONG, PATIENCE, Tally, WorldOn, catalogs, long_or
from tests.chaos.runs import ON_RAY, run, stage_ahead, start
from tests.chaos.world import World

REACHED = {"read": 3, "transform": 3, "metadata-written": 2, "swapped": 2, "clean-up": 2}  # times in most runs
PLACES = [(point, catalog) for n, point in enumerate(POINTS) for catalog in catalogs(("sqlite", "postgresql")[n % 2])]
BY_RAY = 5  # of so many rounds the first is staged by Ray's workers: a killed driver takes them along
JOIN_SECONDS = 120 * PATIENCE


def kill_at(world: World, fault: str, whole: bool, on_ray: bool) -> bool:
    """A run that is to die at a fault point; whether it reached it."""
    child = start(world.settings, fault, "" if whole else stage_ahead(world.settings), on_ray=on_ray)
    child.join(JOIN_SECONDS)
    assert child.exitcode in (0, -signal.SIGKILL), f"the run ended by itself with {child.exitcode}"
    return child.exitcode != 0


def by_ray(tally: Tally) -> bool:
    """Whether Ray's workers stage the batch of this round."""
    return tally.rounds % BY_RAY == 0


@pytest.mark.timeout(1200 * PATIENCE)
@pytest.mark.parametrize(("point", "catalog"), PLACES)
def test_killed_at(point: str, catalog: str, world_on: WorldOn, tally: Tally) -> None:
    world = world_on(catalog)
    if point == "clean-up":
        while not world.table("quarantine"):
            world.arrive()
            run(world.settings)
        world.delete_old_metadata_at_every_commit()
    while tally.faults < long_or(1, 20):
        # the first run makes the tables: with the files staged ahead, that could not be hit
        first = point == "metadata-written" and tally.rounds == 0
        world.arrive()
        nth = 1 if first or not LONG else world.random.randint(1, REACHED.get(point, 1))
        struck = kill_at(world, f"{point}@{nth}", whole=point in ON_RAY or first, on_ray=by_ray(tally))
        run(world.settings, by_ray(tally))
        tally.add(struck, world.check())
        assert tally.rounds < 100, f"{point} is hardly ever reached"


@pytest.mark.timeout(1800 * PATIENCE)
@pytest.mark.parametrize("catalog", catalogs("sqlite"))
def test_killed_at_any_instant(catalog: str, world_on: WorldOn, tally: Tally) -> None:
    world = world_on(catalog)
    whole_run = dict.fromkeys(
        (False, True), 0.0
    )  # by whether Ray's workers stage: seconds of the last run that was not killed
    for on_ray in (False, False, True):  # the first one also starts the server that children are forked off
        world.arrive()
        whole_run[on_ray] = _seconds(world, on_ray)
    while tally.faults < long_or(1, 100):
        world.arrive()
        on_ray = by_ray(tally)
        child = start(world.settings, on_ray=on_ray)
        child.join(world.random.uniform(0, whole_run[on_ray]))
        child.kill()
        child.join()
        run(world.settings)
        tally.add(child.exitcode == -signal.SIGKILL, world.check())
        assert tally.rounds < 5 * long_or(1, 100) + 5, f"hardly ever a run at work: {whole_run}"


def _seconds(world: World, on_ray: bool) -> float:
    """How long an ordinary run of a child takes."""
    started = time.monotonic()
    child = start(world.settings, on_ray=on_ray)
    child.join(JOIN_SECONDS)
    assert child.exitcode == 0
    return time.monotonic() - started


@pytest.mark.timeout(1200 * PATIENCE)
@pytest.mark.parametrize("catalog", catalogs("postgresql"))
def test_two_runs_at_once_while_files_arrive(catalog: str, world_on: WorldOn, tally: Tally) -> None:
    world = world_on(catalog)
    for _ in range(long_or(1, 20)):
        world.arrive()
        children = [start(world.settings, on_ray=by_ray(tally)), start(world.settings)]
        while any(child.is_alive() for child in children):
            world.arrive(1, renew=False)
            time.sleep(world.random.uniform(0, 0.3))
        assert [child.exitcode for child in children] == [0, 0]
        run(world.settings)
        tally.add(0, world.check())
