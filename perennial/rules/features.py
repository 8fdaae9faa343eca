"""The one way from rows to the model's inputs: for training, batch scoring and the endpoint alike."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

import polars as pl
from polars.io.plugins import register_io_source

from perennial.rules.code import code_text
from perennial.rules.flatten import flatten
from perennial.rules.held import Held, join_words
from perennial.rules.history import add_history, history_types
from perennial.rules.joins import MOMENT, join_known, joined_columns
from perennial.rules.plans import column_code
from perennial.rules.tabular import FEW_ROWS
from perennial.rules.versions import Versions
from perennial.spec.expressions import calls_python, expression_code
from perennial.spec.load import source_columns
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import AsOf, Source

Kind = Literal["number", "category"]
LABEL_WEIGHT = "_label_weight"


class FeatureMistake(ValueError):
    """The features of a pipeline cannot be computed as declared; `words` are what to look for in the file."""

    def __init__(self, message: str, *words: str) -> None:
        super().__init__(message)
        self.words = words


def input_names(pipeline: Pipeline) -> dict[str, Kind]:
    """The model's inputs in their order: `number` for integers, floats and booleans, `category` for strings.

    Raises:
        FeatureMistake: a column that is not there, an input of another type, or the label among the inputs.
    """
    empty = pl.LazyFrame(schema=row_schema(pipeline))
    try:
        schema = _inputs(pipeline, empty).collect_schema()
    except (pl.exceptions.PolarsError, TypeError, AttributeError) as error:
        raise FeatureMistake(f"features() fails on the declared columns: {type(error).__name__}: {error}") from error
    return {name: _kind(name, dtype) for name, dtype in schema.items()}


def row_schema(pipeline: Pipeline) -> dict[str, pl.DataType]:
    """What features() is given: the entity's columns less the label's, the joined ones, and the history features."""
    entity = pipeline.entity_source
    columns = dict(source_columns(entity))
    if not pipeline.label.source:  # the entity's rows carry the label, which no prediction may see
        columns = {name: dtype for name, dtype in columns.items() if name not in pipeline.label.columns}
    for join in pipeline.joins:
        source = pipeline.source(join.source)
        time = source.event_time if isinstance(join, AsOf) else None
        columns |= joined_columns(source_columns(source), join.columns, join.source, time)
    for name, features in pipeline.history_sources.items():
        columns |= history_types(features, source_columns(pipeline.source(name)))
    return columns


def compute_features(
    pipeline: Pipeline,
    rows: pl.DataFrame,
    tables: dict[str, pl.DataFrame],
    held: Mapping[str, Held] | None = None,
    schema: Mapping[str, pl.DataType] | None = None,
) -> pl.DataFrame:
    """Key columns, event time, `_known_at` and the model's inputs, for every row and in the rows' order.

    Args:
        rows: entity rows with `_known_at`, the moment of the prediction.
        tables: for every joined source its log, each version of each row with `_known_at`. A join whose columns the
            rows bring already is not looked up, and history features that they bring are not computed.
        held: sources that are ready to be asked already, whose log is not needed then.
        schema: what `row_schema` says of the pipeline, where it was asked already.
    """
    entity = pipeline.entity_source
    typed = given_columns(pipeline, rows, tables, held, schema)
    # Polars divides the only row there is by a number, and several by its reciprocal: the last bit may differ. A lone
    # request's row comes twice, so that it gets what it gets among others (as series: a frame keeps two alike as one).
    lone = typed.height == 1
    if lone:
        typed = pl.DataFrame([column.new_from_index(0, 2) for column in typed.iter_columns()])
    inputs = _collect(_inputs(pipeline, typed.lazy()), rows.height)
    if lone and inputs.height == 2:
        inputs = inputs.head(1)
    # one type per kind, the widest: what Iceberg keeps comes back as it went, and 8 bits do not overflow in a later sum
    inputs = pl.DataFrame([_as(column, _widest(column.dtype)) for column in inputs.iter_columns()])
    if len(inputs) != len(rows):
        raise FeatureMistake(f"features() made {len(inputs)} rows of {len(rows)}; it must keep every row.", "features")
    kept = [*entity.key, *([entity.event_time] if entity.event_time else []), MOMENT]
    names = [name for name in dict.fromkeys(kept) if name not in inputs.columns]
    return pl.DataFrame([*(rows[name] for name in names), *inputs.iter_columns()])


def _collect(query: pl.LazyFrame, rows: int) -> pl.DataFrame:
    if rows > FEW_ROWS:
        return query.collect()
    return query.collect(
        optimizations=pl.QueryOptFlags.none(), engine="in-memory"
    )  # to plan well takes four times as long


def given_columns(
    pipeline: Pipeline,
    rows: pl.DataFrame,
    tables: dict[str, pl.DataFrame],
    held: Mapping[str, Held] | None = None,
    schema: Mapping[str, pl.DataType] | None = None,
) -> pl.DataFrame:
    """What `features()` is given for the rows: see `compute_features` for the arguments."""
    flat = flatten(pipeline.entity_source, rows)
    joined = _add_history(pipeline, _join(pipeline, flat, tables, held or {}), tables, held or {})
    # series by series: a query costs more than what it does to the few rows of a request
    return pl.DataFrame([_as(joined[name], dtype) for name, dtype in (schema or row_schema(pipeline)).items()])


def _as(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    return column if column.dtype == dtype else column.cast(dtype)


def _widest(dtype: pl.DataType) -> pl.DataType:
    if dtype.is_integer():
        return pl.Int64()
    return pl.Float64() if dtype.is_float() else pl.String() if isinstance(dtype, pl.Categorical | pl.Enum) else dtype


def _join(
    pipeline: Pipeline, rows: pl.DataFrame, tables: Mapping[str, pl.DataFrame], held: Mapping[str, Held]
) -> pl.DataFrame:
    joined = rows
    for join in pipeline.joins:
        source = pipeline.source(join.source)
        time = source.event_time if isinstance(join, AsOf) else None
        brought = joined_columns(source_columns(source), join.columns, join.source, time)
        if not set(brought) <= set(rows.columns):
            joined = joined.drop(there) if (there := [n for n in brought if n in joined.columns]) else joined
            ready = held[join.source].joined if join.source in held else None
            if ready is not None:
                joined = ready.add(joined)
            else:
                joined = join_known(joined, flatten(source, tables[join.source]), *join_words(pipeline, join))
    return joined


def _add_history(
    pipeline: Pipeline, rows: pl.DataFrame, tables: Mapping[str, pl.DataFrame], held: Mapping[str, Held]
) -> pl.DataFrame:
    for name, features in pipeline.history_sources.items():
        if not {feature.name for feature in features} <= set(rows.columns):
            source = pipeline.source(name)
            past = (held[name].past if name in held else None) or Versions(tables[name], source)
            own = pipeline.entity_source.key if source is pipeline.entity_source else ()
            rows = add_history(rows, past, features, own)
    return rows


def label_type(pipeline: Pipeline) -> pl.DataType:
    """The label's type in `features`: a number, or the class as text."""
    return pl.String() if pipeline.model.task == "multiclass" else pl.Float64()


def label_value(pipeline: Pipeline) -> pl.Expr:
    """The label from its source's columns: true and false as 1 and 0, or the class as text."""
    return pipeline.label.expression.cast(label_type(pipeline))


def label_weights(pipeline: Pipeline) -> dict[str, pl.Expr]:
    """The column of `features` that holds how much a row counts in training, where the pipeline declares it."""
    weight = pipeline.label.weight
    return {} if weight is None else {LABEL_WEIGHT: weight}


def known_at(source: Source, rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The rows with `_known_at`: when each could have been known, as the source declares; else the run's `as_of`."""
    instant = pl.Datetime("us", "UTC")
    if source.known is None:
        moment = pl.Series([as_of], dtype=instant).new_from_index(0, rows.height)
    else:
        known = rows[source.known.column]
        moment = (known + source.known.delay if source.known.delay else known).cast(instant)
    others = (column for column in rows.iter_columns() if column.name != MOMENT)
    return pl.DataFrame([*others, moment.alias(MOMENT)])  # no query: a replica asks this for a few rows at a time


def feature_code_hash(pipeline: Pipeline) -> str:
    """Changes when the features' or joins' declaration does, or what features() refers to in the pipeline's own files.

    SHA-256, the first 16 hexadecimal digits.
    """
    declared = [*(repr(join) for join in pipeline.joins), *(str(feature) for feature in pipeline.history)]
    declared += [f"{source.name} {source.flatten!r}" for source in pipeline.sources if source.flatten]
    code = code_text(pipeline.features) if pipeline.features else ""
    return _digest(code, *declared, repr(input_names(pipeline)))


def feature_hashes(pipeline: Pipeline) -> dict[str, str]:
    """For every input of the model, what changes when the code does that it depends on, and not when other code does.

    An input depends on its own expressions in features(), and on the declarations of the joins and history features whose
    columns these read. Where an expression hides code (a Python function), it is the whole function's.
    """
    declared: dict[str, str] = {}
    for join in pipeline.joins:
        source = pipeline.source(join.source)
        time = source.event_time if isinstance(join, AsOf) else None
        told = f"{join!r} {time} {list(source.key)}"
        declared |= dict.fromkeys(joined_columns(source_columns(source), join.columns, join.source, time), told)
    for name, features in pipeline.history_sources.items():
        told = f"{pipeline.source(name).event_time} {pipeline.source(name).flatten}"
        declared |= {feature.name: f"{feature} {told}" for feature in features}
    declared |= {name: repr(json) for name, json in pipeline.entity_source.flatten.items()}
    return {name: _digest(*_code_of(pipeline, name, declared)) for name in input_names(pipeline)}


def input_columns(pipeline: Pipeline, name: str) -> list[str]:
    """The columns of the entity, the joins and the history features that an input of the model is made from."""
    read: list[str] = []

    def source(columns: list[str] | None, *_: Any) -> Iterator[pl.DataFrame]:
        read.extend(columns or [])
        yield pl.DataFrame(schema={column: row_schema(pipeline)[column] for column in columns or row_schema(pipeline)})

    schema = {column: pl.Field(column, dtype).dtype for column, dtype in row_schema(pipeline).items()}
    rows = register_io_source(source, schema=schema)
    _inputs(pipeline, rows).select(name).collect()
    return list(dict.fromkeys(read))


def _code_of(pipeline: Pipeline, name: str, declared: dict[str, str]) -> Iterator[str]:
    columns = input_columns(pipeline, name)
    code = column_code(_inputs(pipeline, pl.LazyFrame(schema=row_schema(pipeline))), name)
    yield from code if not any(calls_python(part) for part in code) else [feature_code_hash(pipeline)]
    yield from (f"{column}: {declared.get(column, '')}" for column in sorted(columns))


def code_hash(function: Callable[..., Any]) -> str:
    """The version of a function that a pipeline names, and of what that refers to in the pipeline's own files."""
    return _digest(code_text(function))


def contract_hash(source: Source) -> str:
    """The version of a source's contract, as rows and versions carry it."""
    told = [repr(item) for item in (*sorted(source.severity.items()), *source.rules)]
    if source.personal:
        told.append(repr(sorted(source.personal)))
    told += [f"{name}={expression_code(expression)}" for name, expression in source.derived.items()]
    return _digest(code_text(source.contract), repr(source.key), source.same_key, *told)


def repair_hash(source: Source) -> str:
    """The version of a source's repair function; of none where it has none."""
    return _digest(code_text(source.repair) if source.repair else "")


def pipeline_code_hash(pipeline: Pipeline) -> str:
    """Of everything in a pipeline that decides what a model sees.

    The features' own hashes are in it, so that nothing goes on with a table under which one of them changed: they say
    what Polars is asked for, whatever way the pipeline's file came to ask for it.
    """
    label = pipeline.label
    label_code = [expression_code(each) for each in (label.expression, label.weight) if each is not None]
    contracts = (contract_hash(source) for source in pipeline.sources)
    return _digest(feature_code_hash(pipeline), *feature_hashes(pipeline).values(), *label_code, *contracts)


def _inputs(pipeline: Pipeline, rows: pl.LazyFrame) -> pl.LazyFrame:
    if pipeline.features is not None:
        return pipeline.features(rows)
    entity = pipeline.entity_source
    schema = row_schema(pipeline)
    return rows.select(n for n, t in schema.items() if n not in entity.key and not t.is_temporal())


def _kind(name: str, dtype: Any) -> Kind:
    if dtype.is_numeric() or dtype == pl.Boolean:
        return "number"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "category"
    raise FeatureMistake(
        f"features() returns {name!r} of type {dtype}; an input is a number, a boolean or a string. End features() "
        "with .select(...) of exactly the model's inputs.",
        name,
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
