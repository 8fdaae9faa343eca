"""Explain the features of one row from what stands in the lake."""

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel
from pyiceberg.exceptions import NoSuchTableError

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.stretch import bounds, read_around, read_versions
from perennial.lakehouse.tables import current_snapshot_id
from perennial.rules.explain import Explained, explain
from perennial.spec.load import contract_columns, load_pipeline
from perennial.spec.pipeline import Pipeline
from ray_jobs.features.blocks import first_versions


class ExplainRequest(BaseModel, frozen=True):
    """Which row of a pipeline's entity; `key`: its key columns, instants as text (ISO 8601)."""

    lake: Lake
    pipeline: str
    pipelines: Path
    key: dict[str, Any]
    as_of: datetime


class RowExplained(BaseModel, frozen=True):
    """A row's features and where each came from.

    Args:
        moment: of its prediction: what was known then counts.
        snapshots: of the raw tables that were read.
        stored: what the table of features says of the same inputs; None where it does not have the row.
    """

    pipeline: str
    key: dict[str, Any]
    moment: datetime
    snapshots: dict[str, int]
    explained: list[Explained]
    stored: dict[str, Any] | None


class UnknownRow(LookupError):
    """No row with this key was known by the moment."""


def explain_row(request: ExplainRequest) -> RowExplained:
    """Every input of a row, from the rows of the sources that its moment can reach.

    Raises:
        UnknownRow: the message names the key's columns.
    """
    lake, pipeline = request.lake, load_pipeline(request.pipeline, request.pipelines)
    entity = pipeline.entity_source
    snapshots = {
        source.name: current_snapshot_id(lake, raw_table(lake, pipeline.name, source.name)) or 0
        for source in pipeline.sources
    }
    keys = _key_frame(pipeline, request.key)
    log = read_versions(lake, pipeline, entity.name, keys, request.as_of, snapshots[entity.name])
    row = first_versions(log, pipeline)
    if row.is_empty():
        raise UnknownRow(f"no row of {entity.name!r} with {request.key} was known by {request.as_of.isoformat()}.")
    tables, _ = read_around(lake, pipeline, row, snapshots)
    explained = explain(pipeline, row, tables)
    return RowExplained(
        pipeline=pipeline.name,
        key=request.key,
        moment=row["_known_at"][0],
        snapshots={name: snapshots[name] for name in dict.fromkeys([entity.name, *pipeline.looked_up])},
        explained=explained,
        stored=_stored(lake, pipeline, keys, [each.name for each in explained if not each.private]),
    )


def _key_frame(pipeline: Pipeline, key: dict[str, Any]) -> pl.DataFrame:
    types, wanted = contract_columns(pipeline.entity_source), list(pipeline.entity_source.key)
    if set(key) != set(wanted):
        raise UnknownRow(f"a row of {pipeline.entity_source.name!r} is named by {wanted}, and {sorted(key)} was given.")
    columns = []
    for name in wanted:
        column = pl.Series(name, [key[name]])
        if isinstance(types[name], pl.Datetime) and column.dtype == pl.String:
            column = column.str.to_datetime(time_zone="UTC")
        columns.append(column.cast(types[name]))
    return pl.DataFrame(columns)


def _stored(lake: Lake, pipeline: Pipeline, keys: pl.DataFrame, names: list[str]) -> dict[str, Any] | None:
    try:
        table = lake.catalog().load_table(lake.table(pipeline.name, "features"))
    except NoSuchTableError:
        return None
    fields = tuple(dict.fromkeys([*keys.columns, *names]))
    rows = pl.DataFrame(pl.from_arrow(table.scan(row_filter=bounds(keys), selected_fields=fields).to_arrow()))
    found = rows.join(keys, on=keys.columns, how="semi").select(names)
    return found.row(0, named=True) if len(found) else None
