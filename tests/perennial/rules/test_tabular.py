"""Preparing rows: what real tables hold that tidy ones do not."""

import math

import numpy as np
import polars as pl
import pytest

from perennial.rules.tabular import MISSING_SLOT, UNSEEN_SLOT, InputKind, Preprocessing, fit_preprocessing

INPUTS: dict[str, InputKind] = {
    "age": "number",
    "year": "number",
    "flag": "number",
    "constant": "number",
    "city": "category",
}
ROWS = pl.DataFrame(
    {
        "age": [20.0, None, 40.0, 60.0] * 25,
        "year": [2013, 2014, 2015, 2016] * 25,
        "flag": [True, False, True, True] * 25,
        "constant": [7] * 100,
        "city": ["Rome", "Oslo", None, "Rome"] * 25,
    }
)


def test_matrices_are_contiguous_and_without_gaps() -> None:
    numbers, categories = fit_preprocessing(ROWS, INPUTS).apply(ROWS)
    assert numbers.dtype == np.float32
    assert numbers.flags.c_contiguous
    assert np.isfinite(numbers).all()
    assert categories.dtype == np.int64
    assert categories.flags.c_contiguous
    assert numbers.shape == (100, 4)  # age, year, flag, and whether age was missing; the constant is left out


def test_a_missing_number_becomes_the_median_and_says_so() -> None:
    numbers, _ = fit_preprocessing(ROWS, INPUTS).apply(ROWS)
    assert numbers[1, 0] == pytest.approx(0.0, abs=1e-6)
    assert numbers[:, 3].tolist() == [0.0, 1.0, 0.0, 0.0] * 25


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_counts_as_missing(value: float) -> None:
    fitted = fit_preprocessing(ROWS, INPUTS)
    odd, missing = (ROWS[:1].with_columns(pl.lit(v, pl.Float64).alias("age")) for v in (value, None))
    assert fitted.apply(odd).numbers.tolist() == fitted.apply(missing).numbers.tolist()


def test_unseen_and_missing_categories_have_slots_of_their_own() -> None:
    fitted = fit_preprocessing(ROWS, INPUTS)
    later = ROWS[:3].with_columns(city=pl.Series(["Atlantis", None, "Rome"]))
    slots = fitted.apply(later).categories[:, 0].tolist()
    assert slots[:2] == [UNSEEN_SLOT, MISSING_SLOT]
    assert slots[2] > 1


def test_rare_values_share_the_unseen_slot() -> None:
    rows = pl.DataFrame({"city": ["Rome"] * 995 + ["a", "b", "c", "d", "e"]})
    assert fit_preprocessing(rows, {"city": "category"}).categories[0].vocabulary == ("Rome",)


def test_a_column_without_any_value_is_carried_along() -> None:
    rows = pl.DataFrame({"n": pl.Series([None] * 50, dtype=pl.Float64), "c": pl.Series([None] * 50, dtype=pl.String)})
    numbers, categories = fit_preprocessing(rows, {"n": "number", "c": "category"}).apply(rows)
    assert numbers.shape == (50, 0)
    assert (categories == MISSING_SLOT).all()


def test_large_numbers_keep_their_differences() -> None:
    rows = pl.DataFrame({"t": [1_700_000_000 + i for i in range(100)]})
    numbers, _ = fit_preprocessing(rows, {"t": "number"}).apply(rows)
    assert len(np.unique(numbers)) == 100


@pytest.mark.parametrize(
    "values", [np.r_[np.random.default_rng(1).random(4_999), 1e12], np.exp(np.linspace(-30, 30, 5_000))]
)
def test_one_giant_or_ten_powers_of_ten_leave_the_other_values_apart(values: np.ndarray) -> None:
    rows = pl.DataFrame({"x": values})
    fitted = fit_preprocessing(rows, {"x": "number"})
    numbers = fitted.apply(rows).numbers[:, 0]
    assert len(np.unique(numbers)) > 4_900
    order = np.argsort(values)
    assert (np.diff(numbers[order]) >= 0).all()
    (column,) = fitted.numbers
    assert (column.edges[0], column.edges[-1]) == (numbers.min(), numbers.max()) == pytest.approx((-1.7, 1.7))
    assert (
        Preprocessing.model_validate_json(fitted.model_dump_json()).apply(rows).numbers[:, 0].tolist()
        == numbers.tolist()
    )


def test_the_largest_float_there_is_stands_for_a_missing_value() -> None:
    rows = pl.DataFrame({"x": [1.0, 2.0, 3.0, 1.7e308, -1.7e308] * 20})
    (column,) = fit_preprocessing(rows, {"x": "number"}).numbers
    assert (column.center, column.missing_seen) == (2.0, True)


def test_it_is_the_same_after_a_trip_through_json() -> None:
    fitted = fit_preprocessing(ROWS, INPUTS)
    again = Preprocessing.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    assert (again.apply(ROWS).numbers == fitted.apply(ROWS).numbers).all()


def test_an_absent_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['city'\].*not among"):
        fit_preprocessing(ROWS, INPUTS).apply(ROWS.drop("city"))


def test_no_rows_are_prepared_to_no_rows() -> None:
    numbers, categories = fit_preprocessing(ROWS, INPUTS).apply(ROWS[:0])
    assert numbers.shape == (0, 4)
    assert categories.shape == (0, 1)
