"""What a replica loads, without Serve: the joined tables under the contract's columns of today, versions and shares."""

from pathlib import Path

import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import ensure_raw
from perennial.lakehouse.stages import make_champion
from perennial.lakehouse.trials import divert, open_trial
from perennial.rules.features import feature_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.keeper import Keeper
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

FOLDER = Path(__file__).parent / "pipelines"


@pytest.mark.parametrize("ingested", [False, True], ids=["before", "after"])
def test_a_joined_tables_new_column_is_null_in_the_rows_that_are_there(
    lake: Lake, tmp_path: Path, ingested: bool
) -> None:
    fill_raw(lake, load_pipeline("trips", FOLDER))
    text = (FOLDER / "trips.py").read_text()
    text = text.replace("    rain_mm: float", "    rain_mm: float\n    snow_mm: float = pa.Field(nullable=True)")
    text = text.replace('"weather_rain_mm"', '"weather_rain_mm",\n        snow_mm="weather_snow_mm"')
    (tmp_path / "trips.py").write_text(text)
    pipeline = load_pipeline("trips", tmp_path)
    if ingested:  # the table has the column then, and no row of it yet
        ensure_raw(lake, "trips", pipeline.source("weather"))
    version = register_model(lake, pipeline, 1)
    make_champion(lake, "trips", version, expected_generation=0, as_of=NOON, reason="a test", decision_id="d")
    keeper = Keeper(lake, pipeline, feature_code_hash(pipeline), Answers(lake, pipeline).try_out)
    joined = keeper.current.tables["weather"].held.joined
    assert joined is not None
    assert joined.values["weather_snow_mm"].null_count() == len(joined.values) > 0


def test_a_server_that_starts_anew_and_a_second_cluster_serve_the_same_versions_and_shares(lake: Lake) -> None:
    """Replicas hold no state: whoever starts on the lake, and whoever was there before, shares requests alike."""
    pipeline = load_pipeline("trips", FOLDER)
    fill_raw(lake, pipeline)
    champion, tried = (register_model(lake, pipeline, 1, artifact=name) for name in ("one", "two"))
    make_champion(lake, "trips", champion, expected_generation=0, as_of=NOON, reason="a test", decision_id="d")

    def replica() -> Keeper:
        return Keeper(lake, pipeline, feature_code_hash(pipeline), Answers(lake, pipeline).try_out)

    before = replica()
    divert(
        lake, open_trial(lake, "trips", tried, as_of=NOON, reason="a test"), "canary", 0.3, as_of=NOON, reason="a test"
    )
    before.refresh()
    after = replica()
    assert before.versions == after.versions == [champion, tried]
    assert before.state("a", "").turn == after.state("b", "").turn is not None
    keys = [f"client-{number}" for number in range(500)]
    assert [before.traffic.choose(key)[1] for key in keys] == [after.traffic.choose(key)[1] for key in keys]
    assert sum(after.traffic.choose(key)[1] == "canary" for key in keys) == pytest.approx(150, abs=40)
