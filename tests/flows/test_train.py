"""Train and promote as flows, against a real Prefect, Ray, S3 and catalog: every rerun finds what is there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
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
from perennial.lakehouse.stages import make_champion, stage_history
from perennial.lakehouse.tags import release_tags
from perennial.rules.scoring import golden_rows
from tasks.serving import NotApproved, check_approval
from tasks.training import NoFeatures
from tests.conftest import S3, empty_lake, settings_for
from tests.ray_jobs.train.world import AS_OF, START, fill_features, rows, write_rides

SINCE = START + timedelta(days=12)  # as a policy may ask: nothing older is learned from


@dataclass
class World:
    """A version, trained once for all tests of this file, which go on in its history one after the other."""

    settings: Settings
    lake: Lake
    pipelines: Path
    snapshot: int


@pytest.fixture(scope="module")
def world(s3: S3, ray_head: str, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("train")
    lake, pipelines = empty_lake(s3, home), write_rides(home / "pipelines")
    with pytest.MonkeyPatch.context() as patch:
        settings = settings_for(patch, lake, pipelines, ray_head, s3)
        with pytest.raises(NoFeatures, match="build_features"):
            train("rides", as_of=AS_OF, settings=settings)
        snapshot = fill_features(lake)
        assert train("rides", as_of=AS_OF, reason="the first", settings=settings, train_from=SINCE) == 1
        yield World(settings, lake, pipelines, snapshot)


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


def test_a_version_is_trained_once_of_what_a_policy_lets_it_learn_from(world: World) -> None:
    lake, version = world.lake, read_version(world.lake, "rides", 1)
    assert (version.reason, version.features_snapshot_id) == ("the first", world.snapshot)
    assert version.train_start >= SINCE
    assert version.training_rows + version.validation_rows + version.holdout_rows < 3_000 * 19 / 30
    refs = lake.catalog().load_table(lake.table("rides", "features")).metadata.refs
    assert refs["version-1"].snapshot_id == world.snapshot

    assert train("rides", as_of=AS_OF, settings=world.settings, train_from=SINCE) == 1
    assert len(read_versions(lake, "rides")) == 1
    assert "not judged yet" in lake.files().cat_file(lake.uri(card_path("rides", 1))).decode()


def test_a_version_is_made_again_bit_for_bit_or_what_differs_is_named(world: World) -> None:
    lake, settings = world.lake, world.settings
    before = lake.files().find(lake.uri("artifacts/rides"))
    assert reproduce("rides", 1, settings=settings) == "reproduced"
    assert len(read_versions(lake, "rides")) == 1
    assert lake.files().find(lake.uri("artifacts/rides")) == before  # the copy's files are gone again

    file = world.pipelines / "rides.py"
    written = file.read_text()
    file.write_text(written.replace("epochs=3", "epochs=2, seed=7"))
    assert reproduce("rides", 1, settings=settings) == "differs"
    file.write_text(written)
    decision = read_decisions(lake, "rides").row(-1, named=True)
    evidence = json.loads(decision["evidence"])
    assert {each["what"] for each in evidence["differences"]} >= {"parameter seed"}
    assert {each["what"] for each in evidence["outcome"]} >= {"the weights", "metric roc_auc"}
    assert not {each["what"] for each in evidence["outcome"]} & {"the training rows", "the holdout's rows"}


def test_a_version_is_promoted_on_evidence(world: World) -> None:
    lake, settings = world.lake, world.settings
    version = read_version(lake, "rides", 1)
    assert promote("rides", 1, as_of=AS_OF, settings=settings) == "promote"
    assert "rides-v1-against-constant" in lake.files().cat_file(lake.uri(card_path("rides", 1))).decode()
    assert promote("rides", 1, as_of=AS_OF, settings=settings) == "promote"
    (decision,) = read_decisions(lake, "rides").filter(kind="promotion").iter_rows(named=True)
    assert decision["verdict"] == "promote"
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


def test_a_version_whose_rows_have_expired_is_not_made_again(world: World) -> None:
    lake = world.lake
    assert stage_history(lake, "rides").filter(version=1)["stage"].to_list()[-1] == "archived"
    now = datetime.now(UTC) + timedelta(seconds=1)
    append_once(lake, lake.table("rides", "features"), rows(10).to_arrow(), "newer")
    assert release_tags(lake, "rides", now) == [1]
    expire_snapshots(lake, lake.table("rides", "features"), now, keep=1)
    assert reproduce("rides", 1, settings=world.settings) == "rows_gone"


def test_a_version_that_does_not_exist_is_not_judged(world: World) -> None:
    with pytest.raises(NoSuchVersion, match="no version 7"):
        promote("rides", 7, as_of=AS_OF, settings=world.settings)
