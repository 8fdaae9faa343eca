"""One mergeable sketch per column, with edges fixed by the reference: every drift score of all rows from one pass.

column ─► counts per bin, below, above, missing, moments ─► merge ─► KS, Wasserstein, PSI, Jensen-Shannon, chi-square

A number's bins are equal in width, so a value's bin is one multiplication; where that would put much of the reference
into one bin (heavy tails), bins of equal mass are cut into it. Categories are counted by value, those that the reference does not
hold together. Two states with the same edges add up: by block, by day, by node, in any order.
KS and Wasserstein are those of the binned values: off by at most one bin's mass and one bin's width. Edges rather than
KLL or t-digest: their rank error is larger than the drift one looks for, and the same rows always give the same state.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

Kind = Literal["number", "category"]
BINS = 4_096
LARGEST_VOCABULARY = 10_000
REACH = 1.0  # of the reference's central range: how far bins go beyond it on either side
CROWDED_SHARE, CROWDED_BINS = 0.01, 1_024
CHUNK = 8_192  # values at a time: they and their bins stay in the processor's cache
Counts = NDArray[np.int64]


class Edges(BaseModel, frozen=True):
    """What the reference fixes for a column: bins over [low, high), or the categories it holds.

    Args:
        cuts: rising bounds of the bins, from `low` to `high`; empty: BINS of equal width.
    """

    kind: Kind
    low: float = 0.0
    high: float = 1.0
    cuts: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        """Of one bin, in the column's unit."""
        return (self.high - self.low) / BINS

    @property
    def centre(self) -> float:
        """Middle of the edges: moments are taken about it, so that large values keep their digits."""
        return (self.low + self.high) / 2

    @property
    def bounds(self) -> NDArray[np.float64]:
        """Lower bounds of the bins, and the upper one of the last."""
        even = np.linspace(self.low, self.high, BINS + 1)
        return np.asarray(self.cuts if self.cuts else even, dtype=np.float64)

    @classmethod
    def of(cls, values: pl.Series, kind: Kind) -> "Edges":
        """Edges for a reference column: a number's cover its central 99% and as much again on either side."""
        present = values.drop_nulls()
        if kind == "category":
            counted = present.cast(pl.String).value_counts(sort=True)
            return cls(kind=kind, categories=tuple(sorted(counted[counted.columns[0]].head(LARGEST_VOCABULARY))))
        numbers = present.cast(pl.Float64).to_numpy()
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return cls(kind=kind)
        low, high = (float(bound) for bound in np.quantile(numbers, [0.005, 0.995]))
        reach = REACH * (high - low) or max(abs(low), 1.0)
        half = (high - low + 2 * reach) / BINS / 2  # values on few points come to lie in the middle of a bin
        low, high = low - reach - half, high + reach + half
        even = cls(kind=kind, low=low, high=high)
        if not _crowded(numbers, even):
            return even
        mass = np.quantile(numbers, np.linspace(0, 1, CROWDED_BINS + 1), method="lower")
        width = np.linspace(mass[0], mass[-1], CROWDED_BINS + 1)
        tails = (mass[-1] - mass[0]) * np.geomspace(
            1e-3, 1e3, 128
        )  # what a sample's largest value says of them is little
        cuts = np.unique(np.concatenate([mass[0] - tails, mass, width, mass[-1] + tails]))
        return cls(kind=kind, low=float(cuts[0]), high=float(cuts[-1]), cuts=tuple(map(float, cuts)))


def _crowded(numbers: NDArray[np.float64], even: Edges) -> bool:
    """Whether one bin of equal width holds much of the reference, at more than one value."""
    slots = _slots(numbers, even)
    counts = np.bincount(slots, minlength=BINS + 2)
    for heavy in np.flatnonzero(counts > CROWDED_SHARE * len(numbers)):
        held = numbers[slots == heavy]
        if held.min() < held.max():
            return True
    return False


def _slots(numbers: NDArray[np.float64], edges: Edges) -> NDArray[np.intp]:
    if edges.cuts:
        return np.searchsorted(edges.bounds, numbers, side="right")
    places = (numbers - edges.centre) / edges.width + (BINS / 2 + 1)
    return np.clip(places, 0, BINS + 1).astype(np.intp)


class Sketch(NamedTuple):
    """A column's state. `counts`: int64, a number's [below, bins, above]; a category's [one each, other].

    `total`, `squares`: sums over the finite values of (value - centre of the edges) and its square.
    """

    edges: Edges
    counts: Counts
    missing: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def rows(self) -> int:
        """Values that are not missing."""
        return int(self.counts.sum())

    @property
    def missing_share(self) -> float:
        """Of all rows."""
        return self.missing / max(self.rows + self.missing, 1)

    @property
    def mean(self) -> float:
        """Of the finite values."""
        return self.edges.centre + self.total / max(self.rows, 1)

    @property
    def deviation(self) -> float:
        """Standard deviation of the finite values."""
        rows = max(self.rows, 1)
        return float(np.sqrt(max(self.squares / rows - (self.total / rows) ** 2, 0.0)))


def sketch_column(values: pl.Series, edges: Edges) -> Sketch:
    """The state of one block of a column; NaN and null are missing, infinities below or above."""
    if edges.kind == "category":
        return _sketch_categories(values, edges)
    missing = values.null_count()
    numbers = (values.drop_nulls() if missing else values).cast(pl.Float64).to_numpy()
    return sketch_numbers(numbers, edges, missing)


def sketch_numbers(numbers: NDArray[np.float64], edges: Edges, missing: int = 0) -> Sketch:
    """The state of float64 numbers without nulls: one pass, in chunks that stay in the cache."""
    counts = np.zeros(len(edges.cuts) + 1 if edges.cuts else BINS + 2, dtype=np.int64)
    total = squares = 0.0
    room = (np.empty(CHUNK, dtype=np.float64), np.empty(CHUNK, dtype=np.intp))
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        off = np.subtract(chunk, edges.centre, out=room[0][: len(chunk)])
        squared = float(np.dot(off, off))
        if not np.isfinite(squared):  # NaN or infinity among them: rare, and not worth a look at every value
            missing += int(np.isnan(chunk).sum())
            counts[0] += int(np.isneginf(chunk).sum())
            counts[-1] += int(np.isposinf(chunk).sum())
            chunk = chunk[np.isfinite(chunk)]
            off = np.subtract(chunk, edges.centre, out=room[0][: len(chunk)])
            squared = float(np.dot(off, off))
        total, squares = total + float(off.sum()), squares + squared
        if edges.cuts:
            counts += np.bincount(_slots(chunk, edges), minlength=len(counts))
            continue
        off *= 1 / edges.width
        off += BINS / 2 + 1  # slot 0 is below, slot BINS + 1 above
        np.minimum(off, BINS + 1, out=off)
        np.maximum(off, 0, out=off)
        slots = room[1][: len(off)]
        np.copyto(slots, off, casting="unsafe")
        counts += np.bincount(slots, minlength=BINS + 2)
    return Sketch(edges, counts, missing, total, squares)


def merge(first: Sketch, second: Sketch) -> Sketch:
    """Both together, as if their rows had been one column.

    Raises:
        ValueError: their edges differ; counts of different bins do not add up.
    """
    if first.edges != second.edges:
        raise ValueError("two sketches with different edges cannot be merged: each reference fixes its own.")
    return Sketch(
        first.edges,
        first.counts + second.counts,
        first.missing + second.missing,
        first.total + second.total,
        first.squares + second.squares,
    )


def sketch_frame(rows: pl.DataFrame, edges: Mapping[str, Edges]) -> dict[str, Sketch]:
    """The state of every column that has edges."""
    return {name: sketch_column(rows[name], edge) for name, edge in edges.items()}


def merge_frames(parts: Sequence[Mapping[str, Sketch]]) -> dict[str, Sketch]:
    """The states of several blocks of the same columns together."""
    merged = dict(parts[0])
    for part in parts[1:]:
        merged = {name: merge(merged[name], state) for name, state in part.items()}
    return merged


def _sketch_categories(values: pl.Series, edges: Edges) -> Sketch:
    counts = np.zeros(len(edges.categories) + 1, dtype=np.int64)
    place = {value: number for number, value in enumerate(edges.categories)}
    found = values.drop_nulls().cast(pl.String).value_counts()
    for value, count in found.iter_rows():
        counts[place.get(value, -1)] += count
    return Sketch(edges, counts, values.null_count())


def dump_sketches(sketches: Mapping[str, Sketch]) -> pl.DataFrame:
    """The states as a table, a row per column: what is kept per window."""
    return pl.DataFrame(
        [
            {
                "column": name,
                "edges": state.edges.model_dump_json(),
                "counts": state.counts.tolist(),
                "missing": state.missing,
                "total": state.total,
                "squares": state.squares,
            }
            for name, state in sketches.items()
        ],
        schema={
            "column": pl.String,
            "edges": pl.String,
            "counts": pl.List(pl.Int64),
            "missing": pl.Int64,
            "total": pl.Float64,
            "squares": pl.Float64,
        },
    )


def load_sketches(table: pl.DataFrame) -> dict[str, Sketch]:
    """The states that `dump_sketches` made a table of."""
    return {
        row["column"]: Sketch(
            Edges.model_validate_json(row["edges"]),
            np.asarray(row["counts"], dtype=np.int64),
            row["missing"],
            row["total"],
            row["squares"],
        )
        for row in table.iter_rows(named=True)
    }
