"""A version's files on a real S3 server, and what is done to them behind its back."""

import json
from collections.abc import Callable

import polars as pl
import pytest
import torch

from perennial.lakehouse import artifacts, scorers
from perennial.lakehouse.artifacts import ArtifactRefused, artifact_uri, read_artifact_file, write_artifact
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.scorers import load_scorer
from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.network import TabularNet
from perennial.rules.scoring import GoldenRowsDiffer, Scorer, golden_rows
from perennial.rules.tabular import fit_preprocessing

ROWS = pl.DataFrame({"a": [float(i) for i in range(200)], "c": ["x", "y"] * 100})


def files(golden_off: float = 0.0) -> dict[str, bytes]:
    torch.manual_seed(1)
    fitted, architecture = (
        fit_preprocessing(ROWS, {"a": "number", "c": "category"}),
        Architecture(hidden=(8,), dropout=0.0),
    )
    description = ModelDescription(task="binary", architecture=architecture, preprocessing=fitted)
    weights = TabularNet(fitted, architecture).state_dict()
    golden = golden_rows(ROWS, Scorer(description, weights)).with_columns(pl.col("score") + golden_off)
    return {
        artifacts.WEIGHTS: scorers.dump_tensors(weights),
        artifacts.MODEL: description.model_dump_json().encode(),
        artifacts.GOLDEN: artifacts.dump_parquet(golden),
    }


def test_a_model_comes_back_as_it_was_stored(lake: Lake) -> None:
    stored = files()
    checksum = write_artifact(lake, "trips", "one", stored)
    for name, data in stored.items():
        assert read_artifact_file(lake, "trips", "one", checksum, name) == data
    assert load_scorer(lake, "trips", "one", checksum).score(ROWS).shape == (200,)


Tamper = Callable[[bytes], bytes | None]


@pytest.mark.parametrize("name", [artifacts.WEIGHTS, artifacts.MODEL, artifacts.GOLDEN, artifacts.MANIFEST])
@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda data: None, id="missing"),
        pytest.param(lambda data: data[:-1], id="cut short"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:], id="one bit"),
    ],
)
def test_a_file_that_was_touched_is_refused_by_name(lake: Lake, name: str, tamper: Tamper) -> None:
    checksum = write_artifact(lake, "trips", "one", files())
    path = f"{artifact_uri(lake, 'trips', 'one')}/{name}"
    storage = lake.files()
    touched = tamper(storage.cat_file(path))
    storage.rm_file(path)
    if touched is not None:
        storage.pipe_file(path, touched)
    with pytest.raises(ArtifactRefused, match=f"{name}.*not loaded"):
        load_scorer(lake, "trips", "one", checksum)


def test_files_that_were_exchanged_together_with_their_manifest_are_refused(lake: Lake) -> None:
    checksum = write_artifact(lake, "trips", "one", files())
    write_artifact(lake, "trips", "one", files() | {artifacts.METRICS: b"{}"})
    with pytest.raises(ArtifactRefused, match="the version's row says"):
        load_scorer(lake, "trips", "one", checksum)


def test_a_file_the_manifest_does_not_list_is_refused(lake: Lake) -> None:
    checksum = write_artifact(lake, "trips", "one", files())
    lake.files().pipe_file(f"{artifact_uri(lake, 'trips', 'one')}/extra.json", b"{}")
    with pytest.raises(ArtifactRefused, match=r"extra\.json is not in the manifest"):
        read_artifact_file(lake, "trips", "one", checksum, "extra.json")


def test_weights_of_another_architecture_are_refused(lake: Lake) -> None:
    stored = files()
    model = json.loads(stored[artifacts.MODEL])
    model["architecture"]["hidden"] = [16]
    checksum = write_artifact(lake, "trips", "one", stored | {artifacts.MODEL: json.dumps(model).encode()})
    with pytest.raises(ArtifactRefused, match="does not fit the description"):
        load_scorer(lake, "trips", "one", checksum)


def test_a_pickle_in_the_place_of_weights_is_refused_unopened(lake: Lake) -> None:
    hostile = b"\x80\x04cposix\nsystem\n(S'exit 1'\ntR."
    checksum = write_artifact(lake, "trips", "one", files() | {artifacts.WEIGHTS: hostile})
    with pytest.raises(ArtifactRefused, match=r"weights\.safetensors"):
        load_scorer(lake, "trips", "one", checksum)


def test_right_files_with_other_scores_are_refused(lake: Lake) -> None:
    checksum = write_artifact(lake, "trips", "one", files(golden_off=1e-5))
    with pytest.raises(GoldenRowsDiffer):
        load_scorer(lake, "trips", "one", checksum)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "A", "x" * 65])
def test_a_name_that_could_lead_elsewhere_is_refused(lake: Lake, name: str) -> None:
    with pytest.raises(ArtifactRefused, match="no artifact's name"):
        artifact_uri(lake, "trips", name)
