"""A request's scores as its client wants them: tensors, an Arrow stream, or JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from ray_jobs.serve.arrow_rows import STREAM, write_arrow
from ray_jobs.serve.batching import Ask, Reply
from ray_jobs.serve.inference_protocol import HEADER_LENGTH, OUTPUT, Wanted, write_infer
from ray_jobs.serve.keeper import Serving
from ray_jobs.serve.values import BadRequest


@dataclass(frozen=True)
class Form:
    """How an answer is to look, read in full before anything is computed: what is answered can be written.

    Args:
        tensors: the outputs of an inference request; None: it is none.
        features: whether the model's inputs are wanted, too.
    """

    tensors: Wanted | None
    arrow: bool
    features: bool


@dataclass(frozen=True)
class Scores:
    """Of one request's rows: their scores, the sources that were stale, and the model's inputs where they are wanted."""

    scores: NDArray[np.float64]
    stale: Mapping[str, str]
    inputs: pl.DataFrame | None


def read_form(ask: Ask, tensors: Wanted | None) -> Form:
    """The form that a request asks for.

    Raises:
        BadRequest: it asks for none that there is.
    """
    if tensors is not None:
        return Form(tensors, arrow=False, features=False)
    arrow, query = STREAM in ask.options.get("accept", ""), ask.options.get("query", "")
    return Form(None, arrow, features=bool(query) and _wants_features(query))


def write_reply(form: Form, request_id: str, serving: Serving, found: Scores) -> Reply:
    """The reply to one request."""
    version = serving.version.version
    told = [(b"x-model-version", str(version).encode())]
    if found.stale:
        told.append((b"x-stale", ", ".join(found.stale).encode()))
    if form.tensors is not None:
        name = serving.version.pipeline
        body, length = write_infer(name, version, request_id, {OUTPUT: found.scores}, form.tensors)
        if length is None:
            return Reply(200, body, ((b"content-type", b"application/json"), *told))
        header = (HEADER_LENGTH.encode(), str(length).encode())
        return Reply(200, body, ((b"content-type", b"application/octet-stream"), header, *told))
    if form.arrow:
        metadata = {"request_id": request_id, "version": str(version)}
        if classes := serving.scorer.description.classes:
            metadata["classes"] = orjson.dumps(classes).decode()
        body = write_arrow({OUTPUT: pl.Series(OUTPUT, found.scores)}, metadata)
        return Reply(200, body, ((b"content-type", STREAM.encode()), *told))
    body = orjson.dumps(_plain(request_id, serving, found), option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(200, body, ((b"content-type", b"application/json"), *told))


def _plain(request_id: str, serving: Serving, found: Scores) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "request_id": request_id,
        "version": serving.version.version,
        "scores": found.scores,
        "tables": {name: str(snapshot_id) for name, snapshot_id in serving.snapshots.items()},
    }
    if found.stale:
        answer["stale"] = found.stale
    if classes := serving.scorer.description.classes:
        answer |= {"classes": list(classes), "predicted": [classes[n] for n in found.scores.argmax(axis=1)]}
    if found.inputs is not None:
        answer["features"] = found.inputs.to_dicts()
    return answer


def _wants_features(query: str) -> bool:
    told = parse_qs(query).get("features", ["false"])[-1].lower()
    if told not in ("true", "false", "1", "0"):
        raise BadRequest("the parameter features is true or false.")
    return told in ("true", "1")
