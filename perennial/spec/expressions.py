"""What an expression is, exactly: its printed text leaves arguments out, so that `round(0)` and `round(2)` print alike."""

import polars as pl

_PICKLE = ",128,5,149,"  # how a pickle begins; Polars keeps a Python function as the bytes of one


def expression_code(expression: pl.Expr) -> str:
    """All that Polars keeps of it, as JSON: the same in every process, and another for another expression."""
    return expression.meta.serialize(format="json")


def calls_python(code: str) -> bool:
    """Whether an expression's, or a plan's, code has a Python function in it: only its name or its address is there then."""
    return _PICKLE in code.replace(" ", "")


HIDDEN = (
    "calls a Python function, of which no hash could say that it changed: say it in Polars's own expressions, such as "
    "pl.when(...), replace_strict(...) or str.extract(...)."
)
"""Why an expression that is declared may not do so."""
