"""Chaos in two lengths: a short form in `make test`, the long one by `make chaos-ingest`. The seed is printed."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from perennial.lakehouse.lake import Lake
from tests.chaos.world import Findings, World, settings_of
from tests.conftest import S3, empty_lake, on_postgres

LONG = os.environ.get("PERENNIAL_CHAOS") == "long"
CATALOGS = ("sqlite", "postgresql")
PATIENCE = 10 if LONG else 1  # times the seconds that a test may take: the long form runs beside other work
SEED = os.environ.get("PERENNIAL_CHAOS_SEED") or (secrets.token_hex(4) if LONG else "1")


@dataclass
class Tally:
    """What the rounds of one test came to.

    Attributes:
        what: the chaos, and the catalog.
        rounds: rounds played.
        faults: how often the fault struck.
    """

    what: str
    rounds: int = 0
    faults: int = 0
    lost: int = 0
    doubled: int = 0
    phantom: int = 0
    started: float = 0.0
    seconds: float = 0.0

    def add(self, faults: int, found: Findings) -> None:
        """One more round; it fails at once where something is not as promised."""
        self.rounds += 1
        self.faults += faults
        self.lost, self.doubled = self.lost + found.lost, self.doubled + found.doubled
        self.phantom, self.seconds = self.phantom + found.phantom, time.monotonic() - self.started
        if LONG:  # it may take an hour: what was seen until it is interrupted counts too
            print(f"seed {SEED} {self}", flush=True)
        assert found.clean, f"seed {SEED}, {self.what}, round {self.rounds}: {found}"


_TALLIES: list[Tally] = []


def long_or(short: int, long: int) -> int:
    """Rounds to play."""
    return long if LONG else short


def catalogs(short: str) -> tuple[str, ...]:
    """Catalogs to play on."""
    return CATALOGS if LONG else (short,)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """This test's line in the table of results."""
    line = Tally(request.node.name.removeprefix("test_"), started=time.monotonic())
    _TALLIES.append(line)
    return line


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    """Decides everything that is left to chance in this test."""
    return Random(f"{SEED}/{request.node.name}")


LakeOn = Callable[[str], Lake]
WorldOn = Callable[[str], World]


@pytest.fixture
def lake_on(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> LakeOn:
    """An empty lakehouse on the catalog asked for."""

    def make(catalog: str) -> Lake:
        lake = empty_lake(s3, tmp_path)
        return lake if catalog == "sqlite" else on_postgres(lake, request.getfixturevalue("postgres"))

    return make


@pytest.fixture
def world_on(lake_on: LakeOn, pipelines: Path, ray_head: str, random: Random) -> WorldOn:
    """A world on the catalog asked for."""
    return lambda catalog: World(settings_of(lake_on(catalog), pipelines, ray_head), random)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of results."""
    played = [line for line in _TALLIES if line.rounds]
    if played:
        terminalreporter.section(f"chaos, seed {SEED}")
        terminalreporter.write_line(
            f"{'':70} {'rounds':>7} {'faults':>7} {'lost':>5} {'doubled':>8} {'phantom':>8} {'s':>6}"
        )
    for line in played:
        counts = f"{line.rounds:7} {line.faults:7} {line.lost:5} {line.doubled:8} {line.phantom:8} {line.seconds:6.0f}"
        terminalreporter.write_line(f"{line.what:70} {counts}")
