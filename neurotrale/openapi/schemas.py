"""What the OpenAPI document says of JSON: annotations, errors, histories."""

from __future__ import annotations

from typing import Any

from apispec import APISpec

from neurotrale.annotations.check import GEOMETRY
from neurotrale.datasets.described import SCHEMAS as DATASETS
from neurotrale.openapi.layers import SCHEMAS as LAYERS

Json = dict[str, Any]


def add_schemas(spec: APISpec) -> None:
    """Add every schema that is named elsewhere in the document."""
    spec.components.schema(
        "Error",
        {
            "type": "object",
            "required": ["title", "description"],
            "properties": {"title": {"type": "string"}, "description": {"type": "string"}},
        },
    )
    spec.components.schema(
        "Point",
        {
            "description": "A position (x, y, z) in voxels; null stands for not a number.",
            "type": "array",
            "items": {"type": "number", "nullable": True},
            "minItems": 3,
            "maxItems": 3,
        },
    )
    spec.components.schema("Annotation", _annotation_schema())
    text = {"type": "array", "items": {"type": "string"}}
    spec.components.schema("History", _history_schema(text))
    for name, schema in {**DATASETS, **LAYERS}.items():
        spec.components.schema(name, schema)
    for name, key in (("Stored", "filename"), ("Changed", "id")):
        properties = {key: {"type": "string"}, "warnings": text, "kept": {"type": "integer"}}
        spec.components.schema(
            name, {"type": "object", "required": [key], "properties": properties}
        )


def _history_schema(text: Json) -> Json:
    change: Json = {
        "revision": {"type": "integer", "minimum": 1},
        "at": {"type": "string", "description": "ISO 8601, UTC."},
        "by": {"type": "string"},
        "from": {"type": "string", "description": "Address of the client."},
        "operation": {
            "type": "string",
            "enum": ["put", "patch", "delete", "restore", "confirm", "outside"],
        },
        "applied": {"type": "boolean"},
        "added": text,
        "changed": text,
        "removed": text,
        "kept": {"type": "integer", "description": "Removals that this change held back."},
        "held": text,
        "restored": {"type": "integer"},
    }
    changes = {"type": "array", "items": {"type": "object", "properties": change}}
    return {
        "type": "object",
        "required": ["filename", "changes"],
        "properties": {
            "filename": {"type": "string"},
            "changes": changes,
            "next": {"type": "integer", "description": "`before` of the next page."},
        },
    }


def _annotation_schema() -> Json:
    point = {"$ref": "#/components/schemas/Point"}
    properties: Json = {
        "id": {"type": "string", "minLength": 1, "description": "Unique within its file."},
        "type": {
            "type": "string",
            "description": f"Known types, in any case: {', '.join(GEOMETRY)}. Others are kept.",
        },
        "anntype": {"type": "string", "description": "What it is: neuron, glia, axon, ..."},
        "description": {"type": "string"},
        "reviewed": {"type": "boolean"},
        "visited": {"type": "boolean"},
        "length": {"type": "number"},
        "segments": {"type": "array", "items": {"type": "string"}},
        "points": {"type": "array", "items": point, "description": "linestring, polygon"},
    }
    for key in ("point", "pointA", "pointB", "center", "radii"):
        properties[key] = point
    return {
        "type": "object",
        "required": ["id"],
        "properties": properties,
        "additionalProperties": True,
        "example": {
            "id": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
            "type": "point",
            "anntype": "neuron",
            "point": [120.5, 88, 40],
            "reviewed": True,
        },
    }
