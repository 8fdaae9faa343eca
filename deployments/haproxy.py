#!/usr/bin/env python3
"""HAProxy with what Ray Serve has no setting for: Serve starts this file in the binary's place (RAY_SERVE_HAPROXY_BINARY_PATH).

It changes the configuration that Serve has written, then becomes HAProxy (PERENNIAL_HAPROXY_BINARY). Why, and what else was tried:
docs/decisions/0040-one-hop.md. Standard library only: it runs at every reload.
"""

import os
import re
import sys
from pathlib import Path

BINARY = "PERENNIAL_HAPROXY_BINARY"  # the real one
PEOPLE = "/models/"  # rows as JSON objects at /models/<name>/predict, beside /v2/models/<name>/infer
_FRONTEND = "frontend http_frontend\n"
_APPLICATION = re.compile(r"^    use_backend ", re.MULTILINE)
_NOT_FOUND = "http-request return status 404 content-type text/plain lf-string"
_RULES = f"""\
    # Perennial: people's paths are the protocol's, with no second hop between
    http-request set-path /v2%[path] if {{ path_beg {PEOPLE} }}
    # Replicas notice by themselves when a client has gone; a task per request to watch for it costs more than the answer
    http-request set-header x-request-disconnect-disabled true
    # Back-pressure says when to come back, whoever found that nothing is free
    http-after-response set-header Retry-After 1 if {{ status 503 }} !{{ res.hdr(Retry-After) -m found }}
"""
IN_FLIGHT = 128  # requests that a replica is given at a time: two batches, so that it never waits for the next
QUEUED = 256  # that wait for each replica here, where it costs nothing; whoever comes on top is refused at once
_SERVER = re.compile(r"^(    server \S+ \S+ check(?! backup).*)$", re.MULTILINE)
_BACKEND = re.compile(r"^backend (\S+)\n    log global\n", re.MULTILINE)
_BUSY = """\
    # Perennial: more than can be answered in time is refused here, and not by a replica that has no time for it
    http-request return status 503 content-type application/json hdr Retry-After 1 string '{{"error": "more requests wait than can be answered in time; come back after the seconds in Retry-After."}}' if {{ avg_queue({name}) gt {most} }}
"""


class UnknownConfiguration(RuntimeError):
    """Serve's template is not the one this was written for; a proxy that lacks half of its rules must not start."""


def adapt(configuration: str) -> str:
    """Serve's configuration with our changes.

    Raises:
        UnknownConfiguration: a place where one belongs is not there.
    """
    bind = re.search(r"^    bind .*\n", configuration[configuration.find(_FRONTEND) :], re.MULTILINE)
    if _RULES in configuration:
        return configuration
    if _FRONTEND not in configuration or bind is None:
        raise UnknownConfiguration(f"no {_FRONTEND.strip()!r} with a bind line")
    adapted = configuration.replace(_FRONTEND + bind.group(), _FRONTEND + bind.group() + _RULES)
    # HAProxy's own 502, 503 and 504 stay what they are: Serve would call them 500.
    adapted = re.sub(r"^    errorfile 50[234] .*\n", "", adapted, flags=re.MULTILINE)
    adapted = re.sub(r"mode 666 level admin", "mode 600 level admin", adapted)
    host = os.environ.get("PERENNIAL_HAPROXY_METRICS_HOST", "127.0.0.1")
    adapted = re.sub(r"^    bind :(\d+)$", rf"    bind {host}:\1", adapted, flags=re.MULTILINE)
    adapted = re.sub(r"^  bind \*:(\d+)$", rf"  bind {host}:\1", adapted, flags=re.MULTILINE)
    adapted = _SERVER.sub(rf"\1 maxconn {IN_FLIGHT}", adapted)
    adapted = _BACKEND.sub(lambda found: found.group() + _BUSY.format(name=found.group(1), most=QUEUED), adapted)
    if not _APPLICATION.search(adapted):
        # A proxy that has just been started again hears of the applications a moment later: they are not gone.
        adapted = adapted.replace(_NOT_FOUND, _NOT_FOUND.replace("404", "503"))
    if adapted.count(_RULES) != 1:
        raise UnknownConfiguration(f"{_FRONTEND.strip()!r} is there {adapted.count(_RULES)} times")
    return adapted


def main() -> None:
    """Adapt the file that `-f` names, and become HAProxy with the same arguments."""
    arguments = sys.argv[1:]
    if "-f" in arguments:
        place = arguments.index("-f") + 1
        written = Path(arguments[place])  # in place: Serve knows its HAProxy by the name of this file
        written.write_text(adapt(written.read_text()))
    binary = os.environ[BINARY]
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell: the very program, in this process's place


if __name__ == "__main__":
    main()
