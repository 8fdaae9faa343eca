"""How a table is cut into blocks: each row in one, and none so small that it is mostly the past that is read."""

from pathlib import Path

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.stretch import Stretch, read_around
from perennial.lakehouse.tables import current_snapshot_id
from perennial.spec import load_pipeline
from ray_jobs.features.blocks import Inputs, plan_blocks, read_entity
from tests.ray_jobs.features.parcels import arrivals, hours, remember, write_parcels

DAYS = 8


def test_a_block_has_half_as_many_rows_as_it_reaches_back_to(lake: Lake, tmp_path: Path) -> None:
    folder = write_parcels(tmp_path / "pipelines")
    for day in range(DAYS):
        remember(lake, folder, arrivals(1, day), f"batch-{day}")
    pipeline = load_pipeline("parcels", folder)
    snapshots = {
        source.name: current_snapshot_id(lake, raw_table(lake, "parcels", source.name)) or 0
        for source in pipeline.sources
    }
    inputs = Inputs(lake=lake, as_of=hours(24 * DAYS), snapshots=snapshots)
    blocks = plan_blocks(inputs, pipeline, Stretch(), 1)
    rows = [read_entity(inputs, pipeline, block)[0] for block in blocks]
    whole, _ = read_entity(inputs, pipeline, Stretch())
    assert pl.concat(rows).sort("parcel").equals(whole.sort("parcel"))
    assert len(blocks) > 2
    tables, _ = read_around(lake, pipeline, rows[-2], snapshots)
    reached = sum(len(table) for name, table in tables.items() if name != "depots") - len(rows[-2])
    assert len(rows[-2]) > reached / 6, (
        "about half, but these moments come up to a day after the events, which is read too"
    )
