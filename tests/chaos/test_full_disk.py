"""A disk that fills while a run writes: it waits for room as long as its tries last, then fails; the next run mends it.

To an S3 client a full disk is a 500 like any other, so that its twelve tries take two minutes.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos.conftest import LONG, PATIENCE, Tally, long_or
from tests.chaos.runs import run
from tests.chaos.world import World, settings_of
from tests.conftest import S3, empty_lake, serve_s3

MIB = 1024**2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("a file system of a limited size can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_s3(small_disk: Path) -> Iterator[S3]:
    """An S3 server that keeps its objects there."""
    with serve_s3(small_disk) as server:
        yield server


@pytest.mark.timeout(1800 * PATIENCE)
def test_a_disk_that_fills(
    small_s3: S3, small_disk: Path, tmp_path: Path, pipelines: Path, ray_head: str, random: Random, tally: Tally
) -> None:
    catalog = small_disk if random.random() < 0.5 else tmp_path
    world = World(settings_of(empty_lake(small_s3, catalog), pipelines, ray_head), random)
    world.arrive()
    run(world.settings)
    ballast = small_disk / "ballast"
    for _ in range(long_or(1, 10)):
        world.arrive()
        room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast.write_bytes(bytes(max(0, room - random.randrange(0, 60_000))))
        again = threading.Timer(random.choice((5, 1000)) if LONG else 2, ballast.unlink)
        again.start()
        try:
            struck = not run(world.settings)
        except Exception:  # whichever part hits the wall first; what stands in the tables is the judge
            if not LONG:
                raise  # with room again after two seconds it gets through
            struck = True
        finally:
            again.cancel()
            again.join()
        ballast.unlink(missing_ok=True)
        run(world.settings)
        tally.add(struck, world.check())
