"""One row's features, each with the rows that it was made from. Pure; finds them by looking at every version, not cleverly."""

from datetime import datetime
from typing import Any

import polars as pl
from pydantic import BaseModel

from perennial.rules.aggregates import forgotten
from perennial.rules.features import compute_features, given_columns
from perennial.rules.flatten import flatten
from perennial.rules.held import join_words
from perennial.rules.joins import MOMENT, usable_rows
from perennial.rules.lineage import SourceColumn, origins
from perennial.rules.versions import counting_versions, leaves
from perennial.spec.history import History
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Join

EXAMPLES = 5
_INSTANT = pl.Datetime("us", "UTC")


class Evidence(BaseModel, frozen=True):
    """A column that `features()` was given, and what it was made from.

    Args:
        rows: of the source that counted.
        happened: when the first and the last of them happened; `known_at`: when the newest became known.
        value: None where no page may show it.
        newest: the last of them by when they happened, with key, times and what is aggregated, at most five.
    """

    column: SourceColumn
    value: Any
    rows: int
    happened: tuple[datetime | None, datetime | None] = (None, None)
    known_at: datetime | None = None
    newest: list[dict[str, Any]] = []


class Explained(BaseModel, frozen=True):
    """An input of the model: its value (None where it is private), and the columns that `features()` made it from."""

    name: str
    value: Any
    private: bool
    evidence: list[Evidence]


def explain(pipeline: Pipeline, row: pl.DataFrame, tables: dict[str, pl.DataFrame]) -> list[Explained]:
    """Every input of one entity row, in their order.

    Args:
        row: one row with `_known_at`, the moment of its prediction.
        tables: the log of every source that is looked up, or the part of it that the row's features can reach.

    A value that differs from what the rows say would be a mistake of ours: they are found by another way than the value.
    """
    if len(row) != 1:
        raise ValueError(f"{len(row)} rows were given; one row is explained at a time.")
    computed, given = compute_features(pipeline, row, tables), given_columns(pipeline, row, tables)
    found: dict[str, Evidence] = {}
    told = origins(pipeline)
    for column in {read.name: read for origin in told for read in origin.read}.values():
        found[column.name] = _evidence(pipeline, row, tables, column, given[column.name][0])
    return [
        Explained(
            name=origin.name,
            value=None if origin.private else computed[origin.name][0],
            private=origin.private,
            evidence=[found[read.name] for read in origin.read],
        )
        for origin in told
    ]


def _evidence(
    pipeline: Pipeline, row: pl.DataFrame, tables: dict[str, pl.DataFrame], column: SourceColumn, value: Any
) -> Evidence:
    if column.kind == "row":
        moment = row[MOMENT][0]
        return Evidence(column=column, value=None if column.private else value, rows=1, known_at=moment)
    if column.kind == "joined":
        join = next(join for join in pipeline.joins if join.source == column.source)
        rows = _joined_row(pipeline, join, row, tables[column.source])
    else:
        feature = next(feature for feature in pipeline.history if feature.name == column.name)
        rows = counted_versions(pipeline, feature, row, tables[column.source])
    return Evidence(
        column=column,
        value=None if column.private else value,
        rows=len(rows),
        happened=(rows["_happened"].min(), rows["_happened"].max()),
        known_at=rows[MOMENT].max(),
        newest=_shown(pipeline, column, rows.tail(EXAMPLES).reverse()),
    )


def _shown(pipeline: Pipeline, column: SourceColumn, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows without the values that no page shows."""
    source, prefix = pipeline.source(column.source), f"{column.source}_"
    private = {*source.sensitive, *source.personal}
    private |= {name for name, nested in source.flatten.items() if nested.column in private}
    hidden = private | {f"{prefix}{name}" for name in private}
    for join in pipeline.joins:
        if join.source == source.name:  # a joined row stands under the entity's names of what it was found by
            hidden |= {ours for ours, theirs in join.columns.items() if theirs in private}
    return rows.drop(*hidden, *(["_value"] if column.private else []), strict=False).to_dicts()


def counted_versions(pipeline: Pipeline, feature: History, row: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """The versions that a history feature of a row counts, by when they happened: key, times and `_value`."""
    source, moment = pipeline.source(feature.source), int(row[MOMENT].cast(pl.Int64)[0])
    versions = counting_versions(log, source)
    window = feature.reach_back if feature.window is None else feature.window
    if feature.half_life is not None:
        versions = versions.filter(pl.Series(forgotten(versions["_happened"].to_numpy(), feature.half_life)) > moment)
    entity = flatten(pipeline.entity_source, row)
    counts: list[pl.Expr | pl.Series] = [
        pl.col("_from") <= moment,
        pl.col("_until") > moment,
        pl.Series(leaves(versions["_happened"].to_numpy(), window)) > moment,
        *(pl.col(theirs) == pl.lit(entity[ours][0], entity.schema[ours]) for ours, theirs in feature.columns.items()),
    ]
    if source is pipeline.entity_source:
        own = (pl.col(name).eq_missing(pl.lit(row[name][0], row.schema[name])) for name in source.key)
        counts.append(~pl.all_horizontal(own))
    kept = versions.filter(*counts).with_columns(_value=feature.expression)
    if feature.value is not None or feature.where is not None:
        kept = kept.filter(pl.col("_value").is_not_null())
    if kept.schema["_value"].is_float():
        kept = kept.filter(pl.col("_value").is_finite())
    return kept.sort("_happened", maintain_order=True).select(
        *source.key, pl.col("_happened").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), MOMENT, "_value"
    )


def _joined_row(pipeline: Pipeline, join: Join, row: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """The row of a joined source that was newest at the moment; none where there is none, or it is too old."""
    columns, prefix, time, tolerance, key = join_words(pipeline, join)
    source, entity = pipeline.source(join.source), flatten(pipeline.entity_source, row)
    flat = flatten(source, log)
    usable, _ = usable_rows(flat.with_columns(known_at__=pl.col(MOMENT)), columns, prefix, time, key)
    usable = usable.rename({f"{prefix}_known_at__": MOMENT})
    moment = row[MOMENT][0]
    same = [pl.col(ours) == pl.lit(entity[ours][0], entity.schema[ours]) for ours in columns]
    last = usable.filter(pl.col("_usable_at") <= moment, *same).tail(1).drop_nulls("_happened")
    if tolerance is not None:
        last = last.filter(moment - pl.col("_happened") <= tolerance)
    return last.drop("_usable_at")
