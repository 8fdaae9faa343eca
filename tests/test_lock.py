"""The places that have to name the same versions do."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))


def test_torch_has_one_version() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["torch"]
    (makefile,) = re.findall(r"^TORCH := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (dockerfile,) = re.findall(r"pip install .*(torch==\S+)", (ROOT / "Dockerfile").read_text())
    assert declared == [makefile] == [dockerfile]


def test_the_image_runs_what_was_tested() -> None:
    runtime, dev = pins("runtime.lock"), pins("dev.lock")
    assert runtime
    assert {name: version for name, version in dev.items() if name in runtime} == runtime
