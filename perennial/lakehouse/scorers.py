"""Models out of their files: safetensors and JSON into a scorer that has reproduced its golden rows."""

import io
from collections.abc import Mapping

import polars as pl
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from perennial.lakehouse.artifacts import GOLDEN, MODEL, WEIGHTS, artifact_uri, read_artifact_file, refused
from perennial.lakehouse.lake import Lake
from perennial.rules.description import ModelDescription
from perennial.rules.scoring import Scorer, check_golden
from perennial.spec.models import TabularModel, TorchModel


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
    check_golden(scorer, pl.read_parquet(io.BytesIO(read(GOLDEN))))
    return scorer


def build_scorer(
    where: str, description: bytes, weights: bytes, declared: TabularModel | TorchModel | None = None
) -> Scorer:
    """A scorer from a description and safetensors; `where` is for the error's message only."""
    try:
        model = ModelDescription.model_validate_json(description)
    except ValidationError as error:
        raise refused(where, MODEL, f"is not a model's description: {error}") from error
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
