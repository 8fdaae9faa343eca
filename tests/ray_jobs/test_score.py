"""Batch scoring on a real lake and a real Ray."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.tables import current_snapshot_id, ensure_table, read_snapshot
from perennial.spec import Pipeline
from ray_jobs.drift.window import read_answers
from ray_jobs.score import Scored, ScoreRefused, ScoreRequest, score
from tests.ray_jobs.drift.world import (
    JULY,
    JUNE,
    MAY,
    inputs_of,
    land_rides,
    load_rides,
    register,
    rides,
    write_pipeline,
)

pytestmark = pytest.mark.usefixtures("ray_head")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipelines")


@pytest.fixture
def city(lake: Lake, folder: Path) -> tuple[Pipeline, ModelVersion]:
    pipeline = load_rides(folder)
    land_rides(lake, pipeline, rides(MAY, 1_000))
    return pipeline, register(lake, pipeline)


def scored(lake: Lake, folder: Path, block_rows: int = 500) -> Scored:
    place = {"lake": lake, "pipelines": folder, "pipeline": "rides"}
    return score(ScoreRequest(**place, version=1, start=MAY, end=JUNE, as_of=JULY, block_rows=block_rows))


def test_a_window_is_scored_as_the_model_scores_it(
    lake: Lake, folder: Path, city: tuple[Pipeline, ModelVersion]
) -> None:
    pipeline, version = city
    assert scored(lake, folder) == Scored(rows=1_000, already=False)
    answers = read_answers(lake, pipeline, MAY, JUNE, role="batch").sort("ride")
    scorer = load_scorer(lake, "rides", version.artifact_id, version.manifest_sha256)
    expected = inputs_of(pipeline, rides(MAY, 1_000))
    assert np.allclose(answers["score"], scorer.score(expected), atol=1e-9)
    assert answers.select("distance_km", "stops").equals(
        expected.select("distance_km", pl.col("stops").cast(pl.Float64))
    )
    assert answers["version"].unique().to_list() == [1]


def test_scoring_again_adds_nothing(lake: Lake, folder: Path, city: tuple[Pipeline, ModelVersion]) -> None:
    scored(lake, folder)
    assert scored(lake, folder) == Scored(rows=1_000, already=True)
    assert rows_in(lake) == 1_000


def test_news_of_another_window_adds_nothing_to_this_one(
    lake: Lake, folder: Path, city: tuple[Pipeline, ModelVersion]
) -> None:
    scored(lake, folder)
    land_rides(lake, city[0], rides(JUNE + timedelta(days=1), 500, first=50_000))
    assert scored(lake, folder) == Scored(rows=1_000, already=True)
    assert rows_in(lake) == 1_000


def test_rows_outside_of_the_window_or_not_yet_known_are_not_scored(
    lake: Lake, folder: Path, city: tuple[Pipeline, ModelVersion]
) -> None:
    place = {"lake": lake, "pipelines": folder, "pipeline": "rides"}
    early = MAY + timedelta(days=3)
    assert score(ScoreRequest(**place, version=1, start=MAY, end=JUNE, as_of=early)).rows == pytest.approx(100, abs=3)
    assert score(ScoreRequest(**place, version=1, start=JUNE, end=JULY, as_of=JULY)) == Scored(rows=0, already=True)


def test_a_whole_table_and_a_snapshot_of_it_are_scored_into_a_table_that_says_from_which(
    lake: Lake, folder: Path, city: tuple[Pipeline, ModelVersion]
) -> None:
    place = {
        "lake": lake,
        "pipelines": folder,
        "pipeline": "rides",
        "version": 1,
        "as_of": JULY + timedelta(days=9),
        "into": "scores_all",
    }
    first = current_snapshot_id(lake, lake.table("rides", "raw_rides"))
    land_rides(lake, city[0], rides(JUNE + timedelta(days=1), 500, first=50_000))
    second = current_snapshot_id(lake, lake.table("rides", "raw_rides"))
    assert score(ScoreRequest(**place, snapshot_id=first)) == Scored(rows=1_000, already=False)
    assert score(ScoreRequest(**place)) == Scored(rows=1_500, already=False)
    assert score(ScoreRequest(**place)) == Scored(rows=1_500, already=True)
    scores = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("rides", "scores_all"))))
    assert dict(scores["_input_snapshot_id"].value_counts().iter_rows()) == {first: 1_000, second: 1_500}
    assert scores["version"].unique().to_list() == [1]


def test_another_table_with_the_entitys_columns_is_scored(
    lake: Lake, folder: Path, city: tuple[Pipeline, ModelVersion]
) -> None:
    candidates = rides(JUNE, 300, first=90_000).to_arrow()
    ensure_table(lake, lake.table("rides", "candidates"), candidates.schema)
    append_once(lake, lake.table("rides", "candidates"), candidates, "candidates")
    place = {"lake": lake, "pipelines": folder, "pipeline": "rides", "version": 1, "as_of": JULY}
    asked = ScoreRequest(**place, table="candidates", into="scores")
    assert score(asked) == Scored(rows=300, already=False)
    assert score(asked) == Scored(rows=300, already=True)
    with pytest.raises(ScoreRefused, match=r"there is no table .*nowhere"):
        score(ScoreRequest(**place, table="nowhere"))
    with pytest.raises(ScoreRefused, match="must be 'predictions'"):
        score(ScoreRequest(**place, into="raw_rides"))


def rows_in(lake: Lake) -> int:
    return len(lake.catalog().load_table(lake.table("rides", "predictions")).scan().to_arrow())
