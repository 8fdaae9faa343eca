"""What a pipeline says of its tables' care: how long rows are kept, and whether leftovers are deleted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from perennial.spec.sources import Source

PREDICTIONS, QUARANTINE, VERSIONS, REPORTS = "predictions", "quarantine", "versions", "reports"


@dataclass(frozen=True)
class Upkeep:
    """How `maintain` cares for a pipeline's tables.

    Args:
        keep: how long rows are kept, by source, and for `predictions` and `quarantine`; what is not named is kept for
            ever. A source's rows are aged by its event time, predictions by when they were answered. `versions`: how long
            the training rows of a version stay readable after it was archived or rejected. `reports`: how long the pages of
            a monitored window stay after its end; its decision is kept.
        deletes: whether objects that nobody can need any more are deleted; by default they are listed only.
    """

    keep: Mapping[str, timedelta] = field(default_factory=dict)
    deletes: bool = False

    def mistakes(self, sources: Mapping[str, Source]) -> Iterator[tuple[str, str]]:
        """What cannot be right, each with the name that it is said of."""
        known = [*sources, PREDICTIONS, QUARANTINE, VERSIONS, REPORTS]
        for name, span in self.keep.items():
            if name not in known:
                yield f"upkeep keeps rows of {name!r}, which is not there; there are {known}.", name
            elif span <= timedelta(0):
                yield f"rows of {name!r} cannot be kept for {span}: say how long.", name
            elif name in sources and sources[name].event_time is None:
                yield f"source {name!r} has no event_time to age its rows by; keep them, as what is true now.", name
