"""What features() does, expression by expression, as Polars keeps it before it plans. Pure."""

import io
import json
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl

from perennial.spec.expressions import expression_code

_SELECTING = {"Select": "expr", "HStack": "exprs"}  # the nodes of a plan that row features need, and where theirs are


def plan_code(query: pl.LazyFrame) -> str:
    """The whole plan, as JSON."""
    with warnings.catch_warnings():  # that JSON is no format to keep plans in; this one is only looked at
        warnings.simplefilter("ignore", UserWarning)
        return query.serialize(format="json")


def column_code(query: pl.LazyFrame, name: str) -> list[str]:
    """The expressions that a column is made by, and those these read: the whole plan where it has steps of other kinds."""
    whole = plan_code(query)
    expressions = list(plan_expressions(json.loads(whole)))
    made: dict[str, list[pl.Expr]] = {}
    told = []
    for node in expressions:
        expression = None if node is None else _expression(node)
        if expression is None:
            return [whole]
        if set(node) == {"Selector"}:  # columns that keep their names
            told.append(json.dumps(node))
        elif (output := expression.meta.output_name(raise_if_undetermined=False)) is None:
            return [whole]
        else:
            made.setdefault(output, []).append(expression)
    wanted, read = [name], {name}
    while wanted:
        for expression in made.get(wanted.pop(), []):
            told.append(expression_code(expression))
            wanted += [root for root in expression.meta.root_names() if root not in read]
            read.update(wanted)
    return sorted(told)


def plan_expressions(plan: Any) -> Iterator[Any]:
    """The expressions of a plan, as JSON; None for a step that is more than expressions of columns."""
    ((kind, node),) = plan.items()
    if kind == "DataFrameScan":
        return
    if kind == "IR":  # a plan whose schema was asked for: what was asked is beside it
        yield from plan_expressions(node["dsl"])
        return
    if kind in _SELECTING:
        yield from node[_SELECTING[kind]]
    else:
        yield None
    if isinstance(node, dict) and "input" in node:
        yield from plan_expressions(node["input"])


def _expression(node: Any) -> pl.Expr:
    return pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")
