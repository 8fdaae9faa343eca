"""A year and more of decisions about one pipeline, wide and with text that attacks the page."""

import json
import random
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import polars as pl

from perennial.lakehouse.decisions import SCHEMA
from perennial.lakehouse.registry import ModelVersion
from perennial.lakehouse.stages import Stage
from perennial.rules.evidence import Estimate, Evidence, Performance
from perennial.story.page import story_page
from perennial.story.read import Story, read_story

HOSTILE = "</script><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\u202egnp"
START = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = timedelta(days=7)


def decision(kind: str, key: str, at: datetime, verdict: str, version: int, **more: object) -> dict[str, object]:
    row = dict.fromkeys(SCHEMA.names)
    return row | {
        "decision_id": key,
        "pipeline": "shop",
        "kind": kind,
        "version": version,
        "verdict": verdict,
        "reason": f"because of {HOSTILE}",
        "evidence": "{}",
        "policy": "{}",
        "run_id": "5b2c9a10-7c62-4f9e-9d53-0123456789ab",
        "as_of": at,
        "recorded_at": at,
        **more,
    }


def evidence_of(chance: random.Random, number: int, version: int, features: int) -> Evidence:
    names = [HOSTILE, *(f"sensor_{at:03}_reading" for at in range(features - 1))]
    measured = 0.74 - 0.004 * (number % 30) + chance.gauss(0, 0.004)
    seen = Performance(metric="roc_auc", promised=0.74, measured=measured, low=measured - 0.02, high=measured + 0.02)
    return Evidence(
        version=version,
        rows=9_000 + number,
        labelled_rows=8_000,
        performance=seen if number % 10 else None,
        estimate=Estimate(metric="roc_auc", value=measured + 0.01, low=0.6, high=0.8, promised=0.74),
        drift={name: abs(chance.gauss(0.05, 0.04)) for name in names},
        drift_bounds=dict.fromkeys(names, 0.1),
    )


@lru_cache
def story(windows: int = 120, features: int = 200) -> Story:
    """Every thirtieth week asks for a retrain, which is promoted and rolled out but for the second, which is rejected."""
    chance, rows, stages, version = random.Random(7), [], [], 1
    versions = [model(1, START, "the first one")]
    stages.append(stage(1, "champion", 1, START, "rollout-1"))
    for number in range(windows):
        start = START + number * WEEK
        verdict = "retrain" if number % 30 == 29 else "page" if number == 50 else "hold"
        key, at = f"shop-v{version}-{start:%Y%m%d}-0a1b2c3d", start + WEEK
        seen = json.loads(evidence_of(chance, number, version, features).model_dump_json())
        seen |= {"report": f"reports/shop/monitor/{key}.html"}
        span = {"window_start": start, "window_end": at, "evidence": json.dumps(seen)}
        rows.append(decision("monitor", key, at, verdict, version, **span))
        if verdict == "retrain":
            fresh = len(versions) + 1
            versions.append(model(fresh, at, f"because of {HOSTILE}"))
            promoted = fresh != 3
            rows.append(decision("claim", key, at, "claimed", version))
            rows.append(decision("promotion", f"shop-v{fresh}", at, "promote" if promoted else "reject", fresh))
            if promoted:
                rows.append(decision("rollout", f"rollout-{fresh}", at, "rolled_out", fresh))
                stages.append(stage(fresh, "champion", len(stages) + 1, at, f"rollout-{fresh}"))
                version = fresh
            rows.append(decision("retrain", key, at, "promoted" if promoted else "rejected", fresh))
    frame = pl.DataFrame(rows, pl.DataFrame(pl.from_arrow(SCHEMA.empty_table())).schema)
    return read_story("shop", frame, stages, versions)


def model(version: int, at: datetime, reason: str) -> ModelVersion:
    moments = {"as_of": at, "train_start": START - 20 * WEEK, "holdout_start": at - WEEK, "holdout_end": at}
    words = dict.fromkeys(("training_key", "artifact_id", "manifest_sha256", "row_hash", "contract_hash"), "x")
    words |= dict.fromkeys(("feature_code_hash", "params", "lock_hash"), "x") | {"metrics": "{}"}
    counts = dict.fromkeys(("features_snapshot_id", "training_rows", "validation_rows", "holdout_rows"), 10000)
    return ModelVersion.model_validate(
        {"pipeline": "shop", "version": version, "seed": 1, "reason": reason, "created_at": at}
        | moments | words | counts | {"parent_version": version - 1 or None}
    )  # fmt: skip


def stage(version: int, name: str, generation: int, at: datetime, key: str) -> Stage:
    return Stage.model_validate(
        {"pipeline": "shop", "version": version, "stage": name, "generation": generation, "as_of": at}
        | {"reason": "it was promoted", "decision_id": key, "recorded_at": at}
    )


def page(windows: int = 120, features: int = 200) -> str:
    return story_page(story(windows, features), "local", "http://127.0.0.1:9/runs/flow-run/")
