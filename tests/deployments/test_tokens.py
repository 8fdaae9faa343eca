"""Clients' tokens from the command line."""

from pathlib import Path

import pytest

from deployments.tokens import main
from perennial.lakehouse.secrets import SecretRef
from ray_jobs.serve.clients import Clients


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_SECRETS_DIR", str(tmp_path))
    (tmp_path / "serve_token").write_text("sesame")
    return tmp_path


def test_a_token_that_is_added_works_until_it_is_revoked(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "shop", "--rate", "5"]) == 0
    token = capsys.readouterr().out.strip()
    assert Clients(SecretRef(name="serve_token"), secrets).who(f"Bearer {token}".encode()) == "shop"
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "shop" in listed
    assert "5 requests/s" in listed
    assert token not in listed
    assert main(["revoke", "shop", "--token", listed.split()[1]]) == 0
    assert Clients(SecretRef(name="serve_token"), secrets).who(f"Bearer {token}".encode()) is None
    assert Clients(SecretRef(name="serve_token"), secrets).who(b"Bearer sesame") == "operator"


@pytest.mark.parametrize(
    "wrong", [["add", "Shop!"], ["add", "operator"], ["add", "shop", "--rate", "0"], ["revoke", "no"]]
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    secrets: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == 1
    assert capsys.readouterr().err
    assert not (secrets / "serve_clients").exists() or '"clients": {}' in (secrets / "serve_clients").read_text()
