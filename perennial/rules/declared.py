"""What a source declares of its checks, tried before anything runs: `perennial.spec.load` adds file and line."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

import pandera.polars as pa
import polars as pl
from pandera.api.checks import Check

from perennial.rules.batch import LEAST_HISTORY
from perennial.rules.compiled import CompiledCheck, ContractMistake, check_name, compile_contract, run_check, schema_of
from perennial.rules.contract import check_names, severity_keys
from perennial.rules.rowwise import find_dependent
from perennial.spec.checks import MOST_HISTORY, BatchRule, Freshness, NullShare, References, RowCount, Severity
from perennial.spec.load import contract_columns
from perennial.spec.sources import Source

Mistake = tuple[str, list[str]]
"""A message, and the words to look for in the file, each inside the one before it."""


def find_mistakes(source: Source, sources: Mapping[str, Source]) -> Iterator[Mistake]:
    """Mistakes of a source's contract, severities and batch rules.

    Args:
        sources: all of the pipeline, by name.
    """
    try:
        mistakes = list(_contract_mistakes(source.contract))
        checks = check_names(source)
    except Exception as error:  # whatever building the contract's schema raises
        yield f"the contract {source.contract.__name__} cannot be built: {error}", [source.contract.__name__]
        return
    yield from mistakes
    here = f"{type(source).__name__}({source.name})"
    told = {field.name: get_args(field.type) for field in fields(Source) if field.name in ("judge", "same_key")}
    for word, allowed in told.items():
        if getattr(source, word) not in allowed:
            message = f"{word} {getattr(source, word)!r} of source {source.name!r} must be one of {allowed}."
            yield message, [here, word]
    known = {key for name in checks for key in severity_keys(name)}
    for key, severity in source.severity.items():
        if severity not in get_args(Severity):
            message = f"severity {severity!r} of {key!r} must be one of {get_args(Severity)}."
            yield message, [here, "severity", key]
        if key not in known:
            message = f"severity of source {source.name!r}: there is no check {key!r}; there are {checks}."
            yield message, [here, "severity", key]
        if severity == "warn" and ":type" in key:
            message = f"severity of {key!r}: a field that cannot be read cannot be published; quarantine or block it."
            yield message, [here, "severity", key]
    columns = contract_columns(source)
    for column, expression in source.derived.items():
        if find_dependent(lambda rows, made=expression: rows.select(made.alias("_")), columns):  # type: ignore[misc]  # bound now
            message = (
                f"derived column {column!r} of source {source.name!r} looks at other rows (a sum, a rank, a shift): it "
            )
            yield (
                message + "would depend on how a batch is cut into blocks. Derive it row by row.",
                [here, "derived", column],
            )
    for rule in source.rules:
        yield from ((text, [here, "rules", *words]) for text, words in _rule_mistakes(source, rule, sources))


def _contract_mistakes(contract: type[pa.DataFrameModel]) -> Iterator[Mistake]:
    schema, name = schema_of(contract), contract.__name__
    if schema.unique and not all(isinstance(column, str) for column in schema.unique):
        yield f"the contract {name} names several sets of unique columns; name one.", [name, "unique"]
    for column, declared in schema.columns.items():
        dtype = declared.dtype.type
        if dtype == pl.Datetime and dtype != pl.Datetime("us", "UTC"):
            yield f"column {column!r} of {name} is {dtype}: instants are UtcMicroseconds.", [name, column]
        if declared.regex:
            yield f"column {column!r} of {name}: regex names no column of a table; name each.", [name, "regex"]
        if declared.default is not None:
            message = (
                f"column {column!r} of {name}: default= would change what arrived, and raw keeps it as it is. Declare "
                "nullable=True, and fill the empty fields in features()."
            )
            yield message, [name, column, "default"]
    checks = [(column, check) for column, declared in schema.columns.items() for check in declared.checks]
    for column, check in [*checks, *((name, check) for check in schema.checks)]:
        if isinstance(check, Check) and check.raise_warning:
            key = severity_keys(check_name(column, check))[1]
            message = f"{key}: say what a failure means on the source: severity={{{key!r}: 'warn'}}."
            yield message, [name, column, "raise_warning"]
    empty = pl.DataFrame(schema={column: declared.dtype.type for column, declared in schema.columns.items()})
    for compiled in compile_contract(contract):
        yield from _try(contract, compiled, empty)


def _try(contract: type[pa.DataFrameModel], compiled: CompiledCheck, empty: pl.DataFrame) -> Iterator[Mistake]:
    """Run a check on no rows at all: its columns, types and patterns must fit, and it must give no truth value then."""
    try:
        if compiled.failed is None:
            run_check(contract, compiled, empty)
        else:
            empty.select(compiled.failed)
    except ContractMistake as mistake:
        yield str(mistake), list(mistake.words)
    except pl.exceptions.PolarsError as error:
        told = " ".join(str(error).split())
        message = f"the check {compiled.name} of the contract {contract.__name__} cannot be run: {told}"
        yield message, [contract.__name__, compiled.column or ""]


def _rule_mistakes(source: Source, rule: Any, sources: Mapping[str, Source]) -> Iterator[Mistake]:
    columns = contract_columns(source)
    here = f"rules of source {source.name!r}"
    if not isinstance(rule, get_args(BatchRule)):
        yield f"{here}: {rule!r} is none of RowCount, Freshness, NullShare, References.", []
        return
    kind = type(rule).__name__
    allowed = get_args(Severity) if isinstance(rule, References) else ("block", "warn")
    if rule.severity not in allowed:
        yield f"{here}: severity {rule.severity!r} of {kind} must be one of {allowed}.", [f"{kind}()", "severity"]
    match rule:
        case RowCount() if not 0 <= rule.at_least_share <= rule.at_most_share:
            yield f"{here}: RowCount wants 0 <= at_least_share <= at_most_share.", ["RowCount()"]
        case RowCount() if not LEAST_HISTORY <= rule.batches <= MOST_HISTORY:
            message = f"{here}: RowCount compares with {LEAST_HISTORY} to {MOST_HISTORY} batches, not {rule.batches}."
            yield message, ["RowCount()", "batches"]
        case Freshness() if source.event_time is None:
            yield f"{here}: Freshness needs event_time: name the column of the instant a row tells of.", ["Freshness()"]
        case NullShare() if rule.column not in columns:
            yield f"{here}: there is no column {rule.column!r}; there are {list(columns)}.", [rule.column]
        case NullShare() if not 0 <= rule.at_most <= 1:
            yield f"{here}: at_most {rule.at_most} must lie in [0, 1].", [f"NullShare({rule.column})"]
        case References():
            yield from _reference_mistakes(source, rule, sources)


def _reference_mistakes(source: Source, rule: References, sources: Mapping[str, Source]) -> Iterator[Mistake]:
    here = f"References of source {source.name!r}"
    if rule.source not in sources:
        yield (
            f"{here}: source {rule.source!r} is not declared; there are {list(sources)}.",
            [f"References({rule.source})"],
        )
        return
    ours, theirs = contract_columns(source), contract_columns(sources[rule.source])
    for mine, other in rule.columns.items():
        if mine not in ours or other not in theirs:
            side, column, known = (source.name, mine, ours) if mine not in ours else (rule.source, other, theirs)
            message = f"{here}: there is no column {column!r} in {side!r}; there are {list(known)}."
            yield message, [f"References({rule.source})", column]
        elif ours[mine] != theirs[other]:
            message = f"{here}: {mine!r} is {ours[mine]} and {other!r} of {rule.source!r} is {theirs[other]}."
            yield message, [f"References({rule.source})", mine]
