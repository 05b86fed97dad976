"""What the OpenAPI document says of layers, queries and exports: parameters and schemas."""

from __future__ import annotations

from typing import Any

from neurotrale.layers.kinds import Kind
from neurotrale.queries.formats import FORMATS

Json = dict[str, Any]

_COUNTS: Json = {"type": "object", "additionalProperties": {"type": "integer"}}

SCHEMAS: dict[str, Json] = {
    "Layers": {
        "type": "object",
        "required": ["layers", "skipped", "damaged"],
        "properties": {
            "layers": {**_COUNTS, "description": "Annotations of each kind that there is."},
            "skipped": {**_COUNTS, "description": "Annotations that cannot be drawn, by reason."},
            "damaged": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Files that are no JSON array, with the mistake.",
            },
        },
    },
    "Origin": {
        "type": "object",
        "required": ["file", "id"],
        "properties": {
            "file": {"type": "string", "description": "Relative to the data root."},
            "id": {"type": "string"},
        },
    },
}


def _path(name: str, description: str, example: object, schema: Json) -> Json:
    return {
        "name": name,
        "description": description,
        "required": True,
        "schema": schema,
        "example": example,
    }


QUERIES: dict[str, Json] = {
    "Bbox": {
        "name": "bbox",
        "description": "They touch this box: x0,y0,z0,x1,y1,z1 in voxels, both ends inside.",
        "schema": {"type": "string"},
        "example": "0,0,0,250,420,150",
    },
    "Anntype": {
        "name": "anntype",
        "description": "What they are; several times for one of several.",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    "Type": {
        "name": "type",
        "description": "Their geometry, in any case; several times for one of several.",
        "schema": {"type": "array", "items": {"type": "string", "minLength": 1}},
    },
    "Reviewed": {
        "name": "reviewed",
        "description": "Whether a person reviewed them.",
        "schema": {"type": "boolean"},
    },
    "Format": {
        "name": "format",
        "description": "SWC has line strings only, in micrometres.",
        "schema": {"type": "string", "enum": list(FORMATS)},
    },
}

_NUMBER: Json = {"type": "integer", "minimum": 0}

PATHS: dict[str, Json] = {
    "Kind": _path(
        "kind",
        "Kind of geometry; line strings and polygons are polylines.",
        "polylines",
        {"type": "string", "enum": [kind.value for kind in Kind]},
    ),
    "Number": _path(
        "number",
        "Number of an annotation: the hash of its id.",
        "17785851773300877357",
        {"type": "string", "pattern": "^[0-9]{1,20}$"},
    ),
    "Level": _path("level", "Level of the index, 0 is coarsest.", 0, {**_NUMBER, "maximum": 999}),
    "Cell": _path(
        "cell",
        "Place of a cell in the grid: x_y_z.",
        "0_0_0",
        {"type": "string", "pattern": "^[0-9]{1,9}_[0-9]{1,9}_[0-9]{1,9}$"},
    ),
}
