"""Loads a pipeline's file and refuses mistakes by name and line, before anything runs."""

import ast
import importlib.util
import re
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import polars as pl

from perennial.spec.expressions import HIDDEN, calls_python, expression_code
from perennial.spec.mistakes import find_misdeclared, find_unlike_pairs
from perennial.spec.models import find_model_mistakes
from perennial.spec.pipeline import SCHEDULABLE, Pipeline
from perennial.spec.sources import AsOf, Label, Source

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "pipelines"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CRON = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))  # lowest and highest number of each field
_CRON_PART = r"(\*|\d+(-\d+)?|[A-Za-z]{3}(-[A-Za-z]{3})?)(/[1-9]\d*)?"
_CRON_FIELD = re.compile(f"{_CRON_PART}(,{_CRON_PART})*")
_MISSING = re.compile(r'unable to find column "([^"]+)"')  # Polars's words for a column that is not there


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
        raise _at(path, "no `pipeline = Pipeline(...)` at the top level.", "pipeline")
    if pipeline.name != name:
        message = f"the pipeline is called {pipeline.name!r}; name it {name!r}, as its file."
        raise _at(path, message, "Pipeline()", pipeline.name)
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
        line = error.lineno if isinstance(error, SyntaxError) else _line_reached(path, error)
        raise PipelineError(f"{path}:{line or 1}: {type(error).__name__}: {error}") from error
    return module


def _check(path: Path, pipeline: Pipeline) -> None:
    from perennial.rules.declared import (
        find_mistakes,  # rules build on spec; only this and the features' check look back
    )
    from perennial.rules.declared_joins import find_join_mistakes, find_known_mistakes

    sources = {source.name: source for source in pipeline.sources}
    if not sources:
        raise _at(path, "a pipeline needs at least one source, such as Files(...).", "sources")
    if len(sources) != len(pipeline.sources):
        raise _at(path, f"two sources have one name: {[source.name for source in pipeline.sources]}.", "sources")
    for source in sources.values():
        _check_source(path, source)
        for message, words in (*find_known_mistakes(source), *find_mistakes(source, sources)):
            raise _at(path, message, *words)
    if not pipeline.entity and len(sources) > 1:
        raise _at(path, f"say which source's rows are predicted for: entity= one of {list(sources)}.", "Pipeline()")
    if not isinstance(pipeline.label, Label):
        raise _at(path, f"label must be Label(name, expression), it is {pipeline.label!r}.", "Pipeline()", "label")
    for name, word in ((pipeline.entity, "entity"), (pipeline.label.source, "label")):
        if name and name not in sources:
            message = f"{word} names the source {name!r}, which is not declared; there are {list(sources)}."
            raise _at(path, message, "Pipeline()", word, name)
    entity = pipeline.entity_source
    if entity.event_time is None:
        raise _at(
            path,
            f"source {entity.name!r} has no event_time, and its rows are predicted for: name the column of the instant "
            "a row tells of, by which training, judgement and windows go.",
            f"{type(entity).__name__}({entity.name})",
        )
    _check_joins(path, pipeline, sources)
    _check_label(path, pipeline)
    for message, words in find_join_mistakes(pipeline):
        raise _at(path, message, *words)
    _check_history(path, pipeline)
    for message, words in find_unlike_pairs(pipeline):
        raise _at(path, message, *words)
    for message, word in find_model_mistakes(pipeline.model):
        raise _at(path, message, "model", word)
    _check_schedules(path, pipeline)
    for message, name in pipeline.promotion.mistakes(pipeline.model.task):
        raise _at(path, message, "promotion", name)
    for message, name in pipeline.monitoring.mistakes():
        raise _at(path, message, "monitoring", name)
    for message, name in pipeline.upkeep.mistakes(sources):
        raise _at(path, message, "upkeep", name)
    for message, name in pipeline.rollout.mistakes():
        raise _at(path, f"rollout: {message}", "rollout", name)
    if not 0 < pipeline.serving.log_share <= 1:
        message = f"log_share={pipeline.serving.log_share} must be a share above 0 and at most 1."
        raise _at(path, message, "serving", "log_share")
    for message, name in pipeline.serving.mistakes(pipeline.looked_up):
        raise _at(path, message, "Serving()", name)
    _check_features(path, pipeline)


def _check_source(path: Path, source: Source) -> None:
    here, contract = f"{type(source).__name__}({source.name})", source.contract.__name__
    columns = contract_columns(source)
    if not _NAME.fullmatch(source.name):
        raise _at(path, f"source name {source.name!r} must match [a-z][a-z0-9_]*.", here, source.name)
    for column in columns:
        if column.startswith("_"):
            message = f"column {column!r} of {source.name}: names that begin with _ are Perennial's own."
            raise _at(path, message, contract, column)
    wanted = {"key": list(source.key), "event_time": [source.event_time] if source.event_time else []}
    wanted["known"] = [source.known.column] if source.known else []
    wanted["sensitive"] = list(source.sensitive)
    for word, names in wanted.items():
        for column in names:
            if column not in columns:
                where = f"{word} of source {source.name!r}"
                raise _at(path, _unknown(where, column, list(columns)), here, word, column)
    for column in wanted["event_time"] + wanted["known"]:
        if columns[column] != pl.Datetime("us", "UTC"):
            message = f"{column!r} of {source.name!r} must be UtcMicroseconds, it is {columns[column]}."
            raise _at(path, message, contract, column)
    for message, words in find_misdeclared(source, columns):
        raise _at(path, message, here, *words)


def _check_joins(path: Path, pipeline: Pipeline, sources: dict[str, Source]) -> None:
    entity = source_columns(pipeline.entity_source)
    for join in pipeline.joins:
        here = f"{type(join).__name__}({join.source})"
        if join.source not in sources:
            message = f"a join names the source {join.source!r}, which is not declared; there are {list(sources)}."
            raise _at(path, message, here)
        if isinstance(join, AsOf) and sources[join.source].event_time is None:
            raise _at(path, f"AsOf({join.source!r}) needs a source with an event_time; use Lookup.", here)
        theirs = source_columns(sources[join.source])
        for left, right in join.columns.items():
            if left not in entity:
                where = f"join with {join.source!r}, side of {pipeline.entity_source.name!r}"
                raise _at(path, _unknown(where, left, list(entity)), here, left)
            if right not in theirs:
                raise _at(path, _unknown(f"join with {join.source!r}", right, list(theirs)), here, right)


def _check_label(path: Path, pipeline: Pipeline) -> None:
    label = pipeline.label
    columns = contract_columns(pipeline.label_source)
    for column in sorted(label.columns):
        if column not in columns:
            where = f"label {label.name!r} from {pipeline.label_source.name!r}"
            raise _at(path, _unknown(where, column, list(columns)), "Pipeline()", "label", column)
    for word, expression in (("label", label.expression), ("weight", label.weight)):
        if expression is not None and calls_python(expression_code(expression)):
            raise _at(path, f"{word} of {label.name!r} {HIDDEN}", "Pipeline()", "label", word)
    missing = [c for c in pipeline.entity_source.key if c not in columns]
    if label.source and missing:
        message = f"label source {label.source!r} lacks {missing} of the entity's key, by which it is joined."
        raise _at(path, message, "Pipeline()", "label", label.source)


def _check_history(path: Path, pipeline: Pipeline) -> None:
    from perennial.rules.declared_history import find_history_mistakes
    from perennial.rules.features import row_schema

    for message, words in find_history_mistakes(pipeline, row_schema(replace(pipeline, history=()))):
        raise _at(path, message, *words)


def _check_schedules(path: Path, pipeline: Pipeline) -> None:
    for schedule in pipeline.schedules:
        if schedule.flow not in SCHEDULABLE:
            message = f"flow {schedule.flow!r} cannot be scheduled; there are {list(SCHEDULABLE)}."
            raise _at(path, message, "schedules", schedule.flow)
        if not _is_cron(schedule.cron):
            message = f"cron {schedule.cron!r} must have five fields, minute to day of the week, such as '0 3 * * *'."
            raise _at(path, message, "schedules", schedule.flow, schedule.cron)


def _is_cron(text: str) -> bool:
    fields = text.split()
    return len(fields) == len(_CRON) and all(
        _CRON_FIELD.fullmatch(field)
        and all(low <= int(number) <= high for number in re.findall(r"\d+", re.sub(r"/\d+", "", field)))
        for field, (low, high) in zip(fields, _CRON, strict=True)
    )


def _check_features(path: Path, pipeline: Pipeline) -> None:
    from perennial.rules.features import FeatureMistake, input_names, row_schema
    from perennial.rules.rowwise import find_dependent

    function = pipeline.features.__name__ if pipeline.features else "Pipeline()"
    try:
        kinds = input_names(pipeline)
    except FeatureMistake as mistake:
        line = _line_reached(path, mistake.__cause__) if mistake.__cause__ else None
        missing = _MISSING.search(str(mistake))
        words = [function, missing.group(1)] if missing else [function, *mistake.words]
        raise _at(path, str(mistake), *words, line=line) from mistake
    except Exception as error:
        message = f"features() fails on the declared columns: {type(error).__name__}: {error}"
        raise _at(path, message, function, line=_line_reached(path, error)) from error
    if pipeline.features and (dependent := find_dependent(pipeline.features, row_schema(pipeline))):
        message = (
            f"features() gives a row another {dependent[0]!r} beside other rows than alone, so serving would differ from "
            "training. What looks at other rows (windows, joins) is declared: History, AsOf, Lookup."
        )
        raise _at(path, message, function, dependent[0])
    if (label := pipeline.label.name) in {*kinds, *row_schema(pipeline), *pipeline.entity_source.key}:
        message = f"label {label!r} is called like a column beside it; give it a name that no column has."
        raise _at(path, message, "Pipeline()", "label", label)
    for name in pipeline.promotion.slices:
        if name not in kinds:
            raise _at(path, _unknown("slices of the promotion", name, list(kinds)), "slices", name)


def contract_columns(source: Source) -> dict[str, pl.DataType]:
    """Column names and Polars types that a source's contract promises."""
    schema = source.contract.to_schema()
    return {name: column.dtype.type for name, column in schema.columns.items()}


def source_columns(source: Source) -> dict[str, pl.DataType]:
    """The contract's columns and those that are made from nested ones: what joins, histories and features read."""
    return {**contract_columns(source), **{name: json.type for name, json in source.flatten.items()}}


def _unknown(where: str, column: str, known: list[str]) -> str:
    return f"{where}: there is no column {column!r}; there are {known}."


def _line_reached(path: Path, error: BaseException) -> int | None:
    """The last line of the file that ran before the error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _at(path: Path, message: str, *words: str, line: int | None = None) -> PipelineError:
    """The error with the line of the last word that is found, each looked for inside the one before it.

    Args:
        words: `name` of a class, function, column, keyword or text; `Files(orders)` for the call with this first value.
        line: known already.
    """
    scope: ast.AST = ast.parse(path.read_text())
    found = 1
    for word in () if line else words:
        nodes = [node for node in ast.walk(scope) if _is_called(node, word)]
        if nodes:
            first = min(nodes, key=lambda node: node.lineno)  # type: ignore[attr-defined]  # all of these have one
            found = first.lineno  # type: ignore[attr-defined]
            scope = scope if isinstance(first, ast.Constant) else first
    return PipelineError(f"{path}:{line or found}: {message}")


def _is_called(node: ast.AST, word: str) -> bool:
    match node:
        case ast.Constant(value=value):
            return bool(value == word)
        case ast.keyword(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name == word
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name == word
        case ast.Call(func=ast.Name(id=name)):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            firsts = [v.value for v in values[:1] if isinstance(v, ast.Constant)]
            return word in (f"{name}()", *(f"{name}({first!s})" for first in firsts))
    return False
