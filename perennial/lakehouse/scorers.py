"""Models out of their files: safetensors and JSON into a scorer that has reproduced its golden rows."""

import itertools
from collections.abc import Mapping

import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from perennial.lakehouse.artifacts import (
    GOLDEN,
    MODEL,
    WEIGHTS,
    artifact_uri,
    parquet_rows,
    read_artifact_file,
    refused,
)
from perennial.lakehouse.lake import Lake
from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.scoring import GOLDEN_ROWS, Scorer, check_golden
from perennial.spec.models import TabularModel, TorchModel

FLOAT_BYTES = 4


def load_scorer(
    lake: Lake,
    pipeline: str,
    artifact_id: str,
    manifest_sha256: str,
    model: TabularModel | TorchModel | None = None,
) -> Scorer:
    """The model, ready to score, after it has reproduced its golden rows.

    Args:
        model: as the pipeline's file declares it. A network of its own is built by that file, never by what is stored.

    Raises:
        NoBuilder: the file does not build this version's network.
        ArtifactRefused: a file is not as registered.
        GoldenRowsDiffer: the files are right and the scores are not.
    """

    def read(name: str) -> bytes:
        return read_artifact_file(lake, pipeline, artifact_id, manifest_sha256, name)

    where = artifact_uri(lake, pipeline, artifact_id)
    scorer = build_scorer(where, read(MODEL), read(WEIGHTS), model)
    check_golden(scorer, parquet_rows(where, GOLDEN, read(GOLDEN), GOLDEN_ROWS))
    return scorer


def build_scorer(
    where: str, description: bytes, weights: bytes, declared: TabularModel | TorchModel | None = None
) -> Scorer:
    """A scorer from a description and safetensors; `where` is for the error's message only."""
    try:
        model = ModelDescription.model_validate_json(description)
    except ValidationError as error:
        raise refused(where, MODEL, f"is not a model's description: {error}") from error
    units = model.architecture.hidden if isinstance(model.architecture, Architecture) else ()
    if FLOAT_BYTES * sum(a * b for a, b in itertools.pairwise(units)) > len(weights):
        raise refused(where, WEIGHTS, f"does not fit the description in {MODEL}: it is too small for layers of {units}")
    try:
        return Scorer(model, load_tensors(weights), declared)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise refused(where, WEIGHTS, f"does not fit the description in {MODEL}: {error}") from error


def load_tensors(data: bytes) -> dict[str, Tensor]:
    """Tensors by name, from safetensors."""
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    return tensors


def dump_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors, the same bytes for the same tensors."""
    return safetensors.torch.save({name: tensors[name].contiguous() for name in sorted(tensors)})
