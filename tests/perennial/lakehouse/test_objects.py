"""Small objects by one request each: what a server may do to it. Against real S3 it is in tests/ray_jobs/ingest/test_files.py."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.objects import Objects, open_objects

CONTENT = b"0123456789" * 100


@contextmanager
def server(answers: list[str]) -> Iterator[tuple[Objects, list[dict[str, str]]]]:
    """A server that gives these answers in turn, the last one for ever; and the headers of every request."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[min(len(asked), len(answers) - 1)]
            asked.append(dict(self.headers))
            if answer == "reset":
                self.close_connection = True
                return
            self.send_response(200 if answer in ("whole", "cut") else int(answer))
            self.send_header("Content-Length", str(len(CONTENT)))
            self.send_header("ETag", '"v1"')
            self.end_headers()
            self.wfile.write(CONTENT[: 500 if answer == "cut" else None])
            self.close_connection = True

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{http.server_port}"
    yield open_objects("key", "secret", endpoint, "us-east-1", 4, 2, http.server_port), asked
    http.shutdown()
    http.server_close()


def test_a_server_that_fails_cuts_or_hangs_up_is_asked_again() -> None:
    with server(["503", "cut", "reset", "whole"]) as (objects, asked):
        assert objects.read("lake/a.csv") == (CONTENT, "v1")
    assert len(asked) == 4


def test_what_is_cut_for_ever_is_an_error_and_no_short_content() -> None:
    with server(["cut"]) as (objects, asked), pytest.raises(OSError, match=r"s3://lake/a\.csv"):
        objects.read("lake/a.csv")
    assert len(asked) == 4


def test_a_refusal_is_not_asked_again_and_names_what_the_server_said() -> None:
    with server(["403"]) as (objects, asked), pytest.raises(OSError, match="answered 403"):
        objects.read("lake/a.csv")
    assert len(asked) == 1
    assert asked[0]["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")
    assert "secret" not in str(asked)


def test_an_object_that_is_gone_is_told_from_a_failure() -> None:
    with server(["404"]) as (objects, _), pytest.raises(FileNotFoundError):
        objects.read("lake/a.csv")


def test_what_is_written_under_any_name_is_read_by_others(lake: Lake) -> None:
    for name in ("plain.parquet", "a b+c/é=1%.parquet"):
        lake.objects().write(lake.uri(name).removeprefix("s3://"), CONTENT)
        assert lake.files().cat_file(lake.uri(name)) == CONTENT


def test_a_write_is_asked_again_too_and_a_refusal_names_the_server() -> None:
    with server(["503", "cut", "whole"]) as (objects, asked):
        objects.write("lake/a.csv", CONTENT)
    assert len(asked) == 3
    assert asked[0]["x-amz-content-sha256"] == hashlib.sha256(CONTENT).hexdigest()
