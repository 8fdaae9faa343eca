"""The story's effect: the page of a pipeline, and the way to it in Prefect's UI."""

from prefect import task

from perennial.lakehouse.lake import Lake
from tasks.telemetry import report_url, runs_url, show_link


@task(timeout_seconds=600)
def show_story(lake: Lake, pipeline: str, reports_base_url: str) -> None:
    """Write the pipeline's story anew from the tables, and link it."""
    from perennial.story.publish import publish_story, story_path

    story = publish_story(lake, pipeline, runs_url())
    serving = story.serving
    now = f"version {serving.version} serves since {serving.start:%Y-%m-%d}" if serving else "no version serves yet"
    show_link(
        f"story-{pipeline}",
        report_url(reports_base_url, story_path(pipeline)),
        text=f"The story of {pipeline}",
        description=f"{now}; {len(story.windows)} windows watched",
    )
