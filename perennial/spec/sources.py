"""What a pipeline says of the data that comes in: sources, their keys, and when a row could have been known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Literal

import pandera.polars as pa
import polars as pl

from perennial.spec.checks import BatchRule, Severity, column_pairs
from perennial.spec.flatten import Json

UtcMicroseconds = Annotated[pl.Datetime, "us", "UTC"]
"""The type of every instant in a contract: UTC, in microseconds, as Iceberg's `timestamptz` keeps it."""


@dataclass(frozen=True)
class Before:
    """A row is known a fixed time before the instant in `column`: a schedule is known before the departure."""

    column: str
    hours: float

    @property
    def delay(self) -> timedelta:
        """How long after the instant in `column` the row is known: negative here."""
        return -timedelta(hours=self.hours)


@dataclass(frozen=True)
class At:
    """A row is known at the instant in `column`, or `delay` later: a measurement, an arrival, an invoice."""

    column: str
    delay: timedelta = timedelta(0)


Known = Before | At | None
"""None: a row is known when the run that brings it in says so, at its `as_of`."""


Partition = Literal["day"]

SchemaPolicy = Literal["forbid", "additive", "promote"]
"""Which changes of its columns a source accepts: none; new ones and ones left out; wider types as well."""


@dataclass(frozen=True)
class Source:
    """What every kind of source says of its rows; the kinds add where the rows come from.

    Args:
        name: what the source is called in tables (`raw_<name>`), `[a-z][a-z0-9_]*`.
        contract: what every row promises: a pandera model on Polars.
        key: the columns that name a row's subject; the same key again is a correction or a violation.
        event_time: the column of the instant a row tells of; None for a dimension, such as planes.
        known: when a row could have been known; None: at the run's `as_of`.
        time_zone: the zone of instants that arrive without one.
        same_key: whether a key seen again is later knowledge (`correction`, kept beside the former) or breaks the
            contract, so that its rows are quarantined: `violation_in_batch` where twice in one batch, `violation` also
            where it stands in `raw` already.
        error_budget_share: rows that may be quarantined before the whole batch is refused, as a share in [0, 1].
        severity: what is done about rows that fail a check, if not `quarantine`: by the check's name in reports, with or
            without its values (`pieces:less_than_or_equal_to`), or by a column's name for all its checks.
        rules: what a batch as a whole has to keep: `RowCount`, `Freshness`, `NullShare`, `References`.
        judge: `fused` runs the contract's built-in checks in one pass; `pandera` lets pandera alone judge, for the same
            verdict, slower.
        repair: mends quarantined rows before `repair` judges them again. Called for rows that arrived with the same
            fields, which it gets as they arrived, with `_position` and `_failed_checks`; it returns every one of them.
        sensitive: columns whose values no page shows; in the tables they stay as they are.
        schema_policy: which differences between contract, table and what arrives are accepted: `forbid` none, `additive`
            columns that are new or left out, `promote` wider types as well (docs/schema-changes.md).
        renamed: former names of columns, in the table and in what arrives, and what each is called today; None: the
            column is gone from the contract, and no other one is it.
        partition: `day` keeps the rows of each day of `event_time` (UTC) in files of their own, for sources of which a day
            fills files of some megabytes; None, the default, keeps rows together as they arrive, because a table of many
            small files is read and written more slowly (docs/decisions/0014-day-partitions.md). Either can be declared at
            any time: it holds for what is written from then on.
        personal: columns of text that tell who somebody is. The contract judges them as they arrive; tables, quarantine
            and reports get keyed pseudonyms in their place (docs/personal-data.md).
        flatten: columns that features, joins and histories find beside the contract's, made from nested JSON.
        derived: columns of `raw` that are computed from each row as it comes in, by name: Polars expressions of the
            contract's columns that look at no other row (docs/sources.md). `features()` does not get them, because no
            request carries them.
    """

    name: str
    contract: type[pa.DataFrameModel] = field(kw_only=True)
    key: Sequence[str] = field(kw_only=True)
    event_time: str | None = field(default=None, kw_only=True)
    known: Known = field(default=None, kw_only=True)
    time_zone: str = field(default="UTC", kw_only=True)
    same_key: Literal["correction", "violation_in_batch", "violation"] = field(default="correction", kw_only=True)
    error_budget_share: float = field(default=0.02, kw_only=True)
    severity: Mapping[str, Severity] = field(default_factory=dict, kw_only=True)
    rules: Sequence[BatchRule] = field(default=(), kw_only=True)
    judge: Literal["fused", "pandera"] = field(default="fused", kw_only=True)
    repair: Callable[[pl.DataFrame], pl.DataFrame] | None = field(default=None, kw_only=True, compare=False, repr=False)
    sensitive: Sequence[str] = field(default=(), kw_only=True)
    schema_policy: SchemaPolicy = field(default="additive", kw_only=True)
    renamed: Mapping[str, str | None] = field(default_factory=dict, kw_only=True)
    personal: Sequence[str] = field(default=(), kw_only=True)
    flatten: Mapping[str, Json] = field(default_factory=dict, kw_only=True)
    partition: Partition | None = field(default=None, kw_only=True)
    derived: Mapping[str, pl.Expr] = field(default_factory=dict, kw_only=True, compare=False)

    @property
    def correction_key(self) -> Sequence[str]:
        """The key under which a later row corrects an earlier one; none where no row is ever corrected."""
        return () if self.same_key == "violation" else self.key


FileFormat = Literal["csv", "jsonl", "parquet", "avro"]
_FORMATS: dict[str, FileFormat] = {
    "csv": "csv",
    "json": "jsonl",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "avro": "avro",
}
_COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {"gz": "gzip", "zst": "zstd"}


@dataclass(frozen=True)
class Files(Source):
    """Files that arrive under one pattern: CSV with a header, JSON lines, Parquet or Avro (docs/sources.md).

    Args:
        pattern: where the files lie: below `landing/` of the environment (`flights/*.csv`), or a URI of any file system
            that fsspec knows (`s3://other-bucket/flights/*.csv.gz`). `*` stays within a folder, `**` does not.
        format: what the files are, where their names do not say it. Names that end in `.gz` or `.zst` are compressed.
    """

    pattern: str
    format: FileFormat | None = None

    def format_of(self, path: str) -> FileFormat | None:
        """What a file is: as declared, else by its name; None where its name does not say it."""
        name = path.removesuffix(f".{path.rsplit('.', 1)[-1]}") if compression_of(path) else path
        return self.format or _FORMATS.get(name.rsplit("/", 1)[-1].rpartition(".")[2].lower())


def compression_of(path: str) -> Literal["gzip", "zstd"] | None:
    """How a file is compressed, by its name."""
    return _COMPRESSIONS.get(path.rpartition(".")[2].lower())


@dataclass(frozen=True)
class AsOf:
    """Join the newest row of `source` that was known, and had happened, at the prediction's moment.

    Args:
        source: a source with an event time; its columns arrive as `<source>_<column>`.
        by: the columns that must agree: names both sides share, or `{entity column: source column}`.
        tolerance: how old the joined row may be at the moment of the prediction; older rows count as missing.
    """

    source: str
    by: str | Sequence[str] | dict[str, str]
    tolerance: timedelta

    @property
    def columns(self) -> dict[str, str]:
        """The entity's columns and the source's columns they must equal."""
        return column_pairs(self.by)


@dataclass(frozen=True)
class Lookup:
    """Join the row of a dimension as it was last known at the prediction's moment; columns as `<source>_<column>`."""

    source: str
    on: str | Sequence[str] | dict[str, str]

    @property
    def columns(self) -> dict[str, str]:
        """The entity's columns and the source's columns they must equal."""
        return column_pairs(self.on)


Join = AsOf | Lookup


@dataclass(frozen=True)
class Label:
    """What is to be predicted.

    Args:
        name: the column the label gets in `features`.
        expression: how it is computed from its source's columns; true and false count as 1 and 0.
        source: the source whose rows bring it, joined on its key; None: the entity's own rows carry it.
        weight: how much a row counts in training, computed from the label's source like the label; no input. None: every
            row counts the same.
    """

    name: str
    expression: pl.Expr = field(compare=False)
    source: str | None = None
    weight: pl.Expr | None = field(default=None, compare=False)

    @property
    def columns(self) -> set[str]:
        """The columns of its source that it, or its weight, is computed from."""
        return {*self.expression.meta.root_names(), *(self.weight.meta.root_names() if self.weight is not None else ())}
