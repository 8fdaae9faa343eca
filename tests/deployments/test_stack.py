"""The stack as a user starts and stops it; only its quick parts, S3 and the reports, so that every bad day fits.

tests/deployments/test_deploy.py starts Prefect, and the tests of the Ray jobs start Ray.
"""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.stack.checks import StackProblem
from deployments.stack.environment import client_environment, prepare_home, ray_folder
from deployments.stack.lifecycle import down, start_parts, up
from deployments.stack.parts import Part, stack_parts
from deployments.stack.processes import owned_processes, read_record
from flows.settings import ROOT, Settings
from tests.deployments.stack_tools import command, stack_settings, variables

QUICK = ("s3", "reports")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = stack_settings(tmp_path / "home")
    yield settings
    down(settings, say=lambda line: None)


def running(settings: Settings) -> set[int]:
    return {process.pid for process in owned_processes(settings.home, ["s3", "reports", "prefect", "worker", "ray"])}


def test_up_again_leaves_what_runs_alone_and_down_stops_it(settings: Settings) -> None:
    assert command(settings, "up", "--parts", *QUICK).returncode == 0
    first = running(settings)
    again = command(settings, "up", "--parts", *QUICK)
    assert again.returncode == 0
    assert running(settings) == first
    assert again.stdout.count(" runs ") == 2
    assert command(settings, "down").returncode == 0
    assert running(settings) == set()


def test_what_was_written_is_there_after_down_and_up(settings: Settings) -> None:
    up(settings, QUICK)
    with settings.lake.files().open(f"{settings.bucket}/local/reports/page.html", "w") as page:
        page.write("kept")
    down(settings)
    up(settings, QUICK)
    assert settings.lake.files().cat(f"{settings.bucket}/local/reports/page.html") == b"kept"


def test_a_taken_port_is_named_with_its_holder_and_its_setting_and_nothing_starts(settings: Settings) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", settings.reports_port))
        stranger.listen()
        refused = command(settings, "up", "--parts", *QUICK)
    assert refused.returncode == 1
    assert f"port {settings.reports_port} is taken by " in refused.stderr
    assert f"(pid {os.getpid()})" in refused.stderr
    assert "PERENNIAL_REPORTS_PORT" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert running(settings) == set()


def test_a_nearly_full_disk_is_refused_before_anything_starts(settings: Settings) -> None:
    refused = command(settings, "up", "--parts", *QUICK, PERENNIAL_MINIMUM_FREE_BYTES=str(10**17))
    assert refused.returncode == 1
    assert "nearly full" in refused.stderr
    assert running(settings) == set()


def test_wrong_credentials_are_named_and_the_secret_is_not_shown(settings: Settings) -> None:
    up(settings, ["s3"])
    away = {
        "PERENNIAL_S3_ENDPOINT": f"http://127.0.0.1:{settings.s3_port}",
        "PERENNIAL_SECRET_S3_SECRET_KEY": "wrong-one",
    }
    refused = command(settings, "up", "--parts", "reports", **away)
    assert refused.returncode == 1
    assert "refuses the credentials (SignatureDoesNotMatch)" in refused.stderr
    assert "wrong-one" not in refused.stderr


def test_an_s3_server_that_is_not_there_is_named(settings: Settings) -> None:
    away = {"PERENNIAL_S3_ENDPOINT": f"http://127.0.0.1:{settings.s3_port}", "PERENNIAL_SECRET_S3_ACCESS_KEY": "a" * 20}
    refused = command(settings, "up", "--parts", "reports", **away, PERENNIAL_SECRET_S3_SECRET_KEY="b" * 20)
    assert refused.returncode == 1
    assert "cannot be reached" in refused.stderr


def test_a_part_that_fails_takes_the_others_down_with_it(settings: Settings) -> None:
    prepare_home(settings)
    s3 = stack_parts(settings)[0]
    argv = [sys.executable, "-c", "print('no room left'); raise SystemExit(3)"]
    broken = Part("ray", argv, dict(os.environ), {}, "", lambda settings: "not yet")
    with pytest.raises(StackProblem, match=r"ray ended while starting.*no room left"):
        start_parts(settings, [s3, broken], print)
    assert running(settings) == set()


def test_a_worker_never_joins_a_server_that_is_not_its_own(settings: Settings) -> None:
    refused = command(settings, "up", "--parts", "worker")
    assert refused.returncode == 1
    assert "worker needs prefect" in refused.stderr


def test_up_killed_at_any_moment_and_run_again_works(settings: Settings) -> None:
    for moment in ("s3", "reports"):
        killed = subprocess.Popen(
            [sys.executable, "-m", "deployments.stack", "up", "--parts", *QUICK],
            cwd=ROOT,
            env=variables(settings),
            stdout=subprocess.DEVNULL,
        )
        while read_record(settings.home, moment) is None and killed.poll() is None:
            pass
        killed.kill()
        killed.wait()
        (settings.home / "run" / f"{moment}.json").write_text("{ half a rec")
    assert command(settings, "up", "--parts", *QUICK).returncode == 0
    assert len(running(settings)) == 2


def test_an_interrupted_up_leaves_nothing_of_its_own_running(settings: Settings) -> None:
    interrupted = subprocess.Popen(
        [sys.executable, "-m", "deployments.stack", "up", "--parts", "s3", "prefect"],
        cwd=ROOT,
        env=variables(settings),
        stderr=subprocess.PIPE,
    )
    while read_record(settings.home, "prefect") is None and interrupted.poll() is None:
        pass
    interrupted.send_signal(signal.SIGTERM)
    assert interrupted.wait(30) == 130
    assert running(settings) == set()


def test_a_record_of_a_reused_pid_is_not_ours_to_stop(settings: Settings) -> None:
    prepare_home(settings)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        record = f'{{"part": "s3", "pid": {stranger.pid}, "created_at": 1.0, "argv": []}}'
        (settings.home / "run" / "s3.json").write_text(record)
        down(settings)
        assert psutil.pid_exists(stranger.pid)
        stranger.communicate(b"\n")


def test_secrets_are_generated_once_for_this_user_only_and_are_no_arguments(settings: Settings) -> None:
    up(settings, QUICK)
    files = sorted(settings.secrets.iterdir())
    before = [file.read_text() for file in files]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 5
    up(settings, QUICK)
    assert [file.read_text() for file in files] == before
    arguments = " ".join(word for part in stack_parts(settings) for word in part.argv)
    assert not any(value in arguments for value in before)


def test_everything_listens_on_loopback(settings: Settings) -> None:
    up(settings, QUICK)
    listening = [
        c.laddr for p in owned_processes(settings.home, QUICK) for c in p.net_connections() if c.status == "LISTEN"
    ]
    assert listening
    assert {address[0] for address in listening} == {"127.0.0.1"}


def test_clean_is_refused_while_the_stack_is_up(settings: Settings) -> None:
    up(settings, ["s3"])
    assert "make down" in command(settings, "idle").stderr
    down(settings)
    assert command(settings, "idle").returncode == 0


def test_rays_sockets_have_short_paths_however_deep_the_repository_lies(settings: Settings) -> None:
    deep = settings.model_copy(update={"home": settings.home / ("deep" * 40)})
    socket_path = Path(client_environment(deep)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert len(str(socket_path.parent / ("n" * 56) / socket_path.name)) < 97  # Serve adds the node's id
    assert len(str(ray_folder(deep) / "session_2026-01-01_00-00-00_000000_1234567/sockets/dash_MetricsHead")) < 97
    ray_folder(deep).rmdir()
