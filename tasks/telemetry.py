"""What a run shows in Prefect's UI: tables, text, links and pictures. Text from data is escaped here, once."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.settings import get_current_settings

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|~&!])")


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Show rows as a table; one artifact per `key`, with every run's version in its history."""
    create_table_artifact(table=[dict(row) for row in rows], key=artifact_key(key), description=description)


def show_markdown(key: str, text: str, description: str) -> None:
    """Show text; whatever comes from data in it must have gone through `plain`."""
    create_markdown_artifact(text, key=artifact_key(key), description=description)


def show_link(key: str, url: str, text: str, description: str) -> None:
    """Show a link to a report."""
    create_link_artifact(url, link_text=text, key=artifact_key(key), description=description)


def show_image(key: str, url: str, description: str) -> None:
    """Show the picture behind a URL: Prefect keeps the address, the browser fetches it from the report server."""
    create_image_artifact(url, key=artifact_key(key), description=description)


def artifact_key(name: str) -> str:
    """Prefect takes lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def plain(text: object) -> str:
    """Text from data as Markdown that shows it and nothing else: column names and values are anybody's."""
    return _MARKDOWN.sub(r"\\\1", str(text).replace("\n", " "))


def runs_url() -> str | None:
    """What the address of a flow run begins with in Prefect's UI; None where this process knows of no UI."""
    ui = get_current_settings().ui_url
    return f"{ui}/runs/flow-run/" if ui else None


def report_url(reports_base_url: str, path: str) -> str:
    """Where people open a report that lies at `path` (`reports/...`) of the environment."""
    return f"{reports_base_url.rstrip('/')}/{path.removeprefix('reports/')}"
