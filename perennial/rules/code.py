"""The text of what a pipeline's function does: its source, and all of the pipeline's own that it refers to. Pure.

A constant or a helper that a function names is as much its code as its own lines. What is installed (Polars, Perennial
itself) counts by name alone: the lock file says which version it is.
"""

import ast
import functools
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import polars as pl

from perennial.spec.expressions import expression_code
from perennial.spec.history import History

_INSTALLED = (
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
    Path(__file__).resolve().parents[1],
)


def code_text(function: Callable[..., Any]) -> str:
    """The source of a function or class, then that of the constants, functions and classes it refers to, and so on."""
    return "\x1e".join(_texts(function, set()))


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    """`seen`: functions, classes and modules that were told before, and what this value lies in."""
    if isinstance(value, History):
        yield str(value)  # what decides its values: what it means for people does not
    elif isinstance(value, FunctionType | type | ModuleType):
        if id(value) not in seen:
            seen.add(id(value))
            yield from _source(value, seen)
    elif isinstance(value, functools.partial):
        yield from _all([value.func, value.args, value.keywords], seen)
    elif isinstance(value, dict | list | tuple | set | frozenset) or is_dataclass(value):
        if id(value) not in seen:
            seen.add(id(value))
            yield from _parts(value, seen)
            seen.remove(id(value))
    elif isinstance(value, CellType):
        try:
            yield from _texts(value.cell_contents, seen)
        except ValueError:
            yield "empty"
    elif hasattr(value, "__wrapped__"):  # functools.cache and its like
        yield from _texts(value.__wrapped__, seen)
    else:
        yield _plain(value)


def _all(values: Iterable[Any], seen: set[int]) -> Iterator[str]:
    for value in values:
        yield from _texts(value, seen)


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """Of a value that holds others: each exactly, which its own text would not say."""
    yield f"{type(value).__qualname__}("
    if isinstance(value, set | frozenset):
        yield from sorted("\x1e".join(_texts(item, set(seen))) for item in value)
    elif is_dataclass(value):
        yield from _all(((item.name, getattr(value, item.name)) for item in fields(value)), seen)
    else:
        yield from _all(value.items() if isinstance(value, dict) else value, seen)
    yield ")"


def _plain(value: Any) -> str:
    """What says the same in every process: no address, and no state that is set elsewhere, such as a logger's level."""
    if isinstance(value, pl.Expr):
        return expression_code(value)
    if isinstance(value, pl.Series):
        return f"{value.dtype} {value.to_list()}"
    if isinstance(value, pl.DataFrame):
        return f"{value.schema} {value.rows()}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.tolist()}"
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}={value.value!r}"
    text = repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}" if text.startswith("<") else text


def _source(value: FunctionType | type | ModuleType, seen: set[int]) -> Iterator[str]:
    """By name where it is installed, else its source and what that names."""
    told = value.__name__ if isinstance(value, ModuleType) else f"{value.__module__}.{value.__qualname__}"
    if not _is_own(value):
        yield told
    elif isinstance(value, FunctionType):
        yield inspect.getsource(value.__code__)  # of a decorated function the decorator's; the closure has its own
        yield from _all([*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__], seen)
        yield from _named(_names(value.__code__), value.__globals__, seen)
    else:
        source = textwrap.dedent(inspect.getsource(value))
        yield source
        if isinstance(value, type):
            names = (node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
            yield from _named(names, vars(sys.modules[value.__module__]), seen)


def _named(names: Iterable[str], found: Mapping[str, Any], seen: set[int]) -> Iterator[str]:
    for name in sorted(set(names)):
        if name in found:
            yield f"{name}="
            yield from _texts(found[name], seen)


def _names(code: CodeType) -> Iterator[str]:
    """What a function and those inside it may look up in its module."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_own(value: FunctionType | type | ModuleType) -> bool:
    if isinstance(value, FunctionType):
        file: str | None = value.__code__.co_filename
    else:
        module = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__)
        file = getattr(module, "__file__", None)
    path = Path(file or "").resolve()
    return path.is_file() and not any(path.is_relative_to(folder) for folder in _INSTALLED)
