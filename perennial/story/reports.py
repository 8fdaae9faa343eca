"""The index of a pipeline's reports: every window that was judged, and Evidently's page of it for as long as it is kept."""

import posixpath
from collections.abc import Set
from datetime import datetime
from pathlib import Path

from perennial.datadocs.frame import frame
from perennial.datadocs.sections import table_head, table_section
from perennial.datadocs.text import NONE, number, text, title, when
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.rules.drift import say_metric
from perennial.story.read import Story, Window, read_story
from perennial.story.sections import badge

ENDINGS = (".html", ".json", ".parquet")  # Evidently's page, the evidence, the sketches' states


def folder_of(pipeline: str) -> str:
    """Where a pipeline's reports lie in the environment; the index is `index.html` there."""
    return f"reports/{pipeline}/monitor"


def publish_index(lake: Lake, pipeline: str) -> str:
    """Write the index anew from the table of decisions and from what is kept; return where it lies."""
    story = read_story(pipeline, read_decisions(lake, pipeline), [], [], windows=None)
    path = f"{folder_of(pipeline)}/index.html"
    lake.files().pipe_file(lake.uri(path), index_page(story, lake.environment, kept_files(lake, pipeline)).encode())
    return path


def kept_files(lake: Lake, pipeline: str) -> frozenset[str]:
    """Names of the files that lie beside the index."""
    files, place = lake.files(), lake.uri(folder_of(pipeline))
    files.invalidate_cache(place)
    try:
        return frozenset(posixpath.basename(path) for path in files.ls(place, detail=False))
    except FileNotFoundError:
        return frozenset()


def expire_reports(lake: Lake, pipeline: str, before: datetime) -> list[str]:
    """Delete the reports of windows that ended before a moment; return the names of their pages. Decisions stay."""
    kept, expired = kept_files(lake, pipeline), []
    for window in read_story(pipeline, read_decisions(lake, pipeline), [], [], windows=None).windows:
        page = name_of(window)
        if page is None or window.row["window_end"] >= before:
            continue
        stem = page.removesuffix(".html")
        gone = [stem + ending for ending in ENDINGS if stem + ending in kept]
        if gone:
            lake.files().rm([lake.uri(f"{folder_of(pipeline)}/{name}") for name in gone])
            expired.append(page)
    return expired


def name_of(window: Window) -> str | None:
    """The name of a window's page beside the index."""
    return None if window.report is None else posixpath.basename(window.report)


def index_page(story: Story, environment: str, kept: Set[str]) -> str:
    """The page, newest window first.

    Args:
        kept: names of the files that are still there; a report that is not among them has gone its way.
    """
    rows = [_row(window, kept) for window in reversed(story.windows)]
    head = table_head("window", "version", "verdict", "#metric", "#rows", "#inputs drifted", "report", "why")
    there = sum(name_of(window) in kept for window in story.windows)
    body = (
        f'<header><h1>{text(story.pipeline)} / reports</h1><nav><a href="../story.html">Story</a></nav><div class="tools">'
        '<input id="filter" type="search" placeholder="Filter windows  ( / )" aria-label="Filter windows" '
        'autocomplete="off" spellcheck="false"><label><input id="loud" type="checkbox"> only news</label></div></header>'
        f"<main>{table_section('windows', 'Windows', head, rows, f'{len(rows):,} windows, the reports of {there:,} are kept')}"
        f"</main><footer><p>Environment <b>{text(environment)}</b>. Every row is a row of <code>decisions</code>, kind "
        "<code>monitor</code>; a report that is past its time is deleted by <code>maintain</code>, its row is not.</p></footer>"
    )
    style = (Path(__file__).parent / "story.css").read_text()
    return frame(f"{story.pipeline}: reports", "", body, more_style=style)


def _row(window: Window, kept: Set[str]) -> str:
    row, seen, page = window.row, window.evidence.performance, name_of(window)
    metric = f"{seen.measured:.4f}<small>{text(say_metric(seen.metric))}</small>" if seen else NONE
    drifted = f"{len(window.evidence.drifted_inputs)} of {len(window.evidence.drift)}"
    links = NONE
    if page is not None and page in kept:
        evidence = page.removesuffix(".html") + ".json"
        links = f'<a href="{title(page, 500)}">report</a>'
        links += f' <a href="{title(evidence, 500)}">evidence</a>' if evidence in kept else ""
    words = " ".join([row["verdict"], row["reason"], f"v{row['version']}", row["decision_id"]]).lower()
    quiet = ' data-quiet=""' if row["verdict"] == "hold" else ""
    return (
        f'<tr data-text="{title(words, 2_000)}"{quiet}><th scope="row">{when(row["window_start"])}'
        f"<small>to {when(row['window_end'])}</small></th>"
        f'<td data-label="version">v{row["version"]}</td><td data-label="verdict">{badge(row["verdict"])}</td>'
        f'<td class="n" data-label="metric">{metric}</td><td class="n" data-label="rows">{number(window.evidence.rows)}</td>'
        f'<td class="n" data-label="drifted">{drifted}</td><td data-label="report">{links}</td>'
        f'<td class="wide">{text(row["reason"], 400)} <code>{text(row["decision_id"])}</code></td></tr>'
    )
