"""A contract applied to a block of rows as they arrived: which keep it, which break it, and every check they fail.

pandera is the judge. Parsing comes before it, because a field that is not a number at all is a broken row and not a
broken file; so is a field that the file's own format could not hold.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandera.polars as pa
import polars as pl

from perennial.rules.batch import BatchCounts, FailedCheck
from perennial.spec.load import contract_columns
from perennial.spec.sources import Source


@dataclass(frozen=True)
class CheckedBlock:
    """Both halves of a block, and what was found in it.

    `good` has the contract's columns and types; `bad` the fields as they arrived and `_failed_checks`. Both keep
    `_position`.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    counts: BatchCounts

    def joined_by(self, unreadable: pl.DataFrame) -> "CheckedBlock":
        """The block, and beside it what could not even be read as rows: with `_position` and `_failed_checks`.

        Such a reason is counted without its values: `csv:columns`, not `csv:columns(expected 5, found 2)`.
        """
        if unreadable.is_empty():
            return self
        reasons = unreadable["_failed_checks"].explode().str.replace(r"\(.*$", "").value_counts()
        counts = BatchCounts(
            rows=len(unreadable),
            quarantined_rows=len(unreadable),
            failed={name: FailedCheck(severity="quarantine", rows=rows) for name, rows in reasons.iter_rows()},
        )
        bad = pl.concat([self.bad, unreadable], how="diagonal")
        return CheckedBlock(self.good, bad, BatchCounts.total([self.counts, counts]))


class ColumnsMissing(ValueError):
    """A file lacks columns that the contract promises: no row of it can be judged."""


def check_block(source: Source, arrived: pl.DataFrame) -> CheckedBlock:
    """Judge a block.

    Args:
        arrived: the fields as text, null where empty, and `_position`. Columns that the contract does not name are
            kept in what is quarantined and left out of what is published.

    Raises:
        ColumnsMissing: the contract promises columns that did not arrive.
    """
    columns = contract_columns(source)
    missing = [name for name in columns if name not in arrived.columns]
    if missing:
        raise ColumnsMissing(
            f"source {source.name!r}: the columns {missing} of the contract are missing; there are "
            f"{[name for name in arrived.columns if not name.startswith('_')]}. Nothing was published. Correct the file, "
            "or the contract in the pipeline's file, and run ingest again."
        )
    parsed = arrived.select(
        parse_field(pl.col(name), dtype, source.time_zone).alias(name) for name, dtype in columns.items()
    )
    unparsed = arrived.select((pl.col(name).is_not_null() & parsed[name].is_null()).alias(name) for name in columns)
    failures = _parse_failures(columns, unparsed) + _pandera_failures(source.contract, parsed, unparsed)
    if source.same_key == "violation":
        repeated = parsed.select(pl.struct(list(source.key)).is_duplicated().alias("again"))["again"].arg_true()
        failures += [(int(row), f"unique({', '.join(source.key)})") for row in repeated]
    return _split(source, arrived, parsed, failures)


def parse_field(field: pl.Expr, dtype: Any, time_zone: str) -> pl.Expr:
    """A field of text as the contract's type; null where it cannot be one."""
    if dtype == pl.String:
        return field
    if dtype == pl.Boolean:
        return field.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None
        )
    if dtype.is_integer():
        # 3.0 is an integer that went through a spreadsheet; 3.5 is not one
        number = field.str.strip_chars().cast(pl.Float64, strict=False)
        exact = field.str.strip_chars().cast(pl.Int64, strict=False)
        whole = pl.when(number == number.round(0)).then(number.cast(pl.Int64, strict=False))
        return exact.fill_null(whole).cast(dtype, strict=False)
    if dtype == pl.Datetime:
        return _parse_instant(field, time_zone)
    if dtype == pl.Date:
        return field.str.to_date("%Y-%m-%d", strict=False)
    return field.str.strip_chars().cast(dtype, strict=False)


def _parse_instant(field: pl.Expr, time_zone: str) -> pl.Expr:
    """ISO 8601; without an offset it is in the source's zone. An hour that a clock change skips is none."""
    text = field.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    zoned = pl.coalesce(
        text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC")
        for form in ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M%:z")
    )
    local = pl.coalesce(
        text.str.to_datetime(form, time_unit="us", strict=False)
        for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    )
    placed = local.dt.replace_time_zone(time_zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone(
        "UTC"
    )
    return pl.coalesce(zoned, placed)


def _parse_failures(columns: dict[str, Any], unparsed: pl.DataFrame) -> list[tuple[int, str]]:
    return [(int(row), f"{name}:type({dtype})") for name, dtype in columns.items() for row in unparsed[name].arg_true()]


def _pandera_failures(
    contract: type[pa.DataFrameModel], parsed: pl.DataFrame, unparsed: pl.DataFrame
) -> list[tuple[int, str]]:
    try:
        _schema(contract).validate(parsed, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return []
    if cases["index"].null_count():
        broken = cases.filter(pl.col("index").is_null()).row(0, named=True)
        raise ValueError(
            f"the contract {contract.__name__} cannot judge row by row: {broken['column']}: {broken['check']} fails as a "
            "whole. Write the check so that it gives one truth value per row."
        )
    return [
        (case["index"], f"{case['column']}:{case['check']}")
        for case in cases.iter_rows(named=True)
        # a field that could not be parsed has its own reason; that it is null now is our doing
        if not (
            case["check"] == "not_nullable"
            and case["column"] in unparsed.columns
            and unparsed[case["column"]][case["index"]]
        )
    ]


@lru_cache(maxsize=64)
def _schema(contract: type[pa.DataFrameModel]) -> Any:
    return contract.to_schema()


def _split(
    source: Source, arrived: pl.DataFrame, parsed: pl.DataFrame, failures: list[tuple[int, str]]
) -> CheckedBlock:
    rows = pl.DataFrame(failures, schema={"_row": pl.UInt32, "check": pl.String}, orient="row").unique(
        maintain_order=True
    )
    by_row = rows.group_by("_row", maintain_order=True).agg(_failed_checks="check").sort("_row")
    bad = arrived[by_row["_row"]].with_columns(by_row["_failed_checks"])
    keep = pl.Series(range(len(arrived)), dtype=pl.UInt32).is_in(by_row["_row"].implode()).not_()
    good = parsed.with_columns(arrived["_position"]).filter(keep)
    failed = rows.group_by("check").len().sort("len", "check", descending=[True, False])
    nulls = {name: arrived[name].null_count() for name in parsed.columns}
    newest: Any = good[source.event_time].max() if source.event_time else None
    counts = BatchCounts(
        rows=len(arrived),
        quarantined_rows=len(bad),
        failed={name: FailedCheck(severity="quarantine", rows=number) for name, number in failed.iter_rows()},
        nulls={name: number for name, number in nulls.items() if number},
        newest_event_at=newest,
    )
    return CheckedBlock(good, bad, counts)
