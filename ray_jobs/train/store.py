"""A trained model's files: all that it takes to serve it, to judge it and to make it again, and nothing that can run."""

import hashlib
import importlib.metadata
import platform
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from perennial.lakehouse import artifacts, scorers
from perennial.lakehouse.lake import Lake
from perennial.rules.scoring import SCORE, Scorer, golden_rows
from perennial.spec import Pipeline
from ray_jobs.train.rows import event_time_of

REFERENCE_ROWS = 20_000


def store_model(
    lake: Lake,
    pipeline: Pipeline,
    source: Path,
    training_key: str,
    scorer: Scorer,
    weights: dict[str, torch.Tensor],
    rows: pl.DataFrame,
    metrics: dict[str, Any],
) -> tuple[str, str]:
    """Write the artifact; return its id and its manifest's SHA-256.

    Args:
        source: the pipeline's file, whose text is kept so that a later revision can be compared with it.
        rows: those it was trained on and stopped by.
    """
    positions = np.unique(np.linspace(0, rows.height - 1, min(REFERENCE_ROWS, rows.height)).round().astype(np.int64))
    sample = rows.select([event_time_of(pipeline), *scorer.inputs, pipeline.label.name])[positions]
    files = {
        artifacts.WEIGHTS: scorers.dump_tensors(weights),
        artifacts.MODEL: scorer.description.model_dump_json(indent=1).encode(),
        artifacts.METRICS: artifacts.dump_json(metrics),
        artifacts.GOLDEN: artifacts.dump_parquet(golden_rows(rows, scorer)),
        artifacts.REFERENCE: artifacts.dump_parquet(sample.with_columns(scorer.columns(scorer.score(sample))[SCORE])),
        artifacts.ENVIRONMENT: artifacts.dump_json(environment()),
        artifacts.PIPELINE: source.read_bytes(),
    }
    # Two runs under one key never write the same files: the row that is registered names its own.
    artifact_id = f"{training_key[:40]}-{secrets.token_hex(4)}"
    return artifact_id, artifacts.write_artifact(lake, pipeline.name, artifact_id, files)


def environment() -> dict[str, Any]:
    """What weights depend on beside rows, code and seed: every package by version, the interpreter, the machine's kind."""
    return {
        "packages": {d.name.lower(): d.version for d in importlib.metadata.distributions()},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def environment_hash() -> str:
    """SHA-256 over the names and versions of everything installed."""
    installed = sorted({f"{d.name.lower()}=={d.version}" for d in importlib.metadata.distributions()})
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()
