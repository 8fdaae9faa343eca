"""Numbers and foreign text as a page shows them: what comes from data can only ever be read, never run or obeyed."""

from datetime import datetime
from html import escape
from typing import Any
from urllib.parse import quote

LONGEST = 200
NONE = "\N{EN DASH}"


def text(value: object, longest: int = LONGEST) -> str:
    """Text of anybody as HTML that shows it: escaped, cut, and with the characters that hide or turn text around spelt out."""
    whole = str(value)
    shown = _visible(whole[:longest])
    rest = f"<i> … {len(whole):,} characters</i>" if len(whole) > longest else ""
    return f"<bdi>{escape(shown)}</bdi>{rest}"


def title(value: object, longest: int = LONGEST) -> str:
    """The same for an attribute."""
    return escape(_visible(str(value)[:longest]))


def _visible(shown: str) -> str:
    if shown.isprintable():
        return shown
    return "".join(_SPELT.get(each, f"\\u{ord(each):04x}") if not each.isprintable() else each for each in shown)


_SPELT = {"\n": "⏎", "\t": "⇥", "\u00a0": "\u00a0"}


def number(value: float | None) -> str:
    """A count with thousands separated; a dash for none."""
    return NONE if value is None else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share so that little is never shown as nothing, nor nearly all as all."""
    if share is None:
        return NONE
    if 0 < share < 0.0001:
        return "<0.01%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}" if 0 < share < 1 else f"{share:.0%}"


def volume(count: float | None) -> str:
    """Bytes, as people read them."""
    if count is None:
        return NONE
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the loop returns")


def hours(value: float | None) -> str:
    """A span of time, from its hours."""
    if value is None:
        return NONE
    if abs(value) < 1:
        return f"{value * 60:.0f} min"
    return f"{value:.1f} h" if abs(value) < 48 else f"{value / 24:,.1f} days"


def when(moment: datetime | None) -> str:
    """A moment in UTC, to the minute."""
    return moment.strftime("%Y-%m-%d %H:%M") if moment else NONE


def anchor(row: dict[str, Any]) -> str:
    """The fragment at which a page shows the row of a batch."""
    return f"b-{quote(str(row['batch_id']), safe='')}"


def batch_link(row: dict[str, Any], tab_stop: bool = True) -> str:
    """A link to the row of a batch on the same page."""
    stop = "" if tab_stop else ' tabindex="-1"'
    return f'<a class="id" href="#{anchor(row)}"{stop} title="{title(_origin(row))}">{text(row["batch_id"])}</a>'


def from_batch(row: dict[str, Any], shown: str) -> str:
    """A number of one batch; pointing at it says which."""
    return f'<data title="{title(_origin(row))}" data-row="{anchor(row)}">{shown}</data>'


def _origin(row: dict[str, Any]) -> str:
    return f"batch {row['batch_id']}, {row['verdict']} {when(row['committed_at'])} UTC"
