"""What a client of the stack does: run deployments and wait for them, and ask the endpoint for predictions."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import polars as pl
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from flows.settings import Settings
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.secrets import SecretRef, open_secret
from perennial.lakehouse.tables import current_snapshot_id
from perennial.spec import Pipeline

REQUEST_ROWS = 500
CLIENTS = 2


class DemoStopped(RuntimeError):
    """A step of the demo did not end well. The stack stays up; the message says where to look."""


def run_flow(settings: Settings, flow: str, **parameters: Any) -> None:
    """Run a deployment through the server and the worker, and wait until it has ended.

    Raises:
        DemoStopped: the run did not complete; the message has its address in the UI.
    """
    run = run_deployment(f"{flow.replace('_', '-')}/{flow}", parameters=_plain(parameters), timeout=0, as_subflow=False)
    assert isinstance(run, FlowRun)  # it is a coroutine only where one runs already
    with get_client(sync_client=True) as client:
        wait_for_run(settings, client, run.id)


def wait_for_run(settings: Settings, client: SyncPrefectClient, run_id: UUID) -> None:
    """Wait for a flow run's end; see `run_flow`."""
    while True:
        run = client.read_flow_run(run_id)
        if run.state is not None and run.state.is_final():
            break
        time.sleep(0.3)
    if not run.state.is_completed():
        raise DemoStopped(
            f"the run {run.name} ended {run.state.name}: {run.state.message}\nIts log: {settings.prefect_url}/runs/flow-run/{run.id}\n"
            "The stack is still up. `make demo` goes on from here once the cause is gone; `make down` stops the stack."
        )


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in parameters.items()}


class Endpoint:
    """The pipeline's endpoint, spoken to as any client would: HTTP, JSON and a bearer token."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self.url = f"http://{settings.serve_host}:{settings.serve_port}/v2/models/{pipeline.name}"
        self._settings, self._pipeline = settings, pipeline
        self._token = open_secret(SecretRef(name="serve_token"), settings.secrets).get_secret_value()

    def metadata(self) -> dict[str, Any]:
        """What is served, and how fresh."""
        return self._ask("", None)

    def wait_for_tables(self, seconds: float = 60) -> None:
        """Wait until the replica holds the joined tables' current snapshots.

        Raises:
            DemoStopped: it does not, in time.
        """
        lake, name = self._settings.lake, self._pipeline.name
        wanted = {
            source: str(current_snapshot_id(lake, raw_table(lake, name, source))) for source in self._pipeline.looked_up
        }
        deadline = time.monotonic() + seconds
        while (held := {k: t["snapshot_id"] for k, t in self.metadata()["tables"].items()}) != wanted:
            if time.monotonic() > deadline:
                raise DemoStopped(f"the endpoint still holds the snapshots {held} after {seconds:.0f} s, not {wanted}.")
            time.sleep(0.5)

    def predict_all(self, rows: pl.DataFrame, name: str, done: set[str], progress: Callable[[int], None]) -> int:
        """Send the rows in requests `<name>-<number>`, leaving out those already answered; return the rows sent."""
        requests = [
            (f"{name}-{number:04}", part)
            for number, part in enumerate(rows.iter_slices(REQUEST_ROWS))
            if f"{name}-{number:04}" not in done
        ]

        def send(request: tuple[str, pl.DataFrame]) -> int:
            request_id, part = request
            body = {"request_id": request_id, "rows": _json_rows(part)}
            answer = self._ask("/predict", body)
            if len(answer["scores"]) != len(part):
                raise DemoStopped(f"{request_id}: {len(answer['scores'])} scores for {len(part)} rows.")
            progress(len(part))
            return len(part)

        with ThreadPoolExecutor(CLIENTS) as pool:
            return sum(pool.map(send, requests))

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the endpoint's own address
            self.url + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - see above
                content: dict[str, Any] = json.load(answer)
                return content
        except urllib.error.HTTPError as error:
            raise DemoStopped(f"{self.url}{path} answered {error.code}: {error.read()[:500].decode()}") from error


def _json_rows(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return rows.with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()


def month_start(month: int) -> datetime:
    """The first instant of a month of 2013, UTC; 13 is January 2014."""
    return datetime(2013 + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC)
