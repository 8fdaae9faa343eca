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
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, In
from pyiceberg.io.pyarrow import ArrowScan

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch
from perennial.lakehouse.quarantine import Repair
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.tables import plan_files
from perennial.rules.unique import fingerprints, is_forever, seed_of, unique_sets
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
    """Compare the fingerprints of a batch with each other, and with the table's where a key may never come again. Those of
    a repair are also compared with what the table has of their batches: an earlier repair may have brought a row's twin.

    Args:
        staged: URIs of fingerprints; they are deleted.
        rows: how many there are.
        snapshot: of the source's raw table; None where there is none yet.
    """
    if not staged:
        return {}
    shards = rows // SHARD_ROWS + 1
    tasks = [_compare.remote(lake, pipelines, batch, staged, snapshot, seed, shard, shards) for shard in range(shards)]
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
    for number, (check, columns) in enumerate(unique_sets(source).items()):
        prints = pl.concat([_read(lake, uri, number, shard, shards) for uri in staged])
        again = prints.select(pl.struct("a", "b").is_duplicated()).to_series()
        if snapshot is not None and (isinstance(batch, Repair) or is_forever(source, check)):
            known = _in_table(lake, batch, snapshot, source, check, columns, seed, prints)
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
    lake: Lake,
    batch: Batch | Repair,
    snapshot: int,
    source: Source,
    check: str,
    columns: list[str],
    seed: int,
    prints: pl.DataFrame,
) -> pl.DataFrame:
    """Those of the fingerprints that rows have with which a check compares them; one data file at a time is in memory."""
    place, wanted = raw_table(lake, batch.pipeline, batch.source), prints.select("a", "b").unique()
    among: BooleanExpression = AlwaysTrue()
    split = []
    if not is_forever(source, check):  # a repaired row's position begins with its batch
        among = In("_batch_id", prints["_position"].str.extract("^([^/]*)/").unique().to_list())
        split = ["_batch_id"]
    table = lake.catalog().load_table(place)
    scan = ArrowScan(table.metadata, table.io, table.schema().select(*columns, *split), among)
    found = [wanted.head(0)]
    for task in plan_files(lake, place, snapshot, among):
        read = pl.DataFrame(pl.from_arrow(scan.to_table([task])))
        for rows in read.partition_by(split) if split else [read]:
            of = rows["_batch_id"].first() if split and len(rows) else ""
            told = fingerprints(rows, columns, seed_of(source, check, seed, str(of)))
            found.append(told.join(wanted, on=["a", "b"], how="semi"))
    return pl.concat(found).unique()
