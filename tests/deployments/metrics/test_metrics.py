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
from deployments.stack.lifecycle import down, up
from flows.settings import ROOT, Settings
from perennial.lakehouse.decisions import Decision, claim_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.rules.evidence import Evidence, Performance
from tests.conftest import free_port
from tests.deployments.stack_tools import stack_settings
from tests.ray_jobs.drift.world import JUNE, MAY, answered_window, load_rides, register, write_pipeline

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


def decided(lake: Lake, verdict: str) -> None:
    seen = Performance(metric="roc_auc", promised=0.72, measured=0.66, low=0.65, high=0.67)
    drift = {f"input_{number}": number / 300 for number in range(300)}
    evidence = Evidence(version=1, rows=100, labelled_rows=50, performance=seen, drift=drift, figures={"f1": 0.5})
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
    answered_window(settings.lake, rides, register(settings.lake, rides).version, rows=400)
    decided(settings.lake, "retrain")
    claim_decision(settings.lake, "d", "a run", JUNE)
    ended = Decision(
        decision_id="d", pipeline="rides", kind="retrain", verdict="promoted", reason="", as_of=JUNE, version=2
    )
    record_decision(settings.lake, ended)
    tables = Tables(settings)
    seen = samples(page_of(tables))
    assert seen["perennial_decisions_total", frozenset({"rides", "monitor", "retrain"})] == 1
    assert seen["perennial_retrains_total", frozenset({"rides", "promoted"})] == 1
    assert seen["perennial_retrains_waiting", frozenset({"rides"})] == 0
    assert seen["perennial_model_metric", frozenset({"rides", "1", "f1"})] == 0.5
    assert seen["perennial_model_metric_promised", frozenset({"rides", "1", "roc_auc"})] == 0.72
    assert seen["perennial_answered_rows_total", frozenset({"rides", "1", "champion"})] == 400
    assert seen["perennial_answer_duration_seconds_count", frozenset({"rides"})] == 400
    assert samples(page_of(tables))["perennial_answered_rows_total", frozenset({"rides", "1", "champion"})] == 400

    later = MAY + timedelta(days=31)
    answered_window(settings.lake, rides, 1, rows=100, start=later)
    assert samples(page_of(tables))["perennial_answered_rows_total", frozenset({"rides", "1", "champion"})] == 500


def test_labels_stay_few_with_hundreds_of_inputs(settings: Settings) -> None:
    decided(settings.lake, "page")
    seen = samples(page_of(Tables(settings)))
    assert sum(name == "perennial_input_drift_effect" for name, _ in seen) == 20
    assert seen["perennial_paging", frozenset({"rides"})] == 1
    assert len(seen) < 60


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
        ["promtool", "test", "rules", PROMETHEUS / "alerts_test.yml"], capture_output=True, text=True, check=False
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
