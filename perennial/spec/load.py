"""Loads a pipeline's file and refuses mistakes by name and line, before anything runs."""

import ast
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

import polars as pl

from perennial.spec.pipeline import SCHEDULABLE, Pipeline
from perennial.spec.sources import AsOf, Files

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "pipelines"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class PipelineError(ValueError):
    """A mistake in a pipeline's file. Nothing ran; the message says where it stands and what would be right."""


def list_pipelines(folder: Path = DEFAULT_FOLDER) -> list[str]:
    """Names of the pipelines that have a file in the folder."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load_pipeline(name: str, folder: Path = DEFAULT_FOLDER) -> Pipeline:
    """The pipeline that `<folder>/<name>.py` declares, checked.

    Raises:
        PipelineError: the file is missing, does not run, or says something that cannot be right.
    """
    path = folder / f"{name}.py"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise PipelineError(
            f"there is no pipeline {name!r} in {folder}; there are: {', '.join(list_pipelines(folder)) or 'none'}."
        )
    pipeline = getattr(_run(path), "pipeline", None)
    if not isinstance(pipeline, Pipeline):
        raise PipelineError(f"{path}: no `pipeline = Pipeline(...)` at the top level.")
    if pipeline.name != name:
        raise _at(path, f"the pipeline is called {pipeline.name!r}; name it {name!r}, as its file.", pipeline.name)
    _check(path, pipeline)
    return pipeline


def _run(path: Path) -> ModuleType:
    # A name of its own: two pipelines' files may define classes of the same name.
    spec = importlib.util.spec_from_file_location(f"pipelines.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        raise PipelineError(f"{path}:{line or 1}: {type(error).__name__}: {error}") from error
    return module


def _check(path: Path, pipeline: Pipeline) -> None:
    sources = {source.name: source for source in pipeline.sources}
    if not sources:
        raise _at(path, "a pipeline needs at least one source, such as Files(...).", "sources")
    if len(sources) != len(pipeline.sources):
        raise _at(path, f"two sources have one name: {[source.name for source in pipeline.sources]}.", "sources")
    for source in sources.values():
        _check_source(path, source)
    if not pipeline.entity and len(sources) > 1:
        raise _at(path, f"say which source's rows are predicted for: entity= one of {list(sources)}.", "pipeline")
    for name, word in ((pipeline.entity or pipeline.sources[0].name, "entity"), (pipeline.label.source, "label")):
        if name and name not in sources:
            raise _at(
                path, f"{word} names the source {name!r}, which is not declared; there are {list(sources)}.", name
            )
    _check_joins(path, pipeline, sources)
    _check_label(path, pipeline)
    _check_schedules(path, pipeline)
    _check_features(path, pipeline)


def _check_source(path: Path, source: Files) -> None:
    columns = contract_columns(source)
    if not _NAME.fullmatch(source.name):
        raise _at(path, f"source name {source.name!r} must match [a-z][a-z0-9_]*.", source.name)
    for column in columns:
        if column.startswith("_"):
            raise _at(path, f"column {column!r} of {source.name}: names that begin with _ are Perennial's own.", column)
    if not source.key:
        raise _at(path, f"source {source.name!r} has no key: name the columns that make a row unique.", source.name)
    wanted = {"key": list(source.key), "event_time": [source.event_time] if source.event_time else []}
    wanted["known"] = [source.known.column] if source.known else []
    for word, names in wanted.items():
        for column in names:
            if column not in columns:
                raise _at(path, _unknown(f"{word} of source {source.name!r}", column, list(columns)), column)
    for column in wanted["event_time"] + wanted["known"]:
        if columns[column] != pl.Datetime("us", "UTC"):
            raise _at(path, f"{column!r} of {source.name!r} must be UtcMicroseconds, it is {columns[column]}.", column)
    if not 0 <= source.error_budget_share <= 1:
        raise _at(path, f"error_budget_share {source.error_budget_share} must lie in [0, 1].", "error_budget_share")


def _check_joins(path: Path, pipeline: Pipeline, sources: dict[str, Files]) -> None:
    entity = contract_columns(pipeline.entity_source)
    for join in pipeline.joins:
        if join.source not in sources:
            raise _at(
                path, f"a join names the source {join.source!r}, not declared; there are {list(sources)}.", join.source
            )
        if isinstance(join, AsOf) and sources[join.source].event_time is None:
            raise _at(path, f"AsOf({join.source!r}) needs a source with an event_time; use Lookup.", join.source)
        theirs = contract_columns(sources[join.source])
        for left, right in join.columns.items():
            if left not in entity:
                raise _at(
                    path,
                    _unknown(f"join with {join.source!r}, side of {pipeline.entity_source.name!r}", left, list(entity)),
                    left,
                )
            if right not in theirs:
                raise _at(path, _unknown(f"join with {join.source!r}", right, list(theirs)), right)


def _check_label(path: Path, pipeline: Pipeline) -> None:
    label = pipeline.label
    columns = contract_columns(pipeline.label_source)
    for column in label.expression.meta.root_names():
        if column not in columns:
            raise _at(
                path,
                _unknown(f"label {label.name!r} from {pipeline.label_source.name!r}", column, list(columns)),
                column,
            )
    missing = [c for c in pipeline.entity_source.key if c not in columns]
    if label.source and missing:
        raise _at(
            path,
            f"label source {label.source!r} lacks {missing} of the entity's key, by which it is joined.",
            label.source,
        )


def _check_schedules(path: Path, pipeline: Pipeline) -> None:
    for schedule in pipeline.schedules:
        if schedule.flow not in SCHEDULABLE:
            raise _at(
                path, f"flow {schedule.flow!r} cannot be scheduled; there are {list(SCHEDULABLE)}.", schedule.flow
            )
        if len(schedule.cron.split()) != 5:
            raise _at(path, f"cron {schedule.cron!r} must have five fields.", schedule.cron)


def _check_features(path: Path, pipeline: Pipeline) -> None:
    from perennial.rules.features import FeatureMistake, input_names  # rules build on spec; only this check looks back

    try:
        kinds = input_names(pipeline)
    except FeatureMistake as mistake:
        raise _at(path, str(mistake), *mistake.words, "features") from mistake
    for name in pipeline.promotion.slices:
        if name not in kinds:
            raise _at(path, _unknown("slices of the promotion", name, list(kinds)), name)


def contract_columns(source: Files) -> dict[str, pl.DataType]:
    """Column names and Polars types that a source's contract promises."""
    schema = source.contract.to_schema()
    return {name: column.dtype.type for name, column in schema.columns.items()}


def _unknown(where: str, column: str, known: list[str]) -> str:
    return f"{where}: there is no column {column!r}; there are {known}."


def _at(path: Path, message: str, *words: str) -> PipelineError:
    """The error with the line where one of the words stands in the file, the first that is found."""
    tree = ast.parse(path.read_text())
    for word in words:
        for node in ast.walk(tree):
            constant = isinstance(node, ast.Constant) and node.value == word
            keyword = isinstance(node, ast.keyword) and node.arg == word
            named = isinstance(node, ast.FunctionDef) and node.name == word
            target = isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == word for t in node.targets
            )
            if constant or keyword or named or target:
                return PipelineError(f"{path}:{node.lineno}: {message}")  # type: ignore[attr-defined]
    return PipelineError(f"{path}: {message}")
