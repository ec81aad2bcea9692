"""The OpenAPI description of the endpoints. Standard library only."""

from __future__ import annotations

from typing import Any

from animals_pl import __version__

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_BOOLEAN: Schema = {"type": "boolean"}
_BINARY: Schema = {"type": "string", "format": "binary"}


def openapi(most_top_k: int, top_k: int) -> Schema:
    """The description as JSON values.

    Args:
        most_top_k: Maximum number of classes per image.
        top_k: Default number.
    """
    count = {"type": "integer", "minimum": 1, "maximum": most_top_k, "default": top_k}
    return {
        "openapi": "3.1.0",
        "info": {"title": "animals_pl", "version": __version__, "description": "Identify animals in images."},
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/identify": {"post": _identify(count)},
            "/model": {
                "get": {
                    "summary": "Class names, metrics and limits",
                    "security": [{}, {"token": []}],
                    "responses": {"200": _json("The model", _ref("Model")), "401": _failure("Wrong or missing token")},
                }
            },
            "/health": {
                "get": {
                    "summary": "Whether the server answers",
                    "responses": {"200": _json("The server is running", _object(status={"const": "ok"}))},
                }
            },
        },
    }


def _identify(top_k: Schema) -> Schema:
    files = _object(image={"type": "array", "items": _BINARY})
    content = {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": files}
    return {
        "summary": "Identify the animal in one or several images",
        "security": [{}, {"token": []}],
        "parameters": [{"name": "top_k", "in": "query", "schema": top_k, "description": "Classes per image"}],
        "requestBody": {"required": True, "content": {key: {"schema": value} for key, value in content.items()}},
        "responses": {
            "200": _json("One prediction per image, in the order of the images", _ref("Predictions")),
            "400": _failure("No image, damaged form data, or a wrong top_k"),
            "401": _failure("Wrong or missing token"),
            "408": _failure("The request did not arrive in time"),
            "413": _failure("Too many bytes"),
            "415": _failure("No image in a supported format, or an unsupported content type"),
            "422": _failure("No image can be decoded: damaged or too large"),
            "503": _failure("Too many requests; Retry-After says when to try again"),
        },
    }


def _schemas() -> dict[str, Schema]:
    names = {"label": _TEXT, "english": _TEXT}
    prediction = _object(
        name=_TEXT,
        label=_or_null(_TEXT),
        english=_or_null(_TEXT),
        probability=_PROBABILITY,
        unknown=_BOOLEAN,
        unknown_score=_or_null(_NUMBER),
        top={"type": "array", "items": _object(**names, probability=_PROBABILITY)},
        problem=_TEXT,
    )
    return {
        "Prediction": prediction,
        "Predictions": _object(model=_TEXT, images={"type": "array", "items": _ref("Prediction")}),
        "Model": _object(
            model=_TEXT,
            version=_TEXT,
            classes={"type": "array", "items": _object(**names)},
            unknown=_BOOLEAN,
            metrics={"type": ["object", "null"]},
            input_size={"type": "integer"},
            weights=_TEXT,
            limits={"type": "object"},
        ),
        "Error": _object(error=_TEXT),
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _or_null(schema: Schema) -> Schema:
    return {"type": [schema["type"], "null"]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _failure(description: str) -> Schema:
    return _json(description, _ref("Error"))
