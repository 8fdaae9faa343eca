"""Train and promote as flows, against a real Prefect, Ray, S3 and catalog: every rerun finds what is there."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from flows.promote import promote
from flows.reproduce import reproduce
from flows.settings import Settings
from flows.train import train
from perennial.datadocs.card import card_path
from perennial.lakehouse import artifacts, scorers
from perennial.lakehouse.artifacts import read_artifact_file, write_artifact
from perennial.lakehouse.commit import append_once, expire_snapshots
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, NoSuchVersion, read_version, read_versions, register_version
from perennial.lakehouse.stages import make_champion, record_stage, stage_history
from perennial.lakehouse.tags import release_tags
from perennial.rules.scoring import golden_rows
from tasks.serving import NotApproved, check_approval
from tasks.training import NoFeatures
from tests.ray_jobs.train.world import AS_OF, START, fill_features, rows, write_rides


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    return write_rides(tmp_path / "pipelines")


def turned_around(lake: Lake, version: ModelVersion) -> ModelVersion:
    """A version that calls late what is early, well made otherwise."""
    read = {
        name: read_artifact_file(lake, "rides", version.artifact_id, version.manifest_sha256, name)
        for name in (artifacts.MODEL, artifacts.WEIGHTS, artifacts.METRICS)
    }
    weights = scorers.load_tensors(read[artifacts.WEIGHTS])
    weights |= {name: -value for name, value in weights.items() if name.startswith("head.")}
    read[artifacts.WEIGHTS] = scorers.dump_tensors(weights)
    scorer = scorers.build_scorer("here", read[artifacts.MODEL], read[artifacts.WEIGHTS])
    read[artifacts.GOLDEN] = artifacts.dump_parquet(golden_rows(rows(500), scorer))
    checksum = write_artifact(lake, "rides", "turned", read)
    update = {"training_key": "turned", "artifact_id": "turned", "manifest_sha256": checksum}
    return register_version(lake, version.model_copy(update=update))


@pytest.mark.timeout(400)
def test_a_version_is_trained_once_and_promoted_on_evidence(settings: Settings, lake: Lake) -> None:
    torch.set_num_threads(1)
    snapshot = fill_features(lake)
    number = train("rides", as_of=AS_OF, reason="the first", settings=settings)
    version = read_version(lake, "rides", number)
    assert (number, version.reason, version.features_snapshot_id) == (1, "the first", snapshot)
    refs = lake.catalog().load_table(lake.table("rides", "features")).metadata.refs
    assert refs["version-1"].snapshot_id == snapshot

    assert train("rides", as_of=AS_OF, settings=settings) == 1
    assert len(read_versions(lake, "rides")) == 1

    report = lake.files().cat_file(lake.uri(card_path("rides", 1))).decode()
    assert "not judged yet" in report
    assert promote("rides", 1, as_of=AS_OF, settings=settings) == "promote"
    assert "rides-v1-against-constant" in lake.files().cat_file(lake.uri(card_path("rides", 1))).decode()
    assert promote("rides", 1, as_of=AS_OF, settings=settings) == "promote"
    decision = read_decisions(lake, "rides").row(0, named=True)
    assert read_decisions(lake, "rides").height == 1
    assert (decision["kind"], decision["verdict"]) == ("promotion", "promote")
    evidence = json.loads(decision["evidence"])
    assert evidence["challenger"] > 0.7
    assert evidence["answer"] == "first_version"
    assert evidence["last_label"] < evidence["challenger"]
    assert len(evidence["infrastructure"]) == 4
    assert all(check["passed"] for check in evidence["infrastructure"])
    assert set(evidence["metrics"]) >= {"roc_auc", "pr_auc", "log_loss", "brier", "calibration_error", "f1"}

    make_champion(lake, "rides", 1, expected_generation=0, as_of=AS_OF, reason="better", decision_id="one")
    worse = turned_around(lake, version)
    assert promote("rides", worse.version, as_of=AS_OF, settings=settings) == "reject"
    assert stage_history(lake, "rides")["stage"].to_list() == ["challenger", "champion", "rejected"]

    equal = register_version(lake, version.model_copy(update={"training_key": "equal"}))
    assert promote("rides", equal.version, as_of=AS_OF, settings=settings) == "promote"  # no gain is asked for
    make_champion(lake, "rides", 2, expected_generation=1, as_of=AS_OF, reason="faster", decision_id="two")
    with pytest.raises(NotApproved, match=r"version 1 served .* never compared.*Run promote again"):
        check_approval.fn(lake, "rides", equal.version)


@pytest.mark.timeout(400)
def test_a_version_is_made_again_bit_for_bit_or_what_differs_is_named(
    settings: Settings, lake: Lake, pipelines: Path
) -> None:
    torch.set_num_threads(1)
    fill_features(lake)
    since = START + timedelta(days=12)  # as a policy may ask: nothing older is learned from, nor by the copy
    train("rides", as_of=AS_OF, settings=settings, train_from=since)
    version = read_version(lake, "rides", 1)
    assert since <= version.train_start
    assert version.training_rows + version.validation_rows + version.holdout_rows < 3_000 * 19 / 30
    before = lake.files().find(lake.uri("artifacts/rides"))
    assert reproduce("rides", 1, settings=settings) == "reproduced"
    assert len(read_versions(lake, "rides")) == 1
    assert lake.files().find(lake.uri("artifacts/rides")) == before  # the copy's files are gone again

    file = pipelines / "rides.py"
    file.write_text(file.read_text().replace("epochs=3", "epochs=2, seed=7"))
    assert reproduce("rides", 1, settings=settings) == "differs"
    decision = read_decisions(lake, "rides").row(-1, named=True)
    evidence = json.loads(decision["evidence"])
    assert {each["what"] for each in evidence["differences"]} >= {"parameter seed"}
    assert {each["what"] for each in evidence["outcome"]} >= {"the weights", "metric roc_auc"}
    assert not {each["what"] for each in evidence["outcome"]} & {"the training rows", "the holdout's rows"}

    record_stage(lake, "rides", 1, "rejected", as_of=AS_OF, reason="worse", decision_id="r")
    now = datetime.now(UTC) + timedelta(seconds=1)
    append_once(lake, lake.table("rides", "features"), rows(10).to_arrow(), "newer")
    assert release_tags(lake, "rides", now) == [1]
    expire_snapshots(lake, lake.table("rides", "features"), now, keep=1)
    assert reproduce("rides", 1, settings=settings) == "rows_gone"


def test_training_without_features_says_what_to_run(settings: Settings) -> None:
    with pytest.raises(NoFeatures, match="build_features"):
        train("rides", as_of=AS_OF, settings=settings)


def test_a_version_that_does_not_exist_is_not_judged(settings: Settings) -> None:
    with pytest.raises(NoSuchVersion, match="no version 7"):
        promote("rides", 7, as_of=AS_OF, settings=settings)
