"""Health means doing: an object written and read, a query answered, a worker polling, a node alive.

A probe returns None when its part does its work, else in a few words why not yet.
"""

from __future__ import annotations

import json
import secrets
import time
from functools import lru_cache
from http.client import HTTPConnection, HTTPException
from typing import Any

from deployments.stack.environment import WORK_POOL, s3_keys
from flows.settings import Settings

SECONDS = 5.0
NOT_YET = (OSError, HTTPException, ValueError, KeyError, TypeError)  # refused, cut off, or not yet what it will say


class S3Refused(RuntimeError):
    """The S3 server answers, and waiting will not make it do what we ask."""


class Refused(HTTPException):
    """A part on loopback answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def probe_s3(settings: Settings) -> str | None:
    """Write, read and delete one object; make the bucket where it is missing.

    Raises:
        S3Refused: the credentials are wrong or do not suffice.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    client = _s3_client(settings.s3_url, settings.s3_region, s3_keys(settings))
    key, body = f".probe-{secrets.token_hex(4)}", secrets.token_bytes(16)
    place = settings.s3_url or "Amazon S3"
    try:
        try:
            client.put_object(Bucket=settings.bucket, Key=key, Body=body)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise
            client.create_bucket(Bucket=settings.bucket)
            client.put_object(Bucket=settings.bucket, Key=key, Body=body)
        same = client.get_object(Bucket=settings.bucket, Key=key)["Body"].read() == body
        client.delete_object(Bucket=settings.bucket, Key=key)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "401", "Forbidden"}:
            raise S3Refused(
                f"{place} refuses the credentials ({code}) for bucket {settings.bucket!r}. They are read from the "
                f"secrets {settings.s3_access_key_secret!r} and {settings.s3_secret_key_secret!r} (variables "
                f"PERENNIAL_SECRET_<NAME>, or files in {settings.secrets}). Correct them and run `make up` again."
            ) from error
        return f"{place} answers {code}"
    except BotoCoreError as error:
        return f"{place} cannot be reached ({type(error).__name__})"
    return None if same else f"{place} gave back other bytes than were written"


def probe_reports(settings: Settings) -> str | None:
    """The reports' folder is listed."""
    return _answers(settings.reports_port, "/")


def probe_metrics(settings: Settings) -> str | None:
    """The tables were read at least once."""
    try:
        page = _request("GET", settings.metrics_port, "/metrics").decode()
        line = next(line for line in page.splitlines() if line.startswith("perennial_tables_read_timestamp_seconds "))
    except (*NOT_YET, StopIteration) as error:
        return f"port {settings.metrics_port} does not answer yet ({error})"
    return None if float(line.split()[1]) else "the tables were not read yet"


def probe_prefect(settings: Settings) -> str | None:
    """The server answers and its database does too."""
    return _answers(settings.prefect_port, "/api/ready")


def probe_worker(settings: Settings) -> str | None:
    """A worker of our pool has been heard lately."""
    try:
        workers = PrefectApi(settings).call("POST", f"/work_pools/{WORK_POOL}/workers/filter")
        online = any(worker["status"] == "ONLINE" for worker in workers)
    except NOT_YET as error:
        return f"its pool is not there yet ({error})"
    return None if online else "no worker has reported yet"


def probe_ray(settings: Settings) -> str | None:
    """The head knows of a node that is alive; the dashboard and the Jobs API answer to our token."""
    try:
        token = settings.secrets / (settings.ray_token_secret or "-")
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.is_file() else {}
        answer = _request("GET", settings.ray_dashboard_port, "/api/v0/nodes", headers)
        alive = any(node["state"] == "ALIVE" for node in answer["data"]["result"]["result"])
    except NOT_YET as error:
        return f"the dashboard does not answer yet ({error})"
    return None if alive else "no node is alive yet"


class PrefectApi:
    """The few calls `up` needs, without importing Prefect, which takes longer than they do."""

    def __init__(self, settings: Settings) -> None:
        self._port = settings.prefect_port
        name = secrets.token_hex(16)
        token = _request("GET", self._port, f"/api/csrf-token?client={name}")["token"]
        self._headers = {"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": token, "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None, attempts: int = 20) -> Any:
        """The answer's JSON. While the server is busy with SQLite it answers 503; all our calls may be repeated."""
        for attempt in range(1, attempts + 1):
            try:
                return _request(method, self._port, f"/api{path}", self._headers, json.dumps(body or {}))
            except Refused as refused:
                if refused.status != 503 or attempt == attempts:
                    raise
                time.sleep(0.5)
        raise AssertionError("unreachable: the last attempt returns or raises")


def clear_leftovers(settings: Settings) -> int:
    """Mark runs that an earlier stack left behind as crashed, so that they hold no slot; return how many.

    Only called while no worker of ours is running: nothing of this pool can be at work. The earlier worker is forgotten
    too, or it would pass for the one about to start until its heartbeat is missed.
    """
    api = PrefectApi(settings)
    filters = {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": [WORK_POOL]}},
    }
    runs = api.call("POST", "/flow_runs/filter", filters)
    for run in runs:
        state = {"type": "CRASHED", "name": "Crashed", "message": "The local stack was stopped while this was running."}
        api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    if api.call("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [WORK_POOL]}}}):
        for worker in api.call("POST", f"/work_pools/{WORK_POOL}/workers/filter", {}):
            api.call("DELETE", f"/work_pools/{WORK_POOL}/workers/{worker['name']}")
    return len(runs)


def _answers(port: int, path: str) -> str | None:
    try:
        _request("GET", port, path)
    except NOT_YET as error:
        return f"port {port} does not answer yet ({error})"
    return None


def _request(method: str, port: int, path: str, headers: dict[str, str] | None = None, body: str | None = None) -> Any:
    """A part's answer on loopback; JSON is read. Cheap: it is asked ten times a second while the parts need the CPU.

    Raises:
        Refused: the answer is an error.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise Refused(answer.status, f"{method} {path}: {answer.status} {content[:200].decode(errors='replace')}")
        return json.loads(content) if "json" in (answer.getheader("Content-Type") or "") else content
    finally:
        connection.close()


@lru_cache(maxsize=4)  # making a client costs more than using it, and it is used while the parts need the CPU
def _s3_client(endpoint: str | None, region: str, keys: tuple[str, str] | None) -> Any:
    import botocore.session
    from botocore.config import Config

    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=keys and keys[0],
        aws_secret_access_key=keys and keys[1],
        config=Config(
            retries={"max_attempts": 0},
            connect_timeout=SECONDS,
            read_timeout=SECONDS,
            s3={"addressing_style": "path" if endpoint else "auto"},
            request_checksum_calculation="when_required",
        ),
    )
