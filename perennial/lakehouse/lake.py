"""Where the lakehouse is: its catalog, its bucket and its names, as values that travel from the settings down."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import pyiceberg.catalog.sql  # noqa: F401 - imported by the catalog else: half a second, in the middle of each run
import s3fs
from aiobotocore.session import get_session
from botocore.handlers import add_expect_header
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem
from pydantic import BaseModel, Field
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.io import InputFile, OutputFile, OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from perennial.faults import fault_point
from perennial.lakehouse.objects import Objects, open_objects
from perennial.lakehouse.secrets import SecretRef, open_secret

S3_ATTEMPTS = 12  # at 20% of 503s the default of 3 finished 31 of 40 appends, twelve finished all 40
S3_CONNECT_SECONDS = 5
S3_SILENCE_SECONDS = 5  # a server that says nothing for so long is asked again; a slow one that sends is waited for
SQLITE_BUSY_SECONDS = 30
POSTGRES = {
    # A run that was stopped within its swap holds the table's row: others would wait for it without an end. It loses the
    # row after a minute; who waits gives up sooner, looks again and comes back.
    "options": "-c idle_in_transaction_session_timeout=60s -c lock_timeout=10s",
    "connect_timeout": "10",
}


class MetadataFile(PyArrowFile):
    """A table's metadata, with a fault point between its being written and the catalog's pointing to it."""

    @contextmanager
    def create(self, overwrite: bool = False) -> Iterator[OutputStream]:  # type: ignore[override]  # used by `with` only
        """The file to write to."""
        with super().create(overwrite) as stream:
            yield stream
        fault_point("metadata-written")


class OneRequestFileIO(PyArrowFileIO):
    """pyiceberg's file IO, writing small objects by one PUT.

    pyarrow otherwise sends every 2 kB metadata file as a multipart upload: three requests for one, and a rename on
    the local stack's server, which then misses the file for minutes when another upload is under way.
    """

    def _initialize_s3_fs(self, netloc: str | None) -> S3FileSystem:
        return _s3_files(
            self.properties.get("s3.access-key-id"),
            self.properties.get("s3.secret-access-key"),
            self.properties.get("s3.endpoint"),
            self.properties.get("s3.region", "us-east-1"),
        )

    def new_output(self, location: str) -> PyArrowFile:
        """The file at a location, to be written."""
        file = super().new_output(location)
        if not location.endswith(".metadata.json"):
            return file
        return MetadataFile(location, file._path, file._filesystem, file._buffer_size)

    def write(self, location: str, content: bytes) -> None:
        """Put a small object at its `s3://` location by a request of our own, at a fifth of pyarrow's CPU."""
        open_objects(
            self.properties.get("s3.access-key-id"),
            self.properties.get("s3.secret-access-key"),
            self.properties.get("s3.endpoint"),
            self.properties.get("s3.region", "us-east-1"),
            S3_ATTEMPTS,
            S3_SILENCE_SECONDS,
            os.getpid(),
        ).write(location.removeprefix("s3://"), content)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Delete an object, by s3fs; one that is gone already is no error.

        pyarrow writes a marker for the folder after each deletion; the local stack's server answers 500 to it and then
        takes the folder for a file: nothing in it is found until it starts again, the table's metadata neither.
        pyiceberg deletes after every commit that met another writer's, and old metadata after any.
        """
        path = location if isinstance(location, str) else location.location
        if not path.startswith("s3://"):
            super().delete(path)
            return
        fault_point("clean-up")
        _s3fs_files(
            self.properties.get("s3.access-key-id"),
            self.properties.get("s3.secret-access-key"),
            self.properties.get("s3.endpoint"),
            self.properties.get("s3.region", "us-east-1"),
            os.getpid(),
        ).rm_file(path)


class Lake(BaseModel, frozen=True):
    """One environment's lakehouse. Secrets are names; `secrets_dir` is where their files lie, if they are files."""

    environment: str = Field("local", pattern=r"^[a-z][a-z0-9_]*$")
    catalog_type: str = "sql"
    catalog_uri: str
    catalog_password: SecretRef | None = None
    catalog_properties: dict[str, str] = {}
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    bucket: str
    s3_access_key: SecretRef | None = None
    s3_secret_key: SecretRef | None = None
    personal_key: SecretRef = SecretRef(name="personal_key")
    secrets_dir: Path | None = None

    def uri(self, path: str) -> str:
        """`s3://` address of a path inside this environment's part of the bucket."""
        return f"s3://{self.bucket}/{self.environment}/{path}"

    def table(self, pipeline: str, name: str) -> tuple[str, str]:
        """Identifier of a pipeline's table: `<environment>_<pipeline>.<name>`."""
        return f"{self.environment}_{pipeline}", name

    def system(self, name: str) -> tuple[str, str]:
        """Identifier of a system table: `<environment>_perennial.<name>`."""
        return self.table("perennial", name)

    def catalog(self) -> Catalog:
        """The catalog, opened with values only: pyiceberg would otherwise read the environment at import."""
        _prepare_environment(self)
        with _CATALOG_LOCK:  # the first one makes the catalog's tables
            return _catalog(self.model_dump_json())

    def files(self) -> s3fs.S3FileSystem:
        """The file system for sources, artifacts and reports: one per process, never with stale listings."""
        _prepare_environment(self)
        return _s3fs_files(*self._keys(), self.s3_endpoint, self.s3_region, os.getpid())

    def arrow_files(self) -> S3FileSystem:
        """pyarrow's file system on the same bucket: for table data and whatever Ray reads and writes."""
        _prepare_environment(self)
        key, secret = self._keys()
        return _s3_files(key, secret, self.s3_endpoint, self.s3_region)

    def objects(self) -> Objects:
        """Small objects, whole, each by one request that tells its ETag as well."""
        return open_objects(
            *self._keys(), self.s3_endpoint, self.s3_region, S3_ATTEMPTS, S3_SILENCE_SECONDS, os.getpid()
        )

    def _keys(self) -> tuple[str | None, str | None]:
        if self.s3_access_key is None or self.s3_secret_key is None:
            return None, None  # the client's own chain: instance role, profile
        return (
            open_secret(self.s3_access_key, self.secrets_dir).get_secret_value(),
            open_secret(self.s3_secret_key, self.secrets_dir).get_secret_value(),
        )

    def catalog_settings(self) -> dict[str, Any]:
        """pyiceberg's properties for this catalog, secrets opened. Never log them."""
        key, secret = self._keys()
        uri = self.catalog_uri
        if self.catalog_password:
            password = open_secret(self.catalog_password, self.secrets_dir).get_secret_value()
            uri = uri.replace("{password}", password)
        settings = {
            "type": self.catalog_type,
            "uri": uri,
            "warehouse": self.uri("warehouse"),
            "s3.endpoint": self.s3_endpoint,
            "s3.region": self.s3_region,
            "s3.access-key-id": key,
            "s3.secret-access-key": secret,
            "py-io-impl": "perennial.lakehouse.lake.OneRequestFileIO",
            **self.catalog_properties,
        }
        return {name: value for name, value in settings.items() if value is not None}


_S3_FILES: dict[tuple[str | None, str | None, str | None, str], S3FileSystem] = {}
_S3_FILES_LOCK = Lock()
_CATALOG_LOCK = Lock()


def _s3_files(key: str | None, secret: str | None, endpoint: str | None, region: str) -> S3FileSystem:
    # One client per process and server: pyiceberg asks for one with every table it loads, and threads that make
    # clients while another deletes an object were seen to wait for each other forever (pyarrow 26.0.1).
    with _S3_FILES_LOCK:
        wanted = (key, secret, endpoint, region)
        if wanted not in _S3_FILES:
            _S3_FILES[wanted] = S3FileSystem(
                access_key=key,
                secret_key=secret,
                endpoint_override=endpoint,
                region=region,
                retry_strategy=AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
                connect_timeout=S3_CONNECT_SECONDS,
                request_timeout=S3_SILENCE_SECONDS,
                allow_delayed_open=True,
            )
        return _S3_FILES[wanted]


@lru_cache(maxsize=8)
def _s3fs_files(key: str | None, secret: str | None, endpoint: str | None, region: str, pid: int) -> s3fs.S3FileSystem:
    # Making a client costs up to 0.8 s, of which an ingest would make ten. The process is part of the key because a
    # client does not survive a fork; listings are never cached, because stale ones hide files that have arrived.
    session = get_session()
    # With `Expect: 100-continue` aiohttp waits for a server's go-ahead without any timeout: a PUT to a server that
    # answers nothing hung for ever, and the run with it.
    session.unregister("before-call.s3", add_expect_header)
    return s3fs.S3FileSystem(
        key=key,
        secret=secret,
        endpoint_url=endpoint,
        client_kwargs={"region_name": region},
        config_kwargs={
            "retries": {"max_attempts": S3_ATTEMPTS, "mode": "standard"},
            "connect_timeout": S3_CONNECT_SECONDS,
            "read_timeout": S3_SILENCE_SECONDS,
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        session=session,
    )


@lru_cache(maxsize=8)
def _catalog(lake: str) -> Catalog:
    value = Lake.model_validate_json(lake)
    settings = value.catalog_settings()
    if value.catalog_uri.startswith("sqlite:///"):
        path = Path(value.catalog_uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=SQLITE_BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers beside one writer; the file remembers it
        settings["uri"] = f"{value.catalog_uri}?timeout={SQLITE_BUSY_SECONDS}"
    elif value.catalog_uri.startswith("postgresql"):
        url = make_url(settings["uri"])
        settings["uri"] = url.set(query={**POSTGRES, **url.query}).render_as_string(hide_password=False)
        settings["pool_pre_ping"] = "true"  # a connection that the server closed meanwhile is replaced, not used
    try:
        return load_catalog("perennial", **settings)
    except (OperationalError, ProgrammingError, IntegrityError) as error:
        if "already exists" not in str(error):
            raise
        return load_catalog("perennial", **settings)  # another process made the catalog's tables meanwhile


def _prepare_environment(lake: Lake) -> None:
    # pyarrow's writer sends trailing checksums, which S3 servers other than Amazon's answer with 411.
    # It reads the choice from the environment only, before its first request; so does botocore, below s3fs.
    if lake.s3_endpoint:
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
        # and rclone answers a rewritten object with the checksum of the one before, a range with that of the whole
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")
