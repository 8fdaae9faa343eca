"""Checkpoints on S3: tensors and JSON first, a manifest with sizes and checksums last; torn ones are not gone on from."""

import json
import logging
import math
import secrets
from typing import Any

from pyarrow.fs import FSSpecHandler, PyFileSystem
from pydantic import ValidationError
from s3fs import S3FileSystem

from perennial.lakehouse.artifacts import MANIFEST, ArtifactRefused, Manifest, dump_json
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.scorers import dump_tensors, load_tensors
from ray_jobs.train.fit import EpochReport, FitState

TENSORS, STATE = "state.safetensors", "state.json"
logger = logging.getLogger(__name__)
_PARTS = ("weights", "moments", "kept_weights")


class LakeHandler(FSSpecHandler):
    """The lake's S3 as Ray takes it. Travels as the lake's values: pyarrow's own would carry the opened secrets."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        super().__init__(lake.files())

    def __reduce__(self) -> Any:
        return LakeHandler, (self.lake,)


def storage_of(lake: Lake) -> PyFileSystem:
    """The file system Ray Train keeps its runs on."""
    return PyFileSystem(LakeHandler(lake))


def runs_path(lake: Lake) -> str:
    """Where all training runs lie, without `s3://`."""
    return lake.uri("training").removeprefix("s3://")


def write_checkpoint(storage: S3FileSystem, run: str, state: FitState, report: EpochReport) -> str:
    """Write the state after an epoch below the run's path; return where, in a folder that no other attempt uses."""
    name = f"epoch-{state.epoch:04d}-{secrets.token_hex(4)}"
    # Cloned: the weights of an epoch that is kept are the current ones, and safetensors stores no tensor twice.
    tensors = {f"{part}/{key}": value.clone() for part in _PARTS for key, value in getattr(state, part).items()}
    values = {"epoch": state.epoch, "kept_epoch": state.kept_epoch, "bound": state.bound, "curve": state.curve}
    values |= {"line": report.line, "resumed": state.resumed}
    files = {TENSORS: dump_tensors(tensors), STATE: dump_json(values)}
    where = f"{run}/{name}"
    for file, data in files.items():
        storage.pipe_file(f"{where}/{file}", data)
    storage.pipe_file(f"{where}/{MANIFEST}", Manifest.of(files).model_dump_json().encode())
    return where


def read_checkpoint(storage: S3FileSystem, where: str) -> FitState:
    """The state in a checkpoint.

    Raises:
        ArtifactRefused: a file is missing, cut short or changed.
    """
    try:
        manifest = Manifest.model_validate_json(storage.cat_file(f"{where}/{MANIFEST}"))
        files = {name: manifest.check(where, name, storage.cat_file(f"{where}/{name}")) for name in (TENSORS, STATE)}
    except (FileNotFoundError, ValidationError) as error:  # no manifest, or one that was cut short
        raise ArtifactRefused(f"checkpoint {where} is incomplete: {error}. It is not gone on from.") from error
    values = json.loads(files[STATE])
    state = FitState(epoch=values["epoch"], kept_epoch=values["kept_epoch"], bound=values["bound"])
    state.curve, state.resumed = values.get("curve", []), values.get("resumed", [])  # earlier revisions have none
    for name, tensor in load_tensors(files[TENSORS]).items():
        part, _, key = name.partition("/")
        getattr(state, part)[key] = tensor
    if math.isnan(state.bound) or not state.weights:
        raise ArtifactRefused(f"checkpoint {where} holds no trained weights. It is not gone on from.")
    return state


def newest_checkpoint(storage: S3FileSystem, run: str) -> FitState | None:
    """The state in the run's newest complete checkpoint, or None; whether Ray had heard of it or not."""
    for where in reversed(_folders(storage, run)):
        try:
            return read_checkpoint(storage, where)
        except ArtifactRefused as error:  # torn, or gone: Ray keeps the newest ones only
            logger.warning("training goes on from an older checkpoint: %s", error)
    return None


def told_lines(storage: S3FileSystem, run: str) -> dict[str, str]:
    """What epochs had to tell, by checkpoint, as far as their checkpoints are still there."""
    lines = {}
    for where in _folders(storage, run):
        try:
            lines[where] = json.loads(storage.cat_file(f"{where}/{STATE}"))["line"]
        except (FileNotFoundError, ValueError, KeyError):
            continue  # an older one may go while it is read: Ray keeps the newest; a damaged one has nothing to tell
    return lines


def _folders(storage: S3FileSystem, run: str) -> list[str]:
    # Not by glob, which fails when a folder goes while it looks.
    try:
        found: list[str] = storage.ls(run, detail=False)
    except FileNotFoundError:
        return []
    return sorted(path for path in found if path.rpartition("/")[2].startswith("epoch-"))
