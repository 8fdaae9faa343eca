"""What is read of all rows: the same states whether a window is held or read file by file on Ray; skew; the estimate."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import ray_jobs.drift.window
from perennial.lakehouse.artifacts import read_reference
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_log
from perennial.rules.features import compute_features, input_names
from perennial.rules.sketch_scores import compare
from ray_jobs.drift.skew import match_shares
from ray_jobs.drift.states import load_states, reference_edges, sketch_files, window_filter
from ray_jobs.drift.together import tell_apart
from ray_jobs.drift.watch import Watched, WatchRequest, watch
from ray_jobs.drift.window import count_labelled, read_answers, read_part, read_window
from tests.ray_jobs.drift.world import (
    JULY,
    JUNE,
    MAY,
    answer,
    answered_window,
    drawn_scores,
    land_outcomes,
    land_rides,
    load_rides,
    register,
    rides,
    write_pipeline,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipelines")


def watched(lake: Lake, folder: Path) -> Watched:
    place = {"lake": lake, "pipelines": folder, "pipeline": "rides"}
    return watch(WatchRequest(**place, version=1, start=MAY, end=JUNE, as_of=JUNE))


def test_a_window_read_file_by_file_on_ray_has_the_states_of_one_that_is_held(
    lake: Lake, folder: Path, ray_head: str
) -> None:
    pipeline = load_rides(folder)
    version = register(lake, pipeline)
    answered_window(lake, pipeline, version.version, rows=700)
    answer(lake, pipeline, rides(MAY, 300, shift=1.0, first=5), version.version, drawn_scores(300))
    answered_window(lake, pipeline, version.version, rows=200, start=JUNE)  # beyond the window
    reference = read_reference(lake, "rides", version.artifact_id, version.manifest_sha256)
    edges = reference_edges(reference, input_names(pipeline))
    held = read_window(lake, pipeline, 1, MAY, JUNE, edges)
    spread = sketch_files(lake, "rides", window_filter("started_at", MAY, JUNE, "champion", 1), edges)
    assert held.count == 1_000
    for name, state in held.sketches.items():
        assert spread[name].counts.tolist() == state.counts.tolist()
        assert compare(spread[name], state).ks in (0.0, pytest.approx(0.0))
    part, drawn = read_part(lake, pipeline, 1, MAY, JUNE, share=0.5)
    assert 400 < part.height == drawn < 600
    assert part.equals(read_part(lake, pipeline, 1, MAY, JUNE, share=0.5)[0])


def test_a_large_window_counts_its_own_answers_and_the_labels_of_the_part_that_is_read(
    lake: Lake, folder: Path, ray_head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs.drift.window, "LARGE_ROWS", 1_000)  # two million rows say no more
    pipeline = load_rides(folder)
    version = register(lake, pipeline).version
    answered_window(lake, pipeline, version, rows=2_000)
    ridden = rides(MAY, 2_000, first=int(MAY.timestamp()), seed=MAY.month)
    for request in ("again", "and again"):
        answer(lake, pipeline, ridden, version, drawn_scores(2_000), request=request)
    answer(lake, pipeline, rides(MAY, 300, first=7), version, np.full(300, None), request="failed")
    answer(lake, pipeline, rides(MAY, 400, first=8_000), version, drawn_scores(400), role="shadow")
    answer(lake, pipeline, rides(MAY, 500, first=9_000), version + 1, drawn_scores(500))
    answered_window(lake, pipeline, version, rows=600, start=JUNE)  # beyond the window
    evidence = watched(lake, folder).evidence
    assert evidence.rows == 2_000
    assert evidence.other_rows == 500
    assert evidence.read_rows == pytest.approx(333, abs=60)
    assert evidence.labelled_share == 1.0


def test_labels_are_counted_in_every_window_that_shares_a_row_and_per_version(lake: Lake, folder: Path) -> None:
    pipeline = load_rides(folder)
    answered_window(lake, pipeline, 1, rows=300)  # ten a day; their labels come two hours later
    ridden = rides(MAY, 300, first=int(MAY.timestamp()), seed=MAY.month)
    answer(lake, pipeline, ridden, 1, drawn_scores(300), request="again")
    answer(lake, pipeline, ridden, 2, drawn_scores(300))
    days = [MAY + timedelta(days=number) for number in range(11)]
    windows = [(1, days[0], days[10]), (1, days[5], days[10]), (2, days[0], days[1]), (3, days[0], days[10])]
    assert count_labelled(lake, pipeline, windows, JUNE) == [100, 50, 10, 0]
    assert count_labelled(lake, pipeline, windows, days[6]) == [60, 10, 10, 0]


def test_a_windows_states_are_kept_and_load_again(lake: Lake, folder: Path) -> None:
    pipeline = load_rides(folder)
    answered_window(lake, pipeline, register(lake, pipeline).version)
    seen = watched(lake, folder)
    states = load_states(lake, seen.report.replace(".html", ".parquet"))
    assert {name: state.rows for name, state in states.items()} == dict.fromkeys(states, 1_500)
    assert set(seen.evidence.drift) | {"score"} == set(states)
    assert load_states(lake, "reports/rides/monitor/never.parquet") == {}


def test_skew_is_the_share_of_logged_values_that_the_tables_give_exactly(lake: Lake, folder: Path) -> None:
    pipeline = load_rides(folder)
    register(lake, pipeline)
    ridden = rides(MAY, 400)
    land_rides(lake, pipeline, ridden)
    answer(lake, pipeline, ridden, 1, drawn_scores(400))
    logged = read_answers(lake, pipeline, MAY, JUNE, role="champion")
    inputs = input_names(pipeline)
    assert match_shares(lake, pipeline, logged, inputs, JULY) == (dict.fromkeys(inputs, 1.0), 400)
    skewed = logged.with_columns(pl.when(pl.int_range(pl.len()) < 100).then(0.5).otherwise("stops").alias("stops"))
    assert match_shares(lake, pipeline, skewed, inputs, JULY)[0]["stops"] == 0.75


def test_history_features_are_recomputed_offline_too(lake: Lake, folder: Path) -> None:
    file, late = folder / "rides.py", 'History("late_lately", "outcomes", "mean", pl.col("delay") > 0.5, by=[], '
    for old, new in {
        "import At,": "import At, History,",
        "import pandera": "from datetime import timedelta\nimport pandera",
        'key=["ride"], known=At': 'key=["ride"], event_time="ended_at", known=At',
        "    features=features,": f"    history=[{late}window=timedelta(days=2), doc='late of those that ended')],\n    features=features,",
        '.select("distance_km"': '.select("late_lately", "distance_km"',
    }.items():
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    pipeline = load_rides(folder)
    ridden = rides(MAY, 400)
    land_rides(lake, pipeline, ridden)
    land_outcomes(lake, pipeline, ridden, drawn_scores(400), noise=0.1)
    tables = {name: read_log(lake, pipeline, name, JULY) for name in ("zones", "outcomes")}
    logged = compute_features(
        pipeline, ridden.with_columns(_known_at=pl.col("started_at") - timedelta(hours=1)), tables
    )
    assert logged["late_lately"].n_unique() > 20
    inputs = input_names(pipeline)
    assert match_shares(lake, pipeline, logged, inputs, JULY) == (dict.fromkeys(inputs, 1.0), 400)
    stale = logged.with_columns(pl.when(pl.int_range(pl.len()) < 300).then("late_lately").alias("late_lately"))
    assert match_shares(lake, pipeline, stale, inputs, JULY)[0]["late_lately"] == 0.75


def test_inputs_that_no_longer_go_together_are_told_apart_and_the_same_world_is_not() -> None:
    kinds = {"distance_km": "number", "zone": "category"}
    first, second = rides(MAY, 3_000, seed=1), rides(MAY, 3_000, seed=2)
    tied = pl.when(pl.col("distance_km") > 0.5).then(pl.lit("port")).otherwise(pl.lit("old")).alias("zone")
    same = tell_apart(second, first, kinds, seed=1)  # type: ignore[arg-type]  # kinds are literals
    other = tell_apart(second.with_columns(tied), first, kinds, seed=1)  # type: ignore[arg-type]  # likewise
    assert same is not None
    assert other is not None
    assert same.roc_auc < same.chance < other.roc_auc


def test_a_window_has_an_estimate_and_says_how_far_off_it_was(lake: Lake, folder: Path) -> None:
    pipeline = load_rides(folder)
    answered_window(lake, pipeline, register(lake, pipeline).version)
    evidence = watched(lake, folder).evidence
    assert evidence.performance is not None
    assert set(evidence.figures) >= {"accuracy", "precision", "recall", "f1", "roc_auc"}
    assert evidence.estimate is None  # this world's reference holds no labels to calibrate on
    assert evidence.freshness_seconds is not None
    assert evidence.reliability is not None
    assert sum(evidence.reliability[0]) == 1_500
