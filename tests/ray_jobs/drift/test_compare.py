"""Two months on a real lake: the first version serves May, a better one June."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from perennial.spec import Pipeline
from ray_jobs.drift.compare import Compared, CompareRequest, compare
from tests.ray_jobs.drift.world import (
    JULY,
    JUNE,
    MAY,
    answer,
    drawn_scores,
    land_outcomes,
    load_rides,
    rides,
    write_pipeline,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipelines")


def compared(lake: Lake, folder: Path) -> Compared:
    place = {"lake": lake, "pipelines": folder, "pipeline": "rides"}
    return compare(CompareRequest(**place, start=MAY, end=JULY, baseline_version=1, as_of=JULY + timedelta(days=1)))


def serve_two_months(lake: Lake, pipeline: Pipeline) -> pl.DataFrame:
    """June's rows, which version 2 answered."""
    may, june = rides(MAY, 600), rides(JUNE, 600, first=10_000)
    scores = drawn_scores(600)
    answer(lake, pipeline, may, 1, scores)
    answer(lake, pipeline, june, 2, scores)
    for rows in (may, june):
        land_outcomes(lake, pipeline, rows, scores, noise=0.3)
    return june


def test_the_baselines_batch_scores_stand_beside_what_was_served(lake: Lake, folder: Path) -> None:
    pipeline = load_rides(folder)
    june = serve_two_months(lake, pipeline)
    answer(lake, pipeline, june, 1, np.random.default_rng(1).random(600), role="batch")
    seen = compared(lake, folder)
    may, june_month = seen.performance.months
    assert (may.gain, may.versions, may.rows) == (0, [1], 600)
    assert (june_month.versions, june_month.rows) == ([2], 600)
    assert june_month.baseline == pytest.approx(0.5, abs=0.06)
    after = seen.performance.after_first_promotion
    assert after is not None
    assert (after.months, after.low > 0) == (["2024-06"], True)


def test_figures_and_picture_lie_on_s3(lake: Lake, folder: Path) -> None:
    pipeline = load_rides(folder)
    answer(lake, pipeline, serve_two_months(lake, pipeline), 1, drawn_scores(600), role="batch")
    seen = compared(lake, folder)
    files = lake.files()
    assert files.cat_file(lake.uri(seen.picture)).startswith(b"\x89PNG")
    assert json.loads(files.cat_file(lake.uri(seen.summary)))["months"][0]["month"] == "2024-05"


def test_rows_without_the_baselines_score_are_left_out_and_counted(lake: Lake, folder: Path) -> None:
    serve_two_months(lake, load_rides(folder))
    seen = compared(lake, folder)
    assert [month.month for month in seen.performance.months] == ["2024-05"]
    assert seen.performance.unpaired_rows == 600


def test_nothing_to_compare_says_what_to_run(lake: Lake, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no champion of rides answered .* log_predictions"):
        compared(lake, folder)
    pipeline = load_rides(folder)
    answer(lake, pipeline, rides(MAY, 50), 2, drawn_scores(50))
    with pytest.raises(ValueError, match=r"none has both.*Run score"):
        compared(lake, folder)
