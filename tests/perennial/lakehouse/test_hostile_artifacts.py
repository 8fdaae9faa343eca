"""Fifty artifacts that were made to do harm: each is refused by name, none is run, unpacked or read beyond its size."""

import gzip
import hashlib
import io
import json
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perennial.lakehouse import artifacts
from perennial.lakehouse.artifacts import ArtifactRefused, artifact_uri, read_artifact_file, write_artifact
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.scorers import load_scorer
from tests.perennial.lakehouse.test_artifacts import files

LARGE = 1 << 40
Canary = Path


def pickled(canary: Canary) -> bytes:
    """What unpickling would run, written by hand."""
    return b"\x80\x04cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def model(**changes: object) -> bytes:
    return json.dumps(json.loads(files()[artifacts.MODEL]) | changes).encode()


def wide(units: list[int]) -> bytes:
    return model(architecture=json.loads(files()[artifacts.MODEL])["architecture"] | {"hidden": units})


def many_rows() -> bytes:
    buffer = io.BytesIO()  # a hundred million zeros in a few kilobytes
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int8()), pa.array([0.0]))
    with pq.ParquetWriter(buffer, pa.schema([("score", column.type)])) as writer:
        for _ in range(100):
            writer.write_table(pa.table({"score": column}))
    return buffer.getvalue()


WEIGHTS: dict[str, Callable[[Canary], bytes]] = {
    "pickle": pickled,
    "torch zip with a pickle": lambda canary: zipped("archive/data.pkl", pickled(canary)),
    "zip that leads up": lambda canary: zipped("../../../../tmp/evil", pickled(canary)),
    "zip bomb": lambda _: zipped("a", bytes(50_000_000)),
    "gzip bomb": lambda _: gzip.compress(bytes(50_000_000)),
    "numpy file of objects": lambda canary: (
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n" + pickled(canary)
    ),
    "huge header": lambda _: struct.pack("<Q", LARGE) + b"{}",
    "header beyond the end": lambda _: struct.pack("<Q", 1_000) + b"{}",
    "negative header": lambda _: struct.pack("<q", -1) + b"{}",
    "header that is no JSON": lambda _: struct.pack("<Q", 4) + b"\xff\xfe\x00\x01",
    "header nested deeply": lambda _: struct.pack("<Q", 100_000) + b"[" * 100_000,
    "tensor larger than the file": lambda _: tensors({"a": {"dtype": "F32", "shape": [LARGE], "data_offsets": [0, 4]}}),
    "offsets outside": lambda _: tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, LARGE]}}, bytes(4)),
    "offsets backwards": lambda _: tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    "shape that overflows": lambda _: tensors(
        {"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "unknown type": lambda _: tensors({"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "tensor called like a path": lambda _: tensors(
        {"../../evil": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "tensor called like a method": lambda _: tensors(
        {"__reduce__": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "empty": lambda _: b"",
    "script": lambda canary: f"#!/bin/sh\ntouch {canary}\n".encode(),
}
MODEL: dict[str, Callable[[Canary], bytes]] = {
    "pickle": pickled,
    "not JSON": lambda canary: f"__import__('os').system('touch {canary}')".encode(),
    "nested deeply": lambda _: b"[" * 200_000,
    "another format": lambda _: model(format="pickle/1"),
    "a layer of a billion": lambda _: wide([1_000_000_000, 1_000_000_000]),
    "a layer wider than the weights": lambda _: wide([60_000, 60_000]),
    "a layer of less than nothing": lambda _: wide([-8, 8]),
    "a task of its own": lambda canary: model(task=f"os.system('touch {canary}')"),
    "a number that is none": lambda _: b'{"format": "perennial.tabular/1", "threshold": NaN}',
    "gzip bomb": lambda _: gzip.compress(bytes(50_000_000)),
}
GOLDEN: dict[str, Callable[[Canary], bytes]] = {
    "pickle": pickled,
    "zip bomb": lambda _: zipped("a", bytes(50_000_000)),
    "a hundred million rows": lambda _: many_rows(),
    "cut short": lambda _: files()[artifacts.GOLDEN][:-9],
    "footer of a gigabyte": lambda _: b"PAR1" + struct.pack("<I", 1 << 30) + b"PAR1",
}
REGISTERED = [
    pytest.param(name, make, id=f"{name} {what}")
    for name, makes in ((artifacts.WEIGHTS, WEIGHTS), (artifacts.MODEL, MODEL), (artifacts.GOLDEN, GOLDEN))
    for what, make in makes.items()
]


@pytest.mark.parametrize(("name", "make"), REGISTERED)
def test_a_hostile_file_is_refused_by_name_even_where_its_checksum_was_registered(
    lake: Lake, tmp_path: Path, name: str, make: Callable[[Canary], bytes]
) -> None:
    canary, before = tmp_path / "canary", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checksum = write_artifact(lake, "trips", "hostile", files() | {name: make(canary)})
    with pytest.raises(ArtifactRefused, match=name):
        load_scorer(lake, "trips", "hostile", checksum)
    assert not canary.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # kilobytes


MANIFESTS: dict[str, Callable[[Canary, Any], Any]] = {
    "pickle": lambda canary, _: pickled(canary),
    "name that leads up": lambda _, told: told | {"files": told["files"] | {"../../evil": told["files"]["model.json"]}},
    "absolute name": lambda _, told: told | {"files": told["files"] | {"/etc/evil.json": told["files"]["model.json"]}},
    "bucket as a name": lambda _, told: told | {"files": {"s3://evil/model.json": told["files"]["model.json"]}},
    "a million files": lambda _, told: (
        told | {"files": {f"{n}.json": {"size": 0, "sha256": "0"} for n in range(9_999)}}
    ),
    "sizes below nothing": lambda _, told: told | {"files": {"model.json": {"size": -1, "sha256": "0" * 64}}},
    "no files": lambda _, told: {"files": {}},
    "a list": lambda _, told: [],
    "checksums that are none": lambda _, told: {"files": {"model.json": {"size": 1, "sha256": "../x"}}},
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_hostile_manifest_is_refused_even_where_its_checksum_was_registered(
    lake: Lake, tmp_path: Path, what: str
) -> None:
    write_artifact(lake, "trips", "one", files())
    path = f"{artifact_uri(lake, 'trips', 'one')}/{artifacts.MANIFEST}"
    made = MANIFESTS[what](tmp_path / "canary", json.loads(lake.files().cat_file(path)))
    hostile = made if isinstance(made, bytes) else json.dumps(made).encode()
    lake.files().pipe_file(path, hostile)
    with pytest.raises(ArtifactRefused, match=r"manifest"):
        load_scorer(lake, "trips", "one", hashlib.sha256(hostile).hexdigest())
    assert not (tmp_path / "canary").exists()


EVERY = (artifacts.METRICS, artifacts.REFERENCE, artifacts.ENVIRONMENT, artifacts.PIPELINE)


GROWN = (artifacts.WEIGHTS, artifacts.MODEL, artifacts.GOLDEN, *EVERY)


@pytest.mark.parametrize("name", GROWN)
def test_an_object_that_grew_is_not_read(lake: Lake, name: str) -> None:
    stored = {**files(), **dict.fromkeys(EVERY, b"{}")}
    checksum = write_artifact(lake, "trips", "one", stored)
    assert read_artifact_file(lake, "trips", "one", checksum, name) == stored[name]
    lake.files().pipe_file(f"{artifact_uri(lake, 'trips', 'one')}/{name}", stored[name] + bytes(10_000_000))
    with pytest.raises(ArtifactRefused, match=rf"{name} has \d+ bytes where at most {len(stored[name])}"):
        read_artifact_file(lake, "trips", "one", checksum, name)


def test_there_are_fifty_of_them() -> None:
    assert len(REGISTERED) + len(MANIFESTS) + len(GROWN) >= 50
