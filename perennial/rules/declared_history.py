"""What a pipeline declares of its history features, tried before anything runs: `perennial.spec.load` adds file and line."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import polars as pl

from perennial.rules.declared import Mistake
from perennial.rules.declared_joins import known_ahead, label_as_key
from perennial.rules.rowwise import find_dependent
from perennial.spec.expressions import HIDDEN, calls_python
from perennial.spec.history import Aggregate, Calendar, History, Period
from perennial.spec.load import source_columns
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Before, Source

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_OF_NUMBERS = ("sum", "mean", "min", "max", "std", "ewm")


def find_history_mistakes(pipeline: Pipeline, taken: Mapping[str, Any]) -> Iterator[Mistake]:
    """Mistakes of the pipeline's history features, in their order.

    Args:
        taken: columns that rows have without them, which none of them may be called.
    """
    sources = {source.name: source for source in pipeline.sources}
    for number, feature in enumerate(pipeline.history):
        if not isinstance(feature, History):
            yield f"history: {feature!r} is no History(name, source, aggregate, ...).", ["Pipeline()", "history"]
            return
        here = f"History({feature.name})"
        names = [*taken, pipeline.label.name, *(other.name for other in pipeline.history[:number])]
        if not _NAME.fullmatch(str(feature.name)):
            yield f"history feature {feature.name!r} must match [a-z][a-z0-9_]*.", [here]
        if feature.name in names:
            message = f"history feature {feature.name!r} is called like another column; give it a name of its own."
            yield message, [here]
        if feature.source not in sources:
            message = f"history feature {feature.name!r} names the source {feature.source!r}, which is not declared; "
            yield message + _hint(feature.source, sources), [here, feature.source]
            return
        if feature.aggregate not in get_args(Aggregate):
            message = f"history feature {feature.name!r}: there is no aggregate {feature.aggregate!r}; "
            yield message + _hint(feature.aggregate, get_args(Aggregate)), [here, feature.aggregate]
            return
        source = sources[feature.source]
        checks = (_time_mistakes, _key_mistakes, _value_mistakes, _future_mistakes)
        yield from (
            (message, [here, *words]) for check in checks for message, words in check(pipeline, source, feature)
        )


def _time_mistakes(pipeline: Pipeline, source: Source, feature: History) -> Iterator[Mistake]:
    told = f"history feature {feature.name!r}"
    if source.event_time is None:
        yield (
            f"{told} is ambiguous in time: source {source.name!r} has no event_time, so nothing says when its rows "
            "happened. Name the column, or join it as what is true now: Lookup.",
            [],
        )
    window, zone = feature.window, getattr(feature.window, "time_zone", "UTC")
    if isinstance(window, Calendar) and window.period not in get_args(Period):
        message = f"{told}: there is no calendar period {window.period!r}; {_hint(window.period, get_args(Period))}"
        yield message, ["window"]
    elif not isinstance(window, timedelta | Calendar | None):
        message = (
            f"{told}: window {window!r} must be a timedelta, a Calendar(period, time_zone), or None for all the past."
        )
        yield message, ["window"]
    elif isinstance(window, timedelta) and window <= timedelta(0):
        message = f"{told} looks into the future: its window of {window} ends after it begins. A window reaches back."
        yield message, ["window"]
    try:
        ZoneInfo(zone)
    except (LookupError, ValueError, TypeError, OSError):
        yield f"{told}: there is no time zone {zone!r}, such as Europe/Berlin.", ["window"]
    if (feature.aggregate == "ewm") != (feature.half_life is not None):
        yield f"{told}: half_life goes with the aggregate 'ewm', and only with it.", ["half_life"]
    elif feature.half_life is not None and feature.half_life < timedelta(seconds=1):
        yield f"{told}: half_life {feature.half_life} must be at least a second.", ["half_life"]


def _key_mistakes(pipeline: Pipeline, source: Source, feature: History) -> Iterator[Mistake]:
    ours, theirs = source_columns(pipeline.entity_source), source_columns(source)
    sides = ((0, pipeline.entity_source, ours), (1, source, theirs))
    for pair in feature.columns.items():
        for side, owner, columns in sides:
            if pair[side] not in columns:
                yield _no_column(pipeline, feature, pair[side], f"by, side of {owner.name!r}", columns), [pair[side]]
                return
        if ours[pair[0]] != theirs[pair[1]]:
            message = f"{pair[0]!r} is {ours[pair[0]]} and {pair[1]!r} of {source.name!r} is {theirs[pair[1]]}"
            yield f"history feature {feature.name!r}: {message}: they would never be equal.", [pair[0]]


def _value_mistakes(pipeline: Pipeline, source: Source, feature: History) -> Iterator[Mistake]:
    told, columns = f"history feature {feature.name!r}", source_columns(source)
    if feature.value is None and feature.aggregate != "count":
        yield f"{told}: say what {feature.aggregate} is taken of: a column of {source.name!r} or an expression.", []
        return
    for word, expression in (("value", feature.expression), ("where", feature.where)):
        for column in expression.meta.root_names() if expression is not None else ():
            if column not in columns:
                yield _no_column(pipeline, feature, column, word, columns), [column]
                return
    if calls_python(feature.code):
        yield f"{told} {HIDDEN}", []
        return
    try:
        dtype = pl.LazyFrame(schema=columns).select(_v=feature.expression).collect_schema()["_v"]
        wrong_where = feature.where is not None and (
            pl.LazyFrame(schema=columns).select(_v=feature.where).collect_schema()["_v"] != pl.Boolean
        )
    except pl.exceptions.PolarsError as error:
        yield f"{told}: its expression fails on the columns of {source.name!r}: {' '.join(str(error).split())}", []
        return
    is_number = dtype.is_numeric() or dtype == pl.Boolean
    if feature.aggregate in _OF_NUMBERS and not is_number:
        yield f"{told}: {feature.aggregate} is of numbers, and its value is {dtype}.", []
    if feature.aggregate in ("last", "distinct") and not (is_number or dtype in (pl.String, pl.Date, pl.Datetime)):
        yield (
            f"{told}: {feature.aggregate} of {dtype} is no feature: a number, a boolean, a text, for distinct a time.",
            [],
        )
    elif feature.aggregate == "last" and not (is_number or dtype == pl.String):
        yield f"{told}: the last {dtype} is no input of a model: a number, a boolean or a text.", []
    if wrong_where:
        yield f"{told}: where must be true or false for a row.", ["where"]
    is_plain = feature.where is None and (feature.value is None or isinstance(feature.value, str))
    if not is_plain and find_dependent(lambda rows: rows.with_columns(_v=feature.expression).select("_v"), columns):
        message = f"{told} looks at other rows: its expression gives a row another value beside others. What looks at other rows "
        yield message + "is the aggregate and its window; the expression is of one row.", []


def _future_mistakes(pipeline: Pipeline, source: Source, feature: History) -> Iterator[Mistake]:
    """The label in the entity's own rows is known with them: before anybody could know it."""
    entity, label = pipeline.entity_source, pipeline.label
    if source is pipeline.label_source and isinstance(source.known, Before) and known_ahead(source):
        yield (
            f"history feature {feature.name!r} looks into the future: labels of {source.name!r} are declared known before "
            f"{source.known.column!r}, when what they tell of happens. Say when each was known: known=At(...).",
            [],
        )
    if pipeline.label.source:
        return
    for column in sorted(label.columns & set(feature.columns)):
        yield label_as_key(f"history feature {feature.name!r}", column), [column]
    if source is not entity or entity.known is None:
        return
    read = {*feature.expression.meta.root_names(), *feature.columns.values()}
    for column in sorted(read & label.columns):
        yield (
            f"history feature {feature.name!r} looks into the future: it reads {column!r}, of which the label is made, and "
            f"rows of {entity.name!r} are declared known with {entity.known.column!r}, when no label is. Bring labels in as "
            "a source of their own that says when each was known, and take the history of that.",
            [column],
        )


def _no_column(pipeline: Pipeline, feature: History, column: str, where: str, columns: Mapping[str, Any]) -> str:
    told = f"history feature {feature.name!r}, {where}"
    if column in (other.name for other in pipeline.history):
        what = "itself" if column == feature.name else "another history feature"
        return f"{told}: {column!r} is {what}, which would be circular: a history is of a source's own columns."
    return f"{told}: there is no column {column!r}; {_hint(column, columns)}"


def _hint(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(word), list(known), 1)
    return f"did you mean {close[0]!r}? There are {list(known)}." if close else f"there are {list(known)}."
