"""The fused pass and pandera alone: one verdict, row by row and check by check, whatever the contract and the data."""

from datetime import UTC, datetime
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perennial.rules.compiled import ContractMistake, compile_contract
from perennial.rules.judges import judge_by_pandera, judge_fused
from perennial.spec import UtcMicroseconds

INTEGERS = [0, 1, -1, 2, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.5, -1.5, float("nan"), float("inf"), float("-inf"), 5e-324]
TEXTS = ["", "a", "abc", "ABC", "ß", "日本語", "a\nb", " a ", "é", "'", "(1)"]
INSTANTS = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
TYPES: dict[str, tuple[Any, list[Any]]] = {
    "number": (int, INTEGERS),
    "share": (float, FLOATS),
    "name": (str, TEXTS),
    "at": (UtcMicroseconds, INSTANTS),
    "flag": (bool, [True, False]),
}
TEXT_CHECKS = {
    "str_matches": st.sampled_from([r"^[a-z]+$", "a", r"\w", r"^$", "日", r"(a|b)c?"]),
    "str_contains": st.sampled_from(["b", r"\s", r"^a", "語$"]),
    "str_startswith": st.sampled_from(["a", "", "日", "("]),
    "str_endswith": st.sampled_from(["c", "", "ß"]),
    "str_length": st.sampled_from([1, (1, 3), {"min_value": 2}, {"max_value": 1}]),
}


@st.composite
def field(draw: st.DrawFn, name: str) -> Any:
    """A column of a contract: how it is declared in pandera, with any of its built-in checks."""
    values = TYPES[name][1]
    one = st.sampled_from([value for value in values if value == value])  # a bound that is NaN says nothing
    several = st.lists(st.sampled_from(values), min_size=1, max_size=4)
    checks: dict[str, st.SearchStrategy[Any]] = {
        "eq": one,
        "ne": one,
        "isin": several,
        "notin": several,
        **(TEXT_CHECKS if name == "name" else {}),
    }
    if name in ("number", "share", "at"):
        ends = st.tuples(one, one).map(lambda pair: (min(pair), max(pair)))
        flags = st.tuples(st.booleans(), st.booleans())
        between = st.tuples(ends, flags).filter(lambda two: two[0][0] < two[0][1]).map(lambda two: (*two[0], *two[1]))
        checks |= {"gt": one, "ge": one, "lt": one, "le": one, "in_range": between}
    chosen = draw(st.lists(st.sampled_from(sorted(checks)), max_size=4, unique=True))
    told: dict[str, Any] = {check: draw(checks[check]) for check in chosen}
    told |= {flag: draw(st.booleans()) for flag in ("nullable", "unique", "ignore_na")}
    return pa.Field(**told)


@pa.check("number", name="even")
def even(cls: Any, data: pa.PolarsData) -> pl.LazyFrame:
    """A check of the user's on one column."""
    return data.lazyframe.select(pl.col(data.key) % 2 == 0)


@pa.check("name", element_wise=True, name="short")
def short(cls: Any, value: str) -> bool:
    """A check of the user's on one field."""
    return len(value) < 3


@pa.dataframe_check(name="ordered", error="number must not exceed share", ignore_na=False)
def ordered(cls: Any, data: pa.PolarsData) -> pl.LazyFrame:
    """A check of the user's on two columns, which an empty field fails."""
    return data.lazyframe.select(pl.col("number") <= pl.col("share"))


@pa.dataframe_check
def both(cls: Any, data: pa.PolarsData) -> pl.LazyFrame:
    """A check of the user's that gives two truth values for each row: both must hold."""
    return data.lazyframe.select(pl.col("number") > 0, share=pl.col("share").is_finite())


@st.composite
def contract(draw: st.DrawFn) -> type[pa.DataFrameModel]:
    """A contract with these columns, some of the user's checks, and perhaps columns that are unique together."""
    own = {"even": even, "short": short, "ordered": ordered, "both": both}
    chosen = draw(st.sets(st.sampled_from(sorted(own))))
    told: dict[str, Any] = {name: draw(field(name)) for name in TYPES}
    told["__annotations__"] = {name: annotation for name, (annotation, _) in TYPES.items()}
    if draw(st.booleans()):
        told["Config"] = type("Config", (), {"unique": ["number", "flag"]})
    return type("Generated", (pa.DataFrameModel,), told | {name: own[name] for name in chosen})


rows = st.lists(
    st.fixed_dictionaries({name: st.one_of(st.none(), st.sampled_from(values)) for name, (_, values) in TYPES.items()}),
    max_size=7,
)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(contract(), rows)
def test_both_judges_give_one_verdict_row_by_row_and_check_by_check(
    generated: type[pa.DataFrameModel], data: list[dict[str, Any]]
) -> None:
    schema: dict[str, Any] = {
        "number": pl.Int64,
        "share": pl.Float64,
        "name": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "flag": pl.Boolean,
    }
    block = pl.DataFrame(data, schema=schema)
    fused, alone = judge_fused(generated, block), judge_by_pandera(generated, block)
    assert {name: mask.fill_null(value=False).to_list() for name, mask in fused.items()} == {
        name: mask.fill_null(value=False).to_list() for name, mask in alone.items()
    }
    assert list(fused) == list(alone)


def test_every_built_in_check_is_part_of_the_one_pass() -> None:
    class Everything(pa.DataFrameModel):
        """Grain: one number."""

        number: int = pa.Field(eq=1, ne=2, gt=0, ge=0, lt=9, le=9, in_range=(0, 9), isin=[1], notin=[2], unique=True)
        name: str = pa.Field(
            str_matches="a", str_contains="a", str_startswith="a", str_endswith="a", str_length=1, nullable=True
        )

    checks = compile_contract(Everything)
    assert len(checks) == 16
    assert all(check.failed is not None for check in checks)


class Raising(pa.DataFrameModel):
    """Grain: one number."""

    number: int

    @pa.check("number", element_wise=True)
    def inverse(cls, value: int) -> bool:  # noqa: N805 - pandera makes it a class method
        """Fail technically on a zero."""
        return 1 / value < 1


class Averaging(pa.DataFrameModel):
    """Grain: one number."""

    number: int

    @pa.dataframe_check
    def small(cls, data: pa.PolarsData) -> pl.LazyFrame:  # type: ignore[misc]  # noqa: N805 - pandera makes it a class method
        """Judge all rows by one value."""
        return data.lazyframe.select(pl.col("number").mean() > 100)


@pytest.mark.parametrize("judge", [judge_fused, judge_by_pandera])
def test_a_check_that_raises_is_a_mistake_of_the_contract_and_no_failure_of_the_data(judge: Any) -> None:
    with pytest.raises(
        ContractMistake, match=r"check number:inverse of the contract Raising raised .*file tests/.*run ingest"
    ):
        judge(Raising, pl.DataFrame({"number": [1, 0]}))


@pytest.mark.parametrize("judge", [judge_fused, judge_by_pandera])
def test_a_check_with_one_value_for_all_rows_blames_no_row(judge: Any) -> None:
    with pytest.raises(
        ContractMistake, match=r"Averaging cannot judge row by row: Averaging:small judges the rows as a whole"
    ):
        judge(Averaging, pl.DataFrame({"number": [1, 2]}))
