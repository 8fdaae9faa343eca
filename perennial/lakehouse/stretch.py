"""Parts of `raw` tables, so that no process ever holds a whole one: what happened in a stretch of time, what is new."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce
from typing import Any

import polars as pl
import pyarrow as pa
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    GreaterThan,
    GreaterThanOrEqual,
    IsNull,
    LessThan,
    LessThanOrEqual,
    Or,
)
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import ManifestContent, ManifestEntryStatus
from pyiceberg.table import FileScanTask, Table

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import in_order, log_schema, raw_table
from perennial.lakehouse.tables import Identifier, current_snapshot_id, load_at
from perennial.rules.held import Held
from perennial.rules.joins import MOMENT
from perennial.rules.versions import Versions
from perennial.spec import AsOf, Lookup, Pipeline
from perennial.spec.sources import Source

ORDER = (MOMENT, "_committed_at", "_position")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Stretch:
    """Event times in [start, end); None: without a bound."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, column: str) -> pl.Expr:
        """Whether a column's instant lies in it."""
        return all_of(
            [pl.col(column) >= self.start if self.start else None, pl.col(column) < self.end if self.end else None]
        )

    def filter(self, column: str) -> BooleanExpression:
        """The same for a scan."""
        return both(
            compares(GreaterThanOrEqual, column, self.start) if self.start else AlwaysTrue(),
            compares(LessThan, column, self.end) if self.end else AlwaysTrue(),
        )

    def outside(self, column: str) -> BooleanExpression:
        """Everything else, rows without the instant included."""
        others: list[BooleanExpression] = [IsNull(column)]
        if self.start:
            others.append(compares(LessThan, column, self.start))
        if self.end:
            others.append(compares(GreaterThanOrEqual, column, self.end))
        return reduce(Or, others)


def all_of(tests: list[pl.Expr | None]) -> pl.Expr:
    """All of the tests that there are."""
    return reduce(lambda one, other: one & other, [t for t in tests if t is not None], pl.lit(value=True))


def compares(kind: Callable[..., BooleanExpression], column: str, value: Any) -> BooleanExpression:
    """A predicate of a scan; instants and days as text, as pyiceberg reads them."""
    return kind(column, value.isoformat() if isinstance(value, date) else value)


def both(one: BooleanExpression, other: BooleanExpression) -> BooleanExpression:
    """And, without what is always true."""
    return other if isinstance(one, AlwaysTrue) else one if isinstance(other, AlwaysTrue) else And(one, other)


def read_stretch(
    lake: Lake, pipeline: Pipeline, source: str, stretch: Stretch, as_of: datetime, snapshot_id: int
) -> pl.DataFrame:
    """Every version known by `as_of` of the rows of which one happened in the stretch, in the order they became known.

    Args:
        snapshot_id: of the raw table; 0 where nothing was ever ingested.
    """
    declared = pipeline.source(source)
    known = compares(LessThanOrEqual, MOMENT, as_of)
    time = declared.event_time
    if time is None or stretch == Stretch():
        return in_order(_scan(lake, pipeline, declared, known, snapshot_id))
    rows = _scan(lake, pipeline, declared, both(known, stretch.filter(time)), snapshot_id)
    if may_move(declared) and len(rows):
        keys = rows.select(declared.key).unique()
        elsewhere = both(known, both(stretch.outside(time), bounds(keys)))
        rows = pl.concat([rows, _scan(lake, pipeline, declared, elsewhere, snapshot_id, keys)])
    return in_order(rows)


def read_versions(
    lake: Lake, pipeline: Pipeline, source: str, keys: pl.DataFrame, as_of: datetime, snapshot_id: int
) -> pl.DataFrame:
    """Every version known by `as_of` of the rows with these keys, in the order they became known."""
    known = both(compares(LessThanOrEqual, MOMENT, as_of), bounds(keys))
    return in_order(_scan(lake, pipeline, pipeline.source(source), known, snapshot_id, keys))


def may_move(source: Source) -> bool:
    """Whether a correction can change when a row happened."""
    return source.same_key != "violation" and source.event_time not in source.key


def bounds(keys: pl.DataFrame) -> BooleanExpression:
    """What every one of the keys keeps: with it a scan leaves out files that hold none of them."""
    found: BooleanExpression = AlwaysTrue()
    for column in keys.iter_columns() if len(keys) else ():
        if column.dtype != pl.Boolean and column.null_count() == 0 and not column.dtype.is_float():
            least, most = column.min(), column.max()
            found = both(
                found,
                both(compares(GreaterThanOrEqual, column.name, least), compares(LessThanOrEqual, column.name, most)),
            )
    return found


def read_news(
    lake: Lake, pipeline: Pipeline, source: str, since: datetime, sequence: int, as_of: datetime, snapshot_id: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What became known in (since, as_of], and what was known before but came into the table after `sequence`: late."""
    declared = pipeline.source(source)
    window = both(compares(GreaterThan, MOMENT, since), compares(LessThanOrEqual, MOMENT, as_of))
    new = _scan(lake, pipeline, declared, window, snapshot_id)
    late = _scan(
        lake, pipeline, declared, compares(LessThanOrEqual, MOMENT, since), snapshot_id, since_sequence=sequence
    )
    return in_order(new), in_order(late)


def current_sequence(lake: Lake, identifier: Identifier, snapshot_id: int) -> int:
    """The number of the commit that made a snapshot; they grow by one with every commit. 0 for no snapshot."""
    if not snapshot_id:
        return 0
    snapshot = load_at(lake, identifier, snapshot_id).snapshot_by_id(snapshot_id)
    return int(snapshot.sequence_number or 0) if snapshot else 0


def read_around(
    lake: Lake, pipeline: Pipeline, moments: pl.DataFrame, snapshots: Mapping[str, int]
) -> tuple[dict[str, pl.DataFrame], dict[str, Held]]:
    """What the features of rows at these moments need: the logs of joined sources and the past of the others.

    Args:
        moments: with `_known_at`.
        snapshots: of the raw tables.
    """
    first, last = moments[MOMENT].min(), moments[MOMENT].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    tables, held = {}, {}
    for name in pipeline.looked_up:
        reach = reach_back(pipeline, name)
        stretch = Stretch(first - reach if reach is not None else None, last + _MICROSECOND)
        if any(isinstance(join, Lookup) and join.source == name for join in pipeline.joins):
            stretch = Stretch()
        tables[name] = read_stretch(lake, pipeline, name, stretch, last, snapshots[name])
        if name in pipeline.history_sources:
            held[name] = Held(Versions(tables[name], pipeline.source(name)))
    return tables, held


def reach_back(pipeline: Pipeline, source: str) -> timedelta | None:
    """How long before a moment rows of a source may have happened that its features need; None: any time."""
    spans: list[timedelta | None] = [feature.reach_back for feature in pipeline.history_sources.get(source, [])]
    for join in pipeline.joins:
        if join.source == source:
            spans.append(join.tolerance if isinstance(join, AsOf) else None)
    return None if None in spans else max(span for span in spans if span is not None)


def _scan(
    lake: Lake,
    pipeline: Pipeline,
    source: Source,
    row_filter: BooleanExpression,
    snapshot_id: int,
    keys: pl.DataFrame | None = None,
    since_sequence: int | None = None,
) -> pl.DataFrame:
    """The rows under today's names, a file at a time; of these keys, and from later commits, if so asked."""
    schema = log_schema(source, *ORDER)
    empty = pl.DataFrame(pl.from_arrow(schema.empty_table()))
    if not snapshot_id:
        return empty
    table = load_at(lake, raw_table(lake, pipeline.name, source.name), snapshot_id)
    scan = table.scan(row_filter=row_filter, snapshot_id=snapshot_id)
    tasks = list(scan.plan_files())
    if since_sequence is not None:
        later = files_since(table, snapshot_id, since_sequence)
        tasks = [task for task in tasks if task.file.file_path in later]
    if keys is None:
        return pl.DataFrame(pl.from_arrow(_read(table, schema, scan.row_filter, tasks))) if tasks else empty
    parts = [empty]
    for task in tasks:
        part = pl.DataFrame(pl.from_arrow(_read(table, schema, scan.row_filter, [task])))
        parts.append(part.join(keys, on=keys.columns, how="semi", nulls_equal=True, maintain_order="left"))
    return pl.concat(parts)


def files_since(table: Table, snapshot_id: int, sequence: int) -> set[str]:
    """Paths of a snapshot's data files that a commit after `sequence` brought: appended since, or written again.

    `incremental_append_scan` asks the same of the snapshots in between, which the committer lets go after ten commits;
    the files' own numbers outlive them.
    """
    snapshot = table.snapshot_by_id(snapshot_id)
    assert snapshot is not None
    return {
        entry.data_file.file_path
        for manifest in snapshot.manifests(table.io)
        if manifest.content == ManifestContent.DATA and (manifest.sequence_number or 0) > sequence
        for entry in manifest.fetch_manifest_entry(table.io)
        if entry.status != ManifestEntryStatus.DELETED and (entry.sequence_number or 0) > sequence
    }


def _read(table: Table, schema: pa.Schema, row_filter: BooleanExpression, tasks: list[FileScanTask]) -> pa.Table:
    there = table.schema().select(*(name for name in schema.names if name in table.schema().column_names))
    rows = ArrowScan(table.metadata, table.io, there, row_filter).to_table(tasks)
    full = [rows.column(f.name) if f.name in rows.column_names else pa.nulls(len(rows), f.type) for f in schema]
    return pa.table([c.cast(f.type) for c, f in zip(full, schema, strict=True)], schema=schema)


def read_files(table: Table, paths: set[str]) -> pl.DataFrame:
    """The rows of some of the data files of a table's current snapshot."""
    scan = table.scan()
    tasks = [task for task in scan.plan_files() if task.file.file_path in paths]
    return pl.DataFrame(
        pl.from_arrow(ArrowScan(table.metadata, table.io, table.schema(), scan.row_filter).to_table(tasks))
    )


def event_times(lake: Lake, pipeline: Pipeline, as_of: datetime) -> tuple[datetime, datetime] | None:
    """The first and the last event time of the entity's rows known by a moment; None where there are none."""
    entity = pipeline.entity_source
    snapshot_id = current_snapshot_id(lake, raw_table(lake, pipeline.name, entity.name))
    if snapshot_id is None:
        return None
    table = load_at(lake, raw_table(lake, pipeline.name, entity.name), snapshot_id)
    name = str(entity.event_time)
    scan = table.scan(row_filter=compares(LessThanOrEqual, MOMENT, as_of), selected_fields=(name,))
    found: list[datetime] = []
    for task in scan.plan_files():
        one = _read(table, pa.schema([table.schema().as_arrow().field(name)]), scan.row_filter, [task])
        times = pl.Series(one.column(name))
        found += [instant for instant in (times.min(), times.max()) if isinstance(instant, datetime)]
    return (min(found), max(found)) if found else None
