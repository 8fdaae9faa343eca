"""The questions of an endpoint for its API page: their bodies' schemas from the contract, and an example that works."""

from typing import Any

from ray_jobs.serve.arrow_rows import STREAM
from ray_jobs.serve.inference_protocol import datatype
from ray_jobs.serve.rows import RowSchema

_TYPES = {"whole number": "integer", "number": "number", "true or false": "boolean"}
_SECURITY: list[dict[str, list[str]]] = [{"HTTPBearer": []}]
_REFUSALS = {
    "400": "The body is not of this form",
    "401": "No token, or one that is not known",
    "413": "Too many rows, or too many bytes",
    "415": "Another content type, or compressed",
    "422": "A value breaks the contract: the error names row and column",
    "429": "This client asks more often than it may; Retry-After says when again",
    "503": "More waits than can be answered in time; Retry-After says when again",
}


def describe_questions(schema: RowSchema, example: dict[str, Any]) -> dict[str, Any]:
    """Paths of the OpenAPI document.

    Args:
        example: a row that can be sent.
    """
    return {
        "/predict": {"post": _predict(schema, example)},
        "/infer": {"post": _infer(schema, example)},
        "/versions/{version}/infer": {"post": _infer(schema, example, of_version=True)},
    }


def _predict(schema: RowSchema, example: dict[str, Any]) -> dict[str, Any]:
    described = schema.describe()
    kinds = {n: c["type"] for part in (described["columns"], *described["joined"].values()) for n, c in part.items()}
    properties = {name: _property(kinds[name], column.nullable) for name, column in schema.known.items()}
    row = {
        "type": "object",
        "properties": properties,
        "required": sorted(schema.required),
        "additionalProperties": False,
    }
    body = {
        "type": "object",
        "properties": {
            "rows": {"type": "array", "minItems": 1, "items": row},
            "request_id": {"type": "string", "minLength": 1, "maxLength": 128},
        },
        "required": ["rows"],
        "additionalProperties": False,
        "example": {"rows": [example]},
    }
    answer = {
        "type": "object",
        "properties": {
            "request_id": {"type": "string"},
            "version": {"type": "integer"},
            "scores": {"type": "array", "items": {}},
        },
        "required": ["request_id", "version", "scores"],
    }
    content = {"application/json": {"schema": body}, STREAM: {"schema": {"type": "string", "format": "binary"}}}
    features = {"name": "features", "in": "query", "schema": {"type": "boolean", "default": False}}
    features["description"] = "Return the model's inputs as well"
    return _operation("Scores for rows, in their order", "predict", content, answer, [features])


def _infer(schema: RowSchema, example: dict[str, Any], of_version: bool = False) -> dict[str, Any]:
    inputs = [
        {"name": name, "datatype": datatype(schema.columns[name].dtype), "shape": [1], "data": [value]}
        for name, value in example.items()
    ]
    tensor = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": {}},
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    }
    output = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    body = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": 128},
            "inputs": {"type": "array", "minItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": output},
            "parameters": {"type": "object"},
        },
        "required": ["inputs"],
        "example": {"inputs": inputs},
    }
    answer = {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": tensor},
        },
        "required": ["model_name", "model_version", "outputs"],
    }
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer"}}
    name = "infer_version" if of_version else "infer"
    content = {"application/json": {"schema": body}}
    told = "The same after the Open Inference Protocol, version 2"
    return _operation(told, name, content, answer, [version] if of_version else [])


def _operation(
    summary: str, name: str, content: dict[str, Any], answer: dict[str, Any], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    refusals = {s: {"description": t, "content": {"application/json": {"schema": error}}} for s, t in _REFUSALS.items()}
    if any(parameter["in"] == "path" for parameter in parameters):
        refusals["404"] = {
            "description": "This version is not served",
            "content": {"application/json": {"schema": error}},
        }
    return {
        "summary": summary,
        "operationId": name,
        "security": _SECURITY,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "Scores", "content": {"application/json": {"schema": answer}}},
            **refusals,
        },
    }


def _property(kind: str, nullable: bool) -> dict[str, Any]:
    told = {"type": _TYPES.get(kind, "string"), "description": kind, "nullable": nullable}
    if kind.startswith("instant"):
        told["format"] = "date-time"
    if kind.startswith("day"):
        told["format"] = "date"
    return told
