"""`python -m tests.chaos.bells`: ring for decisions, twice and in no order, kill what runs, and count the claims.

Runs inside `stack run`, beside a stack of its own (S3, Prefect, worker). Prints one line of JSON.
"""

import argparse
import json
import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta

import yaml
from prefect.client.orchestration import get_client
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger

from deployments.stack.environment import WORK_POOL
from deployments.stack.lifecycle import up
from deployments.stack.processes import read_record
from flows.reconcile import reconcile
from flows.settings import ROOT, Settings
from perennial.lakehouse.decisions import Decision, read_decisions, record_decision
from tasks.events import PerformanceDegraded, emit

PARTS = ("s3", "prefect", "worker")
MONDAY = datetime(2024, 5, 6, tzinfo=UTC)


def deploy() -> None:
    """The stand-in, with what prefect.yaml says of the real one."""
    from prefect import Flow

    declared = next(
        d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"] if d["name"] == "retrain"
    )
    triggers = [
        DeploymentEventTrigger.model_validate({k: v for k, v in t.items() if k != "type"}) for t in declared["triggers"]
    ]
    stand_in = Flow.from_source(source=str(ROOT), entrypoint="tests/chaos/claiming.py:retrain")
    stand_in.deploy(  # type: ignore[union-attr]  # called outside of an event loop, so it is done when it returns
        name="retrain",
        work_pool_name=WORK_POOL,
        job_variables={"command": "python -m prefect.engine"},
        triggers=list(triggers),
        concurrency_limit=4,
        build=False,
        print_next_steps=False,
    )


def decide(settings: Settings, count: int) -> list[Decision]:
    """Decisions to retrain, of pipelines of their own so that none waits for another."""
    rows = [
        Decision(
            decision_id=f"decision-{number}",
            pipeline=f"shop_{number}",
            kind="monitor",
            verdict="retrain",
            reason="worse",
            as_of=MONDAY + timedelta(days=number),
        )
        for number in range(count)
    ]
    return [record_decision(settings.lake, row) for row in rows]


def ring(decision: Decision) -> None:
    """Send the event; a server that is being killed may lose it, which is what reconcile is for."""
    emit(
        PerformanceDegraded(
            pipeline=decision.pipeline,
            decision_id=decision.decision_id,
            reason=decision.reason,
            as_of=decision.as_of,
            version=1,
            window_start=None,
            window_end=None,
        )
    )


def kill(settings: Settings, part: str) -> None:
    """`kill -9` a part of the stack, with what it had started left to itself, and bring it up again."""
    record = read_record(settings.home, part)
    if record is not None:
        os.kill(record.pid, signal.SIGKILL)
    time.sleep(1)
    up(settings, PARTS, say=lambda line: None)


def main() -> None:
    """Ring, kill, reconcile until every decision has an end, and say what was claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("decisions", "events", "lost", "workers", "servers", "seed", "deadline"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asked = parser.parse_args()
    settings, dice = Settings(), random.Random(asked.seed)
    deploy()
    decisions = decide(settings, asked.decisions)
    heard = decisions[asked.lost :]
    events = heard + dice.choices(heard, k=asked.events - len(heard))
    dice.shuffle(events)
    kills = dice.sample(range(len(events)), asked.workers + asked.servers)
    planned = dict(zip(kills, ["worker"] * asked.workers + ["prefect"] * asked.servers, strict=True))
    deadline = time.monotonic() + asked.deadline
    for number, decision in enumerate(events):
        ring(decision)
        if number in planned:
            kill(settings, planned[number])
    failed = 0
    while time.monotonic() < deadline and not all_ended(settings, len(decisions)):
        state = reconcile(grace_seconds=0, settings=settings, return_state=True)
        failed += not state.is_completed()  # its schedule runs it again, as this loop does
        time.sleep(2)
    rows = read_decisions(settings.lake)
    claims = rows.filter(kind="claim").group_by("decision_id").len()
    claimants = rows.filter(kind="claim").select("decision_id", "run_id")
    told = {
        "decisions": rows.filter(kind="monitor").height,
        "claimed_once": int((claims["len"] == 1).sum()),
        "claimed_more": int((claims["len"] > 1).sum()),
        "ended_by_the_claimant": rows.filter(kind="retrain").join(claimants, on=["decision_id", "run_id"]).height,
        "ended": rows.filter(kind="retrain")["decision_id"].n_unique(),
        "events": len(events),
        "kills": planned,
        "failed_reconciles": failed,
        "runs": [] if all_ended(settings, len(decisions)) else states_of_runs(),
    }
    print(json.dumps(told))


def states_of_runs() -> list[str]:
    """Each flow run's states with their times, to see what a trial that did not end was waiting for."""
    with get_client(sync_client=True) as client:
        return [
            f"{run.name} of {run.parameters.get('decision_id')}: "
            + ", ".join(f"{state.name} {state.timestamp:%H:%M:%S}" for state in client.read_flow_run_states(run.id))
            for run in client.read_flow_runs()
        ]


def all_ended(settings: Settings, count: int) -> bool:
    """Whether every decision has a row that says how its retrain ended."""
    return read_decisions(settings.lake).filter(kind="retrain")["decision_id"].n_unique() == count


if __name__ == "__main__":
    main()
