"""How long flows and their steps took last, from Prefect's own records."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from deployments.stack.health import NOT_YET, PrefectApi
from flows.settings import Settings

LAST_RUNS = 200  # of each kind that are looked at
_NUMBER = re.compile(r"-[0-9a-f]{1,12}$")  # Prefect numbers a task's runs: watch_window-3f2


@dataclass
class Runs:
    """Seconds of the last completed run, and when it ended, by flow; seconds by step; runs by flow and state."""

    flow_seconds: dict[str, float] = field(default_factory=dict)
    flow_ended: dict[str, float] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)
    recent: dict[tuple[str, str], int] = field(default_factory=dict)


def read_runs(settings: Settings) -> Runs | None:
    """The last runs that the Prefect server knows of; None while it does not answer."""
    try:
        api = PrefectApi(settings)
        flows = {flow["id"]: flow["name"] for flow in api.call("POST", "/flows/filter", {"limit": LAST_RUNS})}
        newest = {"limit": LAST_RUNS, "sort": "END_TIME_DESC"}
        flow_runs = api.call("POST", "/flow_runs/filter", newest)
        task_runs = api.call("POST", "/task_runs/filter", newest)
    except NOT_YET:
        return None
    runs = Runs()
    for run in flow_runs:
        name, state = flows.get(run["flow_id"], "unknown"), run.get("state_type") or "UNKNOWN"
        runs.recent[name, state.lower()] = runs.recent.get((name, state.lower()), 0) + 1
        if state == "COMPLETED" and name not in runs.flow_seconds and run.get("end_time"):
            runs.flow_seconds[name] = float(run["total_run_time"])
            runs.flow_ended[name] = datetime.fromisoformat(run["end_time"]).timestamp()
    for run in task_runs:
        step = _NUMBER.sub("", run["name"])
        if run.get("state_type") == "COMPLETED" and step not in runs.step_seconds:
            runs.step_seconds[step] = float(run["total_run_time"])
    return runs
