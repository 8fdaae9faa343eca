"""A backtest's page: the recommendation, every policy's line and account, and every decision behind them."""

from pathlib import Path

from perennial.datadocs.frame import frame
from perennial.datadocs.sections import table_head, table_section
from perennial.datadocs.text import NONE, number, percent, text, title, when
from perennial.rules.recommend import Account, Backtest
from perennial.rules.replay import Course
from perennial.story.lines import legend, lines
from perennial.story.sections import badge

NAV = {
    "now": "Recommendation",
    "timeline": "Lines",
    "policies": "Policies",
    "windows": "Windows",
    "events": "Decisions",
}


def backtest_page(backtest: Backtest, environment: str, data_file: str) -> str:
    """The page.

    Args:
        data_file: path of the same figures as JSON, relative to the page.
    """
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in NAV.items())
    head = (
        f'<header><h1><a href="../story.html">{text(backtest.pipeline)}</a> / backtest</h1><nav>{links}</nav>'
        '<div class="tools"><input id="filter" type="search" placeholder="Filter policies and decisions  ( / )" '
        'aria-label="Filter policies and decisions" autocomplete="off" spellcheck="false">'
        '<label><input id="loud" type="checkbox"> only news</label></div></header>'
    )
    parts = [
        _recommendation(backtest),
        f'<section id="timeline"><h2>{text(backtest.metric)} by window</h2>{lines(backtest)}'
        f'<p class="note legend">{legend(backtest.accounts)}<span>dot: the first window of a new model</span></p></section>',
        _policies(backtest),
        _windows(backtest),
        _decisions(backtest),
    ]
    foot = (
        f"<footer><p>Environment <b>{text(environment)}</b>. Replayed by the code that monitors, trains and promotes; each "
        f"decision saw what was known by its moment, the account counts labels known by {when(backtest.as_of)} UTC. "
        f'All figures: <a href="{title(data_file)}">{text(data_file)}</a>; models and evidence: <code>'
        f"{text(backtest.folder)}</code>.</p></footer>"
    )
    style = (Path(__file__).parent / "story.css").read_text()
    body = f"{head}\n<main>{''.join(parts)}</main>\n{foot}"
    return frame(f"{backtest.pipeline}: backtest", "", body, None, style)


def _recommendation(backtest: Backtest) -> str:
    chosen = backtest.recommendation
    return (
        f'<section class="newest ok" id="now"><p>Take <b>{text(chosen.name)}</b>.</p><p>{text(chosen.reason, 600)}</p>'
        f"<p><small>{len(backtest.windows)} windows from {when(backtest.windows[0].start)} to "
        f"{when(backtest.windows[-1].end)}; the first model knows what was known by {when(backtest.bootstrap)}.</small></p></section>"
    )


def _policies(backtest: Backtest) -> str:
    rows = [_policy(account, account.name == backtest.recommendation.name) for account in backtest.accounts]
    head = table_head(
        "policy", f"#mean {title(backtest.metric)}", "#of what a retrain per window gains", "#retrains", "#promoted",
        "#pages", "#training", "#regret", "what it does",
    )  # fmt: skip
    return table_section("policies", "Policies", head, rows, f"{len(rows)} policies and lines without a model")


def _policy(account: Account, chosen: bool) -> str:
    mean = f"{account.mean:.4f}" if account.mean is not None else NONE
    regret = f"{account.regret:.4f}" if account.regret is not None else NONE
    share = f"{account.gained_share:.0%}" if account.gained_share is not None else NONE
    mark = f" {badge('promote').replace('promote', 'recommended')}" if chosen else ""
    return (
        f'<tr data-text="{title(account.name)}"><th scope="row"><b>{text(account.name)}</b>{mark}</th>'
        f'<td class="n" data-label="mean">{mean}</td><td class="n" data-label="gained">{share}</td>'
        f'<td class="n" data-label="retrains">{account.retrains}</td><td class="n" data-label="promoted">{account.promoted}</td>'
        f'<td class="n" data-label="pages">{account.pages}</td><td class="n" data-label="training">{account.seconds:,.0f} s</td>'
        f'<td class="n" data-label="regret">{regret}</td><td class="wide">{text(account.says)}</td></tr>'
    )


def _windows(backtest: Backtest) -> str:
    rows = []
    for at, window in enumerate(backtest.windows):
        cells = "".join(_value(account.metric[at], account.name) for account in backtest.accounts)
        rows.append(
            f'<tr data-text="{when(window.start)}"><th scope="row">{when(window.start)}<small>to {when(window.end)}</small></th>'
            f"{cells}{_value(backtest.best[at], 'best in hindsight')}</tr>"
        )
    names = [f"#{title(account.name)}" for account in backtest.accounts]
    head = table_head("window", *names, "#best in hindsight")
    return table_section("values", "Windows", head, rows, f"{len(rows)} windows")


def _value(value: float | None, name: str) -> str:
    return f'<td class="n" data-label="{title(name)}">{NONE if value is None else f"{value:.4f}"}</td>'


def _decisions(backtest: Backtest) -> str:
    rows = [row for course in backtest.courses for row in _course(course)]
    head = table_head("policy", "window", "as of (UTC)", "verdict", "retrain", "why")
    return table_section("events", "Decisions", head, rows, f"{len(rows):,} decisions")


def _course(course: Course) -> list[str]:
    rows = []
    for step in course.steps:
        quiet = ' data-quiet=""' if step.verdict == "hold" else ""
        guard = f" <code>{text(step.guard)}</code>" if step.guard else ""
        ended = badge(step.ended) if step.ended else ""
        because = f"<small>{text(step.because, 300)}</small>" if step.because else ""
        words = f"{course.strategy.name} {step.verdict} {step.ended or ''} {step.reason}".lower()
        rows.append(
            f'<tr data-text="{title(words, 1_000)}"{quiet}><th scope="row">{text(course.strategy.name)}</th>'
            f'<td data-label="window">{when(step.window.start)}</td><td data-label="as of">{when(step.at)}</td>'
            f'<td data-label="verdict">{badge(step.verdict)}{guard}</td><td data-label="retrain">{ended}</td>'
            f'<td class="wide">{text(step.reason, 400)}{because}</td></tr>'
        )
    return rows


def sentence(backtest: Backtest) -> str:
    """The account in one line, for a run's log and for Prefect."""
    found = {account.name: account for account in backtest.accounts}
    own = found.get("own")
    gained = (
        f", {percent(own.gained_share)} of it by the pipeline's own" if own and own.gained_share is not None else ""
    )
    return (
        f"{len(backtest.courses)} policies over {len(backtest.windows)} windows of {backtest.pipeline}{gained}; "
        f"{number(backtest.worked)} things found out anew; take {backtest.recommendation.name!r}"
    )
