"""Where each of a model's inputs comes from, by what a pipeline declares: down to the columns of its sources. Pure."""

import re
from datetime import timedelta
from typing import Literal

from pydantic import BaseModel

from perennial.rules.features import input_columns, input_names
from perennial.rules.joins import joined_columns
from perennial.spec.history import Calendar, History
from perennial.spec.load import source_columns
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import AsOf, Join, Source


class SourceColumn(BaseModel, frozen=True):
    """A column that rows have before `features()`, and what it is made from.

    Args:
        kind: of the row itself, looked up, or an aggregate of the past.
        how: what is done, in words.
        columns: of the source: what is read of it, keys and times included.
        private: whether a value that no page may show is read.
    """

    name: str
    kind: Literal["row", "joined", "history"]
    source: str
    how: str
    columns: list[str]
    meaning: str = ""
    unit: str = ""
    private: bool = False


class InputOrigin(BaseModel, frozen=True):
    """An input of the model, and the columns that `features()` makes it from."""

    name: str
    kind: Literal["number", "category"]
    read: list[SourceColumn]

    @property
    def meaning(self) -> str:
        """What is said of it, where it is one column as it stands or all that is said is of one."""
        told = {column.meaning for column in self.read if column.meaning}
        return told.pop() if len(told) == 1 else ""

    @property
    def unit(self) -> str:
        """What it is counted in, where it is one column."""
        return self.read[0].unit if len(self.read) == 1 else ""

    @property
    def sources(self) -> list[str]:
        """The sources it comes from."""
        return list(dict.fromkeys(column.source for column in self.read))

    @property
    def private(self) -> bool:
        """Whether a value that no page may show is read."""
        return any(column.private for column in self.read)


def origins(pipeline: Pipeline) -> list[InputOrigin]:
    """Where each of the model's inputs comes from, in their order."""
    columns = row_columns(pipeline)
    return [
        InputOrigin(name=name, kind=kind, read=[columns[column] for column in input_columns(pipeline, name)])
        for name, kind in input_names(pipeline).items()
    ]


def row_columns(pipeline: Pipeline) -> dict[str, SourceColumn]:
    """Every column that `features()` is given, by name."""
    entity = pipeline.entity_source
    found = {name: _own(entity, name) for name in source_columns(entity)}
    for join in pipeline.joins:
        source = pipeline.source(join.source)
        time = source.event_time if isinstance(join, AsOf) else None
        for name in joined_columns(source_columns(source), join.columns, join.source, time):
            found[name] = _joined(source, join, name)
    return found | {feature.name: _history(pipeline.source(feature.source), feature) for feature in pipeline.history}


def _own(entity: Source, name: str) -> SourceColumn:
    nested = entity.flatten.get(name)
    columns = _unflattened(entity, [name])
    how = f"of the row: {nested.path} in {nested.column}" if nested else "of the row"
    meaning, unit, private = _told(entity, name, columns)
    return SourceColumn(
        name=name,
        kind="row",
        source=entity.name,
        how=how,
        columns=columns,
        meaning=meaning,
        unit=unit,
        private=private,
    )


def _joined(source: Source, join: Join, name: str) -> SourceColumn:
    column = name.removeprefix(f"{join.source}_")
    read = [
        column,
        *join.columns.values(),
        *([source.event_time] if isinstance(join, AsOf) and source.event_time else []),
    ]
    keys = ", ".join(join.columns)
    how = (
        f"as of the moment, by {keys}, at most {span(join.tolerance)} old"
        if isinstance(join, AsOf)
        else f"as it was known last, by {keys}"
    )
    read = _unflattened(source, read)
    meaning, unit, private = _told(source, column, read)
    return SourceColumn(
        name=name,
        kind="joined",
        source=source.name,
        how=how,
        columns=read,
        meaning=meaning,
        unit=unit,
        private=private,
    )


def _history(source: Source, feature: History) -> SourceColumn:
    read = _unflattened(
        source, [*feature.expression.meta.root_names(), *feature.columns.values(), str(source.event_time)]
    )
    by = f" by {', '.join(feature.columns)}" if feature.columns else ""
    halves = f", halving every {span(feature.half_life)}" if feature.half_life else ""
    value = "" if feature.value is None and feature.where is None else f" of {readable(feature.told)}"
    how = f"{feature.aggregate}{value}{by}, {window_words(feature)}{halves}"
    private = any(column in (*source.sensitive, *source.personal) for column in read)
    return SourceColumn(
        name=feature.name,
        kind="history",
        source=source.name,
        how=how,
        columns=read,
        meaning=feature.doc,
        unit=feature.unit,
        private=private,
    )


def readable(expression: str) -> str:
    """A Polars expression as it prints itself, without the marks of its printing: `[delay > 15]`."""
    plain = re.sub(r"\(dyn \w+: ([^()]*)\)", r"\1", expression)
    plain = re.sub(r"\(col\(\"([^\"]*)\"\)\)", r"\1", plain)
    return re.sub(r"\bcol\(\"([^\"]*)\"\)", r"\1", plain)


def window_words(feature: History) -> str:
    """How far a history feature looks back."""
    if isinstance(feature.window, Calendar):
        return f"this {feature.window.period} so far ({feature.window.time_zone})"
    if feature.reach_back is None:
        return "all the past"
    return f"the last {span(feature.reach_back)}"


def span(length: timedelta) -> str:
    """A length of time in words."""
    for unit, size in (("days", timedelta(days=1)), ("hours", timedelta(hours=1)), ("minutes", timedelta(minutes=1))):
        if length >= size and length % size == timedelta(0):
            return f"{length // size} {unit if length != size else unit[:-1]}"
    return f"{length.total_seconds():g} seconds"


def _unflattened(source: Source, names: list[str]) -> list[str]:
    """The contract's columns that columns of a source are, or are made from, each once."""
    return list(dict.fromkeys(source.flatten[name].column if name in source.flatten else name for name in names))


def _told(source: Source, name: str, read: list[str]) -> tuple[str, str, bool]:
    """Meaning and unit of a column, as `flatten` or the contract's `description` and `metadata` say, and whether it is private."""
    private = any(column in (*source.sensitive, *source.personal) for column in read)
    if name in source.flatten:
        return source.flatten[name].doc, source.flatten[name].unit, private
    column = source.contract.to_schema().columns[name]
    return column.description or "", str((column.metadata or {}).get("unit", "")), private
