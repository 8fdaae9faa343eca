"""What is done about a row or a batch that breaks a rule, and the rules that a batch as a whole has to keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["quarantine", "block", "warn"]
"""`quarantine`: the row is kept apart; `block`: its whole batch is refused; `warn`: it is published, and counted."""


MOST_HISTORY = 100
"""How many batches are remembered to compare with."""


@dataclass(frozen=True)
class RowCount:
    """A batch has about as many rows as the batches before it: a share of the median of the last `batches`.

    Nothing is said before there are three.
    """

    at_least_share: float = 0.5
    at_most_share: float = 2.0
    batches: int = 20
    severity: Literal["block", "warn"] = "block"

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"rows:share_of_median({self.at_least_share}, {self.at_most_share})"


@dataclass(frozen=True)
class Freshness:
    """The newest event time that a batch publishes lies at most `hours` before the run's `as_of`."""

    hours: float
    severity: Literal["block", "warn"] = "block"

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"rows:fresh({self.hours} hours)"


@dataclass(frozen=True)
class NullShare:
    """At most this share of a column's fields is empty, among all rows of a batch that could be read."""

    column: str
    at_most: float
    severity: Literal["block", "warn"] = "block"

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"{self.column}:null_share({self.at_most})"


@dataclass(frozen=True)
class References:
    """Every row's key is one that another source's rows have, as known by the run's `as_of`; a null refers to nothing.

    Args:
        source: the other source of the pipeline.
        on: the columns: names both sides share, or `{our column: its column}`.
        severity: about the row; `block` and `warn` as for other checks.
    """

    source: str
    on: str | Sequence[str] | dict[str, str]
    severity: Severity = "quarantine"

    @property
    def columns(self) -> dict[str, str]:
        """Our columns and the other source's."""
        return column_pairs(self.on)

    @property
    def name(self) -> str:
        """As quarantine and reports call it."""
        return f"{', '.join(self.columns)}:in_source({self.source})"


BatchRule = RowCount | Freshness | NullShare | References


def column_pairs(columns: str | Sequence[str] | dict[str, str]) -> dict[str, str]:
    """Our columns and those of the other side that they must equal."""
    if isinstance(columns, str):
        return {columns: columns}
    if isinstance(columns, dict):
        return dict(columns)
    return {column: column for column in columns}
