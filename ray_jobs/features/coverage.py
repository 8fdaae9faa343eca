"""What the features table says of itself: which stretches of event time were built, as of when, from what, by which code."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel
from pyiceberg.table import Table

from perennial.lakehouse.stretch import Stretch

COVERAGE = "perennial.coverage"
"""Table property: the stretches, as JSON, oldest first. It is set with the commit that built them, and outlives it."""


class Covered(BaseModel, frozen=True):
    """A stretch of event time [start, end) as it stands in the table; None: without a bound.

    Args:
        sequences: of every source, the number of the last commit that was looked at.
        code: of the pipeline; `features`: of each feature, by name.
    """

    start: datetime | None = None
    end: datetime | None = None
    as_of: datetime
    sequences: dict[str, int]
    code: str
    features: dict[str, str]

    @property
    def stretch(self) -> Stretch:
        """Its event times."""
        return Stretch(self.start, self.end)

    def says_the_same_as(self, other: "Covered") -> bool:
        """Whether nothing differs but the stretch."""
        unbounded = {"start": None, "end": None}
        return self.model_copy(update=unbounded) == other.model_copy(update=unbounded)

    def can_go_on_to(self, other: "Covered") -> bool:
        """Whether what is new since can be added: the same code, and no knowledge has to be taken back."""
        no_older = all(other.sequences.get(name, 0) >= number for name, number in self.sequences.items())
        return self.code == other.code and self.as_of <= other.as_of and no_older


def read_coverage(table: Table) -> list[Covered]:
    """The stretches that were built, oldest first; none where a version before these records wrote the table."""
    return [Covered.model_validate(item) for item in json.loads(table.properties.get(COVERAGE, "[]"))]


def write_coverage(covered: Sequence[Covered]) -> dict[str, str]:
    """The property that says so."""
    return {COVERAGE: json.dumps([item.model_dump(mode="json") for item in covered])}


def cut_by(covered: Sequence[Covered], wanted: Stretch) -> list[tuple[Stretch, Covered | None]]:
    """The wanted stretch in parts, oldest first, each with what covers it: None where nothing does."""
    parts: list[tuple[Stretch, Covered | None]] = []
    start = wanted.start
    open_end = False
    for item in covered:
        begins, ends = _later(item.start, wanted.start), _sooner(item.end, wanted.end)
        if begins is not None and ends is not None and begins >= ends:
            continue
        if begins is not None and (start is None or start < begins):
            parts.append((Stretch(start, begins), None))
        parts.append((Stretch(begins, ends), item))
        start, open_end = ends, ends is None
    if not open_end and (start is None or wanted.end is None or start < wanted.end):
        parts.append((Stretch(start, wanted.end), None))
    return parts


def with_stretch(covered: Sequence[Covered], new: Covered) -> list[Covered]:
    """The records once a stretch was built anew; neighbours that say the same are one."""
    kept: list[Covered] = []
    for item in covered:
        if new.start is not None and (item.start is None or item.start < new.start):
            kept.append(item.model_copy(update={"end": _sooner(item.end, new.start)}))
        if new.end is not None and (item.end is None or item.end > new.end):
            kept.append(item.model_copy(update={"start": _later(item.start, new.end)}))
    ordered = sorted([*kept, new], key=lambda item: (item.start is not None, item.start))
    merged: list[Covered] = []
    for item in ordered:
        if merged and merged[-1].end == item.start and merged[-1].end is not None and merged[-1].says_the_same_as(item):
            merged[-1] = merged[-1].model_copy(update={"end": item.end})
        else:
            merged.append(item)
    return merged


def stale_features(covered: Covered, today: Mapping[str, str]) -> list[str]:
    """Features whose code is another today than the stretch was built with, or that it does not have."""
    return [name for name, code in today.items() if covered.features.get(name) != code]


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


def _sooner(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
