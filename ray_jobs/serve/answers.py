"""From a question to its answer: the same features and the same scorer as training and batch scoring use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyiceberg.exceptions import NoSuchTableError

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.personal import open_pseudonyms
from perennial.lakehouse.prediction_log import INSTANT, check_log, prediction_schema
from perennial.lakehouse.raw import log_schema, raw_table
from perennial.lakehouse.tables import read_columns
from perennial.rules.features import compute_features, input_names, known_at, row_schema
from perennial.rules.history import history_types
from perennial.rules.joins import joined_columns
from perennial.rules.scoring import SCORE_COLUMNS
from perennial.rules.tabular import FEW_ROWS
from perennial.spec import AsOf, Join, Pipeline, Source
from perennial.spec.load import source_columns
from ray_jobs.serve.checks import RowChecks
from ray_jobs.serve.keeper import Serving
from ray_jobs.serve.rows import RowReader, RowSchema, Sent
from ray_jobs.serve.values import BadRequest, Column


class FeaturesDiffer(RuntimeError):
    """The pipeline's features are not the inputs the model was trained on."""


@dataclass(frozen=True)
class Logged:
    """A request in the prediction log: its id, its rows, its latency, and how many answered rows each stands for."""

    request_id: str
    rows: int
    latency_ms: float
    weight: float = 1.0


class Answers:
    """Everything of a pipeline that an answer needs and that does not change with the version. Safe from any thread."""

    def __init__(self, lake: Lake, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.inputs = input_names(pipeline)
        self._given = row_schema(pipeline)
        self.schema = _row_schema(pipeline, list(self.inputs))
        self._reader = RowReader(self.schema)
        self.checks = RowChecks(pipeline, self.schema)
        self._empty = pl.DataFrame(schema={name: column.dtype for name, column in self.schema.columns.items()})
        self._joined = {join.source: _joined(pipeline, join) for join in pipeline.joins}
        self._example = _read_example(lake, pipeline, self._empty)
        entity = pipeline.entity_source
        self._personal = [
            *entity.personal,
            *(f"{join.source}_{name}" for join in pipeline.joins for name in pipeline.source(join.source).personal),
        ]
        self._pseudonyms = open_pseudonyms(lake, pipeline.name) if self._personal else None
        identity = [*entity.key, *([entity.event_time] if entity.event_time else [])]
        self._identity = {name: _iceberg_type(self._empty[name]) for name in identity}
        many_classes = pipeline.model.task == "multiclass"
        self.log_schema = prediction_schema(self._identity, self.inputs, many_classes=many_classes)
        check_log(lake, pipeline.name, self.log_schema)
        self._score_columns = [name for name in SCORE_COLUMNS if name in self.log_schema.names]

    @property
    def example(self) -> dict[str, Any]:
        """A row that can be sent, as JSON."""
        example = self._example.with_columns(  # a caller sends the value, not the pseudonym that was ingested for it
            pl.lit(f"<{name}>").alias(name) for name in self._pipeline.entity_source.personal
        )
        row = example.select(sorted(self.schema.required)).row(0, named=True)
        return {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}

    def read(self, requests: Sequence[Sent]) -> pl.DataFrame:
        """The rows of requests with the same columns, typed, and kept to the contract.

        Raises:
            BadRequest: a row is not what the contract promises.
        """
        self._reader.brought(frozenset(requests[0].columns))
        rows = self._reader.frame(requests)
        self.checks.refuse(rows)
        return rows

    def compute(self, rows: pl.DataFrame, serving: Serving, now: datetime) -> pl.DataFrame:
        """The rows' features, in the rows' order: the same for every version that the replica holds.

        Raises:
            BadRequest: the features cannot be computed from these values.
        """
        brought = self._reader.brought(frozenset(rows.columns))
        try:
            rows = rows.hstack(_nulls(rows, self._empty.schema))
            if self._pseudonyms:
                rows = self._pseudonyms.replace(rows, self._personal)
            for source in brought & {*self._joined}:  # what of a join nothing reads need not be sent
                rows = rows.hstack(_nulls(rows, self._joined[source]))
            rows = known_at(self._pipeline.entity_source, rows, as_of=now)
            held = {name: loaded.held for name, loaded in serving.tables.items()}
            return compute_features(self._pipeline, rows, {}, held, self._given)
        except pl.exceptions.PolarsError as error:
            raise BadRequest(f"the features cannot be computed from these rows: {error}") from error

    def stale(self, sent: frozenset[str], serving: Serving, now: datetime) -> dict[str, str]:
        """The sources that rows with these columns are answered from beyond their declared freshness, and how old in words."""
        brought, found = self._reader.brought(sent), {}
        for name, bound in self._pipeline.serving.freshness.items():
            used = {join.source for join in self._pipeline.joins} - brought
            used |= {source for source in self._pipeline.history_sources if history_of(source) not in brought}
            age = serving.tables[name].age(now)
            if name in used and (age is None or age > bound):
                hours = "never" if age is None else f"{age / timedelta(hours=1):.2f} hours ago"
                found[name] = (
                    f"its newest row became known {hours}, and its freshness is {bound / timedelta(hours=1):g} hours"
                )
        return found

    def refuse_stale(self, stale: dict[str, str]) -> None:
        """Refuse to answer from stale sources, where the pipeline says so.

        Raises:
            BadRequest: 503, with every such source.
        """
        if stale and self._pipeline.serving.stale == "refuse":
            told = "; ".join(f"source {name!r} is stale: {why}" for name, why in stale.items())
            raise BadRequest(
                f"{told}. Nothing was computed. Ask again once ingest has brought newer rows, or send the columns along.",
                503,
            )

    def to_log(
        self,
        computed: pl.DataFrame,
        scores: NDArray[np.float64] | None,
        serving: Serving,
        request_id: str,
        answered_at: datetime,
        latency_ms: float,
        role: str = "champion",
        error: str | None = None,
        weight: float = 1.0,
    ) -> pa.Table:
        """The rows of the prediction log, of one request.

        Args:
            scores: None where the version could not score them; `error` says why.
            weight: how many answered rows each stands for.
        """
        asked = Logged(request_id, computed.height, latency_ms, weight)
        return self.all_to_log(computed, scores, serving, [asked], answered_at, role, error)

    def all_to_log(
        self,
        computed: pl.DataFrame,
        scores: NDArray[np.float64] | None,
        serving: Serving,
        requests: Sequence[Logged],
        answered_at: datetime,
        role: str,
        error: str | None = None,
    ) -> pa.Table:
        """The rows of the prediction log, of several requests in the rows' order."""
        counts, rows = np.array([request.rows for request in requests]), computed.height
        known = {
            "request_id": pa.array(
                [request.request_id for request in requests for _ in range(request.rows)], pa.string()
            ),
            "row_index": pa.array(np.concatenate([np.arange(count) for count in counts]), pa.int32()),
            "version": pa.repeat(pa.scalar(serving.version.version, pa.int32()), rows),
            "role": pa.repeat(role, rows),
            "answered_at": pa.repeat(pa.scalar(answered_at, INSTANT), rows),
            "latency_ms": pa.array(np.repeat([float(request.latency_ms) for request in requests], counts)),
            "error": pa.repeat(pa.scalar(error, pa.string()), rows),
            "weight": pa.array(np.repeat([float(request.weight) for request in requests], counts)),
        }
        if scores is None:
            known |= {name: pa.nulls(rows, self.log_schema.field(name).type) for name in self._score_columns}
        else:
            given = serving.scorer.columns(scores)
            known |= {n: given[n].to_arrow().cast(self.log_schema.field(n).type) for n in self._score_columns}
        columns = [
            known[field.name] if field.name in known else _to_arrow(computed[field.name], field.type)
            for field in self.log_schema
        ]
        return pa.Table.from_arrays(columns, schema=self.log_schema)

    def try_out(self, serving: Serving) -> None:
        """Answer the example: a model that cannot answer it is not served.

        Raises:
            FeaturesDiffer: the model wants other inputs than the features give.
        """
        wanted = dict(serving.scorer.inputs)
        if wanted != self.inputs:
            raise FeaturesDiffer(
                f"version {serving.version.version} of {self._pipeline.name} was trained on {wanted}, and its features "
                f"are {self.inputs} here. It is not served. Train a new version, or check out its revision."
            )
        serving.scorer.score(self.compute(self._example, serving, datetime.now(UTC)))


def _to_arrow(values: pl.Series, kind: pa.DataType) -> pa.Array:
    if values.dtype == pl.String and values.len() <= FEW_ROWS:  # a few rows are logged a thousand times a second
        return pa.array(values.to_list(), kind)
    array = values.to_arrow()
    return array if array.type == kind else array.cast(kind, safe=False)


def _nulls(rows: pl.DataFrame, types: Mapping[str, pl.DataType]) -> list[pl.Series]:
    """Columns of nulls for those that the rows lack."""
    return [pl.Series(n, [None], t).new_from_index(0, rows.height) for n, t in types.items() if n not in rows.columns]


def _row_schema(pipeline: Pipeline, inputs: list[str]) -> RowSchema:
    entity = pipeline.entity_source
    columns = _columns_of(entity)
    joined = {  # nullable: what a join does not find is null, too
        join.source: {name: Column(dtype, nullable=True) for name, dtype in _joined(pipeline, join).items()}
        for join in pipeline.joins
    }
    for name, features in pipeline.history_sources.items():
        types = history_types(features, source_columns(pipeline.source(name)))
        joined[history_of(name)] = {feature: Column(dtype, nullable=True) for feature, dtype in types.items()}
    known = getattr(entity.known, "column", None)
    used = [*pipeline.joins, *pipeline.history]
    always = {*entity.key, entity.event_time, known, *(name for use in used for name in use.columns)}
    every = {**columns, **{name: column for join in joined.values() for name, column in join.items()}}
    nested = {json.column for json in entity.flatten.values()}
    flat = {name: Column(json.type, nullable=True) for name, json in entity.flatten.items()}
    read = nested | {name for name in every if _is_read(pipeline, inputs, {**every, **flat}, name)}
    return RowSchema(
        columns=columns,
        required=frozenset(name for name in columns if name in always or name in read),
        joined={source: {n: c for n, c in of.items() if n in read} for source, of in joined.items()},
    )


def history_of(source: str) -> str:
    """What a row's schema calls the history features of a source."""
    return f"history of {source}"


def _columns_of(source: Source) -> dict[str, Column]:
    schema = source.contract.to_schema()
    return {name: Column(column.dtype.type, bool(column.nullable)) for name, column in schema.columns.items()}


def _joined(pipeline: Pipeline, join: Join) -> dict[str, pl.DataType]:
    source = pipeline.source(join.source)
    time = source.event_time if isinstance(join, AsOf) else None
    return joined_columns(source_columns(source), join.columns, join.source, time)


def _is_read(pipeline: Pipeline, inputs: list[str], columns: dict[str, Column], name: str) -> bool:
    """Whether the features cannot be computed without a column: what no feature reads, nobody has to send."""
    if pipeline.features is None:
        return name in inputs
    frame = pl.LazyFrame(schema={other: column.dtype for other, column in columns.items() if other != name})
    try:
        pipeline.features(frame).select(inputs).collect_schema()
    except pl.exceptions.ColumnNotFoundError:
        return True
    return False


def _read_example(lake: Lake, pipeline: Pipeline, empty: pl.DataFrame) -> pl.DataFrame:
    """One row as it was ingested; before anything was, one of zeros and empty strings."""
    try:
        entity = pipeline.entity_source
        identifier = raw_table(lake, pipeline.name, entity.name)
        rows = pl.from_arrow(read_columns(lake, identifier, log_schema(entity), limit=1))
        assert isinstance(rows, pl.DataFrame)
        if rows.height:
            return rows.select(pl.col(name).cast(dtype) for name, dtype in empty.schema.items())
    except NoSuchTableError:
        pass
    row = pl.DataFrame({"_": [0]}).with_columns(_placeholder(dtype).alias(name) for name, dtype in empty.schema.items())
    return row.select(empty.columns)


def _placeholder(dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.String:
        return pl.lit("")
    return pl.lit(0).cast(dtype)


def _iceberg_type(values: pl.Series) -> pa.DataType:
    kind = values.to_arrow().type
    if pa.types.is_timestamp(kind):
        return INSTANT
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind
