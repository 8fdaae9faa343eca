"""What a source declares of its columns and rows, checked by itself: `perennial.spec.load` adds the line."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import polars as pl

from perennial.spec.checks import References
from perennial.spec.derived import find_misderived
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Files, Partition, SchemaPolicy, Source


def find_misdeclared(source: Source, columns: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Messages, each with the words to look for in the file: the keyword, then the name.

    Args:
        columns: of the contract, to their Polars types.
    """
    if isinstance(source, Files) and source.format_of(source.pattern) is None and _says_no_format(source.pattern):
        message = (
            f"the names of {source.pattern!r} do not say what the files are: end the pattern in .csv, .jsonl, .parquet or "
            ".avro (.gz or .zst after it), or say format=."
        )
        yield message, [source.pattern]
    if not source.key:
        yield f"source {source.name!r} has no key: name the columns that make a row unique.", ["key"]
    if not 0 <= source.error_budget_share <= 1:
        yield f"error_budget_share {source.error_budget_share} must lie in [0, 1].", ["error_budget_share"]
    if source.schema_policy not in get_args(SchemaPolicy):
        message = f"schema_policy {source.schema_policy!r} of {source.name!r} must be one of {get_args(SchemaPolicy)}."
        yield message, ["schema_policy", str(source.schema_policy)]
    for former, today in source.renamed.items():
        here = f"renamed of source {source.name!r}"
        if former in columns:
            message = f"{here}: {former!r} is a column of the contract, so it is no former name."
            yield message, ["renamed", former]
        if today is not None and today not in columns:
            message = f"{here}: {former!r} became {today!r}, which the contract does not have; it has {list(columns)}."
            yield message, ["renamed", today]
    for name, json in source.flatten.items():
        here = f"flatten of source {source.name!r}: {name!r}"
        if name in columns or not name.isidentifier() or name.startswith("_"):
            yield f"{here} must be a name of its own that no column of the contract has.", ["flatten", name]
        if json.column in source.flatten:
            yield (
                f"{here} is made from {json.column!r}, which is made itself; name the contract's column.",
                ["flatten", name],
            )
        elif json.column not in columns:
            yield f"{here}: there is no column {json.column!r}; there are {list(columns)}.", ["flatten", json.column]
        yield from ((f"{here}: {mistake}", ["flatten", name]) for mistake in json.mistakes())
    if source.partition not in (None, *get_args(Partition)):
        message = (
            f"partition {source.partition!r} of {source.name!r} must be one of {get_args(Partition)}, or left out."
        )
        yield message, ["partition", str(source.partition)]
    elif source.partition and source.event_time is None:
        message = f"source {source.name!r} is partitioned by {source.partition}, of what? Name its event_time."
        yield message, ["partition", source.partition]
    yield from find_misderived(source.name, source.derived, columns, tuple(source.personal))
    if isinstance(source.personal, str):
        message = f"personal of source {source.name!r} must be a list: [{source.personal!r}]."
        yield message, ["personal", source.personal]
        return
    for column in source.personal:
        here = f"personal of source {source.name!r}"
        if column not in columns:
            yield f"{here}: there is no column {column!r}; there are {list(columns)}.", ["personal", column]
        elif columns[column] != pl.String:
            message = (
                f"{here}: {column!r} must be text, because its pseudonym is; it is {columns[column]}. Declare it str."
            )
            yield message, ["personal", column]


def find_unlike_pairs(pipeline: Pipeline) -> Iterator[tuple[str, list[str]]]:
    """As above, of columns that must be equal and never would be: a pseudonym on one side and a value on the other."""
    entity = pipeline.entity_source
    pairs = [(entity, pipeline.label_source.name, column, column, "Pipeline()") for column in entity.key]
    for join in pipeline.joins:
        here = f"{type(join).__name__}({join.source})"
        pairs += [(entity, join.source, ours, theirs, here) for ours, theirs in join.columns.items()]
    for feature in pipeline.history:
        here = f"History({feature.name})"
        pairs += [(entity, feature.source, ours, theirs, here) for ours, theirs in feature.columns.items()]
    for source in pipeline.sources:
        here = f"{type(source).__name__}({source.name})"
        for rule in source.rules:
            if isinstance(rule, References):
                pairs += [(source, rule.source, ours, theirs, here) for ours, theirs in rule.columns.items()]
    for source, name, ours, theirs, here in pairs:
        personal = (ours in source.personal, theirs in pipeline.source(name).personal)
        if len(set(personal)) > 1:
            one, other = (source.name, name) if personal[0] else (name, source.name)
            message = (
                f"{ours!r} of {source.name!r} is matched with {theirs!r} of {name!r}, and is personal in {one!r} only: a "
                f"pseudonym equals no plain value. Name it in personal of {other!r} as well, or in neither."
            )
            yield message, [here]


def _says_no_format(pattern: str) -> bool:
    """Whether no file of the pattern can have a name that says its format: the end of the name is fixed, or has no dot."""
    ending = pattern.rpartition("/")[2].rpartition(".")[2]
    return not any(wild in ending for wild in "*?[")
