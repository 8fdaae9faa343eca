"""One source's page, and the index of a pipeline's sources."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from perennial.datadocs import evidence, sections
from perennial.datadocs.examples import Example
from perennial.datadocs.frame import frame
from perennial.datadocs.history import History, Series, read_history
from perennial.datadocs.plots import bars
from perennial.datadocs.text import hours, number, percent, text, title, volume, when

NAV = ("arrived", "checks", "columns", "examples", "batches")


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a page come from.

    Args:
        batches, quarantine: the tables that were read, as people write them.
        runs: what the address of a flow run begins with in Prefect's UI; None where there is none.
    """

    environment: str
    pipeline: str
    batches: str
    quarantine: str
    runs: str | None


def source_page(
    origin: Origin, source: str, mark: str, rows: pl.DataFrame, chosen: dict[str, list[Example]], note: str
) -> str:
    """The page of one source.

    Args:
        mark: by which the page is known to be up to date.
        rows: of `batches`, from old to new; at least one.
        chosen: failing examples by check, masked already.
        note: what was read to find them.
    """
    history = read_history(rows)
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in NAV)
    head = (
        f'<header><h1><a href="index.html">{text(origin.pipeline)}</a> / {text(source)}</h1><nav>{links}</nav>'
        '<div class="tools"><input id="filter" type="search" placeholder="Filter checks, columns, batches  ( / )" '
        'aria-label="Filter checks, columns and batches" autocomplete="off" spellcheck="false">'
        '<label><input id="loud" type="checkbox"> only problems</label></div></header>'
    )
    parts = [
        sections.summary(history),
        sections.arrived(history),
        sections.checks(history),
        sections.columns(history),
        evidence.examples(history, chosen, note),
        evidence.batches(history, origin.runs),
    ]
    body = f"{head}\n<main>{''.join(parts)}</main>\n{_foot(origin)}"
    return frame(f"{origin.pipeline} / {source}", mark, body, _data(history))


def index_page(origin: Origin, sources: dict[str, pl.DataFrame]) -> str:
    """The index of a pipeline: a row per source.

    Args:
        sources: rows of `batches` by source, from old to new; sources without a batch are empty.
    """
    rows = "".join(_source_row(name, found.to_dicts()) for name, found in sources.items())
    head = sections.table_head(
        *("source", "newest batch", "committed (UTC)", "#rows", "#quarantined", "#refused", "rows, a bar per batch")
    )
    body = (
        f'<header><h1>{text(origin.pipeline)}</h1></header>\n<main><section id="sources"><h2>Sources</h2>'
        f'<table class="sources"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section></main>\n'
        f"{_foot(origin)}"
    )
    return frame(f"Data docs of {origin.pipeline}", "", body)


def _source_row(name: str, batches: list[dict[str, Any]]) -> str:
    if not batches:
        return f'<tr><th scope="row">{text(name)}</th><td colspan="6" class="wide">no batch yet</td></tr>'
    row, refused = batches[-1], [batch["verdict"] == "refused" for batch in batches]
    counts = [float(batch["rows"]) for batch in batches]
    plot = bars(
        counts,
        refused,
        label=f"Rows of {name}: newest {number(counts[-1])}, highest {number(max(counts))}",
        key="",
        below=[float(batch["quarantined_rows"]) for batch in batches],
    )
    share = row["quarantined_rows"] / row["rows"] if row["rows"] else 0.0
    where = f"{title(name)}.html"
    return (
        f'<tr><th scope="row"><a href="{where}">{text(name)}</a></th>'
        f'<td data-label="newest">{sections.badge(row["verdict"])} <a class="id" href="{where}#b-{title(row["batch_id"])}">'
        f'{text(row["batch_id"])}</a></td><td data-label="committed">{when(row["committed_at"])}</td>'
        f'<td class="n" data-label="rows">{number(row["rows"])}</td>'
        f'<td class="n" data-label="quarantined">{number(row["quarantined_rows"])} <small>{percent(share)}</small></td>'
        f'<td class="n" data-label="refused">{sum(refused):,} of {len(refused):,}</td><td class="wide">{plot}</td></tr>'
    )


def _foot(origin: Origin) -> str:
    return (
        f"<footer><p>Environment <b>{text(origin.environment)}</b>. Every number comes from rows of <code>"
        f"{text(origin.batches)}</code>, by <code>batch_id</code>; pointed at, it names its batch. Examples are rows of "
        f"<code>{text(origin.quarantine)}</code>. Moments are UTC.</p></footer>"
    )


def _data(history: History) -> dict[str, Any]:
    """What the page's script shows on pointing at a bar."""

    def counted(series: Series, word: str) -> dict[str, Any]:
        return {"is": word, "n": series.counts}

    rows = history.batches
    series: dict[str, Any] = {
        "rows": {"is": [f"{number(r['rows'])} rows, {number(r['quarantined_rows'])} quarantined" for r in rows]},
        "quarantined": {"is": "quarantined", "n": [row["quarantined_rows"] for row in rows]},
        "size": {"is": [volume(row["bytes"]) for row in rows]},
        "lag": {"is": [f"newest event {hours(lag)} before" for lag in history.lags()]},
    }
    series |= {f"c{at}": counted(check, "failed") for at, check in enumerate(history.checks)}
    series |= {f"n{at}": counted(column, "missing") for at, column in enumerate(history.columns)}
    batches = [[row["batch_id"], when(row["committed_at"]), row["verdict"], row["rows"]] for row in rows]
    return {"batches": batches, "series": series}
