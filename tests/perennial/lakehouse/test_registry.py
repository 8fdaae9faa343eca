"""Versions and stages in a real catalog: numbers are given once, and only one promotion can win."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from perennial.lakehouse.commit import append_once, expire_snapshots
from perennial.lakehouse.decisions import Decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import (
    ModelVersion,
    NoSuchVersion,
    champion,
    read_version,
    read_versions,
    register_version,
)
from perennial.lakehouse.served import served_at
from perennial.lakehouse.stages import (
    Stage,
    StageConflict,
    champion_stage,
    make_champion,
    read_stages,
    record_stage,
    stage_history,
)
from perennial.lakehouse.tables import ensure_table, read_snapshot
from perennial.lakehouse.tags import release_tags, tag_snapshot, version_tag

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def trained(key: str, pipeline: str = "trips") -> ModelVersion:
    return ModelVersion(
        pipeline=pipeline, training_key=key, artifact_id=key, manifest_sha256="0" * 64, features_snapshot_id=7,
        training_rows=90, validation_rows=10, holdout_rows=20, row_hash="r", contract_hash="{}", feature_code_hash="f",
        seed=13, params="{}", metrics='{"roc_auc": {"value": 0.7}}', lock_hash="l", reason="asked for", as_of=NOON,
        train_start=NOON, holdout_start=NOON, holdout_end=NOON, created_at=NOON,
    )  # fmt: skip


def promoted(lake: Lake, version: int, generation: int, at: datetime = NOON) -> Stage:
    return make_champion(
        lake,
        "trips",
        version,
        expected_generation=generation,
        as_of=at,
        reason="better",
        decision_id=f"d{generation}-v{version}",
    )


def test_versions_are_numbered_within_their_pipeline(lake: Lake) -> None:
    assert [register_version(lake, trained(key)).version for key in ("a", "b", "c")] == [1, 2, 3]
    assert register_version(lake, trained("a", pipeline="orders")).version == 1


def test_a_row_comes_back_as_it_was_registered(lake: Lake) -> None:
    version = register_version(lake, trained("a"))
    assert read_version(lake, "trips", 1) == version == trained("a").model_copy(update={"version": 1})


def test_the_same_training_is_one_version(lake: Lake) -> None:
    first = register_version(lake, trained("a"))
    again = register_version(lake, trained("a").model_copy(update={"artifact_id": "another"}))
    assert again == first
    assert len(read_versions(lake, "trips")) == 1


def test_versions_registered_at_once_get_numbers_of_their_own(lake: Lake) -> None:
    register_version(lake, trained("z", pipeline="orders"))  # makes the table
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda key: register_version(lake, trained(key)).version, "abcabc"))
    assert sorted(set(numbers)) == [1, 2, 3]
    assert numbers[:3] == numbers[3:]


def test_a_version_that_is_not_there_is_named_beside_those_that_are(lake: Lake) -> None:
    register_version(lake, trained("a"))
    with pytest.raises(NoSuchVersion, match=r"no version 9; it has \[1\]"):
        read_version(lake, "trips", 9)


def test_nobody_serves_before_the_first_promotion(lake: Lake) -> None:
    register_version(lake, trained("a"))
    assert champion(lake, "trips") is None
    assert champion_stage(lake, "trips") is None


def test_a_new_champion_archives_the_former_in_one_commit(lake: Lake) -> None:
    for key in "ab":
        register_version(lake, trained(key))
    promoted(lake, 1, 0)
    promoted(lake, 2, 1)
    serving = champion(lake, "trips")
    assert serving
    assert serving.version == 2
    steps = [(step.version, step.stage, step.generation) for step in read_stages(lake, "trips")]
    assert sorted(steps) == [(1, "archived", 2), (1, "champion", 1), (2, "champion", 2)]


def test_the_same_promotion_again_changes_nothing(lake: Lake) -> None:
    register_version(lake, trained("a"))
    assert promoted(lake, 1, 0) == promoted(lake, 1, 0)
    assert len(read_stages(lake, "trips")) == 1


def test_of_two_promotions_at_once_one_wins(lake: Lake) -> None:
    for key in "abc":
        register_version(lake, trained(key))
    promoted(lake, 1, 0)

    def attempt(version: int) -> bool:
        try:
            promoted(lake, version, 1)
        except StageConflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(attempt, (2, 3)))
    assert sorted(won) == [False, True]
    stage = champion_stage(lake, "trips")
    assert stage
    assert stage.generation == 2
    assert stage.version == (2, 3)[won.index(True)]


def test_who_served_at_a_past_moment_is_one_question(lake: Lake) -> None:
    for key in "ab":
        register_version(lake, trained(key))
    promoted(lake, 1, 0, NOON)
    promoted(lake, 2, 1, NOON + timedelta(days=30))
    past = champion(lake, "trips", NOON + timedelta(days=3))
    assert past
    assert past.version == 1
    assert champion(lake, "trips", NOON - timedelta(days=1)) is None


def test_a_former_champion_can_come_back(lake: Lake) -> None:
    for key in "ab":
        register_version(lake, trained(key))
    for generation, version in enumerate((1, 2, 1)):
        promoted(lake, version, generation)
    serving = champion_stage(lake, "trips")
    assert serving
    assert (serving.version, serving.generation) == (1, 3)


def test_a_stage_is_recorded_once_per_decision_and_kept_in_history(lake: Lake) -> None:
    for _ in range(2):
        record_stage(lake, "trips", 1, "challenger", as_of=NOON, reason="trained", decision_id="a")
    record_stage(lake, "trips", 1, "rejected", as_of=NOON, reason="worse", decision_id="b")
    assert stage_history(lake, "trips")["stage"].to_list() == ["challenger", "rejected"]


def test_a_champion_is_not_made_on_the_side(lake: Lake) -> None:
    with pytest.raises(ValueError, match="make_champion"):
        record_stage(lake, "trips", 1, "champion", as_of=NOON, reason="", decision_id="a")


def test_a_snapshot_is_tagged_once_and_a_tag_never_moves(lake: Lake) -> None:
    identifier, rows = lake.table("trips", "features"), pa.table({"a": [1]})
    ensure_table(lake, identifier, rows.schema)
    first, second = (append_once(lake, identifier, rows, key).snapshot_id for key in ("one", "two"))
    tag_snapshot(lake, identifier, first, "version-1")
    tag_snapshot(lake, identifier, first, "version-1")
    assert lake.catalog().load_table(identifier).metadata.refs["version-1"].snapshot_id == first
    with pytest.raises(ValueError, match=f"is on snapshot {first}"):
        tag_snapshot(lake, identifier, second, "version-1")


CONTENDER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import StageConflict, make_champion

lake, version, start = Lake.model_validate_json(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
(start / f"ready-{version}").touch()
while not (start / "go").exists():
    time.sleep(0.001)
try:
    make_champion(lake, "trips", version, expected_generation=1, as_of=datetime(2024, 5, 2, tzinfo=UTC), reason="better",
                  decision_id=f"d1-v{version}")
    print("won")
except StageConflict:
    print("lost")
"""


def test_of_two_processes_that_promote_at_once_one_wins(any_lake: Lake, tmp_path: Path) -> None:
    for key in "abc":
        register_version(any_lake, trained(key))
    promoted(any_lake, 1, 0)
    told = any_lake.model_dump_json()
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, told, str(version), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for version in (2, 3)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert all(rival.poll() is None for rival in rivals)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [rival.communicate(timeout=120)[0].strip() for rival in rivals]
    assert sorted(said) == ["lost", "won"]
    champions = [(step.version, step.generation) for step in read_stages(any_lake, "trips") if step.stage == "champion"]
    assert champions == [(1, 1), ((2, 3)[said.index("won")], 2)]


def test_who_served_when_on_which_rows_and_evidence_has_one_answer(lake: Lake) -> None:
    for key in "ab":
        register_version(lake, trained(key))
    month = timedelta(days=30)
    for generation, (version, verdict) in enumerate([(1, "promote"), (2, "promote"), (1, "")]):
        if verdict:
            evidence = f'{{"gain": 0.0{version}}}'
            record_decision(
                lake,
                Decision(
                    decision_id=f"p{version}", pipeline="trips", kind="promotion", version=version, verdict=verdict,
                    reason="better", as_of=NOON, evidence=evidence,
                ),
            )  # fmt: skip
        promoted(lake, version, generation, NOON + generation * month)
    record_decision(
        lake,
        Decision(
            decision_id="d1-v2",
            pipeline="trips",
            kind="rollout",
            version=2,
            verdict="rolled_back",
            reason="slow",
            as_of=NOON,
        ),
    )

    def answer(days: int) -> tuple[int, int, float, str | None] | None:
        found = served_at(lake, "trips", NOON + timedelta(days=days))
        if found is None:
            return None
        rollout = found.rollout.verdict if found.rollout else None
        return found.version.version, found.version.training_rows, found.evidence()["gain"], rollout

    before = [answer(-1), answer(0), answer(29), answer(30), answer(61)]
    assert before == [None, (1, 90, 0.01, None), (1, 90, 0.01, None), (2, 90, 0.02, "rolled_back"), (1, 90, 0.01, None)]
    promoted(lake, 2, 3, NOON + 3 * month)
    assert [answer(-1), answer(0), answer(29), answer(30), answer(61)] == before


def test_by_the_clock_on_the_wall_a_replay_served_when_it_ran(lake: Lake) -> None:
    register_version(lake, trained("a"))
    stage = promoted(lake, 1, 0)
    assert served_at(lake, "trips", stage.recorded_at, "recorded_at") is not None
    assert served_at(lake, "trips", NOON + timedelta(days=1), "recorded_at") is None


def trained_on_snapshots(lake: Lake, count: int) -> list[int]:
    """Versions, each trained on a snapshot of its own that is tagged; every snapshot adds a row."""
    identifier, found = lake.table("trips", "features"), []
    ensure_table(lake, identifier, pa.schema([("a", pa.int64())]))
    for number in range(1, count + 1):
        found.append(append_once(lake, identifier, pa.table({"a": [number]}), f"batch {number}").snapshot_id)
        register_version(lake, trained(f"k{number}").model_copy(update={"features_snapshot_id": found[-1]}))
        tag_snapshot(lake, identifier, found[-1], version_tag(number))
    return found


def test_training_rows_of_living_versions_survive_expiry_and_those_of_the_dead_are_let_go_in_time(lake: Lake) -> None:
    identifier = lake.table("trips", "features")
    snapshots = trained_on_snapshots(lake, 5)
    promoted(lake, 1, 0)
    promoted(lake, 2, 1)  # 1 is archived
    record_stage(lake, "trips", 3, "rejected", as_of=NOON, reason="worse", decision_id="r")
    record_stage(lake, "trips", 4, "shadow", as_of=NOON, reason="tried", decision_id="s")
    later = datetime.now(UTC) + timedelta(seconds=1)  # 5 has no stage yet: registered a moment ago

    assert release_tags(lake, "trips", later - timedelta(days=1)) == []
    assert release_tags(lake, "trips", later) == [1, 3]
    assert release_tags(lake, "trips", later) == []
    expire_snapshots(lake, identifier, later, keep=1)
    there = {snapshot.snapshot_id for snapshot in lake.catalog().load_table(identifier).metadata.snapshots}
    assert there == {snapshots[1], snapshots[3], snapshots[4]}
    assert [len(read_snapshot(lake, identifier, snapshots[at])) for at in (1, 3, 4)] == [2, 4, 5]


def test_an_archived_version_that_serves_again_keeps_its_rows(lake: Lake) -> None:
    trained_on_snapshots(lake, 2)
    for generation, version in enumerate((1, 2, 1)):
        promoted(lake, version, generation)
    assert release_tags(lake, "trips", datetime.now(UTC) + timedelta(days=1)) == [2]
