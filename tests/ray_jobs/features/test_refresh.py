"""A build of what is new gives the rows that a build of everything gives, and touches no others."""

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_known, read_log, read_moments
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.features import compute_features
from perennial.spec import load_pipeline
from ray_jobs.features.build import BuildRequest, BuiltFeatures, build
from tests.ray_jobs.features.parcels import FILE, arrivals, hours, remember, write_parcels


@pytest.fixture(autouse=True)
def _on_ray(ray_head: str) -> None:
    """Every build needs one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_parcels(tmp_path / "pipelines")


def built(lake: Lake, folder: Path, as_of: datetime, **options: object) -> tuple[BuiltFeatures, pl.DataFrame]:
    """The features as of a moment, and their rows."""
    request = BuildRequest(lake=lake, pipeline="parcels", as_of=as_of, pipelines=folder, **options)
    done = build(request)
    rows = read_snapshot(lake, lake.table("parcels", "features"), done.snapshot_id)
    return done, pl.DataFrame(pl.from_arrow(rows)).sort("parcel")


def from_scratch(lake: Lake, folder: Path, as_of: datetime) -> pl.DataFrame:
    """The same from whole tables, in one piece."""
    pipeline = load_pipeline("parcels", folder)
    rows = read_moments(lake, pipeline, as_of)
    tables = {name: read_log(lake, pipeline, name, as_of) for name in pipeline.looked_up}
    known = read_known(lake, pipeline, "deliveries", as_of)
    labels = known.select("parcel", late=(pl.col("days") > 2).cast(pl.Float64), _label_known_at="_known_at")
    return compute_features(pipeline, rows, tables).join(labels, on="parcel", how="left").sort("parcel")


@pytest.mark.parametrize(("seed", "block_rows"), [(1, 20)])
def test_day_by_day_as_all_at_once(lake: Lake, folder: Path, seed: int, block_rows: int) -> None:
    before = pl.DataFrame()
    for day in range(3):
        remember(lake, folder, arrivals(seed, day), f"batch-{day}")
        as_of = hours(24 * (day + 1))
        done, rows = built(lake, folder, as_of, block_rows=block_rows)
        expected = from_scratch(lake, folder, as_of)
        assert rows.equals(expected.select(rows.columns), null_equal=True)
        assert (done.rows, done.labelled_rows) == (len(rows), rows["late"].count())
        if day:
            same = rows.join(before, on=rows.columns, how="semi", nulls_equal=True)
            assert done.rebuilt_rows == len(rows) - len(same), "exactly the rows that came or changed"
        before = rows
    _, rows = built(lake, folder, hours(50), block_rows=block_rows)
    assert rows.equals(from_scratch(lake, folder, hours(50)).select(rows.columns), null_equal=True)


def test_windows_that_were_backfilled_are_not_built_again(lake: Lake, folder: Path) -> None:
    for day in range(4):
        remember(lake, folder, arrivals(3, day), f"batch-{day}")
    as_of, cut = hours(24 * 4), hours(40)
    first, _ = built(lake, folder, as_of, end=cut)
    again, _ = built(lake, folder, as_of, end=cut)
    assert again == first.model_copy(update={"already": True})
    whole, rows = built(lake, folder, as_of)
    assert rows.equals(from_scratch(lake, folder, as_of).select(rows.columns), null_equal=True)
    assert whole.rebuilt_rows == len(rows) - first.rows
    assert rows.filter(pl.col("sent_at") < cut).height == first.rows


def test_another_code_makes_exactly_its_dependants_stale(lake: Lake, folder: Path) -> None:
    remember(lake, folder, arrivals(4, 0), "batch-0")
    built(lake, folder, hours(30))
    write_parcels(
        folder,
        FILE.replace(
            '"max", "grams", by="depot", window=timedelta(hours=20)',
            '"min", "grams", by="depot", window=timedelta(hours=20)',
        ),
    )
    done, rows = built(lake, folder, hours(30))
    assert done.stale == ["heaviest"]
    assert rows.equals(from_scratch(lake, folder, hours(30)).select(rows.columns), null_equal=True)
    write_parcels(folder, FILE.replace('force="storms_force"', 'force=pl.col("storms_force") * 2'))
    assert built(lake, folder, hours(30))[0].stale == ["force", "heaviest"]
