"""Put a pipeline's story where people open it; made anew from the tables each time."""

from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_versions
from perennial.lakehouse.stages import read_stages
from perennial.story.page import story_page
from perennial.story.read import Story, read_story


def story_path(pipeline: str) -> str:
    """Where the page lies in the environment."""
    return f"reports/{pipeline}/story.html"


def publish_story(lake: Lake, pipeline: str, runs: str | None) -> Story:
    """Write the page; return what it tells.

    Args:
        runs: what the address of a flow run begins with in Prefect's UI.
    """
    story = read_story(
        pipeline, read_decisions(lake, pipeline), read_stages(lake, pipeline), read_versions(lake, pipeline)
    )
    page = story_page(story, lake.environment, runs, models=None)
    lake.files().pipe_file(lake.uri(story_path(pipeline)), page.encode())
    return story
