"""A contract's checks, each by the name that pandera gives it, the built-in ones as expressions for one Polars pass.

pandera stays the source of truth: the expressions are its own, taken from its built-in checks, not written again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.api.checks import Check
from pandera.api.function_dispatch import Dispatcher
from pandera.api.polars.types import PolarsData
from pandera.backends.polars import builtin_checks
from pandera.constants import CHECK_OUTPUT_KEY


@dataclass(frozen=True)
class CompiledCheck:
    """One check of a contract.

    Args:
        name: as quarantine and reports call it: `weight:less_than(100)`; for several columns `Order:no_heavy_gold`.
        column: the column it looks at; None for checks of several columns.
        failed: true where a row fails; None for a check of the user's, which pandera runs.
        check: pandera's object; None for nulls and uniqueness, which are no checks of their own there.
    """

    name: str
    column: str | None = None
    failed: pl.Expr | None = None
    check: Check | None = None


class ContractMistake(ValueError):
    """A check of a contract cannot be run, or does not judge row by row: a mistake in the pipeline's file, not in data.

    Args:
        words: what to look for in the file.
    """

    def __init__(self, message: str, *words: str) -> None:
        super().__init__(message)
        self.words = words


@lru_cache(maxsize=64)
def schema_of(contract: type[pa.DataFrameModel]) -> Any:
    """pandera's schema of a contract."""
    return contract.to_schema()


@lru_cache(maxsize=64)
def compile_contract(contract: type[pa.DataFrameModel]) -> tuple[CompiledCheck, ...]:
    """Every check of the contract, in the order in which a row names those it fails."""
    schema = schema_of(contract)
    return (*_unique_together(schema), *_column_checks(schema), *_table_checks(schema))


def check_name(schema_name: str, check: Any) -> str:
    """A check's name as pandera's failure cases have it, after the column's or the contract's."""
    told = check if isinstance(check, str) else check.error if check.error is not None else check.name
    return f"{schema_name}:{told}"


def run_check(contract: type[pa.DataFrameModel], compiled: CompiledCheck, rows: pl.DataFrame) -> pl.Series:
    """Where rows fail a check that pandera runs.

    Raises:
        ContractMistake: the check raised, or did not give one truth value per row.
    """
    assert compiled.check is not None
    try:
        passed = compiled.check(rows.lazy(), compiled.column).check_output.collect()[CHECK_OUTPUT_KEY]
    except (MemoryError, OSError):
        raise  # the machine's failure, not the check's
    except Exception as error:  # whatever a user's function raises
        raise broken_check(contract, compiled.name, error) from error
    if len(passed) != len(rows) or passed.dtype != pl.Boolean:
        raise whole_check(contract, compiled.name)
    return ~passed


def broken_check(contract: type[pa.DataFrameModel], name: str, error: BaseException) -> ContractMistake:
    """The mistake of a check that raises; the data may well be good."""
    return ContractMistake(
        f"the check {name} of the contract {contract.__name__} raised {type(error).__name__}: {str(error).partition(chr(10))[0]} "
        f"(pipeline file {contract.__module__.replace('.', '/')}.py). Nothing is known of the rows and nothing was "
        "published. Correct the check and run ingest again.",
        contract.__name__,
        *_words(name),
    )


def whole_check(contract: type[pa.DataFrameModel], name: str) -> ContractMistake:
    """The mistake of a check that gives one verdict on all rows: it would depend on how a batch is cut into blocks."""
    return ContractMistake(
        f"the contract {contract.__name__} cannot judge row by row: {name} judges the rows as a whole (pipeline file "
        f"{contract.__module__.replace('.', '/')}.py). Write the check so that it gives one truth value per row, or use "
        "a batch rule of the source.",
        contract.__name__,
        *_words(name),
    )


def _unique_together(schema: Any) -> Iterator[CompiledCheck]:
    if schema.unique:
        yield CompiledCheck(
            check_name(schema.name, "multiple_fields_uniqueness"), failed=pl.struct(schema.unique).is_duplicated()
        )


def _column_checks(schema: Any) -> Iterator[CompiledCheck]:
    for name, column in schema.columns.items():
        if not column.nullable:
            missing = pl.col(name).is_null()
            if column.dtype.type.is_float():
                missing |= pl.col(name).is_nan()
            yield CompiledCheck(check_name(name, "not_nullable"), name, missing)
        if column.unique:
            yield CompiledCheck(check_name(name, "field_uniqueness"), name, pl.col(name).is_duplicated())
        for check in column.checks:
            yield CompiledCheck(check_name(name, check), name, _expression(check, name), check)


def _table_checks(schema: Any) -> Iterator[CompiledCheck]:
    for check in schema.checks:
        yield CompiledCheck(check_name(schema.name, check), None, None, check)


def _expression(check: Check, column: str) -> pl.Expr | None:
    """Where a built-in check fails, as pandera writes it; None for a check of the user's."""
    if not isinstance(check._check_fn, Dispatcher):
        return None
    built_in = getattr(builtin_checks, check._check_fn.__name__, None)
    if built_in is None or built_in is builtin_checks.unique_values_eq:
        return None
    passed: pl.Expr = built_in(PolarsData(_Written(), column), **check._check_kwargs)  # type: ignore[arg-type]
    # an empty field fails no check, unless the check says so
    return ~passed if check.ignore_na else (~passed).fill_null(value=True)


class _Written:
    """Stands where a built-in check expects a frame, and hands back the expression that it selects."""

    def select(self, expression: pl.Expr) -> pl.Expr:
        return expression


def _words(name: str) -> list[str]:
    """A column, then a check's name without its values: what stands in the file."""
    column, _, check = name.partition(":")
    return [column, check.split("(")[0]]
