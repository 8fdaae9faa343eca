"""The model card's effect: a version's page and artifact, made anew whenever something has become of it."""

from pathlib import Path

from prefect import task

from perennial.lakehouse.lake import Lake
from tasks.compute import Compute, run_job
from tasks.telemetry import report_url, runs_url, show_markdown


@task(timeout_seconds=1800)
def show_card(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, version: int, reports_base_url: str
) -> None:
    """Publish a version's card and show it; its figures are worked out once, the first time it is asked for."""
    from perennial.datadocs.card import card_path
    from perennial.datadocs.publish_card import card_markdown, publish_card, read_figures

    figures = read_figures(lake, pipeline, version)
    if figures is None:
        from ray_jobs.train.card import CardRequest, describe_version

        request = CardRequest(lake=lake, pipelines=pipelines, pipeline=pipeline, version=version)
        figures = run_job(compute, describe_version, request, spreads=False)
    card = publish_card(lake, figures, runs_url())
    page = report_url(reports_base_url, card_path(pipeline, version))
    show_markdown(
        f"model-card-{pipeline}-v{version}",
        f"{card_markdown(card)}\n[The card with its plots]({page})\n",
        description=f"Model card of version {version} of {pipeline}",
    )
