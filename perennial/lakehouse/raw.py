"""`raw` tables: append-only logs of what sources said and when it was known, with where every row came from."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl
import pyarrow as pa
from pyiceberg.table import Table

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import Identifier, current_snapshot_id, read_snapshot
from perennial.spec.checks import References
from perennial.spec.load import contract_columns
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Source

PROVENANCE = pa.schema(
    [
        ("_source", pa.string()),
        ("_position", pa.string()),  # file and row, so that a row can be found in what arrived
        ("_batch_id", pa.string()),
        ("_known_at", pa.timestamp("us", "UTC")),
        ("_committed_at", pa.timestamp("us", "UTC")),
        ("_contract_version", pa.string()),
    ]
)

REPAIRED_AT = pa.field("_repaired_at", pa.timestamp("us", "UTC"))
"""When `repair` brought the row; null where it passed at once. The rest of its provenance is as if it had passed then,
so that a row which was repaired late does not override what the source said after it."""

QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("raw_row", pa.string()),  # JSON of the fields as they arrived, so that rows of all sources share a table
        ("arrived_schema", pa.string()),  # their types: with them the row can be rebuilt (perennial.rules.raw_rows)
        ("failed_checks", pa.list_(pa.string())),
        ("position", pa.string()),
        ("batch_id", pa.string()),
        ("run_id", pa.string()),
        ("contract_version", pa.string()),
        ("as_of", pa.timestamp("us", "UTC")),  # of the run that brought the row: what was known when
        ("quarantined_at", pa.timestamp("us", "UTC")),
    ]
)


BATCH_ROWS = "perennial.batch-rows"
"""Property of a raw table: rows that arrived with each of its last published batches; it outlives their snapshots."""


def raw_table(lake: Lake, pipeline: str, source: str) -> Identifier:
    """Identifier of a source's raw table."""
    return lake.table(pipeline, f"raw_{source}")


def raw_schema(source: Source) -> pa.Schema:
    """The contract's columns, then where each row came from and whether it was repaired."""
    empty = pl.DataFrame(schema=contract_columns(source)).to_arrow()
    return pa.schema([*empty.schema, *PROVENANCE, REPAIRED_AT])


def published_rows(table: Table) -> list[int]:
    """Rows that arrived with each of the last batches that were published to a raw table, the newest last."""
    return [int(rows) for rows in table.properties.get(BATCH_ROWS, "").split()]


def read_log(
    lake: Lake, pipeline: Pipeline, source: str, as_of: datetime, snapshot_id: int | None = None
) -> pl.DataFrame:
    """Every version of every row of a source that was known by `as_of`, in the order they became known.

    Columns: the contract's, and `_known_at`. Empty where nothing was ever ingested.
    """
    declared = pipeline.source(source)
    columns = [*contract_columns(declared), "_known_at", "_committed_at", "_position"]
    identifier = raw_table(lake, pipeline.name, source)
    if current_snapshot_id(lake, identifier) is None:
        rows = pl.DataFrame(pl.from_arrow(raw_schema(declared).empty_table())).select(columns)
    else:
        arrow = read_snapshot(lake, identifier, snapshot_id, columns, f"_known_at <= '{as_of.isoformat()}'")
        rows = pl.DataFrame(pl.from_arrow(arrow)).select(columns)
    # row 10 of a file comes after its row 9, and so does message 10 of a partition
    place, number = (
        pl.col("_position").str.replace(r"\d+$", ""),
        pl.col("_position").str.extract(r"(\d+)$").cast(pl.Int64),
    )
    ordered = rows.sort("_known_at", "_committed_at", place, number, maintain_order=True)
    return ordered.drop("_committed_at", "_position")


def read_known(
    lake: Lake, pipeline: Pipeline, source: str, as_of: datetime, snapshot_id: int | None = None
) -> pl.DataFrame:
    """The latest row per key that was known by `as_of`: what is true, as far as one knew then."""
    log = read_log(lake, pipeline, source, as_of, snapshot_id)
    return log.unique(list(pipeline.source(source).key), keep="last", maintain_order=True)


def read_references(lake: Lake, pipeline: Pipeline, source: str, as_of: datetime) -> dict[str, pl.DataFrame]:
    """For each `References` rule of a source, by its name, the keys that rows may refer to."""
    rules = [rule for rule in pipeline.source(source).rules if isinstance(rule, References)]
    return {rule.name: read_keys(lake, pipeline, rule.source, list(rule.columns.values()), as_of) for rule in rules}


def read_keys(lake: Lake, pipeline: Pipeline, source: str, columns: Sequence[str], as_of: datetime) -> pl.DataFrame:
    """The distinct values of columns in the latest rows of a source that were known by `as_of`."""
    declared = pipeline.source(source)
    identifier = raw_table(lake, pipeline.name, source)
    if current_snapshot_id(lake, identifier) is None:
        return pl.DataFrame(schema=contract_columns(declared)).select(columns)
    order = ["_known_at", "_committed_at", "_position"]
    wanted = list(dict.fromkeys([*columns, *declared.key, *order]))
    rows = pl.DataFrame(
        pl.from_arrow(read_snapshot(lake, identifier, None, wanted, f"_known_at <= '{as_of.isoformat()}'"))
    )
    if not set(columns) <= set(declared.key):  # what a key said before it was corrected is no longer so
        rows = rows.sort(order, maintain_order=True).unique(list(declared.key), keep="last", maintain_order=True)
    return rows.select(columns).unique()


def read_moments(lake: Lake, pipeline: Pipeline, as_of: datetime, snapshot_id: int | None = None) -> pl.DataFrame:
    """The entity's rows as they were when each was predicted for: the first known version of every key.

    A correction that became known later could not be used then, so it must not be trained on either. Versions known
    at the same moment are one piece of knowledge: the one committed last counts.
    """
    entity = pipeline.entity_source
    key = list(entity.key)
    log = read_log(lake, pipeline, entity.name, as_of, snapshot_id)
    first = log.filter(pl.col("_known_at") == pl.col("_known_at").min().over(key))
    return first.unique(key, keep="last", maintain_order=True)
