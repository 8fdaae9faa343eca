"""The model card's effect: a version's page and artifact, made anew whenever something has become of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from perennial.lakehouse.lake import Lake
from tasks.compute import Compute, run_job
from tasks.telemetry import report_url, runs_url, show_markdown

if TYPE_CHECKING:
    from perennial.datadocs.card import Figures


@task(timeout_seconds=1800)
def show_card(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, version: int, reports_base_url: str
) -> None:
    """Publish a version's card and show it; its figures are worked out once, the first time it is asked for."""
    from perennial.datadocs.publish_card import read_figures

    figures = read_figures(lake, pipeline, version)
    if figures is None:
        from ray_jobs.train.card import CardRequest, describe_version

        request = CardRequest(lake=lake, pipelines=pipelines, pipeline=pipeline, version=version)
        figures = run_job(compute, describe_version, request, spreads=False)
    _show(lake, figures, reports_base_url)


@task(timeout_seconds=300)
def redraw_cards(lake: Lake, pipeline: str, versions: Iterable[int | None], reports_base_url: str) -> None:
    """Let the cards of versions whose stage has changed say so, as far as they were drawn; `None` is no version."""
    from perennial.datadocs.publish_card import read_figures

    for version in versions:
        figures = read_figures(lake, pipeline, version) if version is not None else None
        if figures is not None:
            _show(lake, figures, reports_base_url)


def _show(lake: Lake, figures: "Figures", reports_base_url: str) -> None:
    from perennial.datadocs.card import card_path
    from perennial.datadocs.publish_card import card_markdown, publish_card

    pipeline, version = figures.pipeline, figures.version
    card = publish_card(lake, figures, runs_url())
    page = report_url(reports_base_url, card_path(pipeline, version))
    show_markdown(
        f"model-card-{pipeline}-v{version}",
        f"{card_markdown(card)}\n[The card with its plots]({page})\n",
        description=f"Model card of version {version} of {pipeline}",
    )
