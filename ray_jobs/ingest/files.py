"""Files of a batch as blocks of rows."""

from collections.abc import Iterator, Sequence

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.sources.files import FilePart
from ray_jobs.ingest.csv_files import read_csv


def read_files(lake: Lake, parts: Sequence[FilePart], block_bytes: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield blocks of (rows, unreadable lines), as `read_csv` does."""
    for part in parts:
        location = f"{lake.uri('landing')}/{part.path}".removeprefix("s3://")
        with lake.arrow_files().open_input_stream(location, compression=None) as stream:
            yield from read_csv(stream, part.path, block_bytes)
