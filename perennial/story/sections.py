"""The parts of a story's page below the timeline: why this version serves, and a table for each kind of row."""

from collections.abc import Callable
from datetime import datetime

from perennial.datadocs.plots import bars
from perennial.datadocs.sections import table_head, table_section
from perennial.datadocs.text import NONE, number, percent, text, title, when
from perennial.rules.drift import say_metric
from perennial.story.read import Event, Story, Window
from perennial.story.timeline import say_event

Link = Callable[[str], str]
TONES = {"retrain": "warn", "page": "bad", "reject": "bad", "rejected": "bad", "rolled_back": "bad", "failed": "bad"}
TONES |= {"hold": "", "inconclusive": "", "promote": "ok", "promoted": "ok", "rolled_out": "ok", "champion": "ok"}


def serving(story: Story) -> str:
    """Who serves, and the chain of rows that led there."""
    reign = story.serving
    if reign is None:
        return '<section class="newest"><p>No version serves yet.</p></section>'
    chain = story.why(reign)
    steps = "".join(
        f'<li><a href="#{title(event.anchor)}">{title(say_event(event))}</a> {when(event.at)}: {text(event.reason, 400)}</li>'
        for event in chain
    )
    why = f'<ol class="chain">{steps}</ol>' if steps else f"<p>{text(reign.reason, 400)}</p>"
    return (
        f'<section class="newest ok" id="now"><p><b>Version {reign.version}</b> serves since '
        f'<data title="stages, generation {reign.generation}" data-row="v-{reign.version}">{when(reign.start)}</data> UTC, '
        f"the {reign.generation}{_ordinal(reign.generation)} champion. Why:</p>{why}</section>"
    )


def windows(story: Story, run_link: Link, report_link: Callable[[str], str]) -> str:
    """Every window, newest first."""
    rows = []
    for window in reversed(story.windows):
        row, seen, guessed = window.row, window.evidence.performance, window.evidence.estimate
        measured = f"{seen.measured:.4f}<small>{seen.low:.4f} to {seen.high:.4f}</small>" if seen else NONE
        promised = f"{seen.promised:.4f}" if seen else NONE
        guess = f"{guessed.value:.4f}" if guessed else NONE
        drifted = window.evidence.drifted_inputs
        names = "".join(f" <small>{text(name, 40)}</small>" for name in drifted[:3])
        report = f'<a href="{title(report_link(window.report), 500)}">report</a>' if window.report else ""
        quiet = ' data-quiet=""' if row["verdict"] == "hold" else ""
        rows.append(
            f'<tr id="{title(window.anchor)}" data-text="{title(_searchable(window), 2_000)}"{quiet}>'
            f'<th scope="row">{_day(row["window_start"])}<small>to {_day(row["window_end"])}</small></th>'
            f'<td data-label="version"><a href="#v-{row["version"]}">v{row["version"]}</a></td>'
            f'<td data-label="verdict">{badge(row["verdict"])}</td>'
            f'<td class="n" data-label="measured">{_from(window, measured)}</td>'
            f'<td class="n" data-label="promised">{_from(window, promised)}</td>'
            f'<td class="n" data-label="estimate">{_from(window, guess)}</td>'
            f'<td class="n" data-label="rows">{_from(window, number(window.evidence.rows))}'
            f"<small>{percent(window.evidence.labelled_share)} labelled</small></td>"
            f'<td data-label="drifted">{_from(window, f"{len(drifted)} of {len(window.evidence.drift)}")}{names}</td>'
            f'<td class="wide">{text(row["reason"], 400)} {report} {run_link(row["run_id"])} '
            f"<code>{text(row['decision_id'])}</code></td></tr>"
        )
    metric = next((w.evidence.performance.metric for w in story.windows if w.evidence.performance), None)
    name = say_metric(metric) if metric else "metric"
    head = table_head(
        "window", "by", "verdict", f"#{name}", "#promised", "#estimate", "#rows", "drifted inputs", "why, and where it says so"
    )  # fmt: skip
    return table_section("windows", "Windows", head, rows, f"the last {len(rows):,} verdicts")


def inputs(story: Story) -> str:
    """Every input's drift over the windows, as a share of the bound from which it counts."""
    held = [window.row["verdict"] == "page" for window in story.windows]
    rows = []
    for at, name in enumerate(story.inputs):
        shares = over_bound(story, name)
        known = [share for share in shares if share is not None]
        newest, highest = (known[-1], max(known)) if known else (None, None)
        drifted = sum(share >= 1 for share in known)
        plot = bars(
            [None if share is None else min(share, 2.0) for share in shares],
            held,
            label=f"{name[:80]}: over its bound in {drifted} of {len(known)} windows",
            key=f"d{at}",
            top=2.0,
        )
        quiet = "" if drifted else ' data-quiet=""'
        rows.append(
            f'<tr data-text="{title(name.lower())}"{quiet}><th scope="row"><b>{text(name)}</b></th>'
            f'<td class="n" data-label="newest">{_share(newest)}</td><td class="n" data-label="highest">{_share(highest)}</td>'
            f'<td class="n" data-label="over">{drifted} of {len(known)}</td><td class="wide">{plot}</td></tr>'
        )
    head = table_head("input", "#newest, of its bound", "#highest", "#windows over it", "drift, a bar per window")
    return table_section("columns", "Inputs", head, rows, f"{len(rows):,} inputs, those that drifted furthest first")


def over_bound(story: Story, name: str) -> list[float | None]:
    """Per window, an input's drift as a share of its bound; None where it was not compared."""
    found: list[float | None] = []
    for window in story.windows:
        size, bound = window.evidence.drift.get(name), window.evidence.drift_bounds.get(name)
        found.append(size / bound if size is not None and bound else None)
    return found


def events(story: Story, run_link: Link) -> str:
    """What was decided and done, newest first; a window's verdict has its own row above."""
    rows = []
    for event in reversed(story.events):
        where = "" if event.of_window else f' id="{title(event.anchor)}"'
        more = f' <a class="more" href="#{title(event.anchor)}">its window</a>' if event.of_window else ""
        rows.append(
            f'<tr{where} data-text="{title(_words(event), 2_000)}"><th scope="row">{when(event.at)}</th>'
            f'<td data-label="what">{text(event.kind)}{more}</td><td data-label="verdict">{badge(event.verdict)}</td>'
            f'<td data-label="version">{_version(event.version)}</td>'
            f'<td class="wide">{text(event.reason, 400)} {run_link(event.run_id)} <code>{text(event.decision_id)}</code></td></tr>'
        )
    head = table_head("as of (UTC)", "what", "verdict", "version", "why")
    return table_section("events", "Events", head, rows, f"{len(rows):,} rows of the table of decisions")


def versions(story: Story, card_link: Callable[[int], str]) -> str:
    """Every version, newest first, with all its stages."""
    rows = []
    for version in reversed(story.versions):
        steps = [step for step in story.stages if step.version == version.version]
        life = " → ".join(
            f'<span title="{title(step.reason)}">{step.stage} {when(step.as_of)}</span>' for step in steps
        )
        parent = _version(version.parent_version)
        rows.append(
            f'<tr id="v-{version.version}" data-text="version {version.version} {title(version.reason.lower())}">'
            f'<th scope="row"><b>v{version.version}</b> {card_link(version.version)}</th>'
            f'<td data-label="as of">{when(version.as_of)}</td><td data-label="parent">{parent}</td>'
            f'<td class="n" data-label="rows">{number(version.training_rows)}</td>'
            f'<td data-label="trained on">{_day(version.train_start)}<small>to {_day(version.holdout_start)}</small></td>'
            f'<td class="wide">{text(version.reason, 300)}<small>{life}</small></td></tr>'
        )
    head = table_head("version", "as of (UTC)", "parent", "#training rows", "trained on", "why, and what became of it")
    return table_section("versions", "Versions", head, rows, f"{len(rows):,} rows of the table of versions")


def badge(verdict: str) -> str:
    """A verdict as a word in its colour."""
    return f'<span class="badge {TONES.get(verdict, "")}">{text(verdict.replace("_", " "))}</span>'


def _from(window: Window, shown: str) -> str:
    return f'<data title="decision {title(window.row["decision_id"])}" data-row="{title(window.anchor)}">{shown}</data>'


def _searchable(window: Window) -> str:
    row = window.row
    return " ".join(
        [
            row["verdict"],
            f"v{row['version']}",
            row["reason"].lower(),
            *map(str.lower, window.evidence.drifted_inputs[:50]),
        ]
    )


def _words(event: Event) -> str:
    return f"{event.kind} {event.verdict} v{event.version} {event.reason.lower()}"


def _version(number_: int | None) -> str:
    return NONE if number_ is None else f'<a href="#v-{number_}">v{number_}</a>'


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _ordinal(value: int) -> str:
    if 10 <= value % 100 <= 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}" if moment.time() == moment.time().min else when(moment)
