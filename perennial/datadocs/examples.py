"""Failing rows to look at: a few per check, the newest batch first, with what must not be seen left out."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

PER_CHECK = 3


@dataclass(frozen=True)
class Value:
    """A field of a row as it arrived; `shown` is None where it was empty."""

    column: str
    shown: str | None
    masked: bool = False


@dataclass(frozen=True)
class Example:
    """A quarantined row as a page may show it."""

    check: str
    batch_id: str
    position: str
    values: Sequence[Value]


def choose_examples(
    quarantined: pl.DataFrame, sensitive: Collection[str], contract: Collection[str], checks: Collection[str]
) -> dict[str, list[Example]]:
    """Examples by check.

    Args:
        quarantined: rows of `quarantine`, the newest batch first.
        sensitive: columns whose values nobody may see.
        contract: columns that the contract names. Where one of them is sensitive, all other columns are masked too: a
            renamed column brings the same values under another name, and an unreadable line has them all.
        checks: names as they were counted; a failure that tells more, such as `csv:columns(expected 5, found 2)`,
            is an example of the check without it.
    """
    sensitive, contract, checks = frozenset(sensitive), frozenset(contract), frozenset(checks)
    chosen: dict[str, list[Example]] = {}
    for row in quarantined.iter_rows(named=True):
        for reason in row["failed_checks"]:
            check = reason if reason in checks else reason.partition("(")[0]
            found = chosen.setdefault(check, [])
            if len(found) < PER_CHECK:
                values = _values(row["raw_row"], sensitive, contract)
                found.append(Example(check, row["batch_id"], row["position"], values))
    return chosen


def _values(raw_row: str, sensitive: Collection[str], contract: Collection[str]) -> list[Value]:
    fields = _fields(raw_row)
    return [
        Value(column, None, masked=True)
        if column in sensitive or (sensitive and column not in contract)
        else Value(column, None if value is None else value if isinstance(value, str) else json.dumps(value))
        for column, value in fields.items()
        if not column.startswith("_")  # Perennial's own, such as sealed personal fields
    ]


def _fields(raw_row: str) -> dict[str, Any]:
    try:
        read = json.loads(raw_row)
    except ValueError:
        read = raw_row
    return read if isinstance(read, dict) else {"(the whole row)": read}
