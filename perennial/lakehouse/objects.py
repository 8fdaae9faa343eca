"""Small objects of S3, whole, by one request each, read with the ETag of just these bytes.

pyarrow asks for an object's size before it reads it and does not tell which version it read, and takes some 3 ms of CPU to
write one; s3fs takes ten times the CPU. So requests are signed here (AWS Signature Version 4:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html) and sent by urllib3.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit

import urllib3
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.session import Session

AT_ONCE = 16  # requests of one process
_NO_PAYLOAD = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True)
class Objects:
    """Reads and writes objects of one server. `credentials`: None where requests go unsigned."""

    endpoint: str
    region: str
    credentials: Credentials | None
    pool: urllib3.PoolManager

    def read(self, location: str) -> tuple[bytes, str]:
        """The bytes of `bucket/key`, and their ETag without its quotes.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the server refused, or did not answer in as many tries as the other clients have.
        """
        answer = self._ask("GET", location, None)
        return answer.data, answer.headers.get("ETag", "").strip('"')

    def write(self, location: str, content: bytes) -> None:
        """Put the bytes at `bucket/key`. Their hash is signed too, so that the server refuses others.

        Raises:
            OSError: as `read`. The object may be there all the same, whole.
        """
        self._ask("PUT", location, content)

    def _ask(self, method: str, location: str, content: bytes | None) -> urllib3.BaseHTTPResponse:
        path = urlsplit(self.endpoint).path.rstrip("/") + "/" + quote(location, safe="/-_.~")
        payload = _NO_PAYLOAD if content is None else hashlib.sha256(content).hexdigest()
        headers = self._sign(method, path, payload, datetime.now(UTC)) if self.credentials else {}
        url = f"{urlsplit(self.endpoint).scheme}://{urlsplit(self.endpoint).netloc}{path}"
        try:
            answer = self.pool.request(method, url, body=content, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"{method} s3://{location}: {error}") from error
        if answer.status == 404 and method == "GET":
            raise FileNotFoundError(f"s3://{location} is not there")
        if answer.status != 200:
            raise OSError(f"{method} s3://{location}: the server answered {answer.status} {answer.data[:300]!r}")
        return answer

    def _sign(self, method: str, path: str, payload: str, now: datetime) -> dict[str, str]:
        assert self.credentials
        keys: ReadOnlyCredentials = self.credentials.get_frozen_credentials()
        moment = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {"host": urlsplit(self.endpoint).netloc, "x-amz-content-sha256": payload, "x-amz-date": moment}
        if keys.token:
            signed["x-amz-security-token"] = keys.token
        names, lines = ";".join(signed), "".join(f"{name}:{value}\n" for name, value in signed.items())
        asked = f"{method}\n{path}\n\n{lines}\n{names}\n{payload}"
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        told = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        signature = hmac.digest(_signing_key(keys.secret_key, scope), told.encode(), "sha256").hex()
        proof = f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {**{name: value for name, value in signed.items() if name != "host"}, "Authorization": proof}


@lru_cache(maxsize=8)
def open_objects(
    key: str | None,
    secret: str | None,
    endpoint: str | None,
    region: str,
    attempts: int,
    silence_seconds: int,
    pid: int,
) -> Objects:
    """The objects of a server; without keys the process's own (role, profile, environment). One per process."""
    retries = urllib3.Retry(
        attempts - 1,
        redirect=False,
        status_forcelist=(500, 502, 503, 504),
        raise_on_status=False,
        backoff_factor=0.1,
        backoff_max=10,
        backoff_jitter=1.0,
    )
    timeout = urllib3.Timeout(connect=silence_seconds, read=silence_seconds)
    credentials = Credentials(key, secret) if key and secret else Session().get_credentials()
    pool = urllib3.PoolManager(maxsize=AT_ONCE, retries=retries, timeout=timeout)
    return Objects(endpoint or f"https://s3.{region}.amazonaws.com", region, credentials, pool)


@lru_cache(maxsize=8)
def _signing_key(secret: str, scope: str) -> bytes:
    found = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        found = hmac.digest(found, part.encode(), "sha256")
    return found
