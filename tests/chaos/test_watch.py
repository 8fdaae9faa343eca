"""Events wake, rows decide: whatever happens to events, workers and servers, each decision is claimed exactly once."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.stack.lifecycle import down, up
from flows.settings import Settings
from tests.chaos.bells import PARTS
from tests.deployments.stack_tools import command, stack_settings

LONG = os.environ.get("PERENNIAL_CHAOS") == "long"
TRIAL = {"decisions": 2, "events": 4, "lost": 1, "workers": 1, "servers": 0, "deadline": 240}
if LONG:
    TRIAL = {"decisions": 34, "events": 100, "lost": 4, "workers": 10, "servers": 3, "deadline": 2_400}
SEED = int(os.environ.get("PERENNIAL_CHAOS_SEED", "1"))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = stack_settings(tmp_path / "home")
    try:
        up(settings, PARTS, say=lambda line: None)
        yield settings
    finally:
        down(settings, say=lambda line: None)


@pytest.mark.timeout(3_000 if LONG else 420)
def test_doubled_reordered_and_lost_events_and_dead_parts_leave_one_claim_a_decision(settings: Settings) -> None:
    words = [word for name, value in {**TRIAL, "seed": SEED}.items() for word in (f"--{name}", str(value))]
    done = command(settings, "run", "--", sys.executable, "-m", "tests.chaos.bells", *words)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    print(told)
    assert told["decisions"] == told["claimed_once"] == told["ended"] == TRIAL["decisions"]
    assert told["claimed_more"] == 0
    assert told["ended_by_the_claimant"] == told["ended"]  # nobody else did the work
