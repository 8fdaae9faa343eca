"""Fault points: inert unless asked for, and then deadly; every one in the code is known, every one known is in the code."""

import os
import re
import signal
import subprocess
import sys

import pytest

from perennial.faults import POINTS
from tests.conftest import ROOT

REACH_TWICE = "from perennial.faults import fault_point; fault_point('verdict'); fault_point('verdict'); print('alive')"


def reach_twice(**environment: str) -> "subprocess.CompletedProcess[str]":
    """A process that passes the point `verdict` twice."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_FAULT")}
    return subprocess.run(
        [sys.executable, "-c", REACH_TWICE],
        env=clean | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_fault_point_is_known_and_stands_in_the_code() -> None:
    rooms = ("deployments", "flows", "tasks", "ray_jobs", "perennial")
    code = "\n".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    assert sorted(set(re.findall(r'fault_point\("([^"]*)"\)', code))) == sorted(POINTS)


@pytest.mark.parametrize(
    ("asked", "ends_with"),
    [("", 0), ("read", 0), ("verdict", -signal.SIGKILL), ("verdict@2", -signal.SIGKILL), ("verdict@3", 0)],
)
def test_a_process_dies_where_it_is_asked_to_and_nowhere_else(asked: str, ends_with: int) -> None:
    assert reach_twice(PERENNIAL_FAULT=asked).returncode == ends_with


def test_a_fault_that_does_not_exist_is_refused() -> None:
    ended = reach_twice(PERENNIAL_FAULT="verdikt")
    assert ended.returncode == 1
    assert "there is no fault point 'verdikt'; there are read, transform" in ended.stderr


def test_fault_points_import_nothing_heavy() -> None:
    loaded = "import sys, perennial.faults; print([m for m in ('ray', 'polars', 'pyiceberg') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
