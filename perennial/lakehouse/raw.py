"""`raw` tables: append-only logs of what sources said and when it was known, with where every row came from."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl
import pyarrow as pa
from pyiceberg.table import Table

from perennial.lakehouse.evolution import Declared
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.partition import partition_by_day
from perennial.lakehouse.personal import open_pseudonyms
from perennial.lakehouse.tables import Identifier, current_snapshot_id, ensure_table, read_columns
from perennial.rules.arrival import where_declared
from perennial.rules.schema import PSEUDONYM
from perennial.spec.checks import References
from perennial.spec.derived import derived_types
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
    """The contract's columns and the derived ones, then where each row came from and whether it was repaired."""
    columns = contract_columns(source)
    empty = pl.DataFrame(schema={**columns, **derived_types(source.derived, columns)}).to_arrow()
    return pa.schema([*empty.schema, *PROVENANCE, REPAIRED_AT])


def log_schema(source: Source, *provenance: str) -> pa.Schema:
    """The contract's columns and some of those that tell where a row came from."""
    names = {*contract_columns(source), *provenance}
    return pa.schema([field for field in raw_schema(source) if field.name in names])


def ensure_raw(lake: Lake, pipeline: str, source: Source) -> Table:
    """A source's raw table, with the columns of its contract as far as its policy accepts the difference, and partitioned as
    the source declares it.

    Raises:
        SchemaRefused: it does not; the message shows the difference and how to accept it. Nothing was changed.
        SecretMissing: the source has personal columns, and there is no key.
    """
    declared = Declared(
        source.schema_policy,
        source.renamed,
        f"contract {source.contract.__name__}",
        where_declared(pipeline, source),
    )
    schema = raw_schema(source)
    if source.personal:  # the column says so itself: neither the marking nor the key can change unnoticed
        mark = {"doc": f"{PSEUDONYM} (key {open_pseudonyms(lake, pipeline).fingerprint})"}
        schema = pa.schema([f.with_metadata(mark) if f.name in source.personal else f for f in schema])
    table = ensure_table(lake, raw_table(lake, pipeline, source.name), schema, declared=declared)
    return partition_by_day(lake, table, source.event_time if source.partition == "day" else None)


def published_rows(table: Table) -> list[int]:
    """Rows that arrived with each of the last batches that were published to a raw table, the newest last."""
    return [int(rows) for rows in table.properties.get(BATCH_ROWS, "").split()]


def read_log(
    lake: Lake, pipeline: Pipeline, source: str, as_of: datetime | None, snapshot_id: int | None = None
) -> pl.DataFrame:
    """Every version of every row of a source that was known by `as_of` (None: all), in the order they became known.

    Columns: the contract's, and `_known_at`. Empty where nothing was ever ingested.
    """
    schema = log_schema(pipeline.source(source), "_known_at", "_committed_at", "_position")
    identifier = raw_table(lake, pipeline.name, source)
    if current_snapshot_id(lake, identifier) is None:
        rows = pl.DataFrame(pl.from_arrow(schema.empty_table()))
    else:
        known = f"_known_at <= '{as_of.isoformat()}'" if as_of else None
        arrow = read_columns(lake, identifier, schema, snapshot_id, known)
        rows = pl.DataFrame(pl.from_arrow(arrow))
    return in_order(rows)


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a log in the order they became known, without `_committed_at` and `_position`, which tell it.

    Positions are looked at only where all else is equal.
    """
    ordered = rows.sort("_known_at", "_committed_at", maintain_order=True)
    same = pl.struct("_known_at", "_committed_at").rle_id()
    places = ordered.select(same=same, alike=pl.len().over(same) > 1)
    if places["alike"].any():
        ordered = _by_position(ordered.with_columns(_same=places["same"]))
    return ordered.drop("_committed_at", "_position")


def _by_position(rows: pl.DataFrame) -> pl.DataFrame:
    # row 10 of a file comes after its row 9, so does message 10 of a partition, and byte 1000 of a file after its byte 200
    place, start, number = (
        pl.col("_position").str.replace(r"(@\d+#|@|#)\d+$", ""),
        pl.col("_position").str.extract(r"@(\d+)#\d+$").cast(pl.Int64).fill_null(0),
        pl.col("_position").str.extract(r"(\d+)$").cast(pl.Int64),
    )
    return rows.sort("_same", place, start, number, maintain_order=True).drop("_same")


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
    wanted = pa.schema(
        [field for field in log_schema(declared, *order) if field.name in {*columns, *declared.key, *order}]
    )
    known = f"_known_at <= '{as_of.isoformat()}'"
    rows = pl.DataFrame(pl.from_arrow(read_columns(lake, identifier, wanted, row_filter=known)))
    if not set(columns) <= set(declared.key):  # what a key said before it was corrected is no longer so
        rows = in_order(rows).unique(list(declared.key), keep="last", maintain_order=True)
    return rows.select(columns).unique()


def read_moments(lake: Lake, pipeline: Pipeline, as_of: datetime, snapshot_id: int | None = None) -> pl.DataFrame:
    """The entity's rows as they were when each was predicted for: the first known version of every key.

    A correction that became known later could not be used then, so it must not be trained on either. Versions known
    at the same moment are one piece of knowledge: the one committed last counts.
    """
    entity = pipeline.entity_source
    key = list(entity.key)
    log = read_log(lake, pipeline, entity.name, as_of, snapshot_id)
    if log.n_unique(subset=key) == log.height:
        return log  # nothing was corrected, and to see that is cheap beside looking for the first of each key
    first = log.filter(pl.col("_known_at") == pl.col("_known_at").min().over(key))
    return first.unique(key, keep="last", maintain_order=True)
