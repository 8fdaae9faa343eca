"""The parts of a source's page, each from its history alone."""

from collections.abc import Sequence
from html import escape

from perennial.datadocs.history import History, Series
from perennial.datadocs.plots import bars
from perennial.datadocs.text import NONE, batch_link, from_batch, hours, number, percent, text, title, volume, when

BADGES = {"published": "ok", "refused": "bad"}


def summary(history: History) -> str:
    """The newest batch in a few figures."""
    row, verdicts = history.newest, [batch["verdict"] for batch in history.batches]
    share = row["quarantined_rows"] / row["rows"] if row["rows"] else 0.0
    failing = sum(1 for check in history.checks if check.newest)
    asked = sum(1 for check in history.checks if check.newest is not None)
    tiles = [
        ("rows arrived", from_batch(row, number(row["rows"])), text(row["arrived"])),
        ("quarantined", from_batch(row, number(row["quarantined_rows"])), f"{percent(share)} of the rows"),
        ("checks failing", from_batch(row, number(failing)), f"of {asked:,} that looked"),
        ("newest event", from_batch(row, hours(history.lags()[-1])), f"before {when(row['as_of'])}"),
        ("batches here", number(len(verdicts)), f"{verdicts.count('refused'):,} refused"),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{figure}<small>{note}</small></dd></div>" for name, figure, note in tiles)
    said = [
        *(row["reasons"] or ()),
        *(f"{rule['name']}: {rule['detail']}" for rule in row["rules"] if not rule["passed"]),
    ]
    reasons = "".join(f"<li>{text(reason, 500)}</li>" for reason in said)
    why = f'<ul class="reasons">{reasons}</ul>' if reasons else ""
    return (
        f'<section class="newest {BADGES.get(row["verdict"], "")}"><p>{badge(row["verdict"])} Newest batch '
        f"{batch_link(row)}, {when(row['committed_at'])} UTC, contract <code>{text(row['contract_version'])}</code></p>"
        f'{why}<dl class="tiles">{shown}</dl></section>'
    )


def badge(verdict: str) -> str:
    """The verdict as a word in its colour."""
    return f'<span class="badge {BADGES.get(verdict, "")}">{text(verdict)}</span>'


def arrived(history: History) -> str:
    """What came with each batch: rows, quarantined share, size, age."""
    refused = [row["verdict"] == "refused" for row in history.batches]
    rows = [float(row["rows"]) for row in history.batches]
    broken = [float(row["quarantined_rows"]) for row in history.batches]
    shares = [bad / all_ if all_ else 0.0 for bad, all_ in zip(broken, rows, strict=True)]
    plots = [
        ("rows", "Rows", "quarantined below", rows, number, broken),
        ("quarantined", "Quarantined", "share of the rows", shares, percent, None),
        ("size", "Size", "of what arrived", [row["bytes"] for row in history.batches], volume, None),
        ("lag", "Age of the newest event", "at the as-of of its batch", history.lags(), hours, None),
    ]
    figures = []
    for key, name, note, values, unit, below in plots:
        known = [value for value in values if value is not None]
        if not known:
            continue
        top = max(known)
        label = f"{name}: newest {unit(values[-1])}, highest {unit(top)}"
        plot = bars(values, refused, label=label, key=key, width=560, height=72, below=below)
        highest = from_batch(history.batches[max(i for i, value in enumerate(values) if value == top)], unit(top))
        figures.append(
            f"<figure><figcaption><b>{name}</b> {note}<span>newest {from_batch(history.newest, unit(values[-1]))}, "
            f"highest {highest}</span></figcaption>{plot}</figure>"
        )
    first, last = when(history.batches[0]["committed_at"]), when(history.newest["committed_at"])
    return (
        f'<section id="arrived"><h2>What arrived</h2><div class="figures">{"".join(figures)}</div>'
        f'<p class="note">A bar per batch, {first} to {last} UTC. Red: refused. Point at a bar, or use the arrow keys, '
        "for its batch; click, or press Enter, for its row.</p></section>"
    )


def checks(history: History) -> str:
    """Every check's history, those that fail first."""
    refused = [row["verdict"] == "refused" for row in history.batches]
    rows = []
    for at, check in enumerate(history.checks):
        column, _, rule = check.name.rpartition(":") if ":" not in check.name else check.name.partition(":")
        name = f"<b>{text(column)}</b>:{text(rule)}" if column else text(check.name)
        example = f' <a class="more" href="#e-{at}">examples</a>' if check.total else ""
        rows.append(
            f'<tr id="c-{at}" data-text="{title(check.name.lower())}"{_quiet(check)}><th scope="row">{name}{example}</th>'
            f'<td data-label="severity"><span class="chip {escape(check.severity)}">{text(check.severity)}</span></td>'
            f'{_figures(history, check)}<td class="wide">{_plot(check, refused, f"c{at}", "failed")}</td></tr>'
        )
    head = table_head("check", "severity", "#failed, newest", "#share", "#batches", "#highest", "share of failed rows")
    return table_section("checks", "Checks", head, rows, f"{len(history.checks):,} checks, those that fail first")


def columns(history: History) -> str:
    """Every column's share of missing values, columns with failing checks first."""
    refused = [row["verdict"] == "refused" for row in history.batches]
    rows, places = [], {check.name: at for at, check in enumerate(history.checks)}
    for at, column in enumerate(history.columns):
        failing = [check for check in history.checks_of(column.name) if check.total]
        marks = "".join(
            f' <a class="more" href="#c-{places[check.name]}">{text(check.name.partition(":")[2], 60)}</a>'
            for check in failing
        )
        jumped = ' <span class="chip warn">more missing than usual</span>' if column.jumped else ""
        state = ' class="jumped"' if column.jumped else "" if failing else " data-quiet"
        rows.append(
            f'<tr data-text="{title(column.name.lower())}"{state}><th scope="row"><b>{text(column.name)}</b>{jumped}{marks}</th>'
            f'{_figures(history, column)}<td class="wide">{_plot(column, refused, f"n{at}", "missing")}</td></tr>'
        )
    head = table_head("column", "#missing, newest", "#share", "#batches", "#highest", "share of missing values")
    return table_section(
        "columns", "Columns", head, rows, f"{len(history.columns):,} columns, those with failing checks first"
    )


def _figures(history: History, series: Series) -> str:
    worst = history.batches[series.worst]
    share = series.shares[-1]
    highest = series.shares[series.worst] if series.total else 0.0
    return (
        f'<td class="n" data-label="newest">{from_batch(history.newest, number(series.newest))}</td>'
        f'<td class="n" data-label="share">{from_batch(history.newest, percent(share))}</td>'
        f'<td class="n" data-label="batches">{number(series.hits)}</td>'
        f'<td class="n" data-label="highest">{from_batch(worst, percent(highest)) if series.total else NONE}</td>'
    )


def _plot(series: Series, refused: Sequence[bool], key: str, word: str) -> str:
    label = (
        f"{series.name[:80]}: {word} in {series.hits} of {len(series.counts)} batches, newest {percent(series.shares[-1])}, "
        f"highest {percent(series.shares[series.worst])}"
    )
    return bars(series.shares, refused, label=label, key=key)


def _quiet(check: Series) -> str:
    return "" if check.total else " data-quiet"


def table_head(*names: str) -> str:
    """The head of a table; a name that begins with `#` is of a column of numbers."""
    return "".join(
        f'<th scope="col" class="n">{name[1:]}</th>' if name.startswith("#") else f'<th scope="col">{name}</th>'
        for name in names
    )


def table_section(key: str, name: str, head: str, rows: Sequence[str], note: str) -> str:
    """A section that is a table, with a note that the filter replaces by how many rows it leaves."""
    return (
        f'<section id="{key}"><h2>{name} <small data-count="{len(rows)}">{note}</small></h2>'
        f'<table class="{key}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></section>'
    )
