"""The server's own paths while Serve's controller is away."""

import asyncio
import os
import signal

import httpx
import psutil
from starlette.types import ASGIApp

from perennial.lakehouse.secrets import SecretRef
from ray_jobs.serve.server import Server
from tests.conftest import S3, free_port


def ask(app: ASGIApp, method: str, path: str) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers={"authorization": "Bearer sesame"})

    return asyncio.run(go())


def test_without_an_answer_of_the_controller_nothing_is_ready_and_that_is_a_503(s3: S3, ray_head: str) -> None:
    from ray import serve

    assert s3.secrets_dir
    (s3.secrets_dir / "serve_token").write_text("sesame")
    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    server = Server(SecretRef(name="serve_token"), s3.secrets_dir)
    app = server.__serve_build_asgi_app__()
    assert ask(app, "GET", "/health/ready").status_code == 400  # no model is served, and that is known
    (controller,) = [p for p in psutil.Process().children(recursive=True) if "ServeController" in " ".join(p.cmdline())]
    os.kill(controller.pid, signal.SIGSTOP)  # it lives and does not answer
    try:
        server._looked_at = 0.0
        answer = ask(app, "GET", "/health/ready")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        server._looked_at = 0.0
        assert ask(app, "POST", "/repository/index").status_code == 503
        assert ask(app, "GET", "/health/live").json() == {"live": True}
    finally:
        os.kill(controller.pid, signal.SIGCONT)
    server._looked_at = 0.0
    assert ask(app, "GET", "/health/ready").status_code == 400
