"""The parts of a source's page that its numbers lead to: the batches themselves, and rows that failed."""

from html import escape
from typing import Any

from perennial.datadocs.examples import Example, Value
from perennial.datadocs.history import History
from perennial.datadocs.sections import badge, table_head, table_section
from perennial.datadocs.text import NONE, batch_link, number, percent, text, title, when

WHOLE_ROWS = 20  # checks whose examples show all their fields; of the others the fields that the check looks at
SEARCHED = 2_000  # characters of a row that the filter knows


def batches(history: History, runs: str | None) -> str:
    """A row per batch, newest first: where every number of the page comes from."""
    rows = [_batch(row, runs) for row in reversed(history.batches)]
    head = table_head(
        *("batch", "verdict", "committed, as of (UTC)", "#rows", "#quarantined"),
        *("arrived", "run, snapshot of raw", "failed checks"),
    )
    return table_section("batches", "Batches", head, rows, f"the last {len(rows):,}, newest first")


def _batch(row: dict[str, Any], runs: str | None) -> str:
    share = row["quarantined_rows"] / row["rows"] if row["rows"] else 0.0
    failed = sorted((found for found in row["checks"] or () if found["failed_rows"]), key=lambda c: -c["failed_rows"])
    most = ", ".join(f"{text(check['check'], 60)} {number(check['failed_rows'])}" for check in failed[:3])
    more = f", {len(failed) - 3:,} more" if len(failed) > 3 else ""
    why = "".join(f'<p class="why">{text(reason, 500)}</p>' for reason in row["reasons"] or ())
    words = f"{row['batch_id']} {row['verdict']} {when(row['committed_at'])} {' '.join(c['check'] for c in failed)}"
    quiet = "" if failed or why else " data-quiet"
    return (
        f'<tr id="b-{title(row["batch_id"])}" data-text="{title(words.lower(), SEARCHED)}"{quiet}>'
        f'<th scope="row">{batch_link(row)}</th><td>{badge(row["verdict"])}</td>'
        f"<td>{when(row['committed_at'])}<small>as of {when(row['as_of'])}</small></td>"
        f'<td class="n" data-label="rows">{number(row["rows"])}</td>'
        f'<td class="n" data-label="quarantined">{number(row["quarantined_rows"])}<small>{percent(share)}</small></td>'
        f'<td data-label="arrived">{text(row["arrived"])}</td>'
        f'<td>{_run(row["run_id"], runs)}<small>snapshot <span class="id">{row["snapshot_id"] or NONE}</span></small></td>'
        f'<td class="wide">{most}{more}{why}</td></tr>'
    )


def _run(run_id: str, runs: str | None) -> str:
    if not run_id:
        return "run of no server"
    shown = f'run <span class="id">{text(run_id[:8])}</span>'
    return f'<a href="{escape(runs)}{title(run_id)}" title="{title(run_id)}">{shown}</a>' if runs else shown


def examples(history: History, chosen: dict[str, list[Example]], note: str) -> str:
    """Failing rows, a few per check, in the order of the checks."""
    by_id = {row["batch_id"]: row for row in history.batches}
    parts: list[str] = []
    for at, check in enumerate(history.checks):
        if not check.total:
            continue
        found, whole = chosen.get(check.name, []), len(parts) < WHOLE_ROWS
        cards = "".join(_card(example, by_id, whole) for example in found) or "<p>No row of it is among those read.</p>"
        parts.append(
            f'<article id="e-{at}" data-text="{title(check.name.lower())}"><h3>{text(check.name)} '
            f"<small>{number(check.total)} rows in {number(check.hits)} batches</small></h3>"
            f'<div class="cards">{cards}</div></article>'
        )
    shown = "".join(parts) or "<p>No check failed in these batches.</p>"
    return f'<section id="examples"><h2>Failing examples</h2><p class="note">{note}</p>{shown}</section>'


def _card(example: Example, by_id: dict[str, dict[str, Any]], whole: bool) -> str:
    row = by_id.get(example.batch_id)
    batch = batch_link(row) if row else text(example.batch_id)
    column = example.check.partition(":")[0]
    suspects = [value for value in example.values if value.column == column]
    others = [value for value in example.values if value.column != column] if whole or not suspects else []
    first = f"<dl>{''.join(_value(value) for value in suspects)}</dl>" if suspects else ""
    rest = f"<summary>{'the other' if suspects else 'all'} {len(others):,} fields</summary>"
    rest = f"<details>{rest}<dl>{''.join(_value(value) for value in others)}</dl></details>" if others else ""
    return (
        f'<div class="row"><p><span class="id">{text(example.position)}</span> in batch {batch}</p>{first}{rest}</div>'
    )


def _value(value: Value) -> str:
    if value.masked:
        shown = '<i class="masked">masked</i>'
    elif value.shown is None:
        shown = "<i>empty</i>"
    else:
        shown = text(value.shown)
    return f"<div><dt>{text(value.column, 80)}</dt><dd>{shown}</dd></div>"
