"""A registered model to serve, and Serve around it, for the benchmarks of the endpoint."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage, make_champion
from perennial.lakehouse.tables import ensure_table
from perennial.rules.features import pipeline_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.config import EndpointConfig, ServeConfig
from tests.conftest import S3, empty_lake, serve_ports, serve_s3
from tests.ray_jobs.serve.world import NOON, register_model

PIPELINES = Path(__file__).parent / "pipelines"
TOKEN = "sesame"  # noqa: S105 - of a server that lives for a minute, on loopback
ROW: dict[str, Any] = {
    "sale": 1, "sold_at": "2024-05-01T18:00:00Z", "district": "north", "rooms": 3, "area_m2": 71.5, "floor": 2,
    "year": 1994, "latitude": 48.4, "longitude": 10.0, "lift": True,
}  # fmt: skip


def sales(count: int = 400) -> pl.DataFrame:
    """Sales as `ingest` would have landed them."""
    rows = [
        {
            **ROW, "sale": n, "sold_at": NOON + n * timedelta(minutes=7), "rooms": 1 + n % 6, "floor": n % 9,
            "district": ["north", "south", "east", "west"][n % 4], "area_m2": 30.0 + n * 37 % 90, "year": 1950 + n % 70,
            "latitude": 48 + n % 10 / 10, "longitude": 9 + n % 7 / 10, "lift": n % 3 == 0, "price": 1000.0 * (100 + n % 50),
        }
        for n in range(count)
    ]  # fmt: skip
    instant = pl.Datetime("us", "UTC")
    return pl.DataFrame(rows).with_columns(
        pl.col("sold_at").cast(instant), pl.col("sold_at").cast(instant).alias("_known_at")
    )


@contextmanager
def served_model(home: Path) -> Iterator[tuple[S3, Lake]]:
    """A lake with a champion of `houses` in it."""
    with serve_s3(home / "s3") as s3:
        (s3.secrets_dir / "serve_token").write_text(TOKEN)
        lake = empty_lake(s3, home)
        pipeline = load_pipeline("houses", PIPELINES)
        rows = sales()
        table = lake.table("houses", "raw_sales")
        ensure_table(lake, table, rows.to_arrow().schema)
        append_once(lake, table, rows.to_arrow(), "world")
        version = register_model(lake, pipeline, 1)
        make_champion(lake, "houses", version, expected_generation=0, as_of=NOON, reason="a benchmark", decision_id="b")
        yield s3, lake


def endpoint_config(lake: Lake, home: Path, port: int, **options: Any) -> EndpointConfig:
    """What a replica of `houses` is told."""
    pipeline = load_pipeline("houses", PIPELINES)
    return EndpointConfig(
        lake=lake,
        pipeline="houses",
        pipelines=PIPELINES,
        code_hash=pipeline_code_hash(pipeline),
        serve=ServeConfig(port=port, log_folder=home / "log", draining_seconds=1, **options),
    )


@contextmanager
def ray_with_serve(port: int, *, haproxy: bool = True) -> Iterator[None]:
    """A Ray of our own with Serve on it: as the local stack starts it, or as Ray's defaults have it."""
    folder = Path(f"/tmp/pb-{secrets.token_hex(3)}")  # noqa: S108 - a socket's path has at most 97 characters
    folder.mkdir(mode=0o700)
    if haproxy:
        from deployments.stack.environment import haproxy_environment

        os.environ.update(haproxy_environment())
        os.environ.update(serve_ports())
        os.environ.update(
            RAY_SERVE_ENABLE_HA_PROXY="1",
            RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
            RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=str(folder / "haproxy.cfg"),
            RAY_SERVE_HAPROXY_SOCKET_PATH=str(folder / "admin.sock"),
            RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH=str(folder / "metrics.sock"),
            RAY_SERVE_HAPROXY_SERVER_STATE_BASE=str(folder),
            RAY_SERVE_HAPROXY_SERVER_STATE_FILE=str(folder / "server-state"),
            RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="0.5",
        )
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    import ray
    from ray import serve

    ray.init(
        address="local", num_cpus=2, object_store_memory=256 << 20, include_dashboard=False,
        namespace="perennial", _temp_dir=str(folder / "r"), log_to_driver=False,
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def roll_out(lake: Lake, config: EndpointConfig) -> None:
    """Let the champion serve."""
    from ray_jobs.serve.roll import RollRequest, roll

    stage = champion_stage(lake, "houses")
    assert stage is not None
    report = roll(RollRequest(endpoint=config, version=stage.version, generation=stage.generation))
    assert report.failure is None, report.failure


def body(**changed: Any) -> bytes:
    """A request of one row."""
    return json.dumps({"rows": [{**ROW, **changed}]}).encode()


def now() -> datetime:
    """The moment, for what is asked as of it."""
    return datetime.now(UTC)
