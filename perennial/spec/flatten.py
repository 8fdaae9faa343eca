"""Columns that are made from nested JSON: a value somewhere inside, or one number for a list."""

from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

ListAggregate = Literal["count", "sum", "mean", "min", "max", "first", "last", "distinct"]
_TYPES: dict[type, pl.DataType] = {float: pl.Float64(), int: pl.Int64(), bool: pl.Boolean(), str: pl.String()}


@dataclass(frozen=True)
class Json:
    """One column out of a nested one: declared on a source, `flatten={"country": Json("payload", "user.country", str)}`.

    Args:
        column: of the contract, text that holds JSON; text that is none gives null.
        path: names with dots between them; `[]` after one goes through a list: `items[].cents`.
        dtype: `float`, `int`, `bool` or `str`; a value of another type is null.
        aggregate: what a path with `[]` needs: `count`, `sum`, `mean`, `min`, `max`, `first`, `last` or `distinct` (how
            many), of the values that are there. Of an empty list `count`, `sum` and `distinct` are 0, the others null.
        unit: what the value is counted in, for people.
        doc: what it means, for people.
    """

    column: str
    path: str
    dtype: type = float
    aggregate: ListAggregate | None = None
    unit: str = ""
    doc: str = ""

    @property
    def type(self) -> pl.DataType:
        """The column's type."""
        if self.aggregate in ("count", "distinct"):
            return pl.Int64()
        return pl.Float64() if self.aggregate == "mean" else _TYPES[self.dtype]

    def mistakes(self) -> list[str]:
        """What cannot be right by itself."""
        found = []
        if self.dtype not in _TYPES:
            found.append(f"dtype {self.dtype!r} must be float, int, bool or str.")
        if not self.path or any(not part.removesuffix("[]") for part in self.path.split(".")):
            found.append(
                f"path {self.path!r} must be names with dots between them, such as user.country or items[].cents."
            )
        if self.aggregate is not None and self.aggregate not in get_args(ListAggregate):
            found.append(f"aggregate {self.aggregate!r} must be one of {get_args(ListAggregate)}.")
        if ("[]" in self.path) != (self.aggregate is not None):
            found.append(f"path {self.path!r}: a list [] needs an aggregate, and only a list has one.")
        if self.aggregate in ("sum", "mean", "min", "max") and self.dtype in (str, bool):
            found.append(f"{self.aggregate} is of numbers, and dtype is {self.dtype.__name__}.")
        return found
