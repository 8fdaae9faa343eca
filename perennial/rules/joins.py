"""Joins in both times: what was known, and had happened, at the moment of a prediction. Pure functions of frames."""

from datetime import timedelta

import polars as pl

MOMENT = "_known_at"


def join_known(
    rows: pl.DataFrame,
    log: pl.DataFrame,
    by: dict[str, str],
    prefix: str,
    event_time: str | None = None,
    tolerance: timedelta | None = None,
) -> pl.DataFrame:
    """Rows with the columns of the one row of `log` that was newest at each row's `_known_at`, as `<prefix>_<column>`.

    Args:
        log: every version of every row, with its `_known_at`: corrections beside what they corrected.
        by: row column to log column; these must be equal.
        event_time: the log's column of when its row happened. The newest event that had happened and was known wins;
            without one, the row known last.
        tolerance: an event older than this at the moment counts as missing.

    `perennial.rules.join_state` gives the same for the few rows of a request.
    """
    usable, values = usable_rows(log, by, prefix, event_time)
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
    log: pl.DataFrame, by: dict[str, str], prefix: str, event_time: str | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """The rows of a log of which the last that is usable at a moment is the newest event, and the names of their values.

    A row of the log is usable from when it is both known and past, `_usable_at`. Rows that become usable after a newer
    event was usable already are never the newest, so they can go. They are sorted by `_usable_at`, under the rows' names.
    """
    happened = pl.col(event_time) if event_time else pl.col(MOMENT)
    values = [
        name for name in log.columns if name not in by.values() and not name.startswith("_") and name != event_time
    ]
    usable_at = pl.max_horizontal(MOMENT, event_time) if event_time else pl.col(MOMENT)
    usable = (
        log.with_columns(_happened=happened, _usable_at=usable_at)
        .drop_nulls(["_usable_at", *by.values()])
        .sort("_usable_at", "_happened", MOMENT, maintain_order=True)
        .filter(pl.col("_happened") >= pl.col("_happened").cum_max().over(list(by.values())))
        .select(
            *(pl.col(theirs).alias(ours) for ours, theirs in by.items()),
            "_usable_at",
            "_happened",
            *(pl.col(name).alias(f"{prefix}_{name}") for name in values),
        )
    )
    return usable, [f"{prefix}_{name}" for name in values]


def joined_columns(
    contract: dict[str, pl.DataType], by: dict[str, str], prefix: str, event_time: str | None
) -> dict[str, pl.DataType]:
    """Names and types of what `join_known` adds, from the joined source's contract."""
    return {f"{prefix}_{n}": t for n, t in contract.items() if n not in by.values() and n != event_time}
