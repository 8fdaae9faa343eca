"""What arrives, brought to the columns of its source's contract, as far as the source's policy accepts."""

from functools import lru_cache

import pandera.polars as pa
import polars as pl

from perennial.rules.batch import BatchCounts, FailedCheck
from perennial.rules.compiled import ContractMistake
from perennial.rules.personal import Pseudonyms
from perennial.rules.schema import Difference, SchemaRefused, compare_with_file, explain, names_today, plain
from perennial.spec.sources import Source

_COUNTED = 20  # columns per block that are told by name


def fit_columns(
    pipeline: str, source: Source, arrived: pl.DataFrame, from_header: bool
) -> tuple[pl.DataFrame, BatchCounts]:
    """The block under today's names, with what may be left out; and a warning for each column that differs.

    Args:
        from_header: the block's columns are those of its file. Otherwise each row brings its own names, as JSON does:
            what a row lacks is null, and the contract's to judge; what the contract does not name is not looked at.

    Raises:
        SchemaRefused: the file's columns are not what the source's policy accepts.
    """
    differences: list[Difference] = []
    if from_header:
        today = names_today(arrived.columns, source.renamed)
        fields = [today.get(name, name) for name in arrived.columns if not name.startswith("_")]
        differences = compare_with_file(fields, _may_be_null(source), source.schema_policy, source.renamed)
        _refuse(pipeline, source, fields, differences)
    warned = {f"columns:{d.kind}({plain(d.column)})": len(arrived) for d in differences[:_COUNTED]}
    counts = BatchCounts(
        rows=0,
        quarantined_rows=0,
        failed={name: FailedCheck(severity="warn", rows=rows) for name, rows in warned.items() if rows},
    )
    fitted = fit_kept(source, arrived)
    if not from_header:  # such as messages of an older schema, which lack what the contract needs
        lacking = [name for name in _nullable(source.contract) if name not in fitted.columns]
        fitted = fitted.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
    return fitted, counts


def fit_kept(source: Source, arrived: pl.DataFrame) -> pl.DataFrame:
    """Rows under today's names. What they lack and may lack is null; what they need and lack is not there still."""
    for old, new in source.renamed.items():
        if new and old in arrived.columns:  # of rows of JSON one may have the former name, and the next today's
            value = pl.coalesce(new, old) if new in arrived.columns else pl.col(old)
            arrived = arrived.with_columns(value.alias(new)).drop(old)
    lacking = [name for name, optional in _may_be_null(source).items() if optional and name not in arrived.columns]
    return arrived.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)


def keep(source: Source, pseudonyms: Pseudonyms, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as they arrived, for quarantine: what is personal, or not known not to be, is under seal.

    Of what the contract does not name not even the names are kept in plain: a key of JSON may be somebody's address.
    """
    named = _nullable(source.contract)
    hidden = [name for name in rows.columns if name in source.personal or name not in named]
    return pseudonyms.keep(rows, hidden).drop(name for name in hidden if name not in named)


def without_values(source: Source, mistake: ContractMistake) -> ContractMistake:
    """The mistake of a check, without what the check said."""
    return ContractMistake(
        f"a check of the contract {source.contract.__name__} cannot be run: {', '.join(mistake.words[1:])}. What it raised is "
        f"not shown, because {source.name} has personal columns; try the check on rows that are made up. Nothing is known "
        "of the rows and nothing was published. Correct the check and run ingest again.",
        *mistake.words,
    )


def where_declared(pipeline: str, source: Source) -> str:
    """Where the user says what is accepted: in which file, in which call."""
    return f"{pipeline}.py, {type(source).__name__}({source.name!r}, ...) or class {source.contract.__name__}"


def _may_be_null(source: Source) -> dict[str, bool]:
    needed = {*source.key, source.event_time, source.known.column if source.known else None}
    return {name: nullable and name not in needed for name, nullable in _nullable(source.contract).items()}


@lru_cache(maxsize=64)
def _nullable(contract: type[pa.DataFrameModel]) -> dict[str, bool]:
    return {name: bool(column.nullable) for name, column in contract.to_schema().columns.items()}


def _refuse(pipeline: str, source: Source, fields: list[str], differences: list[Difference]) -> None:
    contract = f"contract {source.contract.__name__}"
    if not set(fields) & set(_nullable(source.contract)):
        # without the names: what stands there may be the first row, and a row's values belong in no message
        raise SchemaRefused(
            f"what arrived for {pipeline}/{source.name} has {len(fields)} columns and none of its {contract}; perhaps its "
            "first line is no header. Nothing was published, and what arrived is where it was. Correct the file and run "
            "ingest again."
        )
    what = f"what arrived for {pipeline}/{source.name} has other columns than its contract"
    refusal = explain(
        f"{what}, schema_policy={source.schema_policy!r}",
        "what arrived",
        contract,
        differences,
        where_declared(pipeline, source),
    )
    if refusal:
        raise SchemaRefused(refusal)
