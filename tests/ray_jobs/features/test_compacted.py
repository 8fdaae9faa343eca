"""Files of features that were compacted across stretches built at different moments: every row stays there once."""

from pathlib import Path

import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from ray_jobs.maintain.rewrite import RewriteRequest, rewrite_table
from tests.ray_jobs.features.parcels import arrivals, hours, remember, write_parcels
from tests.ray_jobs.features.test_refresh import built, from_scratch

PARCEL = {"depot": "north", "grams": 5.0}


@pytest.fixture
def compacted(lake: Lake, tmp_path: Path, ray_head: str) -> tuple[Path, int]:
    """Two stretches built as of different moments, a third never built, all in one file; and the last day."""
    folder = write_parcels(tmp_path / "pipelines")
    for day in range(3):
        remember(lake, folder, arrivals(5, day), f"batch-{day}")
    built(lake, folder, hours(72), start=hours(0), end=hours(24))
    built(lake, folder, hours(73), start=hours(24), end=hours(48))
    identifier = lake.table("parcels", "features")
    size = sum(task.file.file_size_in_bytes for task in lake.catalog().load_table(identifier).scan().plan_files())
    rewrite_table(RewriteRequest(lake=lake, namespace=identifier[0], table=identifier[1], target_bytes=size))
    assert len(list(lake.catalog().load_table(identifier).scan().plan_files())) == 1
    return folder, 3


@pytest.mark.parametrize("again", ["everything", "one stretch"])
def test_late_rows_leave_every_row_of_the_file_there_once(lake: Lake, compacted: tuple[Path, int], again: str) -> None:
    folder, day = compacted
    late = [
        {"parcel": 900 + n, "sent_at": hours(at), "_known_at": hours(at), **PARCEL} for n, at in enumerate((10, 30))
    ]
    _, rows = built(lake, folder, hours(73), start=hours(24), end=hours(48))
    moved = rows.filter(pl.col("sent_at").is_between(hours(24), hours(36)))["parcel"][0]
    late.append({"parcel": moved, "sent_at": hours(5), "_known_at": hours(5), **PARCEL})  # its first version is another
    remember(lake, folder, {"parcels": late}, f"batch-{day}")
    if again == "one stretch":
        _, rows = built(lake, folder, hours(80), start=hours(12), end=hours(36))
        assert rows["parcel"].is_unique().all()
    done, rows = built(lake, folder, hours(80))
    expected = from_scratch(lake, folder, hours(80))
    assert rows.equals(expected.select(rows.columns), null_equal=True)
    assert (done.rows, done.labelled_rows) == (len(rows), rows["late"].count())


def test_new_code_leaves_every_row_of_the_file_there_once(lake: Lake, compacted: tuple[Path, int]) -> None:
    folder, _ = compacted
    text = (folder / "parcels.py").read_text().replace('"max", "grams"', '"min", "grams"')
    write_parcels(folder, text)
    done, rows = built(lake, folder, hours(73))
    expected = from_scratch(lake, folder, hours(73))
    assert rows.equals(expected.select(rows.columns), null_equal=True)
    assert (done.rows, done.labelled_rows) == (len(rows), rows["late"].count())
    assert rows.filter(pl.col("parcel").is_duplicated()).is_empty()
