"""Windows of generated predictions on a real lake, watched through one Evidently run and judged by the policy."""

from datetime import datetime
from pathlib import Path

import pytest

from perennial.lakehouse.lake import Lake
from perennial.rules.evidence import Evidence
from perennial.rules.past import Past, PastWindow
from perennial.rules.policy import Signal, judge_window
from perennial.spec import Pipeline
from ray_jobs.drift.watch import Watched, WatchRequest, watch
from tests.ray_jobs.drift.world import JULY, JUNE, MAY, answered_window, load_rides, register, write_pipeline


@pytest.fixture(params=["binary", "regression"])
def pipelines(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipelines", request.param)


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipelines")


def watched(lake: Lake, folder: Path, as_of: datetime = JUNE, version: int = 1) -> Watched:
    place = {"lake": lake, "pipelines": folder, "pipeline": "rides"}
    return watch(WatchRequest(**place, version=version, start=MAY, end=JUNE, as_of=as_of))


def verdict(lake: Lake, folder: Path, pipeline: Pipeline, as_of: datetime = JUNE) -> tuple[Signal, Evidence]:
    evidence = watched(lake, folder, as_of).evidence
    return judge_window(evidence, pipeline.monitoring), evidence


def test_a_window_as_promised_is_held(lake: Lake, pipelines: Path) -> None:
    rides = load_rides(pipelines)
    answered_window(lake, rides, register(lake, rides).version)
    judged, evidence = verdict(lake, pipelines, rides)
    assert judged.verdict == "hold", judged.reason
    assert evidence.labelled_rows == 1_500
    assert evidence.sampled_rows == 600


def test_a_large_loss_is_retrained_on(lake: Lake, pipelines: Path) -> None:
    rides = load_rides(pipelines)
    answered_window(lake, rides, register(lake, rides).version, noise=1.0)
    judged, _ = verdict(lake, pipelines, rides)
    assert judged.verdict == "retrain", judged.reason


def test_an_input_gone_null_is_paged(lake: Lake, pipelines: Path) -> None:
    rides = load_rides(pipelines)
    answered_window(lake, rides, register(lake, rides).version, noise=1.0, lost="distance_km")
    judged, _ = verdict(lake, pipelines, rides)
    assert judged.verdict == "page"
    assert "distance_km" in judged.reason


def test_labels_that_have_not_arrived_yet_are_not_looked_at(lake: Lake, binary: Path) -> None:
    rides = load_rides(binary)
    answered_window(lake, rides, register(lake, rides).version, noise=1.0)
    judged, evidence = verdict(lake, binary, rides, as_of=datetime(2024, 5, 2, tzinfo=MAY.tzinfo))
    assert evidence.labelled_rows == pytest.approx(46, abs=2)  # a thirtieth of 1,500, less two hours
    assert judged.verdict == "hold"
    assert "inputs decide" in judged.reason


def test_without_labels_shifted_inputs_decide(lake: Lake, binary: Path) -> None:
    rides = load_rides(binary)
    register(lake, rides)
    answered_window(lake, rides, 1, shift=1.0)
    evidence = watched(lake, binary, as_of=MAY).evidence
    assert evidence.drifted_inputs == ["distance_km"]
    assert judge_window(evidence, rides.monitoring).verdict == "hold"  # one of four inputs; half of them may


def test_a_window_nobody_asked_in_is_paged(lake: Lake, binary: Path) -> None:
    rides = load_rides(binary)
    register(lake, rides)
    judged, evidence = verdict(lake, binary, rides)
    assert (judged.verdict, evidence.rows) == ("page", 0)


def test_rows_of_another_champion_are_counted_and_not_judged(lake: Lake, binary: Path) -> None:
    rides = load_rides(binary)
    register(lake, rides)
    register(lake, rides, seed=2)
    answered_window(lake, rides, version=1)
    evidence = watched(lake, binary, version=2).evidence
    assert (evidence.rows, evidence.other_rows) == (0, 1_500)


def test_the_season_before_is_read_anew_where_its_states_are_not_kept(lake: Lake, binary: Path) -> None:
    file = binary / "rides.py"
    season = "Monitoring(season=timedelta(days=31), "
    file.write_text("from datetime import timedelta\n" + file.read_text().replace("Monitoring(min", season + "min"))
    rides = load_rides(binary)
    register(lake, rides)
    answered_window(lake, rides, 1, shift=1.0)
    answered_window(lake, rides, 1, start=JUNE, shift=1.0)
    then = PastWindow(
        decision_id="may", start=MAY, end=JUNE, at=JUNE, verdict="hold", evidence=Evidence(version=1, rows=1_500)
    )

    def june() -> Evidence:
        place = {"lake": lake, "pipelines": binary, "pipeline": "rides", "past": Past(windows=[then])}
        return watch(WatchRequest(**place, version=1, start=JUNE, end=JULY, as_of=JULY)).evidence

    anew = june()  # nobody has watched May: its states lie nowhere
    assert anew.seasonal_drift is not None
    assert anew.seasonal_drift["distance_km"] < 0.1 < anew.drift["distance_km"]
    watched(lake, binary)
    assert june().seasonal_drift == anew.seasonal_drift


def test_watching_again_gives_the_same_evidence_and_report(lake: Lake, binary: Path) -> None:
    rides = load_rides(binary)
    answered_window(lake, rides, register(lake, rides).version)
    first, second = watched(lake, binary), watched(lake, binary)
    assert first == second
    assert b"Content-Security-Policy" in lake.files().cat_file(lake.uri(first.report))
    assert lake.files().exists(lake.uri(first.evidence_file))
