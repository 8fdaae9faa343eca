"""A version tried in a replica of a real Serve: what is fit passes, what is not is named."""

from pathlib import Path

import polars as pl
import pytest
from ray import serve

from perennial.lakehouse.artifacts import (
    GOLDEN,
    METRICS,
    MODEL,
    REFERENCE,
    WEIGHTS,
    dump_parquet,
    read_artifact_file,
    read_reference,
    write_artifact,
)
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_version, register_version
from perennial.rules.infrastructure import Probed, judge_probe
from perennial.spec import Promotion, load_pipeline
from ray_jobs.serve.config import ServeConfig
from ray_jobs.serve.probe import ProbeRequest, probe, try_version
from tests.conftest import free_port
from tests.ray_jobs.serve.world import fill_raw, register_model

FOLDER = Path(__file__).parent / "pipelines"
PORT = free_port()
FIT = Probed(
    artifact_bytes=1_000, load_seconds=0.1, latency_ms=10.0, latency_ms_median=20.0, answers=20, difference=0.0
)


def request(lake: Lake, version: int) -> ProbeRequest:
    config = ServeConfig(port=PORT, log_folder=FOLDER / "unused")
    return ProbeRequest(lake=lake, pipeline="trips", pipelines=FOLDER, version=version, serve=config)


def tried(lake: Lake, version: int) -> Probed:
    """What the worker process runs, in this one."""
    return Probed.model_validate_json(try_version(request(lake, version).model_dump_json()))


def test_a_version_is_tried_in_a_serve_replica_that_is_gone_afterwards(lake: Lake, ray_head: str) -> None:
    pipeline = load_pipeline("trips", FOLDER)
    fill_raw(lake, pipeline)
    found = probe(request(lake, register_model(lake, pipeline, 1)))
    assert found.failure is None
    assert found.answers == 20
    assert probe(request(lake, register_model(lake, pipeline, 2, golden_off=0.01))).failure
    assert not serve.status().applications


def test_versions_in_a_replica_s_place(lake: Lake) -> None:
    pipeline = load_pipeline("trips", FOLDER)
    fill_raw(lake, pipeline)
    good = tried(lake, register_model(lake, pipeline, 1))
    assert good.failure is None
    assert (good.answers, good.compared) == (20, 100)
    assert good.difference is not None
    assert good.difference < 1e-9
    assert all(check.passed for check in judge_probe(good, Promotion(maximum_latency_ms=5_000)))

    broken = tried(lake, register_model(lake, pipeline, 2, golden_off=0.01))
    assert broken.failure
    assert "GoldenRowsDiffer" in broken.failure

    foreign = tried(lake, register_model(lake, pipeline, 3, code_hash="another"))
    assert foreign.failure
    assert "WrongCode" in foreign.failure
    assert "trained with feature code another" in foreign.failure

    other = tried(lake, scored_differently(lake, 1))
    assert other.difference is not None
    assert other.difference == pytest.approx(0.001, abs=1e-6)
    (check,) = [c for c in judge_probe(other, Promotion(maximum_latency_ms=5_000)) if not c.passed]
    assert "scores as at training" in check.check


def scored_differently(lake: Lake, number: int) -> int:
    """The version again, but training is said to have given other scores."""
    version = read_version(lake, "trips", number)
    place = ("trips", version.artifact_id, version.manifest_sha256)
    stored = {name: read_artifact_file(lake, *place, name) for name in (GOLDEN, METRICS, MODEL, WEIGHTS)}
    sample = read_reference(lake, *place).with_columns(pl.col("score") + 0.001)
    checksum = write_artifact(lake, "trips", "other", stored | {REFERENCE: dump_parquet(sample)})
    update = {"training_key": "other", "artifact_id": "other", "manifest_sha256": checksum}
    return register_version(lake, version.model_copy(update=update)).version


@pytest.mark.parametrize(
    ("probed", "policy", "failed"),
    [
        (FIT, Promotion(), []),
        (Probed(failure="ArtifactRefused: gone"), Promotion(), ["loads, reproduces its golden rows and answers"]),
        (FIT, Promotion(maximum_artifact_bytes=999), ["files of at most 999 bytes"]),
        (FIT, Promotion(maximum_latency_ms=9), ["one row in at most 9 ms"]),
        (FIT.model_copy(update={"difference": 2e-6}), Promotion(), ["scores as at training, within 1e-06"]),
    ],
)
def test_every_bound_is_a_check_of_its_own(probed: Probed, policy: Promotion, failed: list[str]) -> None:
    assert [check.check for check in judge_probe(probed, policy) if not check.passed] == failed
