"""Put a pipeline's story where people open it; made anew from the tables each time."""

import hashlib
import json
from dataclasses import replace

from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_versions
from perennial.lakehouse.stages import read_stages
from perennial.rules.recommend import Backtest
from perennial.story.backtest import backtest_page
from perennial.story.page import story_page
from perennial.story.read import Story, read_story
from perennial.story.reports import kept_files, name_of, publish_index


def story_path(pipeline: str) -> str:
    """Where the page lies in the environment."""
    return f"reports/{pipeline}/story.html"


def publish_story(lake: Lake, pipeline: str, runs: str | None) -> Story:
    """Write the page and the index of reports; return what the page tells.

    Args:
        runs: what the address of a flow run begins with in Prefect's UI.
    """
    story = read_story(
        pipeline, read_decisions(lake, pipeline), read_stages(lake, pipeline), read_versions(lake, pipeline)
    )
    kept = kept_files(lake, pipeline)
    told = [
        w if name_of(w) in kept else replace(w, report=None) for w in story.windows
    ]  # the others are past their time
    page = story_page(replace(story, windows=told), lake.environment, runs)
    lake.files().pipe_file(lake.uri(story_path(pipeline)), page.encode())
    publish_index(lake, pipeline)
    return story


def backtest_path(backtest: Backtest) -> str:
    """Where a backtest's page lies in the environment: one per data, code, windows and policies."""
    words = json.dumps(
        [backtest.folder, str(backtest.windows), [c.strategy.model_dump_json() for c in backtest.courses]]
    )
    return f"reports/{backtest.pipeline}/backtest/{hashlib.sha256(words.encode()).hexdigest()[:12]}.html"


def publish_backtest(lake: Lake, backtest: Backtest) -> str:
    """Write a backtest's page and its figures; return where the page lies."""
    path = backtest_path(backtest)
    data = path.removesuffix(".html") + ".json"
    lake.files().pipe_file(lake.uri(data), backtest.model_dump_json(indent=1).encode())
    page = backtest_page(backtest, lake.environment, data.rsplit("/", 1)[-1])
    lake.files().pipe_file(lake.uri(path), page.encode())
    return path
