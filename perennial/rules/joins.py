"""Joins in both times: what was known, and had happened, at the moment of a prediction. Pure functions of frames."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import polars as pl

from perennial.rules.exact import interval_maximum

MOMENT = "_known_at"
FOREVER = np.iinfo(np.int64).max // 4  # microseconds: far enough from the end of int64 to be added to


def join_known(
    rows: pl.DataFrame,
    log: pl.DataFrame,
    by: dict[str, str],
    prefix: str,
    event_time: str | None = None,
    tolerance: timedelta | None = None,
    key: Sequence[str] = (),
) -> pl.DataFrame:
    """Rows with the columns of the one row of `log` that was newest at each row's `_known_at`, as `<prefix>_<column>`.

    Args:
        log: every version of every row, with its `_known_at`: corrections beside what they corrected.
        by: row column to log column; these must be equal.
        event_time: the log's column of when its row happened. The newest event that had happened and was known wins;
            without one, the row known last.
        tolerance: an event older than this at the moment counts as missing.
        key: the log's columns that name a row, whose version counts until the next one is known, which may tell of
            another value of `by` or another time; none: no row is corrected.

    `perennial.rules.join_state` gives the same for the few rows of a request.
    """
    usable, values = usable_rows(log, by, prefix, event_time, key)
    in_order = rows[MOMENT].is_sorted()  # then they need not be sorted there and back
    joined = (rows if in_order else rows.with_row_index("_row").sort(MOMENT, maintain_order=True)).join_asof(
        usable, left_on=MOMENT, right_on="_usable_at", by=list(by), strategy="backward", check_sortedness=False
    )
    joined = joined if in_order else joined.sort("_row")
    if tolerance is not None:
        fresh = pl.col(MOMENT) - pl.col("_happened") <= tolerance
        joined = joined.with_columns(pl.when(fresh).then(pl.col(name)).alias(name) for name in values)
    return joined.drop("_row", "_usable_at", "_happened", strict=False)


def usable_rows(
    log: pl.DataFrame, by: dict[str, str], prefix: str, event_time: str | None = None, key: Sequence[str] = ()
) -> tuple[pl.DataFrame, list[str]]:
    """The rows of a log of which the last that is usable at a moment is the newest event, and the names of their values.

    A row of the log is usable from when it is both known and past, `_usable_at`. They are sorted by it, under the rows'
    names. Where a correction takes the only row of a `by` away, a row of nulls stands for that from then on.
    """
    happened = event_time or MOMENT
    values = [
        name for name in log.columns if name not in by.values() and not name.startswith("_") and name != event_time
    ]
    known = log.drop_nulls(MOMENT).sort(MOMENT, maintain_order=True)
    versions = known.with_columns(_happened=pl.col(happened), _usable_at=pl.max_horizontal(MOMENT, happened))
    needed = ["_happened", *by.values()]
    pinned = {*by.values(), *([event_time] if event_time else [])} <= set(key)
    until = corrected_at(known, () if pinned else key)
    if (until < FOREVER).any():
        newest = _newest_uncorrected(versions.with_columns(until).drop_nulls(needed), list(by.values()))
    else:  # a correction ranks above what it corrects, and nothing has to end
        order = versions.drop_nulls(needed).sort("_usable_at", "_happened", maintain_order=True)
        # what becomes usable after a newer event was usable already is never the newest
        newest = order.filter(pl.col("_happened") >= pl.col("_happened").cum_max().over(list(by.values())))
    usable = newest.select(
        *(pl.col(theirs).alias(ours) for ours, theirs in by.items()),
        "_usable_at",
        "_happened",
        *(pl.col(name).alias(f"{prefix}_{name}") for name in values),
    )
    return usable, [f"{prefix}_{name}" for name in values]


def _newest_uncorrected(versions: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """For every instant at which a version of a `by` begins or ends to count: the newest that counts from then on, or
    nulls.

    Args:
        versions: in the order in which they became known, each usable from `_usable_at` and latest known `_until`.
    """
    begins = pl.col("_usable_at").dt.epoch("us")
    ranked = versions.with_columns(_from=begins).filter(pl.col("_from") < pl.col("_until"))
    ranked = ranked.sort("_happened", maintain_order=True)
    instants = pl.concat([ranked.select(*by, _at=name) for name in ("_from", "_until")]).unique()
    instants = instants.sort(*by, "_at").with_row_index("_place")

    def places(name: str) -> pl.Series:
        wanted = ranked.select(*by, _at=name)
        return wanted.join(instants, on=[*by, "_at"], how="left", maintain_order="left")["_place"].cast(pl.Int64)

    first, end = places("_from").to_numpy(), places("_until").to_numpy()
    best = interval_maximum(np.arange(len(ranked)), first, end, len(instants))
    found = pl.concat([ranked, ranked.clear(1)])[np.where(best < 0, len(ranked), best)]
    at = pl.col("_at").cast(versions.schema["_usable_at"]).alias("_usable_at")
    counting = found.drop(*by).with_columns(instants.select(*by, at))
    return counting.filter(instants["_at"] < FOREVER).sort("_usable_at", maintain_order=True)


def corrected_at(ordered: pl.DataFrame, key: Sequence[str]) -> pl.Series:
    """`_until`: when the next version of each row became known, in microseconds; FOREVER where there is none.

    Most rows have one version only, and are not looked at twice.

    Args:
        ordered: a log in the order in which it became known.
        key: names a row; none: no row has a second version.
    """
    never = pl.Series("_until", [FOREVER], pl.Int64).new_from_index(0, len(ordered))
    if not key:
        return never
    again = ordered.select(key).hash_rows().is_duplicated()
    if not again.any():
        return never
    next_known = pl.col(MOMENT).dt.epoch("us").shift(-1).over(list(key)).fill_null(FOREVER)
    return never.scatter(again.arg_true(), ordered.filter(again).select(next_known).to_series())


def joined_columns(
    contract: dict[str, pl.DataType], by: dict[str, str], prefix: str, event_time: str | None
) -> dict[str, pl.DataType]:
    """Names and types of what `join_known` adds, from the joined source's contract."""
    return {f"{prefix}_{n}": t for n, t in contract.items() if n not in by.values() and n != event_time}
