"""The orchestrator starts fast, and a pipeline's file needs nothing but the words to declare it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("ray", "torch", "evidently")
ROOMS = {"benchmarks", "deployments", "flows", "perennial", "ray_jobs", "tasks", "tests"}


def modules(room: str) -> list[str]:
    return [f"{room}.{path.stem}" for path in sorted((ROOT / room).glob("*.py")) if path.stem != "__init__"]


def test_flows_and_tasks_import_neither_ray_nor_torch_nor_evidently() -> None:
    names = modules("flows") + modules("tasks")
    code = f"import {', '.join(names)}, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda path: path.stem)
def test_a_pipeline_imports_the_specification_and_libraries_only(path: Path) -> None:
    imported = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    ours = {name for name in imported if name.split(".")[0] in ROOMS | {"prefect"}}
    assert {name for name in ours if not name.startswith("perennial.spec")} == set()
