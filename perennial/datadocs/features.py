"""A pipeline's feature page: what each input of its model means, where it is from, how it is spread, what it is worth."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel

from perennial.datadocs.card_sections import charts, count, figure, section
from perennial.datadocs.charts import Axis, column_chart, ranked_bars
from perennial.datadocs.frame import frame
from perennial.datadocs.sections import table_head
from perennial.datadocs.text import NONE, number, percent, text, title, when
from perennial.rules.curves import Importance
from perennial.rules.lineage import InputOrigin


class Spread(BaseModel, frozen=True):
    """How an input's values are spread, in `rows` rows that were looked at.

    Args:
        nulls: of all rows of the table.
        edges: (bins + 1) of numbers, from the least to the greatest; `counts`: (bins,).
        values: of categories, the most frequent ones first; `others`: rows with any other.
    """

    name: str
    nulls: int
    rows: int
    edges: list[float] = []
    counts: list[int] = []
    values: list[tuple[str, int]] = []
    others: int = 0


class FeatureFigures(BaseModel, frozen=True):
    """What was read of a snapshot of a pipeline's features.

    Args:
        table: as people write it; `rows`: all of the snapshot's.
        newest: by source, when the newest of its rows that were known by `as_of` became known.
    """

    pipeline: str
    table: str
    snapshot_id: int
    as_of: datetime
    rows: int
    spreads: list[Spread]
    origins: list[InputOrigin]
    newest: dict[str, datetime | None]

    @property
    def source(self) -> str:
        """Where the figures come from, in words."""
        return f"{self.rows:,} rows of {self.table}, snapshot {self.snapshot_id}"


@dataclass(frozen=True)
class Champion:
    """The version that serves, and what each input is worth to it by its card. `source`: where that is from, in words."""

    version: int
    importance: list[Importance]
    source: str


def features_path(pipeline: str) -> str:
    """Where a pipeline's feature page lies in the environment."""
    return f"reports/{pipeline}/features/index.html"


def features_page(figures: FeatureFigures, environment: str, champion: Champion | None) -> str:
    """The page."""
    worth = {each.input: each for each in champion.importance} if champion else {}
    parts = [_summary(figures, champion), _table(figures, champion, worth), _importance(champion)]
    spreads = [
        _feature(figures, origin, spread) for origin, spread in zip(figures.origins, figures.spreads, strict=True)
    ]
    parts.append(f'<div class="spreads">{"".join(spreads)}</div>')
    links = "".join(f'<a href="#{key}">{key.capitalize()}</a>' for key in ("inputs", "worth"))
    head = f"<header><h1>{text(figures.pipeline)} / features</h1><nav>{links}</nav></header>"
    foot = (
        f"<footer><p>Environment <b>{text(environment)}</b>. Figures are of {text(figures.source, 400)}, as of "
        f"{when(figures.as_of)} UTC.</p></footer>"
    )
    return frame(
        f"Features: {figures.pipeline}", str(figures.snapshot_id), f"{head}\n<main>{''.join(parts)}</main>\n{foot}"
    )


def feature_rows(figures: FeatureFigures, champion: Champion | None) -> list[dict[str, object]]:
    """The same as rows of a table, without plots."""
    worth = {each.input: each.loss for each in champion.importance} if champion else {}
    return [
        {
            "feature": origin.name,
            "meaning": origin.meaning or NONE,
            "unit": origin.unit or NONE,
            "from": "; ".join(_lineage(origin)),
            "null": percent(spread.nulls / figures.rows if figures.rows else None),
            "loss when shuffled": f"{worth[origin.name]:+.4f}" if origin.name in worth else NONE,
        }
        for origin, spread in zip(figures.origins, figures.spreads, strict=True)
    ]


def _lineage(origin: InputOrigin) -> list[str]:
    return [f"{read.how}: {', '.join(f'{read.source}.{column}' for column in read.columns)}" for read in origin.read]


def _freshness(figures: FeatureFigures, origin: InputOrigin) -> str:
    """The oldest of the newest rows of its sources."""
    known = [figures.newest.get(source) for source in origin.sources]
    if not known or None in known:
        return NONE
    return when(min(moment for moment in known if moment is not None))


def _summary(figures: FeatureFigures, champion: Champion | None) -> str:
    tiles = [
        ("inputs", count(len(figures.origins), figures.source), "of the model"),
        ("rows", count(figures.rows, figures.source), f"as of {when(figures.as_of)}"),
        ("sources", count(len(figures.newest), figures.source), ", ".join(text(name) for name in figures.newest)),
        ("champion", number(champion.version) if champion else NONE, "version that serves"),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in tiles)
    return f'<section class="newest"><dl class="tiles">{shown}</dl></section>'


def _table(figures: FeatureFigures, champion: Champion | None, worth: dict[str, Importance]) -> str:
    rows = []
    for origin, spread in zip(figures.origins, figures.spreads, strict=True):
        share = percent(spread.nulls / figures.rows if figures.rows else None)
        loss = worth.get(origin.name)
        lineage = "<br>".join(text(line, 400) for line in _lineage(origin))
        rows.append(
            f'<tr><th scope="row"><a href="#f-{title(origin.name)}">{text(origin.name)}</a></th>'
            f'<td data-label="meaning">{text(origin.meaning or NONE)}</td>'
            f'<td data-label="unit">{text(origin.unit or NONE)}</td>'
            f'<td data-label="from">{lineage}</td>'
            f'<td data-label="known until">{_freshness(figures, origin)}</td>'
            f'<td class="n" data-label="null"><data title="{title(figures.source)}">{share}</data></td>'
            f'<td class="n" data-label="worth">{figure(loss.loss if loss else None, champion.source if champion else "")}</td>'
            "</tr>"
        )
    head = table_head("input", "meaning", "unit", "from", "known until", "#null", "#loss when shuffled")
    note = f"{text(figures.source, 400)}; null shares from its files' own counts. Known until: when the newest row of the stalest source became known."
    return section(
        "inputs",
        "Inputs",
        f'<table class="origins"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        note,
    )


def _importance(champion: Champion | None) -> str:
    if champion is None or not champion.importance:
        return section(
            "worth", "Worth to the champion", "<p>No version serves, or its card is not made yet.</p>", "Model card."
        )
    found = champion.importance[:30]
    plot = ranked_bars(
        [each.input for each in found], [each.loss for each in found], [f"{each.loss:+.4f}" for each in found], label="Importance"
    )  # fmt: skip
    note = f"Permutation importance of version {champion.version}: {text(champion.source, 400)}."
    return section("worth", "Worth to the champion", charts([("", plot)]), note)


def _feature(figures: FeatureFigures, origin: InputOrigin, spread: Spread) -> str:
    note = f"{spread.rows:,} of {text(figures.source, 400)}."
    name = text(origin.name)
    if origin.private:
        return section(
            f"f-{title(origin.name)}", name, "<p>Not shown: it is made from values that no page shows.</p>", note
        )
    if spread.values:
        names = [value for value, _ in spread.values] + (["(others)"] if spread.others else [])
        counts = [float(rows) for _, rows in spread.values] + ([float(spread.others)] if spread.others else [])
        plot = ranked_bars(names, counts, [f"{rows:,.0f}" for rows in counts], label=f"Values of {origin.name}")
    elif spread.counts:
        low, high = spread.edges[0], spread.edges[-1]
        said = [
            f"{begin:.4g} to {end:.4g}: {rows:,} rows"
            for begin, end, rows in zip(spread.edges, spread.edges[1:], spread.counts, strict=False)
        ]
        counts = [float(rows) for rows in spread.counts]
        label = origin.unit or origin.name
        plot = column_chart(
            counts,
            Axis(label, low, high),
            Axis.over("rows", counts, True),
            label=f"Values of {origin.name}",
            titles=said,
        )
    else:
        plot = "<p>No values.</p>"
    return section(f"f-{title(origin.name)}", name, charts([(text(origin.meaning), plot)]), note)
