"""Every setting of Perennial, read here once, at the flows' edge; below, they travel as values.

Each field is the environment variable `PERENNIAL_<FIELD>` (`none` means not set). A secret is never a setting: only its
name is, and `perennial.lakehouse.secrets` opens it where it is used.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import Field, NonNegativeInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from perennial.lakehouse.lake import Lake
    from ray_jobs.serve.config import ServeConfig
    from ray_jobs.train.config import TrainConfig
    from tasks.compute import Compute

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
GIB = 1024**3
NAME = r"^[a-z][a-z0-9_]*$"
SECRET = r"^[a-z0-9_-]{1,64}$"  # noqa: S105 - the shape of a secret's name


def _cpus() -> int:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(2, len(usable))  # Serve, Train and Data share the slots; below two a retrain could not start


def _object_store_bytes() -> int:
    shared = Path("/dev/shm")  # noqa: S108 - where Ray keeps its object store; only its size is asked for
    limits = [2 * GIB, int(psutil.virtual_memory().total * 0.2)]
    if shared.is_dir():
        limits.append(int(shutil.disk_usage(shared).total * 0.8))
    return max(128 * 1024**2, min(limits))


def _port(default: int, what: str) -> int:
    return Field(default, ge=1024, le=65535, description=f"Port of {what}, on loopback.")


class Settings(BaseSettings):
    """Where things are and how large they may get. The defaults are the local stack on this machine."""

    model_config = SettingsConfigDict(
        env_prefix="PERENNIAL_", env_parse_none_str="none", frozen=True, extra="ignore", validate_default=True
    )

    environment: str = Field("local", pattern=NAME, max_length=32, description="Prefix of every table and path.")
    home: Path = Field(Path(".perennial"), description="Folder of all embedded state; relative to the repository.")
    pipelines_dir: Path = Field(Path("pipelines"), description="Folder of the pipelines' files.")

    prefect_port: int = _port(4200, "the Prefect server")
    ray_port: int = _port(6379, "the Ray head")
    ray_dashboard_port: int = _port(8265, "the Ray dashboard and its Jobs API")
    serve_port: int = _port(8000, "the prediction endpoint")
    serve_fallback_port: int = _port(8500, "Serve's own proxy, which HAProxy turns to where no replica answers")
    s3_port: int = _port(9090, "the embedded S3 server")
    reports_port: int = _port(8181, "the reports")
    metrics_port: int = _port(9464, "the metrics, as Prometheus reads them")
    haproxy_metrics_port: int = _port(9101, "HAProxy's metrics")
    haproxy_stats_port: int = _port(8404, "HAProxy's statistics")

    s3_endpoint: str | None = Field(
        None,
        pattern=r"^(aws|https?://\S+)$",
        description="An S3 server's URL; `aws`: Amazon's; else the stack's own.",
    )
    s3_region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{2,32}$", description="Region requests are signed for.")
    bucket: str = Field("perennial", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="The bucket.")
    s3_access_key_secret: str | None = Field("s3_access_key", pattern=SECRET, description="Secret: access key id.")
    s3_secret_key_secret: str | None = Field("s3_secret_key", pattern=SECRET, description="Secret: secret key.")
    personal_key_secret: str = Field(
        "personal_key", pattern=SECRET, description="Secret: the key of the pseudonyms that stand for personal columns."
    )
    secrets_dir: Path | None = Field(None, description="Folder of mounted secrets; default `<home>/secrets`.")

    catalog_type: str = Field("sql", pattern=r"^(sql|rest|glue|hive|dynamodb)$", description="pyiceberg's type.")
    catalog_uri: str | None = Field(
        None,
        max_length=500,
        description="Its address; `{password}` stands for the secret; default SQLite in home.",
    )
    catalog_password_secret: str | None = Field(None, pattern=SECRET, description="Secret with the catalog's password.")
    catalog_properties: dict[str, str] = Field({}, max_length=50, description="More pyiceberg properties, as JSON.")

    ray_address: str | None = Field(None, pattern=r"^\S+:\d+$", description="A Ray head's host:port; else the stack's.")
    ray_jobs_address: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="Ray Jobs API, where Ray is remote; else jobs run in process.",
    )
    ray_token_secret: str | None = Field("ray_token", pattern=SECRET, description="Secret with Ray's token.")
    cpus: int = Field(default_factory=_cpus, ge=2, le=4096, description="CPU slots of the local Ray head.")
    object_store_bytes: int = Field(
        default_factory=_object_store_bytes, ge=128 * 1024**2, le=4096 * GIB, description="Ray's object store."
    )

    train_workers: int = Field(1, ge=1, le=1024, description="Workers that train one model together.")
    train_maximum_workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Train with as many workers as there is room for, up to this; else exactly so many.",
    )
    train_device: Literal["auto", "cpu", "gpu"] = Field("auto", description="What workers train on; auto: GPUs if any.")
    train_threads: int = Field(
        1, ge=1, le=256, description="Torch threads of a worker; weights depend on their number."
    )
    train_worker_cpus: float = Field(1.0, gt=0, le=256, description="CPU slots a training worker takes.")
    train_compile: bool = Field(False, description="Whether GPU workers compile the network first (torch.compile).")

    serve_host: str = Field(LOOPBACK, pattern=r"^[0-9A-Za-z.:-]+$", description="Interface the endpoint listens on.")
    serve_token_secret: str = Field("serve_token", pattern=SECRET, description="Secret with the clients' token.")
    ship_seconds: float = Field(2.0, gt=0, le=3600, description="Answered rows go to S3 this often.")
    reports_url: str | None = Field(None, pattern=r"^https?://\S+$", description="Where people open the reports.")
    minimum_free_bytes: NonNegativeInt = Field(2 * GIB, description="Free disk below which the stack does not start.")

    @field_validator("home", "pipelines_dir", "secrets_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path and (ROOT / path.expanduser()).resolve()

    @property
    def secrets(self) -> Path:
        """Folder of the secrets' files."""
        return self.secrets_dir or self.home / "secrets"

    @property
    def embedded_s3(self) -> bool:
        """Whether the local stack brings the S3 server."""
        return self.s3_endpoint is None

    @property
    def s3_url(self) -> str | None:
        """The S3 server's URL; None is Amazon's own."""
        if self.s3_endpoint == "aws":
            return None
        return self.s3_endpoint or f"http://{LOOPBACK}:{self.s3_port}"

    @property
    def prefect_url(self) -> str:
        """The local Prefect server, interface and API (`/api`)."""
        return f"http://{LOOPBACK}:{self.prefect_port}"

    @property
    def dashboard_url(self) -> str:
        """The local Ray dashboard."""
        return f"http://{LOOPBACK}:{self.ray_dashboard_port}"

    @property
    def reports_base(self) -> str:
        """What a link to a report begins with."""
        return (self.reports_url or f"http://{LOOPBACK}:{self.reports_port}").rstrip("/")

    @property
    def lake(self) -> Lake:
        """The lakehouse, as a value."""
        from perennial.lakehouse.lake import Lake
        from perennial.lakehouse.secrets import SecretRef

        def secret(name: str | None) -> SecretRef | None:
            return SecretRef(name=name) if name else None

        return Lake(
            environment=self.environment,
            catalog_type=self.catalog_type,
            catalog_uri=self.catalog_uri or f"sqlite:///{self.home}/catalog.db",
            catalog_password=secret(self.catalog_password_secret),
            catalog_properties=self.catalog_properties,
            s3_endpoint=self.s3_url,
            s3_region=self.s3_region,
            bucket=self.bucket,
            s3_access_key=secret(self.s3_access_key_secret),
            s3_secret_key=secret(self.s3_secret_key_secret),
            personal_key=SecretRef(name=self.personal_key_secret),
            secrets_dir=self.secrets,
        )

    @property
    def compute(self) -> Compute:
        """Where Ray is and how to reach it, as a value."""
        from perennial.lakehouse.secrets import SecretRef
        from tasks.compute import Compute

        return Compute(
            ray_address=self.ray_address or f"{LOOPBACK}:{self.ray_port}",
            jobs_address=self.ray_jobs_address,
            token_secret=SecretRef(name=self.ray_token_secret) if self.ray_token_secret else None,
            secrets_dir=self.secrets,
            serve_host=self.serve_host,
            serve_port=self.serve_port,
        )

    @property
    def training(self) -> TrainConfig:
        """How many workers train, and on what, as a value."""
        from ray_jobs.train.config import TrainConfig

        return TrainConfig(
            workers=self.train_workers,
            maximum_workers=self.train_maximum_workers,
            device=self.train_device,
            threads=self.train_threads,
            worker_cpus=self.train_worker_cpus,
            compile=self.train_compile,
        )

    @property
    def serve(self) -> ServeConfig:
        """How the endpoint runs, as a value."""
        from perennial.lakehouse.secrets import SecretRef
        from ray_jobs.serve.config import ServeConfig

        return ServeConfig(
            host=self.serve_host,
            port=self.serve_port,
            token=SecretRef(name=self.serve_token_secret),
            log_folder=self.home / "prediction_log",
            ship_seconds=self.ship_seconds,
        )
