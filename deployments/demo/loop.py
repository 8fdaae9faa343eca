"""The loop itself: bootstrap on the first three months, then month by month. Every step can be done again, or is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import polars as pl
from prefect.client.orchestration import get_client
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deployments.demo import data
from deployments.demo.client import DemoStopped, Endpoint, month_start, run_flow, wait_for_run
from deployments.demo.watch import Clock, MemoryWatch, Step
from flows.settings import Settings
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.registry import champion
from perennial.lakehouse.tables import current_snapshot_id, read_snapshot
from perennial.spec import load_pipeline

PIPELINE = "flights"
BOOTSTRAP_MONTHS = 3
EVENT_SECONDS = 30  # an event that has started nothing by then is lost; reconcile is what the schedule would run


class Loop:
    """Runs the demo's steps and keeps the account of them."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings, self.console = settings, console
        self.lake = settings.lake
        self.pipeline = load_pipeline(PIPELINE, settings.pipelines_dir)
        self.steps: list[Step] = []
        self.memory = MemoryWatch(settings)

    @contextmanager
    def step(self, name: str, rows: int | None = None) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
        """A line of the account: a bar or a spinner while it runs, seconds, memory and a detail once it is done."""
        details: list[str] = []
        clock = Clock()
        self.memory.restart()
        columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
        if rows:
            columns.insert(2, BarColumn(bar_width=30))
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            bar = progress.add_task(name, total=rows)
            yield details.append, lambda number: progress.advance(bar, number)
        step = Step(name, "; ".join(details), clock.seconds, self.memory.peak_bytes)
        self.steps.append(step)
        memory = f"{step.peak_bytes / 1e9:.1f} GB"
        self.console.print(f"  {name:<38} {step.seconds:6.1f} s  {memory:>7}  {step.detail}", highlight=False)

    def bootstrap(self) -> None:
        """Ingest January to March, build features, train, promote and roll out the first version."""
        first, end = month_start(1), month_start(BOOTSTRAP_MONTHS + 1)
        if serving := champion(self.lake, PIPELINE):
            with self.step("bootstrap") as (say, _):
                # A demo may have been killed before its endpoint answered, and `make down` stopped the endpoint.
                run_flow(self.settings, "roll_out", pipeline=PIPELINE, version=serving.version, as_of=serving.as_of)
                run_flow(self.settings, "log_predictions", pipeline=PIPELINE)  # what a stopped demo had not committed
                say(f"done by an earlier demo; version {serving.version} serves")
            return
        with self.step("ingest January to March") as (say, _):
            landed = data.land_dimensions(self.lake)
            for month in range(1, BOOTSTRAP_MONTHS + 1):
                landed += data.land_schedule(self.lake, month) + data.land_arrivals(self.lake, month)
            run_flow(self.settings, "ingest", pipeline=PIPELINE, as_of=first)
            say(f"{landed:,} rows landed, {self.published():,} in raw, {self.quarantined():,} in quarantine")
        self.show_quarantine()
        with self.step("build_features") as (say, _):
            run_flow(self.settings, "build_features", pipeline=PIPELINE, as_of=end)
            say(f"{self.rows('features'):,} rows")
        with self.step("train") as (say, _):
            run_flow(self.settings, "train", pipeline=PIPELINE, as_of=end, reason="the first one")
            say("version 1")
        with self.step("promote") as (say, _):
            run_flow(self.settings, "promote", pipeline=PIPELINE, version=1, as_of=end)
            say(self.verdict("promotion"))
        with self.step("roll_out") as (say, _):
            run_flow(self.settings, "roll_out", pipeline=PIPELINE, version=1, as_of=end)
            say(f"serving at {self.endpoint.url}")

    def month(self, month: int) -> None:
        """A month goes by: the one before is judged, its flights land and are scored through the endpoint.

        Arrivals land in one go with the flights they are of: of each, the endpoint and the judge count what was known by
        the moment they ask about (`_known_at`), as if it had come in day by day.
        """
        name = month_start(month).strftime("%B")
        if month > BOOTSTRAP_MONTHS + 1:
            self.judge(month - 1)
        with self.step(f"{name}: ingest") as (say, _):
            landed = data.land_schedule(self.lake, month) + data.land_arrivals(self.lake, month)
            run_flow(self.settings, "ingest", pipeline=PIPELINE, as_of=month_start(month))
            say(f"{landed:,} rows landed")
        flights = data.month_of_flights(month)
        with self.step(f"{name}: predict over HTTP", len(flights)) as (say, advance):
            self.endpoint.wait_for_tables()
            sent = self.endpoint.predict_all(flights, f"demo-2013-{month:02}", self.answered(), advance)
            say(f"{sent:,} of {len(flights):,} flights scored by version {self.endpoint.metadata()['version']}")

    def judge(self, month: int) -> None:
        """Monitor a month; where the policy says retrain, the event starts it, and this waits for its end."""
        start, end = month_start(month), month_start(month + 1)
        name = f"{start:%B}"
        with self.step(f"{name}: monitor") as (say, _):
            run_flow(self.settings, "monitor", pipeline=PIPELINE, start=start, end=end, as_of=end)
            decision = self.decision(month)
            say(f"[bold]{decision['verdict']}[/bold]: {decision['reason']}")
        if decision["verdict"] == "retrain":
            with self.step(f"{name}: drift event, retrain") as (say, _):
                say(self.wait_for_retrain(decision["decision_id"]))

    def finish(self, last: int) -> None:
        """The version that was never replaced scores the same flights, and both are compared."""
        start, end = month_start(BOOTSTRAP_MONTHS + 1), month_start(last + 1)
        with self.step("version 1 in bulk") as (say, _):
            run_flow(self.settings, "score", pipeline=PIPELINE, version=1, start=start, end=end, as_of=end)
            say("the same flights scored by the version that was never retrained")
        with self.step("compare") as (say, _):
            run_flow(
                self.settings,
                "compare",
                pipeline=PIPELINE,
                start=start,
                end=end,
                baseline_version=1,
                as_of=month_start(last + 2),
            )
            say(f"the picture is drawn from {self.rows('predictions'):,} predictions")

    def wait_for_retrain(self, decision_id: str) -> str:
        """Wait for what the event started; a lost event is what `reconcile` is for."""
        deadline = time.monotonic() + EVENT_SECONDS
        while (claim := self.recorded("claim", decision_id)) is None:
            if time.monotonic() > deadline:
                run_flow(self.settings, "reconcile", grace_seconds=0)
                deadline = time.monotonic() + EVENT_SECONDS
            time.sleep(0.5)
        with get_client(sync_client=True) as client:
            wait_for_run(self.settings, client, UUID(claim["run_id"]))
        ended = self.recorded("retrain", decision_id)
        if ended is None:
            raise DemoStopped(f"the run that claimed {decision_id} completed without a record of how it ended.")
        return f"[bold]version {ended['version']} {ended['verdict']}[/bold]"

    @property
    def endpoint(self) -> Endpoint:
        """The pipeline's endpoint."""
        return Endpoint(self.settings, self.pipeline)

    def recorded(self, kind: str, decision_id: str) -> dict[str, str] | None:
        """The row of that kind for a decision."""
        rows = read_decisions(self.lake, PIPELINE).filter(kind=kind, decision_id=decision_id)
        return rows.row(0, named=True) if len(rows) else None

    def decision(self, month: int) -> dict[str, str]:
        """The verdict on a month."""
        rows = read_decisions(self.lake, PIPELINE).filter(kind="monitor", window_start=month_start(month))
        if rows.is_empty():
            raise DemoStopped(f"monitor completed and the table of decisions has no row for {month_start(month):%B}.")
        return rows.row(-1, named=True)

    def verdict(self, kind: str) -> str:
        """The newest decision of a kind, in words."""
        row = read_decisions(self.lake, PIPELINE).filter(kind=kind).row(-1, named=True)
        return f"[bold]{row['verdict']}[/bold]: {row['reason']}"

    def rows(self, table: str) -> int:
        """Rows in one of the pipeline's tables."""
        identifier = self.lake.table(PIPELINE, table)
        if current_snapshot_id(self.lake, identifier) is None:
            return 0
        return int(self.lake.catalog().load_table(identifier).scan().count())

    def published(self) -> int:
        """Rows in all raw tables."""
        return sum(self.rows(raw_table(self.lake, PIPELINE, source.name)[1]) for source in self.pipeline.sources)

    def quarantined(self) -> int:
        """Rows in quarantine."""
        return self.rows("quarantine")

    def answered(self) -> set[str]:
        """Requests whose answers are in the predictions table."""
        identifier = self.lake.table(PIPELINE, "predictions")
        if current_snapshot_id(self.lake, identifier) is None:
            return set()
        return set(read_snapshot(self.lake, identifier, columns=["request_id"]).column("request_id").to_pylist())

    def show_quarantine(self) -> None:
        """Show one broken row per kind, with the checks it failed."""
        rows = pl.DataFrame(pl.from_arrow(read_snapshot(self.lake, self.lake.table(PIPELINE, "quarantine"))))
        for row in rows.unique("failed_checks", keep="first", maintain_order=True).iter_rows(named=True):
            self.console.print(
                f"      quarantined {row['position']}: {', '.join(row['failed_checks'])}",
                style="dim",
                highlight=False,
                markup=False,
            )
