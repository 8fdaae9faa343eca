"""A feature page of made-up figures, with text of anybody wherever there is text."""

from datetime import UTC, datetime

from perennial.datadocs.features import Champion, FeatureFigures, Spread, features_page
from perennial.rules.curves import Importance
from perennial.rules.lineage import InputOrigin, SourceColumn
from tests.perennial.datadocs.card_world import HARM

AS_OF = datetime(2026, 9, 4, 6, tzinfo=UTC)


def origin(name: str, kind: str, *read: SourceColumn) -> InputOrigin:
    """An input of these columns."""
    return InputOrigin.model_validate({"name": name, "kind": kind, "read": read})


def column(name: str, source: str, **more: object) -> SourceColumn:
    """A column of a source."""
    return SourceColumn.model_validate(
        {"name": name, "kind": "row", "source": source, "how": "of the row", "columns": [name], **more}
    )


def figures() -> FeatureFigures:
    """A number, a category, one that may not be shown, and one without values."""
    lateness = column(
        "late_share",
        "arrivals",
        kind="history",
        how=f"mean of {HARM}",
        meaning=HARM,
        unit="share",
        columns=["delay", "carrier"],
    )
    return FeatureFigures(
        pipeline="rides",
        table="local_rides.features",
        snapshot_id=77,
        as_of=AS_OF,
        rows=1_000,
        origins=[
            origin("late_share", "number", lateness),
            origin("carrier", "category", column("carrier", "flights")),
            origin("name_length", "number", column("name", "flights", private=True)),
            origin("empty", "number", column("a", "flights"), column("b", "arrivals")),
        ],
        spreads=[
            Spread(name="late_share", nulls=100, rows=500, edges=[0.0, 0.5, 1.0], counts=[300, 150]),
            Spread(name="carrier", nulls=0, rows=500, values=[("AA", 300), (HARM, 150)], others=50),
            Spread(name="name_length", nulls=0, rows=500),
            Spread(name="empty", nulls=1_000, rows=500),
        ],
        newest={"flights": AS_OF, "arrivals": datetime(2026, 9, 3, 6, tzinfo=UTC)},
    )


def page() -> str:
    """The page, with a champion that has a card."""
    worth = [
        Importance(input="late_share", loss=0.0312, low=0.03, high=0.04),
        Importance(input="carrier", loss=-0.001, low=-0.01, high=0.0),
    ]
    return features_page(figures(), "local", Champion(3, worth, "900 of the 3,000 rows"))
