"""Data docs' effect: what a batch brought, on a page and in Prefect's UI."""

from pathlib import Path

from prefect import task

from perennial.lakehouse.lake import Lake
from perennial.spec import load_pipeline
from tasks.telemetry import plain, report_url, runs_url, show_markdown


@task(timeout_seconds=600)
def show_batch(lake: Lake, pipelines: Path, pipeline: str, source: str, reports_base_url: str) -> None:
    """Show a source's newest batch: its data docs and an artifact; a no-op when they show it already."""
    from perennial.datadocs.publish import page_path, publish_pages

    declared = load_pipeline(pipeline, pipelines)
    row = publish_pages(lake, declared, declared.source(source), runs_url())
    if row is None:
        return
    failed = sorted(row["checks"], key=lambda check: -check["failed_rows"])
    figures = [("rows that arrived", row["rows"]), ("quarantined", row["quarantined_rows"])]
    figures += [(f"failed {plain(c['check'])} ({c['severity']})", c["failed_rows"]) for c in failed if c["failed_rows"]]
    lines = "".join(f"| {name} | {number:,} |\n" for name, number in figures)
    reasons = "".join(f"{plain(reason)}\n\n" for reason in row["reasons"])
    show_markdown(
        f"data-docs-{pipeline}-{source}",
        f"## {pipeline}/{source}: {row['verdict']}\n\n{reasons}Batch `{row['batch_id']}`: {plain(row['arrived'])}.\n\n"
        f"| what | rows |\n| --- | ---: |\n{lines}\n"
        f"[Data docs of {source}]({report_url(reports_base_url, page_path(pipeline, source))})\n",
        description=f"Newest batch of {pipeline}/{source}",
    )
