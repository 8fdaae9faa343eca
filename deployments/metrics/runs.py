"""How long flows and their steps took last, from Prefect's own records."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deployments.stack.health import NOT_YET, PrefectApi
from flows.settings import Settings
from perennial.spec import list_pipelines

LAST_RUNS = 200  # of each kind that are looked at
_NUMBER = re.compile(r"-[0-9a-f]{1,12}$")  # Prefect numbers a task's runs: watch_window-3f2
Run = dict[str, Any]


@dataclass
class Runs:
    """Seconds of the last completed run, and when it ended, by (pipeline, flow); seconds by (pipeline, flow, step).

    The pipeline is empty for flows of none. `recent`: the runs that were looked at, by flow and state.
    """

    flow_seconds: dict[tuple[str, ...], float] = field(default_factory=dict)
    flow_ended: dict[tuple[str, ...], float] = field(default_factory=dict)
    step_seconds: dict[tuple[str, ...], float] = field(default_factory=dict)
    recent: dict[tuple[str, str], int] = field(default_factory=dict)

    def after(self, former: Runs) -> Runs:
        """With what earlier looks saw of flows and steps that are not among the last runs any more."""
        return Runs(
            flow_seconds=former.flow_seconds | self.flow_seconds,
            flow_ended=former.flow_ended | self.flow_ended,
            step_seconds=former.step_seconds | self.step_seconds,
            recent=self.recent,
        )


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
    return summarise(flows, flow_runs, task_runs, list_pipelines(settings.pipelines_dir))


def summarise(
    flows: dict[str, str], flow_runs: Sequence[Run], task_runs: Sequence[Run], pipelines: Collection[str]
) -> Runs:
    """The newest completed run of each flow and step; runs come newest first, `pipelines` bounds the labels."""
    runs = Runs()
    owners: dict[str, tuple[str, str]] = {}
    for run in flow_runs:
        name, state = flows.get(run["flow_id"], "unknown"), run.get("state_type") or "UNKNOWN"
        asked = str((run.get("parameters") or {}).get("pipeline"))
        owners[run["id"]] = owner = (asked if asked in pipelines else "", name)
        runs.recent[name, state.lower()] = runs.recent.get((name, state.lower()), 0) + 1
        if state == "COMPLETED" and owner not in runs.flow_seconds and run.get("end_time"):
            runs.flow_seconds[owner] = float(run["total_run_time"])
            runs.flow_ended[owner] = datetime.fromisoformat(run["end_time"]).timestamp()
    for run in task_runs:
        if run.get("state_type") == "COMPLETED" and run.get("flow_run_id") in owners:
            step = (*owners[run["flow_run_id"]], _NUMBER.sub("", run["name"]))
            runs.step_seconds.setdefault(step, float(run["total_run_time"]))
    return runs
