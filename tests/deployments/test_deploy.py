"""`prefect deploy --all` alone, twice, on a fresh server: every deployment, schedule and automation is there once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import yaml

from deployments.stack.environment import WORK_POOL, client_environment
from deployments.stack.health import PrefectApi
from deployments.stack.lifecycle import down, up
from flows.settings import ROOT, Settings
from perennial.spec import load_pipeline
from tests.deployments.stack_tools import stack_settings

DECLARED = {d["name"]: d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = stack_settings(tmp_path_factory.mktemp("deploy") / "home")
    try:
        up(settings, ["prefect"])
        PrefectApi(settings).call(
            "POST", "/work_pools/", {"name": WORK_POOL, "type": "process", "base_job_template": {}}
        )
        deploy(settings)
        yield settings
    finally:
        down(settings)


def deploy(settings: Settings) -> None:
    done = subprocess.run(
        ["prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=client_environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def deployments(settings: Settings) -> dict[str, dict[str, Any]]:
    return {d["name"]: d for d in PrefectApi(settings).call("POST", "/deployments/filter")}


def automations(settings: Settings) -> dict[str, dict[str, Any]]:
    found = PrefectApi(settings).call("POST", "/automations/filter")
    assert len(found) == len({a["name"] for a in found})
    return {a["name"]: a for a in found}


def schedules(settings: Settings) -> set[tuple[str, str, str, str]]:
    return {
        (name, s["slug"], s["schedule"]["cron"], s["parameters"].get("pipeline", ""))
        for name, deployment in deployments(settings).items()
        for s in deployment["schedules"]
    }


def test_every_declared_deployment_is_there_with_its_limit_and_description(server: Settings) -> None:
    found = deployments(server)
    assert set(found) == set(DECLARED)
    for name, declared in DECLARED.items():
        assert found[name]["description"] == declared["description"]
        assert found[name]["tags"] == declared["tags"]
        assert found[name]["work_pool_name"] == WORK_POOL
        assert found[name]["global_concurrency_limit"]["limit"] == declared["concurrency_limit"]["limit"]


def test_the_pipelines_schedules_are_schedules_of_the_generic_deployments(server: Settings) -> None:
    names = [path.stem for path in server.pipelines_dir.glob("*.py") if path.stem != "__init__"]
    wanted = {(s.flow, s.cron, name) for name in names for s in load_pipeline(name, server.pipelines_dir).schedules}
    ours = {(flow, cron, name) for flow, slug, cron, name in schedules(server) if slug.startswith("pipeline-")}
    assert ours == wanted


def test_the_drift_event_starts_retrain_with_its_pipeline_and_decision(server: Settings) -> None:
    automation = automations(server)["perennial retrain on drift"]
    (action,) = automation["actions"]
    expected = {"perennial.drift.detected", "perennial.performance.degraded"}
    assert set(automation["trigger"]["expect"]) == expected
    assert action["deployment_id"] == deployments(server)["retrain"]["id"]
    assert action["parameters"] == {
        "pipeline": "{{ event.payload.pipeline }}",
        "decision_id": "{{ event.payload.decision_id }}",
    }


def test_a_run_that_misses_three_heartbeats_is_declared_crashed(server: Settings) -> None:
    automation = automations(server)["perennial crash zombie flow runs"]
    heartbeat = int(client_environment(server)["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert automation["trigger"]["within"] == 3 * heartbeat
    assert automation["actions"][0]["state"] == "CRASHED"


def test_alerts_are_left_out_where_nobody_made_the_block(server: Settings) -> None:
    assert "perennial alerts" not in automations(server)


def test_deploying_again_changes_nothing_and_a_withdrawn_schedule_goes(server: Settings) -> None:
    before, names = schedules(server), set(automations(server))
    stale = {"slug": "pipeline-gone-1", "schedule": {"cron": "0 1 * * *"}, "parameters": {"pipeline": "gone"}}
    theirs = {"slug": "by-hand", "schedule": {"cron": "0 2 * * *"}, "parameters": {"pipeline": "flights"}}
    ingest = deployments(server)["ingest"]["id"]
    PrefectApi(server).call("POST", f"/deployments/{ingest}/schedules", [stale, theirs])
    deploy(server)
    assert schedules(server) == before | {("ingest", "by-hand", "0 2 * * *", "flights")}
    assert set(automations(server)) == names


PAGE = """
from datetime import UTC, datetime
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from deployments.steps import upsert_automations
from tasks.events import DataBroken, RetrainSuppressed, emit
CustomWebhookNotificationBlock(
    name="a person", url="{url}", json_data={{"subject": "{{{{subject}}}}", "body": "{{{{body}}}}"}}
).save("perennial-alerts")
with get_client(sync_client=True) as client:
    upsert_automations(client)
about = dict(pipeline="flights", decision_id="d1", as_of=datetime(2024, 5, 6, tzinfo=UTC), version=1,
             window_start=None, window_end=None)
emit(RetrainSuppressed(**about, reason="cool-down", guard="cool_down"))
emit(DataBroken(**about, reason="wind is gone.", broken={{"wind": "+98% missing"}}))
emit(RetrainSuppressed(**about | {{"decision_id": "d2"}}, reason="Three in a row.", guard="breaker"))
"""


def test_a_page_reaches_a_person_through_the_notification_block_and_what_is_no_page_does_not(server: Settings) -> None:
    received: Queue[dict[str, str]] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        Thread(target=receiver.serve_forever, daemon=True).start()
        script = PAGE.format(url=f"http://127.0.0.1:{receiver.server_port}/hook")
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=client_environment(server),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = {page["subject"]: page["body"] for page in (received.get(timeout=60) for _ in range(2))}
        receiver.shutdown()
    assert set(told) == {"flights: perennial.data.broken", "flights: retraining does not help"}
    assert told["flights: perennial.data.broken"].startswith("wind is gone. Decision d1.")
    assert received.empty()


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {w.lstrip("./") for li in lines if li.startswith("COPY ") and "--from" not in li for w in li.split()[1:-1]}
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == sent
    assert [path for path in copied if not Path(ROOT, path).exists()] == []
