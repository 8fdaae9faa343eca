"""From a verdict's event to the first line of the retrain flow, on a running stack: `make up deploy bench-event`.

Each round records a decision that is claimed already, so that the run says its first line and ends at once; the time is
that line's own timestamp less the moment before the event was sent. A round begins when the run of the one before has ended: the
stack is idle.
"""

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.settings import Settings
from perennial.lakehouse.decisions import Decision, claim_decision, record_decision
from tasks.events import PerformanceDegraded, emit

PIPELINE = "event_benchmark"
PATIENCE_SECONDS = 60.0


def one_round(settings: Settings, client: SyncPrefectClient, name: str) -> float:
    """Seconds from the event to the flow's first line."""
    now = datetime.now(UTC)
    row = Decision(
        decision_id=name, pipeline=PIPELINE, kind="monitor", verdict="retrain", reason="a benchmark", as_of=now
    )
    record_decision(settings.lake, row)
    claim_decision(settings.lake, name, "the benchmark", now)
    about = {"version": 1, "window_start": None, "window_end": None, "reason": row.reason, "as_of": now}
    sent = datetime.now(UTC)
    emit(PerformanceDegraded(pipeline=PIPELINE, decision_id=name, **about))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        line = _first_line(client, name)
        if line:
            _wait_for_end(client, line["flow_run_id"], deadline)
            return (datetime.fromisoformat(line["timestamp"]) - sent).total_seconds()
        time.sleep(0.25)
    raise RuntimeError(
        f"no run of retrain said a word about {name} within {PATIENCE_SECONDS:.0f} s: is the stack deployed?"
    )


def _first_line(client: SyncPrefectClient, name: str) -> dict[str, Any] | None:
    newest = {"limit": 100, "sort": "TIMESTAMP_DESC"}
    lines = client.request("POST", "/logs/filter", json=newest).json()
    said = [line for line in lines if name in line["message"] and line["name"] == "prefect.flow_runs"]
    return min(said, key=lambda line: line["timestamp"], default=None)


def _wait_for_end(client: SyncPrefectClient, run_id: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        state = client.request("GET", "/flow_runs/{id}", path_params={"id": run_id}).json()["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            time.sleep(1)  # its process ends
            return
        time.sleep(0.25)
    raise RuntimeError(f"the run {run_id} said its first line and did not end")


def main() -> None:
    """Print the rounds and their median as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    settings, stamp = Settings(), f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    with get_client(sync_client=True) as client:
        taken = [one_round(settings, client, f"bench-{stamp}-{number}") for number in range(rounds)]
    print(json.dumps({"median_seconds": statistics.median(taken), "longest": max(taken), "rounds": taken}))


if __name__ == "__main__":
    main()
