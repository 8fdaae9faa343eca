"""The metrics of a real lake, as Prometheus's own tool reads them; the alert rules by their unit tests."""

import shutil
import subprocess
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics.__main__ import Tables
from deployments.metrics.families import run_families
from deployments.metrics.runs import Runs, summarise
from deployments.metrics.state import Traffic, count_traffic
from deployments.stack.lifecycle import down, up
from flows.settings import ROOT, Settings
from perennial.lakehouse.commit import rewrite_once
from perennial.lakehouse.decisions import Decision, claim_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import write_files
from perennial.rules.evidence import Evidence, Performance
from tests.conftest import free_port
from tests.deployments.stack_tools import stack_settings
from tests.ray_jobs.drift.world import JULY, JUNE, MAY, answered_window, load_rides, register, write_pipeline

PROMETHEUS = ROOT / "deployments" / "prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has promtool")


@pytest.fixture
def settings(lake: Lake, tmp_path: Path) -> Settings:
    return Settings(
        environment=lake.environment,
        home=tmp_path,
        pipelines_dir=write_pipeline(tmp_path / "pipelines"),
        s3_endpoint=lake.s3_endpoint,
        bucket=lake.bucket,
        secrets_dir=lake.secrets_dir,
        catalog_uri=lake.catalog_uri,
        prefect_port=free_port(),
    )


FELL = Performance(metric="roc_auc", promised=0.72, measured=0.66, low=0.65, high=0.67)


def decided(lake: Lake, verdict: str, seen: Performance = FELL) -> None:
    drift = {f"input_{number}": number / 300 for number in range(300)}
    evidence = Evidence(version=1, rows=1_000, labelled_rows=500, performance=seen, drift=drift, figures={"f1": 0.5})
    record_decision(
        lake,
        Decision(
            decision_id="d", pipeline="rides", kind="monitor", verdict=verdict, reason="", as_of=JUNE, version=1,
            window_start=MAY, window_end=JUNE, evidence=evidence.model_dump_json(),
        ),
    )  # fmt: skip


def page_of(tables: Tables) -> str:
    tables.refresh()
    registry = CollectorRegistry()
    registry.register(tables)
    return generate_latest(registry).decode()


def samples(page: str) -> dict[tuple[str, frozenset[str]], float]:
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_figures_are_those_of_the_tables_however_short_the_flows_lived(settings: Settings) -> None:
    rides = load_rides(settings.pipelines_dir)
    register(settings.lake, rides)
    tables = Tables(settings)
    first = samples(page_of(tables))
    for ended in ("promoted", "rejected", "inconclusive", "rolled_back", "failed"):
        assert first["perennial_retrains_total", frozenset({"rides", ended})] == 0  # else the first one is no increase
    assert first["perennial_source_silence_allowed_seconds", frozenset({"rides"})] == 2 * 86400
    assert ("perennial_source_silence_allowed_seconds", frozenset({"rides", "zones"})) not in first  # it has no time

    decided(settings.lake, "retrain")
    claim_decision(settings.lake, "d", "a run", JUNE)
    ended_well = Decision(
        decision_id="d", pipeline="rides", kind="retrain", verdict="promoted", reason="", as_of=JUNE, version=2
    )
    record_decision(settings.lake, ended_well)
    seen = samples(page_of(tables))
    assert seen["perennial_decisions_total", frozenset({"rides", "monitor", "retrain"})] == 1
    assert seen["perennial_retrains_total", frozenset({"rides", "promoted"})] == 1
    assert seen["perennial_retrains_total", frozenset({"rides", "failed"})] == 0
    assert seen["perennial_retrains_waiting", frozenset({"rides"})] == 0
    assert seen["perennial_model_metric", frozenset({"rides", "1", "f1"})] == 0.5
    assert seen["perennial_model_metric_promised", frozenset({"rides", "1", "roc_auc"})] == 0.72
    assert seen["perennial_model_loss_ratio", frozenset({"rides", "1", "roc_auc"})] == pytest.approx(0.06 / 0.02)


def test_a_loss_is_one_whichever_way_of_the_metric_is_worse(settings: Settings) -> None:
    decided(settings.lake, "hold", Performance(metric="log_loss", promised=0.5, measured=0.58, low=0.57, high=0.59))
    seen = samples(page_of(Tables(settings)))
    assert seen["perennial_model_loss_ratio", frozenset({"rides", "1", "log_loss"})] == pytest.approx(0.08 / 0.05)


def test_every_answer_is_counted_once_whenever_it_is_shipped_and_compacted(settings: Settings) -> None:
    lake, rides = settings.lake, load_rides(settings.pipelines_dir)
    register(lake, rides)
    tables = Tables(settings)
    answers = "perennial_answered_rows_total", frozenset({"rides", "1", "champion"})
    assert answers not in samples(page_of(tables))
    answered_window(lake, rides, 1, rows=100, start=JUNE)
    assert samples(page_of(tables))[answers] == 100
    assert samples(page_of(tables))[answers] == 100
    answered_window(lake, rides, 1, rows=40, start=MAY)  # a replica that was slow to ship what it answered before
    seen = samples(page_of(tables))
    assert seen[answers] == 140
    assert seen["perennial_answer_duration_seconds_count", frozenset({"rides"})] == 140

    identifier = lake.table("rides", "predictions")
    table = lake.catalog().load_table(identifier)
    old = [task.file for task in table.scan().plan_files()]
    rewrite_once(lake, identifier, old, write_files(table, table.scan().to_arrow(), "compacted"), "compacted")
    assert samples(page_of(tables))[answers] == 140
    for day in range(12):  # more commits than a table has snapshots
        answered_window(lake, rides, 1, rows=1, start=JULY + timedelta(days=day))
    assert samples(page_of(tables))[answers] == 152


def test_a_process_that_begins_late_does_not_read_the_whole_log(settings: Settings) -> None:
    rides = load_rides(settings.pipelines_dir)
    answered_window(settings.lake, rides, register(settings.lake, rides).version, rows=400)
    assert not any(name == "perennial_answered_rows_total" for name, _ in samples(page_of(Tables(settings))))
    from_the_start = Traffic(commit=0)
    count_traffic(settings.lake, "rides", from_the_start)
    assert from_the_start.answered["1", "champion"] == 400


def test_steps_are_told_by_pipeline_and_stay_when_others_have_run_since() -> None:
    def run(flow: str, pipeline: str) -> dict[str, object]:
        told = {"flow_id": flow, "parameters": {"pipeline": pipeline}, "state_type": "COMPLETED"}
        return {**told, "id": f"{flow} {pipeline}", "end_time": "2024-05-01T00:00:00Z", "total_run_time": 7.0}

    def step(of: str, seconds: float) -> dict[str, object]:
        return {"flow_run_id": of, "name": "watch_window-3f2", "state_type": "COMPLETED", "total_run_time": seconds}

    flows, known = {"m": "monitor"}, {"rides", "shop"}
    newest_first = [step("m rides", 3.0), step("m rides", 9.0), step("m ../etc", 1.0)]
    seen = summarise(flows, [run("m", "rides"), run("m", "../etc")], newest_first, known)
    seen = summarise(flows, [run("m", "shop")], [step("m shop", 4.0)], known).after(seen)
    assert seen.step_seconds == {
        ("rides", "monitor", "watch_window"): 3.0,
        ("", "monitor", "watch_window"): 1.0,  # what is no pipeline becomes no label
        ("shop", "monitor", "watch_window"): 4.0,
    }
    assert sum(len(family.samples) for family in run_families(seen)) == 3 + 3 + 3 + 1
    assert Runs().after(seen).flow_seconds == seen.flow_seconds


def test_labels_stay_few_with_hundreds_of_inputs(settings: Settings) -> None:
    decided(settings.lake, "page")
    seen = samples(page_of(Tables(settings)))
    assert sum(name == "perennial_input_drift_effect" for name, _ in seen) == 20
    assert seen["perennial_paging", frozenset({"rides"})] == 1
    assert len(seen) < 70


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_metrics(settings: Settings) -> None:
    rides = load_rides(settings.pipelines_dir)
    answered_window(settings.lake, rides, register(settings.lake, rides).version, rows=50)
    decided(settings.lake, "hold")
    page = page_of(Tables(settings))
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@needs_promtool
def test_the_alert_rules_do_what_they_say() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", *PROMETHEUS.glob("*_test.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stack_serves_them_on_loopback(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path / "home")
    try:
        up(settings, ["s3", "metrics"], say=lambda line: None)
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics") as page:
            assert b"\nperennial_tables_read_timestamp_seconds 1." in page.read()
    finally:
        down(settings, say=lambda line: None)
