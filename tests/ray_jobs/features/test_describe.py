"""The feature page of features that were really built: on Ray, from a catalog and S3."""

from pathlib import Path

import polars as pl
import pytest

from perennial.datadocs.features import features_path
from perennial.datadocs.publish_features import publish_features
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import read_snapshot
from ray_jobs.features.build import BuildRequest, build
from ray_jobs.features.describe import DescribeRequest, describe
from ray_jobs.features.explain import ExplainRequest, UnknownRow, explain_row
from tests.ray_jobs.features.parcels import arrivals, hours, remember, write_parcels


@pytest.fixture(autouse=True)
def _on_ray(ray_head: str) -> None:
    """Every build needs one."""


def test_page_and_explanation_tell_what_was_built(lake: Lake, tmp_path: Path) -> None:
    folder = write_parcels(tmp_path / "pipelines")
    days = [arrivals(7, day) for day in range(3)]
    for day, rows in enumerate(days):
        remember(lake, folder, rows, f"day-{day}")
    as_of = hours(72)
    built = build(BuildRequest(lake=lake, pipeline="parcels", as_of=as_of, pipelines=folder))
    request = DescribeRequest(
        lake=lake, pipeline="parcels", pipelines=folder, as_of=as_of, snapshot_id=built.snapshot_id, inputs=built.inputs
    )
    figures = describe(request)
    table = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("parcels", "features"), built.snapshot_id)))
    assert figures.rows == len(table)
    for spread in figures.spreads:
        values = table[spread.name]
        assert spread.nulls == values.null_count()
        assert sum(spread.counts) == values.count()
    origins = {origin.name: origin for origin in figures.origins}
    late, force = origins["late_share"], origins["force"]
    assert (late.unit, late.sources) == ("share", ["deliveries"])
    assert late.read[0].columns == ["days", "depot", "delivered_at"]
    assert force.read[0].columns == ["force", "depot", "began_at"]
    known = [row["_known_at"] for rows in days for row in rows["deliveries"] if row["_known_at"] <= as_of]
    assert figures.newest["deliveries"] == max(known)

    row = table.filter(pl.col("late_share") > 0)[-1]
    key = {"parcel": row["parcel"][0]}
    told = explain_row(ExplainRequest(lake=lake, pipeline="parcels", pipelines=folder, key=key, as_of=as_of))
    assert told.stored == {each.name: each.value for each in told.explained}
    assert told.moment == row["_known_at"][0]
    share = next(each for each in told.explained if each.name == "late_share").evidence[0]
    assert share.rows >= len(share.newest) > 0
    assert told.snapshots["deliveries"] == built.inputs["deliveries"]
    with pytest.raises(UnknownRow, match="no row of 'parcels' with"):
        explain_row(ExplainRequest(lake=lake, pipeline="parcels", pipelines=folder, key={"parcel": 9_999}, as_of=as_of))

    assert publish_features(lake, figures) is None, "no version serves"
    page = lake.files().cat_file(lake.uri(features_path("parcels"))).decode()
    assert "storms.force, storms.depot, storms.began_at" in page
