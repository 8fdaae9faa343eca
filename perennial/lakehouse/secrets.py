"""Secrets travel as names and are opened here, where they are used, and nowhere else."""

import os
from pathlib import Path

from pydantic import BaseModel, SecretStr


class SecretRef(BaseModel, frozen=True):
    """The name of a secret: safe to log, to store and to pass as a parameter."""

    name: str


class SecretMissing(LookupError):
    """A secret that is named in the settings is neither in the environment nor in the secrets folder."""


def open_secret(secret: SecretRef, folder: Path | None) -> SecretStr:
    """The secret's value, from the variable `PERENNIAL_SECRET_<NAME>`, else from the file `<folder>/<name>`.

    Raises:
        SecretMissing: neither is there; the message names both places.
    """
    variable = f"PERENNIAL_SECRET_{secret.name.upper()}"
    if variable in os.environ:
        return SecretStr(os.environ[variable])
    path = folder / secret.name if folder else None
    if path and path.is_file():
        return SecretStr(path.read_text().strip())
    raise SecretMissing(
        f"secret {secret.name!r} is missing: neither the environment variable {variable} is set nor does the file "
        f"{path or '<PERENNIAL_SECRETS_DIR>/' + secret.name} exist. Set one of them, or run `make up` for the local stack."
    )
