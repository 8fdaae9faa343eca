"""An Iceberg reader that is not pyiceberg's own: Daft, with its own S3 client and Parquet decoder.

Polars' native reader cannot read from the embedded server: `rclone serve s3` answers ranges with 200, and Rust's
object_store insists on 206. Nor does the server know the end of a file shorter than what was asked for: Daft asks for
the last 64 kB, so the tables must have larger files.
"""

from functools import cache

import daft
import polars as pl
from daft.io import IOConfig, S3Config

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import Identifier


@cache
def _read_in_this_process() -> None:
    daft.set_runner_native()  # it would otherwise take the Ray that a test has started; it may be said once


def daft_rows(lake: Lake, identifier: Identifier) -> pl.DataFrame:
    """All rows of a table, read by Daft."""
    keys = lake.catalog_settings()
    config = IOConfig(
        s3=S3Config(
            endpoint_url=keys["s3.endpoint"],
            key_id=keys["s3.access-key-id"],
            access_key=keys["s3.secret-access-key"],
            region_name=keys["s3.region"],
        )
    )
    _read_in_this_process()
    table = lake.catalog().load_table(identifier)
    return pl.DataFrame(pl.from_arrow(daft.read_iceberg(table, io_config=config).to_arrow()))
