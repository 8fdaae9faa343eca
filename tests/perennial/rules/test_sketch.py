"""The sketch against scipy on many shapes, and as a state: parts merged in any order are the whole."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from perennial.rules.sketch import Edges, Sketch, dump_sketches, load_sketches, merge, sketch_column
from perennial.rules.sketch_scores import compare

ROWS = 100_000
TOLERANCE = 1e-3


def drawn(shape: str, shift: float, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    values: dict[str, NDArray[np.float64]] = {
        "normal": random.normal(shift, 1, ROWS),
        "lognormal": np.exp(random.normal(shift, 1, ROWS)),
        "very_long_tail": np.exp(2 * random.normal(shift / 2, 1, ROWS)),
        "hours": np.floor(random.uniform(0, 24, ROWS) + shift) % 24,
        "mostly_zero": np.where(random.random(ROWS) < 0.9 - shift / 5, 0, random.gamma(0.5, 0.1, ROWS)),
        "two_far_groups": random.normal(shift, 1, ROWS) + 1_000 * (random.random(ROWS) < 0.5),
    }
    return values[shape]


def states(now: NDArray[np.float64], then: NDArray[np.float64]) -> tuple[Sketch, Sketch]:
    edges = Edges.of(pl.Series(then[:5_000]), "number")  # the reference kept with a model is a sample
    return sketch_column(pl.Series(now), edges), sketch_column(pl.Series(then), edges)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", ["normal", "lognormal", "very_long_tail", "hours", "mostly_zero", "two_far_groups"])
def test_ks_and_wasserstein_are_exact_to_a_thousandth(shape: str, shift: float) -> None:
    then, now = drawn(shape, 0.0, 1), drawn(shape, shift, 2)
    scores = compare(*states(now, then))
    assert scores.ks == pytest.approx(ks_2samp(now, then).statistic, abs=TOLERANCE)
    assert scores.wasserstein == pytest.approx(wasserstein_distance(now, then) / then.std(), abs=TOLERANCE)


def test_categories_are_scored_as_scipy_does() -> None:
    random = np.random.default_rng(3)
    now = pl.Series(random.choice(list("abcd"), ROWS, p=[0.4, 0.3, 0.2, 0.1]))
    then = pl.Series(random.choice(list("abc"), ROWS))
    edges = Edges.of(then, "category")
    scores = compare(sketch_column(now, edges), sketch_column(then, edges))
    shares = [[(values == letter).mean() for letter in "abcd"] for values in (now, then)]
    assert scores.jensen_shannon == pytest.approx(jensenshannon(*shares), abs=1e-9)
    assert scores.ks == pytest.approx(sum(abs(a - b) for a, b in zip(*shares, strict=True)) / 2, abs=1e-9)


def test_what_is_missing_or_infinite_is_counted_and_not_binned() -> None:
    edges = Edges.of(pl.Series(np.linspace(0, 1, 1_000)), "number")
    state = sketch_column(pl.Series([0.5, None, float("nan"), float("inf"), float("-inf")]), edges)
    assert (state.missing, state.rows) == (2, 3)
    assert (state.counts[0], state.counts[-1]) == (1, 1)


def test_a_reference_that_never_moved_and_an_empty_column_have_scores_that_say_so() -> None:
    constant, moved = pl.Series([3.0] * 500), pl.Series([4.0] * 500)
    edges = Edges.of(constant, "number")
    reference = sketch_column(constant, edges)
    assert compare(reference, reference).wasserstein == 0
    assert compare(sketch_column(moved, edges), reference).wasserstein >= 1
    assert np.isnan(compare(sketch_column(pl.Series([], dtype=pl.Float64), edges), reference).ks)


def test_states_of_other_edges_are_not_added() -> None:
    one, two = (Edges.of(pl.Series(np.linspace(0, top, 100)), "number") for top in (1, 2))
    with pytest.raises(ValueError, match="different edges"):
        merge(sketch_column(pl.Series([1.0]), one), sketch_column(pl.Series([1.0]), two))


NUMBERS = arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e9, 1e9, width=32) | st.just(float("nan")))


@settings(max_examples=60, deadline=None)
@given(reference=NUMBERS, values=NUMBERS, cut=st.integers(0, 300))
def test_parts_merged_in_any_order_are_the_whole(
    reference: NDArray[np.float64], values: NDArray[np.float64], cut: int
) -> None:
    edges = Edges.of(pl.Series(reference, nan_to_null=True), "number")
    first, second = (sketch_column(pl.Series(part), edges) for part in (values[:cut], values[cut:]))
    whole = sketch_column(pl.Series(values), edges)
    for merged in (merge(first, second), merge(second, first)):
        assert merged.counts.tolist() == whole.counts.tolist()
        assert merged.missing == whole.missing
        assert merged.total == pytest.approx(whole.total, rel=1e-9, abs=1e-6 * max(abs(edges.high), 1))


@settings(max_examples=30, deadline=None)
@given(values=NUMBERS)
def test_a_state_survives_being_kept(values: NDArray[np.float64]) -> None:
    edges = Edges.of(pl.Series(values, nan_to_null=True), "number")
    state = sketch_column(pl.Series(values), edges)
    back = load_sketches(dump_sketches({"x": state}))["x"]
    assert back.edges == state.edges
    assert back.counts.tolist() == state.counts.tolist()
    assert compare(back, state).ks in (0.0, pytest.approx(0.0)) or not state.rows
