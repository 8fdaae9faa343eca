"""From a pipeline's features to the two matrices a network reads: fitted on the training rows, carried as JSON.

Numbers are standardised, missing ones get the median and a column that says so; categories become positions in a
vocabulary, with one slot for a missing value and one for a value never seen.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

InputKind = Literal["number", "category"]
MISSING_SLOT = 0
UNSEEN_SLOT = 1
FIRST_VALUE_SLOT = 2
FURTHEST = 1e6  # standard deviations a value is held within: a float32 holds no 1e300, and its products no 1e30
LARGEST = 1e150  # beyond it a value says as little as infinity does: its square is none that a float64 holds
FINEST = 2.0**-13  # of a bin's distance from 0: narrower ones have fewer than a thousand values of a float32
TAILS = (0.001, 0.01, 0.99, 0.999)
CHUNK_ROWS = 65_536
FEW_ROWS = 256  # below which a dictionary is quicker than a pass of Polars


class NumberColumn(BaseModel, frozen=True):
    """How one number is prepared.

    Args:
        median: stands in for a missing value.
        center: subtracted, in the column's unit.
        scale: divided by; 0 where the training rows held one value only: the column is then left out.
        missing_seen: whether training rows lacked it now and then, so that its absence has a column of its own.
        edges: bin edges in standardised units, rising, at the training rows' quantiles.
        grid: where standardised values would crowd in a corner that float32 cannot tell apart (a sentinel of 1e12 among
            shares, amounts over ten powers of ten): the edges in the column's unit. A value's place among them is
            its place among `edges` then, and `center` and `scale` are not used.
    """

    name: str
    median: float
    center: float
    scale: float
    missing_seen: bool
    edges: tuple[float, ...]
    grid: tuple[float, ...] = ()


class CategoryColumn(BaseModel, frozen=True):
    """How one category is prepared: `vocabulary[i]` has slot `i + 2`; slot 0 is a missing value, 1 an unseen one."""

    name: str
    vocabulary: tuple[str, ...]

    @cached_property
    def slot_of(self) -> dict[str, int]:
        """The slot of each value that was seen."""
        return {value: slot for slot, value in enumerate(self.vocabulary, FIRST_VALUE_SLOT)}

    @property
    def slots(self) -> int:
        """Rows an embedding of this column needs."""
        return len(self.vocabulary) + FIRST_VALUE_SLOT


class Matrices(NamedTuple):
    """Prepared rows. `numbers`: float32 (n, number_width); `categories`: int64 (n, number of categories)."""

    numbers: NDArray[np.float32]
    categories: NDArray[np.int64]


class Preprocessing(BaseModel, frozen=True):
    """What was learned of the inputs from the training rows: enough to prepare any later row, and plain JSON."""

    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]

    @property
    def inputs(self) -> dict[str, InputKind]:
        """Names and kinds of the inputs it expects."""
        kinds: dict[str, InputKind] = {column.name: "number" for column in self.numbers}
        return kinds | {column.name: "category" for column in self.categories}

    @property
    def scaled(self) -> tuple[NumberColumn, ...]:
        """The numbers that vary, in the order of the matrix's first columns."""
        return tuple(column for column in self.numbers if column.scale > 0)

    @property
    def indicators(self) -> tuple[NumberColumn, ...]:
        """The numbers whose absence is a column of its own, after those of `scaled`."""
        return tuple(column for column in self.numbers if column.missing_seen)

    @property
    def number_width(self) -> int:
        """Columns of the number matrix."""
        return len(self.scaled) + len(self.indicators)

    def apply(self, rows: pl.DataFrame) -> Matrices:
        """Prepare rows, in their order. Any further columns are ignored.

        Raises:
            ValueError: an input is missing; the message names it and the columns there are.
        """
        absent = [name for name in self.inputs if name not in rows.columns]
        if absent:
            raise ValueError(
                f"the model's inputs {absent} are not among the columns given, {rows.columns}; nothing was scored. "
                "Send every input the model's signature names; a value may be null, a column may not be left out."
            )
        numbers = np.empty((rows.height, self.number_width), dtype=np.float32)
        for start in range(0, rows.height, CHUNK_ROWS):
            self._fill_numbers(rows[start : start + CHUNK_ROWS], numbers[start : start + CHUNK_ROWS])
        categories = np.empty((rows.height, len(self.categories)), dtype=np.int64)
        for position, category in enumerate(self.categories):
            categories[:, position] = _slots(rows[category.name], category)
        return Matrices(numbers, categories)

    def _fill_numbers(self, rows: pl.DataFrame, numbers: NDArray[np.float32]) -> None:
        if not self.numbers:
            return
        # No query, and nearly all in numpy: a request has one row, and a query costs more than what it does to that.
        given = np.empty((rows.height, len(self.numbers)))
        for position, column in enumerate(self.numbers):
            given[:, position] = rows[column.name].cast(pl.Float64).to_numpy()
        known = np.abs(given) < LARGEST  # null arrives as NaN; infinity and NaN say as little as null does
        scaled = [position for position, column in enumerate(self.numbers) if column.scale > 0]
        if scaled:
            median, center, scale = (
                np.array([getattr(column, name) for column in self.scaled]) for name in ("median", "center", "scale")
            )
            # In float64, cast last: years and unix times differ in digits that float32 does not have.
            filled = np.where(known[:, scaled], given[:, scaled], median)
            numbers[:, : len(scaled)] = np.clip((filled - center) / scale, -FURTHEST, FURTHEST)
            for position, column in enumerate(self.scaled):
                if column.grid:
                    numbers[:, position] = np.interp(filled[:, position], column.grid, column.edges)
        indicated = [position for position, column in enumerate(self.numbers) if column.missing_seen]
        numbers[:, len(scaled) :] = ~known[:, indicated]


def fit_preprocessing(
    rows: pl.DataFrame, inputs: Mapping[str, InputKind], *, bins: int = 16, rare_rows: int = 5
) -> Preprocessing:
    """Learn how to prepare `inputs` from training rows.

    Args:
        bins: quantile bins per number at most; fewer where the column holds fewer values.
        rare_rows: a category's value seen less often than this shares the slot of unseen values, which is thereby
            trained. Small tables keep more: the cut is at most one row in a hundred.
    """
    cut = max(1, min(rare_rows, rows.height // 100))
    return Preprocessing(
        numbers=tuple(_fit_number(_finite(rows, n), bins) for n, kind in inputs.items() if kind == "number"),
        categories=tuple(_fit_category(rows[n], cut) for n, kind in inputs.items() if kind == "category"),
    )


def _finite(rows: pl.DataFrame, name: str) -> pl.Series:
    # Infinity and NaN say as little as null does, and one of them would spread through a whole batch.
    values = rows[name].cast(pl.Float64)
    return values.set(~values.is_between(-LARGEST, LARGEST, closed="none"), None) if values.len() else values


def _fit_number(values: pl.Series, bins: int) -> NumberColumn:
    known = values.drop_nulls().to_numpy()
    missing_seen = 0 < len(known) < len(values)
    median = float(np.median(known)) if len(known) else 0.0
    center = float(known.mean()) if len(known) else 0.0
    scale = float(known.std()) if len(known) else 0.0
    # Below this the spread is rounding, not information.
    if not np.isfinite(scale) or scale <= 1e-12 * max(1.0, abs(center)):
        scale = 0.0
    column = NumberColumn(
        name=values.name, median=median, center=center, scale=scale, missing_seen=missing_seen, edges=()
    )
    if not scale:
        return column
    edges = _quantile_edges((known - center) / scale, bins)
    if not _crowded(edges):
        return column.model_copy(update={"edges": edges})
    shares = np.unique([*np.linspace(0, 1, bins + 1), *TAILS])  # few values are left in a bin with the furthest one
    grid = tuple(np.unique(np.quantile(known, shares, method="nearest")).tolist())
    return column.model_copy(update={"grid": grid, "edges": tuple(np.linspace(-1.7, 1.7, len(grid)).tolist())})


def _crowded(edges: tuple[float, ...]) -> bool:
    at = np.asarray(edges)
    return bool(np.any(np.diff(at) < FINEST * np.maximum(np.abs(at[:-1]), np.abs(at[1:]))))


def _quantile_edges(values: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    distinct = np.unique(values)
    if len(distinct) <= bins + 1:  # hours, weekdays, flags: every value gets an edge
        return tuple(float(edge) for edge in distinct)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1), method="nearest"))
    return tuple(float(edge) for edge in edges)


def _slots(values: pl.Series, column: CategoryColumn) -> NDArray[np.int64]:
    if values.dtype == pl.String and values.len() <= FEW_ROWS:
        known_slots = column.slot_of
        return np.array(
            [MISSING_SLOT if value is None else known_slots.get(value, UNSEEN_SLOT) for value in values.to_list()],
            dtype=np.int64,
        )
    text = values.cast(pl.String)
    slots = pl.Series(range(FIRST_VALUE_SLOT, column.slots), dtype=pl.Int64)
    known = text.replace_strict(
        pl.Series(column.vocabulary, dtype=pl.String), slots, default=UNSEEN_SLOT, return_dtype=pl.Int64
    )
    return np.where(text.is_null().to_numpy(), MISSING_SLOT, known.to_numpy())


def _fit_category(values: pl.Series, cut: int) -> CategoryColumn:
    counts = values.cast(pl.String).drop_nulls().value_counts().filter(pl.col("count") >= cut)
    return CategoryColumn(name=values.name, vocabulary=tuple(sorted(counts[values.name].to_list())))
