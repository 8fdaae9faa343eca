"""The story's page: why this version serves, the timeline, and the rows behind every mark of it."""

from pathlib import Path

from perennial.datadocs.card import card_path
from perennial.datadocs.frame import frame
from perennial.datadocs.text import text, title, when
from perennial.story import sections
from perennial.story.read import Story
from perennial.story.timeline import timeline

NAV = {"now": "Now", "timeline": "Timeline", "windows": "Windows", "columns": "Inputs", "events": "Events"}
NAV |= {"versions": "Versions"}
LEGEND = (
    "dot: the metric on the window's labelled rows, with its 95% interval; amber where it asked for a retrain, red where a "
    "person was paged",
    "dashes: what was promised",
    "diamond: what the scores let one expect before labels came",
    "events: up = promoted, cross = rejected, left = rolled back, square = rolled out, exclamation = a person was paged",
)


def story_page(story: Story, environment: str, runs: str | None) -> str:
    """The page of a pipeline.

    Args:
        runs: what the address of a flow run begins with in Prefect's UI; None where there is none.
    """
    links = (
        "".join(f'<a href="#{key}">{name}</a>' for key, name in NAV.items())
        + '<a href="monitor/index.html">Reports</a>'
    )
    head = (
        f'<header><h1>{text(story.pipeline)} / story</h1><nav>{links}</nav><div class="tools">'
        '<input id="filter" type="search" placeholder="Filter windows, inputs, events  ( / )" '
        'aria-label="Filter windows, inputs and events" autocomplete="off" spellcheck="false">'
        '<label><input id="loud" type="checkbox"> only news</label></div></header>'
    )

    def run_link(run: str) -> str:
        return f'<a href="{title(runs + run, 500)}">run</a>' if runs and run else ""

    def report_link(path: str) -> str:
        return path.removeprefix(f"reports/{story.pipeline}/")  # below this page

    def card_link(version: int) -> str:
        return f'<a class="more" href="{title(report_link(card_path(story.pipeline, version)), 500)}">model card</a>'

    legend = "".join(f"<span>{words}</span>" for words in LEGEND)
    picture = f'<section id="timeline"><h2>Timeline</h2>{timeline(story)}<p class="note legend">{legend}</p></section>'
    parts = [
        sections.serving(story),
        picture,
        sections.windows(story, run_link, report_link),
        sections.inputs(story),
        sections.events(story, run_link),
        sections.versions(story, card_link),
    ]
    foot = (
        f"<footer><p>Environment <b>{text(environment)}</b>. Every number is of one row of <code>decisions</code> (by "
        "<code>decision_id</code>), <code>stages</code> or <code>versions</code>; pointed at, it names its row. Moments are "
        "UTC and say whose knowledge counted.</p></footer>"
    )
    body = f"{head}\n<main>{''.join(parts)}</main>\n{foot}"
    style = (Path(__file__).parent / "story.css").read_text()
    return frame(f"{story.pipeline}: story", "", body, _data(story), style)


def _data(story: Story) -> dict[str, object]:
    """What the page's script shows on pointing at a bar."""
    series = {}
    for at, name in enumerate(story.inputs):
        said = []
        for window, share in zip(story.windows, sections.over_bound(story, name), strict=True):
            size = window.evidence.drift.get(name)
            said.append("not compared" if share is None else f"{size:.4f}, {share:.2f} of its bound")
        series[f"d{at}"] = {"is": said}
    batches = [
        [w.row["decision_id"], f"{when(w.row['window_start'])} to {when(w.row['window_end'])}", w.row["verdict"], w.evidence.rows]
        for w in story.windows
    ]  # fmt: skip
    return {"batches": batches, "series": series}
