"""`python -m deployments.metrics`: serve `/metrics` on loopback, from tables that are read every few seconds."""

import logging
import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.metrics.families import families, run_families
from deployments.metrics.runs import Runs, read_runs
from deployments.metrics.state import PipelineState, Reader
from flows.settings import LOOPBACK, Settings

EVERY_SECONDS = 15.0
logger = logging.getLogger(__name__)


class Tables(Collector):
    """The last states that could be read, and when: a lake that is away makes metrics old, not wrong."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.reader = settings, Reader(settings)
        self._states: list[PipelineState] = []
        self._runs = Runs()
        self._read_at = 0.0
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read the tables again."""
        states, runs = self.reader.read(), read_runs(self.settings)
        with self._lock:
            self._states, self._read_at = states, time.time()
            self._runs = runs.after(self._runs) if runs else self._runs

    def collect(self) -> Iterator[Metric]:
        """Prometheus's call, once a scrape."""
        with self._lock:
            states, read_at, runs = self._states, self._read_at, self._runs
        yield GaugeMetricFamily(
            "perennial_tables_read_timestamp_seconds", "When these figures were read from the tables.", value=read_at
        )
        yield from families(states)
        yield from run_families(runs)


def keep_reading(tables: Tables, stopped: threading.Event, every_seconds: float = EVERY_SECONDS) -> None:
    """Read the tables until told to stop; a failed read is logged and tried again."""
    while not stopped.is_set():
        try:
            tables.refresh()
        except Exception:  # any part may be away; `perennial_tables_read_timestamp_seconds` stands still and alerts
            logger.exception("the tables could not be read; trying again in %s s", every_seconds)
        stopped.wait(every_seconds)


def main() -> None:
    """Serve until the process is ended."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    tables, registry = Tables(settings), CollectorRegistry()
    registry.register(tables)
    start_http_server(settings.metrics_port, addr=LOOPBACK, registry=registry)
    keep_reading(tables, threading.Event())


if __name__ == "__main__":
    main()
