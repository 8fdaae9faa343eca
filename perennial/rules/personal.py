"""Personal columns as keyed pseudonyms; what quarantine has to give back to `repair` is kept beside them, under seal."""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import polars as pl
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

SEALED = "_sealed"
"""Field of a quarantined row: its personal fields as they arrived, encrypted with the key the pseudonyms are made with."""

_PREFIX = "psn_"  # so that people tell a pseudonym from a value


class KeyChanged(RuntimeError):
    """What was sealed cannot be opened with the key at hand."""


@dataclass(frozen=True)
class Pseudonyms:
    """One pipeline's pseudonyms: equal values have equal ones, in every column of every source, and across runs.

    Args:
        key: 32 bytes or more that nobody can guess.
        pipeline: the domain; the same value has another pseudonym in another pipeline.
    """

    key: bytes
    pipeline: str

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether two keys are the same one, and nothing else of them: 8 hexadecimal digits."""
        return self._derive("fingerprint").hex()[:8]

    def of(self, values: pl.Series) -> pl.Series:
        """The pseudonyms of a column of text: `psn_` and the first 128 bits of HMAC-SHA-256; null stays null."""
        distinct = values.drop_nulls().unique()
        made = [_PREFIX + self._hmac(value.encode()).hex()[:32] for value in distinct]
        return values.replace_strict(distinct, pl.Series(made, dtype=pl.String), default=None, return_dtype=pl.String)

    def replace(self, rows: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
        """The rows with pseudonyms in these columns, of those that are there."""
        return rows.with_columns(self.of(rows[name]) for name in columns if name in rows.columns)

    def keep(self, rows: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
        """As `replace`, and `_sealed` beside them, for quarantine: `reveal` brings the columns back."""
        names = [name for name in columns if name in rows.columns]
        if not names:
            return rows
        rows = rows.with_columns(_as_text(name, rows.schema[name]) for name in names)
        plain = rows.select(pl.struct(names).struct.json_encode())[:, 0]
        sealed = [self._sealer.encrypt(text.encode(), None).hex() for text in plain]
        return self.replace(rows, names).with_columns(pl.Series(SEALED, sealed, dtype=pl.String))

    def reveal(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with their personal fields as they arrived, as text, for as long as they are in memory.

        Raises:
            KeyChanged: they were sealed with another key.
        """
        if SEALED not in rows.columns:
            return rows
        try:
            plain = [json.loads(self._sealer.decrypt(bytes.fromhex(text), None)) for text in rows[SEALED]]
        except InvalidTag as error:
            raise KeyChanged(
                f"rows of {self.pipeline} in quarantine were sealed with another personal key than the one at hand "
                f"({self.fingerprint}). Nothing was read or written. Put the former key back, or bring the source in again."
            ) from error
        columns = {name: pl.String for fields in plain for name in fields}
        return rows.drop(SEALED).with_columns(
            pl.Series(name, [fields.get(name) for fields in plain], dtype=dtype) for name, dtype in columns.items()
        )

    def _hmac(self, value: bytes) -> bytes:
        # The library's own would hash both pads and the domain anew for each value: twice the time.
        inner, outer = (half.copy() for half in self._halves)
        inner.update(value)
        outer.update(inner.digest())
        return outer.digest()

    @cached_property
    def _halves(self) -> "tuple[hashlib._Hash, hashlib._Hash]":
        """HMAC's two hashes, fed what is the same for every value. Source: RFC 2104; the key is one block long."""
        key = self._derive("pseudonym")
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + f"{self.pipeline}\0".encode())
        return inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    @cached_property
    def _sealer(self) -> AESSIV:
        return AESSIV(self._derive(f"seal/{self.pipeline}"))  # one text, one seal: a rerun writes the same row

    def _derive(self, purpose: str) -> bytes:
        return hmac.digest(self.key, purpose.encode(), "sha512")


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.Binary:
        return pl.col(name).bin.encode("base64")
    if dtype.is_nested():
        return pl.struct(name).struct.json_encode().alias(name)
    return pl.col(name).cast(pl.String)
