"""The contract's checks on a request's rows: the same that ingest quarantines by, asked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from perennial.rules.compiled import CompiledCheck, ContractMistake, compile_contract, run_check
from perennial.rules.contract import severity_of
from perennial.spec import Pipeline, Source
from ray_jobs.serve.rows import RowSchema
from ray_jobs.serve.values import BadRequest, say


@dataclass(frozen=True)
class _Group:
    """The checks of one source.

    Args:
        columns: the contract's columns by the names that requests have for them.
        built_in: checks that run in one pass; own: those that pandera runs, each with the columns it needs.
    """

    source: Source
    columns: dict[str, str]
    built_in: Sequence[CompiledCheck]
    own: Sequence[tuple[CompiledCheck, frozenset[str]]]


class RowChecks:
    """Every check that can be asked of a row by itself. Safe from any thread.

    Left out: uniqueness, which is no matter of a row; checks that only warn; and those that need a column which
    requests do not carry, such as the label.
    """

    def __init__(self, pipeline: Pipeline, schema: RowSchema) -> None:
        entity = pipeline.entity_source
        types = {name: column.dtype for name, column in schema.columns.items()}
        self._groups = [_group(entity, {name: name for name in types}, types, schema.required)]
        joined = {join.source for join in pipeline.joins}
        for source, columns in schema.joined.items():
            if source not in joined:
                continue  # aggregates over the past: no contract speaks of them
            names = {name: name.removeprefix(f"{source}_") for name in columns}
            types = {names[name]: column.dtype for name, column in columns.items()}
            self._groups.append(_group(pipeline.source(source), names, types, frozenset(types)))

    @property
    def names(self) -> list[str]:
        """The checks, as the contracts call them."""
        return [check.name for group in self._groups for check in (*group.built_in, *(own for own, _ in group.own))]

    def refuse(self, rows: pl.DataFrame) -> None:
        """Let rows pass that keep the contract.

        Raises:
            BadRequest: with the first row that does not, its column, its value and the check.
        """
        for group in self._groups:
            sent = {ours: theirs for ours, theirs in group.columns.items() if ours in rows.columns}
            if not sent or not (group.built_in or group.own):
                continue
            as_sent = all(ours == theirs for ours, theirs in sent.items())
            given = rows if as_sent else rows.select(pl.col(ours).alias(theirs) for ours, theirs in sent.items())
            _refuse(group, given, {theirs: ours for ours, theirs in sent.items()})


def _group(source: Source, columns: dict[str, str], types: dict[str, pl.DataType], required: frozenset[str]) -> _Group:
    asked = [check for check in compile_contract(source.contract) if _is_asked(source, check)]
    asked = [check for check in asked if check.column is None or check.column in types]
    own = [
        (check, needs) for check in asked if check.failed is None and (needs := _needs(source, check, types, required))
    ]
    return _Group(source, columns, [check for check in asked if check.failed is not None], own)


def _is_asked(source: Source, check: CompiledCheck) -> bool:
    looks_around = (":not_nullable", ":field_uniqueness", ":multiple_fields_uniqueness")
    return not check.name.endswith(looks_around) and severity_of(source, check.name) != "warn"


def _needs(
    source: Source, check: CompiledCheck, types: dict[str, pl.DataType], required: frozenset[str]
) -> frozenset[str] | None:
    """The fewest columns that a check of the user's runs with: its own, those always sent, all; None: it needs others."""
    for names in [{check.column}] if check.column else [required, set(types)]:
        try:
            run_check(source.contract, check, pl.DataFrame(schema={n: t for n, t in types.items() if n in names}))
            return frozenset(name for name in names if name is not None)
        except ContractMistake:
            continue
    return None


def _refuse(group: _Group, rows: pl.DataFrame, names: dict[str, str]) -> None:
    built_in = [check for check in group.built_in if check.column in names]
    if built_in:
        expressions = [check.failed for check in built_in if check.failed is not None]
        failed = rows.select(pl.any_horizontal(expressions).fill_null(value=False)).to_series()
        if failed.any():
            row = failed.arg_max() or 0
            each = rows[row].select(e.alias(str(n)) for n, e in enumerate(expressions)).row(0)
            raise _broken(next(check for check, is_bad in zip(built_in, each, strict=True) if is_bad), rows, row, names)
    for check, needs in group.own:
        if needs <= names.keys():
            try:
                failed = run_check(group.source.contract, check, rows).fill_null(value=False)
            except ContractMistake as mistake:
                detail = f"the contract's check {check.name} cannot be run on these rows: {mistake.__cause__!r}"
                raise BadRequest(detail) from mistake
            if failed.any():
                raise _broken(check, rows, failed.arg_max() or 0, names)


def _broken(check: CompiledCheck, rows: pl.DataFrame, row: int, names: dict[str, str]) -> BadRequest:
    told = check.name.partition(":")[2]
    if check.column is None:
        return BadRequest(f"row {row} breaks the contract's check {told}, which looks at several columns.")
    value = say(rows[check.column][row])
    return BadRequest(f"row {row}: column {names[check.column]!r} is {value}; it breaks the contract's check {told}.")
