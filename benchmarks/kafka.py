"""How many JSON messages of 200 bytes a second and core go from a topic into the table: `python -m benchmarks.kafka`.

The brokers (librdkafka's own, in a process that is not counted) are filled first, as far as they keep messages. Then
batch after batch runs through the whole of an ingest (plan, Ray, contract, data files, commit). Counted is the CPU of
this process and of all that Ray started, less what the idle Ray takes; the S3 server's and the brokers' is not.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import ray

from benchmarks.place import lakehouse
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import POSITION, expect_position, plan_batch, position_after
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.staging import staged_files
from perennial.lakehouse.tables import ensure_table, read_snapshot
from perennial.spec import load_pipeline
from ray_jobs.ingest.stage import StageRequest, stage

PARTITIONS, PER_PARTITION = 64, 20_000  # the brokers keep 5 MB of a partition
IDLE_SECONDS = 5
PIPELINE = '''
import pandera.polars as pa
import polars as pl

from perennial.spec import Kafka, Label, Pipeline, TabularModel, UtcMicroseconds


class Click(pa.DataFrameModel):
    """Grain: one click."""

    event_id: int = pa.Field(ge=0)
    user: str = pa.Field(str_matches=r"^user")
    page: str
    at: UtcMicroseconds
    value: float = pa.Field(ge=0)
    ok: bool
    referrer: str = pa.Field(nullable=True)


pipeline = Pipeline(
    name="web",
    sources=[
        Kafka("clicks", topic="clicks", servers="{servers}", contract=Click, key=["event_id"], event_time="at",
              maximum_messages={maximum}),
    ],
    label=Label("even", pl.col("event_id") % 2 == 0),
    model=TabularModel("binary"),
)
'''
BROKERS = f"""
import sys
from confluent_kafka import Producer
from tests.brokers import running_brokers

with running_brokers() as brokers:
    brokers.make("clicks", {PARTITIONS})
    producer = Producer({{"bootstrap.servers": brokers.servers, "linger.ms": 20}})
    for number in range({PARTITIONS * PER_PARTITION}):
        message = (
            b'{{"event_id": %d, "user": "user%d", "page": "/shop/%s", "at": "2024-05-01T12:00:00Z", "value": %.2f, '
            b'"ok": true, "referrer": "search results"}}' % (number, number % 1000, b"x" * 52, number * 0.37)
        )
        producer.produce("clicks", message, partition=number % {PARTITIONS})
        if number % 10_000 == 0:
            producer.flush()
    producer.flush()
    print(brokers.servers, len(message), flush=True)
    sys.stdin.read()
"""


def main() -> None:
    """Fill the topic, bring it in, print the speed of each batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=320_000, help="messages of one batch")
    maximum = parser.parse_args().messages
    with filled_brokers() as (servers, size), lakehouse() as lake, tempfile.TemporaryDirectory(prefix="pb-") as name:
        (Path(name) / "web.py").write_text(PIPELINE.replace("{servers}", servers).replace("{maximum}", str(maximum)))
        print(f"{PARTITIONS * PER_PARTITION:,} messages of {size} bytes in {PARTITIONS} partitions")
        ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=f"{name}/ray")
        try:
            before = cpu_seconds()
            time.sleep(IDLE_SECONDS)
            idle_share = (cpu_seconds() - before) / IDLE_SECONDS
            while bring_batch(lake, Path(name), idle_share):
                pass
        finally:
            ray.shutdown()
        numbers = read_snapshot(lake, raw_table(lake, "web", "clicks"), columns=["event_id"])["event_id"].to_pylist()
        assert sorted(numbers) == list(range(PARTITIONS * PER_PARTITION))
        print("every message is in the table once")


@contextmanager
def filled_brokers() -> Iterator[tuple[str, str]]:
    """The address of brokers with a full topic, and its last message's bytes."""
    process = subprocess.Popen([sys.executable, "-c", BROKERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        servers, size = process.stdout.readline().decode().split()
        yield servers, size
    finally:
        process.communicate()


def bring_batch(lake: Lake, pipelines: Path, idle_share: float) -> int:
    """Bring one batch into the table and print its speed; return its messages."""
    cpu, started = cpu_seconds(), time.monotonic()
    pipeline = load_pipeline("web", pipelines)
    source, identifier = pipeline.source("clicks"), raw_table(lake, "web", "clicks")
    batch = plan_batch(lake, pipeline, source, datetime.now(UTC))
    if batch.is_empty:
        return 0
    committed_at = datetime.now(UTC)
    staged = stage(StageRequest(lake=lake, batch=batch, run_id="", committed_at=committed_at, pipelines=pipelines))
    table = ensure_table(lake, identifier, raw_schema(source))
    properties = {POSITION: position_after(lake, batch)}
    files = staged_files(table, staged.rows)
    append_once(lake, identifier, files, batch.batch_id, properties=properties, expect=expect_position(batch))
    seconds = time.monotonic() - started
    cpu = cpu_seconds() - cpu - idle_share * seconds
    rows = staged.counts.rows
    print(
        f"{rows:,} messages: {cpu:.1f} CPU s, {seconds:.1f} s; {rows / cpu:,.0f} a CPU second, {rows / seconds:,.0f} a second"
    )
    return rows


def cpu_seconds() -> float:
    """CPU of this process and of Ray's, those that ended among them."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            if process is me or ("rclone" not in process.name() and BROKERS not in process.cmdline()):
                times = process.cpu_times()
                total += times.user + times.system + (times.children_user + times.children_system) * (process is not me)
        except psutil.NoSuchProcess:
            continue  # it ended between the list and the question
    return total


if __name__ == "__main__":
    main()
