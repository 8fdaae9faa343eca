"""The frame of a page: its head, its policy, its style and its script, all in one file that asks for nothing else."""

import base64
import hashlib
import json
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARK = "perennial-batch"
"""Name of the `meta` element that says which batch a page was made after."""


def frame(title: str, mark: str, body: str, data: dict[str, Any] | None = None, more_style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text; escaped here.
        mark: of the newest batch that the page shows.
        body: HTML, with everything from data escaped.
        more_style: CSS after the style that all pages share.
        data: what the script shows on pointing at a plot; it stands in the page as JSON that cannot end its element.
    """
    style, script = _part("page.css") + more_style, _part("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="UTF-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="{MARK}" content="{escape(mark)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n'
        f'<body>\n{body}\n<script type="application/json" id="data">{_inert(data or {})}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


@lru_cache
def _part(name: str) -> str:
    return (HERE / name).read_text()


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _inert(data: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in, nor open a comment in it."""
    written = json.dumps(data, separators=(",", ":"))
    return written.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
