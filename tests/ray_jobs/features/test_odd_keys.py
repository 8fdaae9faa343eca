"""Builds of what is new where a part of the key may be empty, and histories go by a value inside JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_log, read_moments
from perennial.rules.features import compute_features
from perennial.spec import load_pipeline
from ray_jobs.features.blocks import LabelsAmbiguous
from tests.ray_jobs.features.parcels import FILE, hours, remember, write_parcels
from tests.ray_jobs.features.test_refresh import built

TEXT = (
    FILE.replace("Pipeline, Tab", "Json, Pipeline, Tab")
    .replace("    grams: float", "    note: str = pa.Field(nullable=True)\n    grams: float")
    .replace(
        'contract=Parcel, key=["parcel"], event_time="sent_at"',
        'contract=Parcel, key=["parcel", "depot"], event_time="sent_at", flatten={"van": Json("note", "van", str)}',
    )
    .replace('"parcels", "count", by="depot"', '"parcels", "count", by="van"')
)


def parcel(number: int, depot: str | None, sent: float, known: float, van: str | None) -> dict[str, Any]:
    """A version of a parcel."""
    note = json.dumps({"van": van})
    times = {"sent_at": hours(sent), "_known_at": hours(known)}
    return {"parcel": number, "depot": depot, "note": note, "grams": 1.0, **times}


def delivery(number: int, depot: str | None, known: float) -> dict[str, Any]:
    """What tells the label of a parcel."""
    came = {"delivered_at": hours(known), "_known_at": hours(known)}
    return {"parcel": number, "depot": depot, "days": float(number), **came}


def test_late_rows_reach_rows_by_what_is_inside_json_and_rows_of_half_a_key(
    lake: Lake, tmp_path: Path, ray_head: str
) -> None:
    folder = write_parcels(tmp_path / "pipelines", TEXT)
    first = [parcel(1, "north", 2, 2, "a"), parcel(2, None, 3, 3, "a"), parcel(3, None, 4, 4, "b")]
    remember(lake, folder, {"parcels": first}, "batch-0")
    _, rows = built(lake, folder, hours(20))
    assert rows["sent_today"].to_list() == [0, 1, 0]
    # a late row of the van, a late version of a parcel without depot, and a new one; labels, one without depot
    late = [parcel(4, None, 2.5, 2.5, "a"), parcel(3, None, 4, 3.5, "a"), parcel(5, None, 21, 21, None)]
    remember(
        lake, folder, {"parcels": late, "deliveries": [delivery(1, "north", 21), delivery(3, None, 21)]}, "batch-1"
    )
    done, rows = built(lake, folder, hours(22))
    pipeline = load_pipeline("parcels", folder)
    tables = {name: read_log(lake, pipeline, name, hours(22)) for name in pipeline.looked_up}
    expected = compute_features(pipeline, read_moments(lake, pipeline, hours(22)), tables).sort("parcel")
    assert rows.select(expected.columns).equals(expected)
    assert rows["sent_today"].to_list() == [0, 2, 3, 1, None]
    assert rows["late"].to_list() == [0.0, None, 1.0, None, None]
    assert (done.rows, done.labelled_rows) == (5, 2)


def test_two_labels_of_one_row_are_refused_by_name(lake: Lake, tmp_path: Path, ray_head: str) -> None:
    text = FILE.replace('contract=Delivery, key=["parcel"]', 'contract=Delivery, key=["parcel", "depot"]')
    folder = write_parcels(tmp_path / "pipelines", text)
    sent = [{"parcel": n, "depot": "north", "sent_at": hours(1), "grams": 1.0, "_known_at": hours(1)} for n in (1, 2)]
    told = [delivery(1, "north", 3), delivery(2, "north", 4)]
    remember(lake, folder, {"parcels": sent, "deliveries": told}, "batch-0")
    done, _ = built(lake, folder, hours(5))
    assert (done.rows, done.labelled_rows) == (2, 2), "a wider key is no harm where each row has one label"
    remember(lake, folder, {"deliveries": [delivery(2, "south", 6)]}, "batch-1")
    with pytest.raises(
        LabelsAmbiguous, match=r"'deliveries' has 1 rows .* such as \{'parcel': 2\}.*Nothing was published"
    ):
        built(lake, folder, hours(7))


def test_a_withdrawal_without_event_time_is_read_with_the_stretch_of_what_it_withdraws(
    lake: Lake, tmp_path: Path, ray_head: str
) -> None:
    folder = write_parcels(tmp_path / "pipelines")
    sent = [{"parcel": 2, "depot": "north", "sent_at": hours(4), "grams": 1.0, "_known_at": hours(4)}]
    told = [delivery(1, "north", 2), {**delivery(1, "north", 3), "delivered_at": None}]
    remember(lake, folder, {"parcels": sent, "deliveries": told}, "batch-0")
    _, rows = built(lake, folder, hours(5))
    assert rows["depot_days"].to_list() == [None]
