"""Two ways to the same verdict: built-in checks in one Polars pass beside the user's in pandera, or pandera alone.

Both give, for every check that any row fails, a mask that is true for these rows; nulls in it count as passed.
"""

from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.constants import CHECK_OUTPUT_KEY
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from perennial.rules.compiled import (
    CompiledCheck,
    broken_check,
    check_name,
    compile_contract,
    run_check,
    schema_of,
    whole_check,
)

Masks = dict[str, pl.Series]


def judge_fused(contract: type[pa.DataFrameModel], rows: pl.DataFrame) -> Masks:
    """The verdict on typed rows, in one pass over the block and one call of each check of the user's.

    Raises:
        ContractMistake: a check of the user's raised, or does not judge row by row.
    """
    checks = compile_contract(contract)
    fused = [(n, check.failed) for n, check in enumerate(checks) if check.failed is not None and _can_fail(check, rows)]
    one_pass = rows.select(failed.alias(str(n)) for n, failed in fused)
    masks: Masks = {}
    for n, check in enumerate(checks):
        if check.failed is None:
            _add(masks, check.name, run_check(contract, check, rows))
        elif str(n) in one_pass.columns:
            _add(masks, check.name, one_pass[str(n)])
    return masks


def judge_by_pandera(contract: type[pa.DataFrameModel], rows: pl.DataFrame) -> Masks:
    """The verdict on typed rows by pandera's own validation: some ten times slower, and nothing of ours between.

    Raises:
        ContractMistake: as with `judge_fused`.
    """
    try:
        schema_of(contract).validate(rows, lazy=True)
    except SchemaErrors as errors:
        found: Masks = {}
        for error in errors.schema_errors:
            _add(found, check_name(error.schema.name, error.check), _failed_rows(contract, error, rows))
        return {check.name: found[check.name] for check in compile_contract(contract) if check.name in found}
    return {}


def _can_fail(check: CompiledCheck, rows: pl.DataFrame) -> bool:
    """Whether it is worth a pass: a column that carries no nulls has no missing ones, and Arrow knows their number."""
    if check.check is not None or check.column is None or not check.name.endswith(":not_nullable"):
        return True
    column = rows[check.column]
    return bool(column.null_count()) or column.dtype.is_float()


def _failed_rows(contract: type[pa.DataFrameModel], error: SchemaError, rows: pl.DataFrame) -> pl.Series:
    name = check_name(error.schema.name, error.check)
    if error.reason_code == SchemaErrorReason.CHECK_ERROR:
        raise broken_check(contract, name, _cause(error)) from error
    output: Any = error.check_output
    if output is None or len(output) != len(rows):
        raise whole_check(contract, name)
    return ~output[CHECK_OUTPUT_KEY]


def _cause(error: SchemaError) -> BaseException:
    """What a check raised; pandera keeps it beside its own error, or only in words."""
    return error.__cause__ or RuntimeError(str(error.failure_cases))


def _add(masks: Masks, name: str, failed: pl.Series) -> None:
    """Keep a mask with failing rows; two checks of one name are one check."""
    if failed.any():
        masks[name] = (masks[name] | failed).fill_null(value=False) if name in masks else failed
