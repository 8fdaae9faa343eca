"""Rows of a batch whose values may stand in no other row, and do: in another block, or in the table.

Blocks are judged apart, so each stages fingerprints of its rows. They are compared in shards of bounded memory; where
rows are found, the batch is staged again, told of them. A batch without such rows, which is nearly every one, pays for
24 bytes a row.
"""

import io
import uuid
from pathlib import Path

import polars as pl
import ray
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch
from perennial.lakehouse.quarantine import Repair
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.tables import plan_files
from perennial.rules.unique import fingerprints, unique_check, unique_sets
from perennial.spec.load import load_pipeline
from perennial.spec.sources import Source

SHARD_ROWS = 10_000_000  # compared at once: about half a gigabyte

Repeated = dict[str, pl.Series]
"""By check, the positions of rows that fail it."""


def stage_fingerprints(lake: Lake, batch_id: str, prints: pl.DataFrame) -> str:
    """Write fingerprints and positions of rows below `staging/`; return the URI."""
    uri = lake.uri(f"staging/{batch_id}/{uuid.uuid4()}.fingerprints.parquet")
    buffer = io.BytesIO()
    prints.write_parquet(buffer)
    lake.files().pipe_file(uri, buffer.getvalue())
    return uri


def find_repeated(
    lake: Lake,
    pipelines: Path,
    batch: Batch | Repair,
    source: Source,
    staged: list[str],
    rows: int,
    snapshot: int | None,
    seed: int,
) -> Repeated:
    """Compare the fingerprints of a batch with each other, and with the table's where a key may never come again.

    Args:
        staged: URIs of fingerprints; they are deleted.
        rows: how many there are.
        snapshot: of the source's raw table; None where there is none yet.
    """
    if not staged:
        return {}
    shards = rows // SHARD_ROWS + 1
    table = snapshot if source.same_key == "violation" else None
    tasks = [_compare.remote(lake, pipelines, batch, staged, table, seed, shard, shards) for shard in range(shards)]
    found: list[Repeated] = ray.get(tasks)
    for uri in staged:
        lake.files().rm_file(uri)
    checks = dict.fromkeys(check for shard in found for check in shard)
    return {check: pl.concat([shard[check] for shard in found if check in shard]) for check in checks}


@ray.remote(num_cpus=0.5)
def _compare(
    lake: Lake,
    pipelines: Path,
    batch: Batch | Repair,
    staged: list[str],
    snapshot: int | None,
    seed: int,
    shard: int,
    shards: int,
) -> Repeated:
    """The rows of one shard whose values stand elsewhere."""
    source = load_pipeline(batch.pipeline, pipelines).source(batch.source)
    repeated: Repeated = {}
    for number, check in enumerate(unique_sets(source)):
        prints = pl.concat([_read(lake, uri, number, shard, shards) for uri in staged])
        again = prints.select(pl.struct("a", "b").is_duplicated()).to_series()
        if snapshot is not None and check == unique_check(source):
            key, place = list(source.key), raw_table(lake, batch.pipeline, batch.source)
            known = _in_table(lake, place, snapshot, key, seed, prints.select("a", "b").unique())
            told = prints.join(
                known.with_columns(known=pl.lit(value=True)), on=["a", "b"], how="left", maintain_order="left"
            )
            again |= told["known"].is_not_null()
        if again.any():
            repeated[check] = prints["_position"].filter(again)
    return repeated


def _read(lake: Lake, uri: str, number: int, shard: int, shards: int) -> pl.DataFrame:
    a, b = f"a{number}", f"b{number}"
    content = pl.read_parquet(io.BytesIO(lake.files().cat_file(uri)), columns=["_position", a, b])
    return content.filter(pl.col(a) % shards == shard).rename({a: "a", b: "b"})


def _in_table(
    lake: Lake, place: tuple[str, str], snapshot: int, key: list[str], seed: int, wanted: pl.DataFrame
) -> pl.DataFrame:
    """Those of the wanted fingerprints that rows of a table have; one data file at a time is in memory."""
    table = lake.catalog().load_table(place)
    scan = ArrowScan(table.metadata, table.io, table.schema().select(*key), AlwaysTrue())
    found = [wanted.head(0)]
    for task in plan_files(lake, place, snapshot):
        rows = pl.DataFrame(pl.from_arrow(scan.to_table([task])))
        found.append(fingerprints(rows, key, seed).join(wanted, on=["a", "b"], how="semi"))
    return pl.concat(found).unique()
