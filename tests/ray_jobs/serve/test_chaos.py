"""Versions come and go, and processes are killed, while clients go on asking. `make chaos-serving` is the long form."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import polars as pl
import psutil
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.stages import make_champion
from perennial.lakehouse.tables import read_snapshot
from perennial.lakehouse.trials import divert, end_trial, open_trial, read_traffic
from perennial.rules.features import pipeline_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.config import EndpointConfig, ServeConfig
from ray_jobs.serve.roll import RollRequest, ask_replicas, roll
from tests.conftest import S3, empty_lake, free_port
from tests.ray_jobs.serve.load import Load, steady_load
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

LONG = os.environ.get("PERENNIAL_CHAOS") == "long"
ROLLOUTS, REPLICA_KILLS = (50, 20) if LONG else (2, 1)
PER_SECOND = 40.0 if LONG else 15.0
SEED = os.environ.get("PERENNIAL_CHAOS_SEED", "1")
FOLDER = Path(__file__).parent / "pipelines"
ROW = {"trip": 1, "station": "north", "start_at": "2024-05-01T18:00:00Z", "distance_km": 2.5, "member": True}
HEADERS = {"authorization": "Bearer sesame"}
SETTLED_SECONDS = 120
REFUSED_SECONDS = 30  # for so long at most, connections are refused when the proxy was killed (docs/reliability.md)


@dataclass
class Served:
    """An endpoint with two equal versions to swap."""

    lake: Lake
    config: EndpointConfig
    versions: list[int]

    @property
    def url(self) -> str:
        return f"{self.config.serve.url}{self.config.route}/predict"

    def roll(self, turn: str = "") -> None:
        champion = read_traffic(self.lake, "trips").champion
        assert champion is not None
        request = RollRequest(endpoint=self.config, version=champion.version, generation=champion.generation, turn=turn)
        assert roll(request).failure is None

    def crown(self, version: int, rollout: str | None = None) -> None:
        champion = read_traffic(self.lake, "trips").champion
        generation = champion.generation if champion else 0
        make_champion(
            self.lake, "trips", version, expected_generation=generation, as_of=NOON, reason="chaos",
            decision_id=rollout or f"chaos-{generation}",
        )  # fmt: skip
        self.roll()

    def roll_out(self, version: int, withdrawn: bool) -> None:
        """As `roll_out` does it: shadow, canary, and then all or nothing."""
        told = {"as_of": NOON, "reason": "chaos"}
        trial = open_trial(self.lake, "trips", version, as_of=NOON, reason="chaos")
        for stage, share in (("shadow", 0.0), ("canary", 0.5)):
            trial = divert(self.lake, trial, stage, share, as_of=NOON, reason="chaos")  # type: ignore[arg-type]
            self.roll(trial.turn)
            time.sleep(0.3)
        if withdrawn:
            end_trial(self.lake, trial, **told)  # type: ignore[arg-type]
            self.roll()
        else:
            self.crown(version, trial.rollout)

    def settle(self) -> None:
        """Wait until as many replicas answer as there should be."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while time.monotonic() < deadline:
            if len(ask_replicas("trips")) >= 2:
                return
            time.sleep(0.2)
        raise AssertionError(f"after {SETTLED_SECONDS} s there are not two replicas again")

    def committed(self) -> pl.DataFrame:
        """The prediction log once it stands still: dead replicas' segments are shipped by those that live."""
        before, rows = -1, pl.DataFrame()
        while rows.height != before:
            before = rows.height
            time.sleep(2)
            commit_predictions(self.lake, "trips")
            rows = pl.DataFrame(pl.from_arrow(read_snapshot(self.lake, self.lake.table("trips", "predictions"))))
        return rows


@pytest.fixture(scope="module")
def served(s3: S3, ray_head: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from ray import serve

    home = tmp_path_factory.mktemp("chaos")
    (s3.secrets_dir / "serve_token").write_text("sesame")
    lake, pipeline = empty_lake(s3, home), load_pipeline("trips", FOLDER)
    fill_raw(lake, pipeline)
    versions = [register_model(lake, pipeline, 1, artifact=name) for name in ("one", "two")]
    options = ServeConfig(port=free_port(), log_folder=home / "log", ship_seconds=0.5, draining_seconds=1)
    config = EndpointConfig(
        lake=lake, pipeline="trips", pipelines=FOLDER, code_hash=pipeline_code_hash(pipeline), serve=options, replicas=2
    )
    world = Served(lake, config, versions)
    world.crown(versions[0])
    yield world
    serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.timeout(3600)
def test_versions_come_and_go_and_no_request_fails(served: Served) -> None:
    with steady_load(served.url, ROW, HEADERS, per_second=PER_SECOND) as load:
        for number in range(ROLLOUTS):
            champion = read_traffic(served.lake, "trips").champion
            assert champion is not None
            other = next(version for version in served.versions if version != champion.version)
            served.roll_out(other, withdrawn=number % 2 == 0)
    tell(f"{ROLLOUTS} roll-outs, {(ROLLOUTS + 1) // 2} of them withdrawn", load, len(load.failed))
    assert load.failed == []
    assert set(load.versions) == set(served.versions)


@pytest.mark.timeout(3600)
def test_a_killed_process_takes_only_its_own_requests_along_and_no_answered_row(served: Served) -> None:
    random, kills = Random(SEED), list[float]()
    with steady_load(served.url, {**ROW, "trip": 2}, HEADERS, per_second=PER_SECOND) as load:
        for _ in range(REPLICA_KILLS):
            time.sleep(random.uniform(0.5, 1.5))
            pid = random.choice(ask_replicas("trips")).pid
            os.kill(pid, signal.SIGKILL)
            kills.append(time.monotonic())
            served.settle()
        time.sleep(1)
    lost = [
        asked for asked in load.failed if not any(asked.began <= kill + 0.5 and asked.ended >= kill for kill in kills)
    ]
    tell(f"{REPLICA_KILLS} kills of a replica", load, len(load.failed))
    assert lost == []
    assert len(load.failed) <= 4 * REPLICA_KILLS  # no client had more than one under way
    rows = served.committed().filter(pl.col("trip") == 2, pl.col("role") != "shadow")
    answered = {asked.request_id for asked in load.asked if asked.status == 200}
    assert answered <= set(rows["request_id"])
    assert not rows.select("request_id", "row_index").is_duplicated().any()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["haproxy", "ServeController"])
def test_the_proxy_or_the_controller_is_killed(served: Served, name: str) -> None:
    if not LONG and name == "haproxy":
        pytest.skip("in the long form: HAProxy is away for as long as Serve takes to start it again")
    with steady_load(served.url, {**ROW, "trip": 3}, HEADERS, per_second=PER_SECOND) as load:
        time.sleep(1)
        kill = time.monotonic()
        for process in _ours(name):
            process.kill()
        time.sleep(4)
        while load.asked[-1].status != 200 and time.monotonic() - kill < SETTLED_SECONDS:
            time.sleep(0.2)
        served.settle()
    tell(f"{name} killed, no answer for {load.longest_gap():.1f} s", load, len(load.failed))
    assert load.longest_gap() < REFUSED_SECONDS
    if name == "ServeController":
        assert load.failed == []  # it is not on the way of a request
    assert all(asked.ended >= kill for asked in load.failed)
    assert load.asked[-1].status == 200


@pytest.mark.timeout(600)
@pytest.mark.skipif(not LONG, reason="in the long form: Serve takes half a minute to start again")
def test_serve_comes_back_with_the_same_versions_and_shares(served: Served) -> None:
    from ray import serve

    champion = read_traffic(served.lake, "trips").champion
    assert champion is not None
    other = next(version for version in served.versions if version != champion.version)
    trial = open_trial(served.lake, "trips", other, as_of=NOON, reason="chaos")
    trial = divert(served.lake, trial, "canary", 0.5, as_of=NOON, reason="chaos")
    served.roll(trial.turn)
    serve.shutdown()  # type: ignore[no-untyped-call]
    served.roll(trial.turn)
    assert {(state.version, state.turn) for state in ask_replicas("trips")} == {(champion.version, trial.turn)}
    end_trial(served.lake, trial, as_of=NOON, reason="chaos")


def tell(what: str, load: Load, failed: int) -> None:
    """One line of figures for people (`pytest -s`)."""
    print(f"\nchaos-serving, seed {SEED}: {what}: {len(load.asked):,} requests, {failed} failed", flush=True)
    for problem in sorted({asked.problem for asked in load.failed}):
        print(f"  {sum(asked.problem == problem for asked in load.failed)} x {problem}")


def _ours(name: str) -> list[psutil.Process]:
    """Processes below this test's own Ray head whose title holds the name."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if name in " ".join(p.cmdline()) or name == p.name()]
