"""History features against a reference that looks at every version of every row for every moment, and is not clever."""

import math
import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import numpy as np
import pandera.polars as pa
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.rules.history import PIECE, add_history, history_types
from perennial.rules.keyed import group_order
from perennial.rules.versions import Versions
from perennial.spec import Calendar, Files, History, UtcMicroseconds
from perennial.spec.history import Aggregate, Window
from perennial.spec.load import contract_columns

START = datetime(2024, 3, 30, 20, tzinfo=UTC)  # the night in which clocks in Berlin leap from two to three
INSTANT = pl.Datetime("us", "UTC")


class Sale(pa.DataFrameModel):
    """Grain: one sale."""

    sale: int
    shop: str = pa.Field(nullable=True)
    sold_at: UtcMicroseconds
    cents: float = pa.Field(nullable=True)
    colour: str = pa.Field(nullable=True)


SALES = Files("sales", "sales/*.csv", contract=Sale, key=["sale"], event_time="sold_at")
HOUR = timedelta(hours=1)
WINDOWS: list[Window] = [timedelta(hours=3), timedelta(minutes=50), timedelta(days=400), None]
WINDOWS += [Calendar(period, "Europe/Berlin") for period in ("hour", "day", "week", "month", "quarter", "year")]


def features_over(window: Any, by: list[str]) -> list[History]:
    """Every aggregate over a window."""
    of = {"by": by, "window": window}
    return [
        History("count", "sales", "count", **of),
        History("dear", "sales", "count", **of, where=pl.col("cents") > 3),
        *(History(f"{a}_cents", "sales", a, "cents", **of) for a in get_args(Aggregate) if a not in ("count", "ewm")),
        History("last_colour", "sales", "last", "colour", **of),
        History("distinct_colour", "sales", "distinct", "colour", **of),
        History("ewm", "sales", "ewm", pl.col("cents") * 2, **of, half_life=7 * HOUR),
    ]


some_features = st.builds(features_over, st.sampled_from(WINDOWS), st.sampled_from([["shop"], []]))
minutes = st.integers(0, 40).map(lambda m: START + timedelta(minutes=25 * m))
shops = st.sampled_from(["north", "south", None])
cents = st.none() | st.integers(-4, 9).map(float) | st.sampled_from([0.1, math.nan, math.inf, 1e9 + 0.1, 1e-9])
moments = st.lists(st.tuples(st.integers(0, 9), shops, minutes), max_size=9)
versions = st.tuples(
    st.integers(0, 9), shops, minutes, cents, st.sampled_from(["red", "blue", None]), minutes
)  # so few sales that corrections are the rule: of value, shop and time, known before or after it happened
logs = st.lists(versions, max_size=25).map(lambda rows: sorted(rows, key=lambda row: row[5]))


def frames(asked: list[Any], log: list[Any]) -> tuple[pl.DataFrame, Versions]:
    """The moments, and the log, in the order in which it became known, as the versions that count."""
    rows: dict[str, Any] = {"sale": pl.Int64, "shop": pl.String, "_known_at": INSTANT}
    return (
        pl.DataFrame(asked, rows, orient="row"),
        Versions(pl.DataFrame(log, {**contract_columns(SALES), "_known_at": INSTANT}, orient="row"), SALES),
    )


def begins(window: Any, moment: datetime) -> datetime:
    """The first instant of the calendar's period."""
    local = moment.astimezone(ZoneInfo(window.time_zone))
    if window.period == "hour":
        return moment.replace(minute=0)
    day = local.date()
    day = {
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
        "quarter": day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1),
        "year": day.replace(month=1, day=1),
    }[window.period]
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(window.time_zone)).astimezone(UTC)


def reference(feature: History, asked: Any, log: list[Any], own: bool) -> Any:
    """One value, by looking at every version."""
    number, shop, moment = asked
    latest: dict[int, Any] = {}
    for version in log:  # in the order they became known
        if version[5] <= moment:
            latest[version[0]] = version
    if feature.columns and shop is None:
        return None
    counted = []
    for sale, place, happened, value, colour, _ in sorted(latest.values(), key=lambda v: (v[2], v[5], log.index(v))):
        inside = happened <= moment
        if isinstance(feature.window, timedelta):
            inside &= happened > moment - feature.window
        elif feature.window is not None:
            inside &= happened >= begins(feature.window, moment)
        inside &= not feature.columns or place == shop
        inside &= not (own and sale == number)
        inside &= feature.where is None or (value is not None and not value <= 3)  # NaN, too, as Polars has it
        if inside:
            counted.append((happened, colour if feature.name.endswith("colour") else value))
    if feature.value is None:
        return len(counted)
    told = [(at, v) for at, v in counted if v is not None and (isinstance(v, str) or math.isfinite(v))]
    values = [v for _, v in told]
    match feature.aggregate:
        case "sum":
            return math.fsum(values)
        case "distinct":
            return len(set(values))
        case _ if not values:
            return None
        case "mean":
            return math.fsum(values) / len(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "std":
            return statistics.stdev(values) if len(values) > 1 else None
        case "last":
            return values[-1]
    weights = [2.0 ** (-((moment - at) / (7 * HOUR))) for at, _ in told]
    return 2 * math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


@settings(max_examples=150, deadline=None, derandomize=True, report_multiple_bugs=False)
@given(moments, logs, st.booleans(), some_features)
def test_every_feature_is_what_looking_at_every_version_gives(
    asked: list[Any], log: list[Any], own: bool, features: list[History]
) -> None:
    rows, past = frames(asked, log)
    answered = add_history(rows, past, features, ["sale"] if own else [])
    assert answered.select(rows.columns).equals(rows)
    assert {f.name: answered.schema[f.name] for f in features} == history_types(features, contract_columns(SALES))
    for feature in features:
        expected = [reference(feature, one, log, own) for one in asked]
        for found, wanted in zip(answered[feature.name].to_list(), expected, strict=True):
            both = isinstance(found, float | int) and isinstance(wanted, float | int)
            assert math.isclose(found, wanted, rel_tol=1e-12, abs_tol=1e-12) if both else found == wanted, feature


@settings(max_examples=30, deadline=None, derandomize=True)
@given(moments, logs, logs, some_features)
def test_what_becomes_known_later_changes_no_earlier_row(
    asked: list[Any], log: list[Any], more: list[Any], features: list[History]
) -> None:
    latest = max((moment for _, _, moment in asked), default=START)
    later = [(*version[:5], latest + (version[5] - START) + timedelta(microseconds=1)) for version in more]
    rows, before = frames(asked, log)
    _, after = frames(asked, log + later)
    assert add_history(rows, before, features).equals(add_history(rows, after, features))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(moments, logs, st.permutations(range(9)), some_features)
def test_a_row_alone_gets_the_same_bits_as_among_others(
    asked: list[Any], log: list[Any], order: list[int], features: list[History]
) -> None:
    rows, past = frames(asked, log)
    together = add_history(rows, past, features, ["sale"])
    for number in range(len(rows)):
        alone = add_history(rows[number], past, features, ["sale"])
        assert alone.equals(together[number])
    order = [number for number in order if number < len(rows)]
    assert add_history(rows[order], past, features, ["sale"]).equals(together[order])


def test_keys_that_are_taken_in_pieces_get_the_same_bits_as_alone() -> None:
    rng = np.random.default_rng(11)
    count = 2 * PIECE + 5_000
    sale = rng.integers(0, count * 9 // 10, count)  # some are corrections
    at = pl.Series(rng.permutation(count) * 1_000_000).cast(pl.Duration("us")) + START
    late = pl.Series(rng.integers(0, 7_200_000_000, count)).cast(pl.Duration("us"))
    log = pl.DataFrame(
        {
            "sale": sale,
            "shop": pl.Series(sale % 50).cast(pl.String),
            "sold_at": at,
            "cents": rng.normal(size=count) * 2.0 ** rng.integers(-40, 60, count),
            "colour": pl.Series(rng.choice(["red", "blue"], count)),
            "_known_at": at + late,
        }
    ).sort("_known_at")
    rows = log.select("sale", "shop", "_known_at")
    features = features_over(HOUR * 3, ["shop"])
    together = add_history(rows, Versions(log, SALES), features)
    few = pl.col("shop").is_in(["0", "17", "31", "49"])
    apart = add_history(rows.filter(few), Versions(log.filter(few), SALES), features)
    assert together.filter(few).equals(apart)


def test_features_whose_expressions_print_alike_have_each_their_own_values() -> None:
    cents = pl.col("cents")
    told = {
        "to_two": cents.round(2),
        "to_none": cents.round(0),
        "pattern": pl.col("colour").str.contains(".e"),
        "literal": pl.col("colour").str.contains(".e", literal=True),
    }
    features = [History(name, "sales", "mean", value) for name, value in told.items()]
    log = pl.DataFrame(
        {"sale": [1], "shop": ["north"], "sold_at": [START], "cents": [5.13], "colour": ["red"], "_known_at": [START]},
        schema_overrides={"sold_at": INSTANT, "_known_at": INSTANT},
    )
    assert str(features[0].expression) == str(features[1].expression)
    rows = log.select("_known_at")
    many = pl.concat([rows] * 9)  # a few rows are paired with versions, many are counted by intervals
    for asked in (rows, many):
        values = add_history(asked, Versions(log, SALES), features).row(0, named=True)
        assert [values[name] for name in told] == [5.13, 5.0, 1.0, 0.0]
    assert len({str(feature).removeprefix(feature.name) for feature in features}) == len(features)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 65_535, 65_536, 131_073]), st.integers(-3, 3)), max_size=40))
def test_groups_are_ordered_as_a_stable_sort_by_group_and_instant_orders_them(pairs: list[tuple[int, int]]) -> None:
    for some in (pairs, sorted(pairs, key=lambda pair: pair[1])):
        group, instants = np.array(some, np.int64).reshape(-1, 2).T
        assert group_order(group, instants).tolist() == np.lexsort((instants, group)).tolist()


def test_a_correction_without_event_time_takes_the_row_away_from_when_it_was_known() -> None:
    sale = {"sale": 1, "shop": "north", "cents": 5.0, "colour": "red"}
    told = [{**sale, "sold_at": START, "_known_at": START}, {**sale, "sold_at": None, "_known_at": START + 2 * HOUR}]
    past = Versions(pl.DataFrame(told, {**contract_columns(SALES), "_known_at": INSTANT}), SALES)
    rows, _ = frames([(9, "north", START + HOUR), (9, "north", START + 2 * HOUR)], [])
    counted = add_history(rows, past, [History("count", "sales", "count", by="shop")])
    assert counted["count"].to_list() == [1, 0]


def test_a_row_of_which_a_part_of_the_key_is_empty_does_not_count_for_itself() -> None:
    sold = [(1, shop, START, 5.0, "red", START) for shop in ("north", None)]
    rows, _ = frames([(1, shop, START) for shop in ("north", None)], [])
    log = pl.DataFrame(sold, {**contract_columns(SALES), "_known_at": INSTANT}, orient="row")
    both, features = Versions(log, replace(SALES, key=["sale", "shop"])), [History("count", "sales", "count")]
    for some in (rows, rows[0], rows[1]):
        assert set(add_history(some, both, features, ["sale", "shop"])["count"]) == {1}


def test_a_weighted_mean_forgets_after_64_half_lives_whatever_its_window_and_when_it_happened() -> None:
    log = [(1, "north", START, 5.0, "red", START), (2, "south", START + 21 * HOUR, 7.0, "red", START + 21 * HOUR)]
    after = [0 * HOUR, 63 * HOUR, 64 * HOUR - timedelta(microseconds=1), 64 * HOUR, 90 * HOUR]
    asked = [(9, shop, happened + age) for _, shop, happened, *_ in log for age in after]
    rows, past = frames(asked, log)
    for window in (timedelta(days=30), None, Calendar("year", "Europe/Berlin")):
        features = [History("ewm", "sales", "ewm", "cents", by="shop", window=window, half_life=HOUR)]
        together = add_history(rows, past, features)["ewm"].to_list()
        assert together == [5.0, 5.0, 5.0, None, None, 7.0, 7.0, 7.0, None, None]
        many = add_history(pl.concat([rows] * 4), past, features)["ewm"].to_list()
        assert many == together * 4
        assert [add_history(rows[n], past, features)["ewm"][0] for n in range(len(rows))] == together


def summed(values: list[float], beside: list[float]) -> list[dict[str, Any]]:
    """What is summed of the sales of a shop beside those of another: as intervals of many moments, and as pairs of one."""
    sold = [(n, "north", START, v, "red", START) for n, v in enumerate(values)]
    other = [(100 + n, "south", START, v, "red", START) for n, v in enumerate(beside)]
    rows, past = frames([(99, "north", START), *[(99, "south", START)] * 9], sold + other)
    features = [
        History(a, "sales", a, "cents", by="shop", half_life=HOUR) for a in ("sum", "mean", "std", "ewm", "max")
    ]
    answers = [add_history(some, past, features).row(0, named=True) for some in (rows, rows[0])]
    return [{name: answer[name] for name in ("sum", "mean", "std", "ewm", "max")} for answer in answers]


def test_tiny_and_huge_values_are_summed_and_what_cannot_be_is_null() -> None:
    assert [one["std"] for one in summed([1e-25, 3e-25], [])] == [statistics.stdev([1e-25, 3e-25])] * 2
    for one in summed([1e30, 3e30, 5e30], []):
        assert (one["sum"], one["mean"], one["std"]) == (9e30, 3e30, 2e30)
    for wild in (1e200, -1e200, 1e-200):
        for one in summed([2.0, wild], [3.0]):
            assert one == {"sum": None, "mean": None, "std": None, "ewm": None, "max": max(2.0, wild)}
        assert all(one["sum"] == 3.0 for one in summed([3.0], [2.0, wild])), "and the others are as they were"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1e40, 1e40).filter(lambda v: v == 0 or abs(v) > 1e-40), min_size=1, max_size=6),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_a_sum_has_the_same_bits_whatever_other_keys_have(values: list[float], beside: list[float]) -> None:
    alone = summed(values, [])
    assert summed(values, beside) == alone
    assert math.isclose(alone[0]["sum"], math.fsum(values), rel_tol=1e-15)


def test_whole_numbers_that_doubles_cannot_tell_apart_are_distinct() -> None:
    sold = [(2**60 + n, "north", START, 1.0, "red", START) for n in range(6)]
    rows, past = frames([(9, "north", START), *[(9, "north", START + HOUR)] * 9], sold)
    features = [History("sales_seen", "sales", "distinct", "sale", by="shop")]
    assert add_history(rows, past, features)["sales_seen"].to_list() == [6] * 10
    assert [add_history(rows[n], past, features)["sales_seen"][0] for n in (0, 1)] == [6, 6]
