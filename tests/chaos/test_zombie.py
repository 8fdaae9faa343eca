"""A run that is stopped and wakes up after its replacement has brought in the very batch it holds."""

import os
import signal

import pytest

from tests.chaos.conftest import PATIENCE, Tally, WorldOn, catalogs, long_or
from tests.chaos.runs import run, stage_ahead, start, wait_until_stopped

STOPS = ("verdict", "metadata-written@1", "metadata-written@2", "swapped@1", "swapped@2", "committed")


@pytest.mark.timeout(1800 * PATIENCE)
@pytest.mark.parametrize("catalog", catalogs("sqlite"))
def test_zombie_and_replacement(catalog: str, world_on: WorldOn, tally: Tally) -> None:
    world = world_on(catalog)
    for _ in range(long_or(2, 200)):
        world.arrive()
        fault = world.random.choice(STOPS)
        zombie = start(world.settings, fault, stage_ahead(world.settings), "SIGSTOP")
        stopped = wait_until_stopped(zombie, 60 * PATIENCE)
        run(world.settings)
        if world.random.random() < 0.5:  # and the world has moved on
            world.arrive()
            run(world.settings)
        if stopped:
            assert zombie.pid
            os.kill(zombie.pid, signal.SIGCONT)
        zombie.join(120 * PATIENCE)
        assert zombie.exitcode == 0
        run(world.settings)
        tally.add(stopped, world.check())
