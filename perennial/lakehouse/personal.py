"""The key of the pseudonyms, opened where personal columns are replaced and nowhere else."""

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import open_secret
from perennial.rules.personal import Pseudonyms

KEY_BYTES = 32


class KeyTooShort(ValueError):
    """The personal key could be guessed, and with it every pseudonym."""


def open_pseudonyms(lake: Lake, pipeline: str) -> Pseudonyms:
    """The pseudonyms of a pipeline's personal columns.

    Raises:
        SecretMissing: there is no key; the message names where it is looked for.
        KeyTooShort: it has fewer than 32 characters.
    """
    key = open_secret(lake.personal_key, lake.secrets_dir).get_secret_value().encode()
    if len(key) < KEY_BYTES:
        raise KeyTooShort(
            f"the secret {lake.personal_key.name!r} has {len(key)} characters; a key of pseudonyms needs {KEY_BYTES} or more "
            "that nobody can guess. Nothing was read or written. Make one with: openssl rand -hex 32"
        )
    return Pseudonyms(key, pipeline)
