"""The flow itself, against a Prefect server, a Ray head, the S3 server and a SQLite catalog of its own."""

import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.ingest.job import Job, contend

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]
PIPELINE = '''
import pandera.polars as pa
import polars as pl

from perennial.spec import Files, Label, Pipeline, TabularModel, UtcMicroseconds


class Sale(pa.DataFrameModel):
    """Grain: one sale."""

    sale_id: int = pa.Field(gt=0)
    product: str = pa.Field(str_matches=r"^[A-Z]{3}-\\d{4}$")
    country: str = pa.Field(isin=["AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL"])
    pieces: int = pa.Field(ge=1, le=500)
    cents: int = pa.Field(ge=0, lt=10_000_000)
    discount: float = pa.Field(in_range=(0, 1), nullable=True)
    email: str = pa.Field(str_contains="@", str_length={"max_value": 254})
    currency: str = pa.Field(eq="EUR")
    channel: str = pa.Field(notin=["test"])
    sold_at: UtcMicroseconds
    note: str = pa.Field(nullable=True)


total = pl.col("pieces") * pl.col("cents")

pipeline = Pipeline(
    name="bench",
    sources=[
        Files("sales", "sales/*.csv", contract=Sale, key=["sale_id"], event_time="sold_at", partition="day",
              derived={
                  "total_cents": total,
                  "net_euros": total * (1 - pl.col("discount").fill_null(0)) / 100,
                  "email_domain": pl.col("email").str.split_exact("@", 1).struct.field("field_1"),
              }),
    ],
    label=Label("even", pl.col("sale_id") % 2 == 0),
    model=TabularModel("binary"),
)
'''


def settings_of(job: Job, home: Path) -> None:
    """What a run reads from its environment: the output names the environment of the lake."""
    keys = home / "secrets"
    keys.mkdir(exist_ok=True)
    (keys / "s3_access_key").write_text(job.access_key)
    (keys / "s3_secret_key").write_text(job.secret_key)
    (home / "pipelines").mkdir(exist_ok=True)
    (home / "pipelines" / "bench.py").write_text(PIPELINE)
    bucket, environment = job.output.split("/")
    values = {
        "ENVIRONMENT": environment,
        "HOME": home / environment,
        "PIPELINES_DIR": home / "pipelines",
        "CATALOG_URI": f"sqlite:///{home}/catalog.db",
        "S3_ENDPOINT": job.endpoint,
        "BUCKET": bucket,
        "SECRETS_DIR": keys,
        "RAY_TOKEN_SECRET": "none",
    }
    os.environ.update({f"PERENNIAL_{name}": str(value) for name, value in values.items()})


def main() -> None:
    """Start what a flow needs, then run it for every job."""
    import ray
    from prefect.testing.utilities import prefect_test_harness

    home = Path(sys.argv[1])
    os.environ.update(PYTHONPATH=str(ROOT), RAY_raylet_start_wait_time_s="180", RAY_AUTH_MODE="disabled")
    with prefect_test_harness(server_startup_timeout=120):
        head = ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=512 * 1024**2,
            include_dashboard=False,
            namespace="perennial",
            _temp_dir=f"/tmp/pt-{secrets.token_hex(3)}",  # noqa: S108 - a socket's path has at most 107 characters
            log_to_driver=False,
        )
        os.environ["PERENNIAL_RAY_ADDRESS"] = head.address_info["address"]  # type: ignore[attr-defined]
        from flows.ingest import ingest
        from flows.settings import Settings

        def run(job: Job) -> None:
            settings_of(job, home)
            ingest("bench", "sales", NOON, settings=Settings())

        contend(run)
        ray.shutdown()


if __name__ == "__main__":
    main()
