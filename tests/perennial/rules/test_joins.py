"""The join as of a moment against a reference that looks at every row of the log for every row."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.rules.join_state import JoinState
from perennial.rules.joins import join_known, joined_columns

START = datetime(2024, 5, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
ROWS: dict[str, Any] = {"number": pl.Int64, "item": pl.String, "_known_at": INSTANT}
LOG: dict[str, Any] = {
    "product": pl.String,
    "valid_from": INSTANT,
    "cents": pl.Int64,
    "_known_at": INSTANT,
    "_position": pl.String,
}


def at(minute: int) -> datetime:
    """An instant."""
    return START + timedelta(minutes=minute)


items = st.sampled_from(["pen", "ink", None])
minutes = st.integers(0, 12).map(at)  # so few that late, repeated, simultaneous and corrected rows are the rule
moments = st.lists(st.tuples(items, minutes), max_size=12)
# an event, when it happened, when it became known: also before it happened, as a forecast or a price list is
log_rows = st.lists(st.tuples(items, minutes, st.integers(0, 99) | st.none(), minutes), max_size=25)


def frames(rows: list[Any], log: list[Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows to join to, and the log in the order it was written."""
    numbered = [(number, *row) for number, row in enumerate(rows)]
    written = [(*row, f"file#{number}") for number, row in enumerate(log)]
    return pl.DataFrame(numbered, ROWS, orient="row"), pl.DataFrame(written, LOG, orient="row")


def newest(item: str | None, moment: datetime, log: list[Any], events: bool, tolerance: timedelta | None) -> int | None:
    """What was known of the item at the moment, by looking at every row."""
    best: tuple[Any, ...] | None = None
    for order, (product, happened, cents, known) in enumerate(log):
        if product != item or item is None or known > moment or (events and happened > moment):
            continue
        rank = (happened, known, order) if events else (known, order)
        if best is None or rank > best[0]:
            best = (rank, happened if events else known, cents)
    if best is None or (tolerance is not None and moment - best[1] > tolerance):
        return None
    return int(best[2]) if best[2] is not None else None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(moments, log_rows, st.booleans(), st.none() | st.integers(0, 12).map(lambda m: timedelta(minutes=m)))
def test_every_row_gets_what_was_newest_and_known_at_its_moment(
    rows: list[Any], log: list[Any], events: bool, tolerance: timedelta | None
) -> None:
    left, right = frames(rows, log)
    joined = join_known(left, right, {"item": "product"}, "price", "valid_from" if events else None, tolerance)
    assert joined.select(list(ROWS)).equals(left), "the rows, their columns and their order stay as they are"
    assert joined["price_cents"].to_list() == [newest(item, moment, log, events, tolerance) for item, moment in rows]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(moments, log_rows, log_rows, st.booleans())
def test_what_becomes_known_later_changes_no_earlier_row(
    rows: list[Any], log: list[Any], more: list[Any], events: bool
) -> None:
    latest = max((moment for _, moment in rows), default=START)
    later = [
        (product, happened, cents, latest + (known - START) + timedelta(seconds=1))
        for product, happened, cents, known in more
    ]
    by, event_time = {"item": "product"}, "valid_from" if events else None
    left, before = frames(rows, log)
    _, after = frames(rows, log + later)
    assert join_known(left, before, by, "price", event_time).equals(join_known(left, after, by, "price", event_time))


def test_the_columns_are_those_that_were_promised() -> None:
    left, right = frames([("pen", at(3))], [("pen", at(1), 100, at(2))])
    contract: dict[str, Any] = {"product": pl.String(), "valid_from": INSTANT, "cents": pl.Int64()}
    for event_time in ("valid_from", None):
        joined = join_known(left, right, {"item": "product"}, "price", event_time)
        promised = joined_columns(contract, {"item": "product"}, "price", event_time)
        assert dict(joined.drop(list(ROWS)).schema) == promised
        assert joined["price_cents"].to_list() == [100]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(moments, log_rows, st.booleans(), st.none() | st.integers(0, 12).map(lambda m: timedelta(minutes=m)))
def test_what_an_endpoint_holds_by_key_finds_the_same(
    rows: list[Any], log: list[Any], events: bool, tolerance: timedelta | None
) -> None:
    left, right = frames(rows, sorted(log, key=lambda row: row[3]))
    words = ({"item": "product"}, "price", "valid_from" if events else None, tolerance)
    expected = join_known(left, right, *words)
    held = JoinState(right, *words)
    assert held.add(left).equals(expected)
    for number in range(len(left)):
        assert held.add(left[number]).equals(expected[number])


# a reading, which one of few it is: so that corrections of item, time and value are the rule
readings = st.lists(
    st.tuples(st.integers(0, 4), items, minutes | st.none(), st.integers(0, 99) | st.none(), minutes), max_size=20
).map(lambda rows: sorted(rows, key=lambda row: row[4]))


def latest(item: str | None, moment: datetime, log: list[Any], events: bool, tolerance: timedelta | None) -> int | None:
    """What was known of the item at the moment, by looking at the latest version known of every reading."""
    last = {reading[0]: number for number, reading in enumerate(log) if reading[4] <= moment}
    standing = [log[number][1:] for number in sorted(last.values())]
    timed = [row for row in standing if row[1] is not None or not events]
    return newest(item, moment, timed, events, tolerance)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(moments, readings, st.booleans(), st.none() | st.integers(0, 12).map(lambda m: timedelta(minutes=m)))
def test_what_was_corrected_is_found_no_longer_under_what_it_said_before(
    rows: list[Any], log: list[Any], events: bool, tolerance: timedelta | None
) -> None:
    left, _ = frames(rows, [])
    schema: dict[str, Any] = {"reading": pl.Int64, **{name: LOG[name] for name in LOG if name != "_position"}}
    right = pl.DataFrame(log, schema, orient="row")
    words = ({"item": "product"}, "price", "valid_from" if events else None, tolerance, ["reading"])
    joined = join_known(left, right, *words)
    assert joined["price_cents"].to_list() == [latest(item, moment, log, events, tolerance) for item, moment in rows]
    held = JoinState(right, *words)
    assert held.add(left).equals(joined)
    for number in range(len(left)):
        assert held.add(left[number]).equals(joined[number])


def test_a_reading_that_was_moved_to_another_airport_is_found_there_alone() -> None:
    schema: dict[str, Any] = {
        "reading": pl.Int64,
        "product": pl.String,
        "valid_from": INSTANT,
        "cents": pl.Int64,
        "_known_at": INSTANT,
    }
    log = pl.DataFrame([(1, "JFK", at(1), 7, at(1)), (1, "LGA", at(1), 7, at(5))], schema, orient="row")
    rows, _ = frames([("JFK", at(4)), ("JFK", at(5)), ("LGA", at(4)), ("LGA", at(5))], [])
    for time in ("valid_from", None):
        joined = join_known(rows, log, {"item": "product"}, "price", time, None, ["reading"])
        assert joined["price_cents"].to_list() == [7, None, None, 7]
