"""The parameters of the operations in the OpenAPI document: in paths, queries and headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neurotrale.annotations.operation_ids import MOST_CHARACTERS
from neurotrale.layers.geometry import GeometryKind
from neurotrale.queries.formats import FORMATS

Json = dict[str, Any]

_BLOCK = (
    "x<int>y<int>z<int>: index of a block. If no directory has this name and block_info.csv states"
    " a block size, a request from a viewer (one with an Origin, a Referer, a Sec-Fetch header or"
    " the User-Agent of a browser) means a position in voxels; scripts use ?position=x,y,z."
)
_NUMBER: Json = {"type": "integer", "minimum": 0}
_NAME: Json = {"type": "string", "minLength": 1}
_TIME: Json = {"type": "string"}
_ID: Json = {"name": "id", "description": "The annotation's id.", "schema": _NAME}
_REVISION: Json = {
    "name": "revision",
    "description": "Number of a change; 0 is the file before the first one.",
    "schema": _NUMBER,
    "example": 0,
}


def _path(name: str, description: str, example: object, schema: Json = _NAME) -> Json:
    return {
        "name": name,
        "description": description,
        "required": True,
        "schema": schema,
        "example": example,
    }


PATHS: dict[str, Json] = {
    "Dataset": _path("dataset", "Path of the dataset; may be nested.", "lab/mouse-3"),
    "Scale": _path("scale", "Key of the scale in `info`.", "1_1_1"),
    "Chunk": _path("chunk", "Box of voxels, ends exclusive: x0-x1_y0-y1_z0-z1.", "0-64_0-64_0-64"),
    "Block": _path("block", _BLOCK, "x1y0z0"),
    "Leaf": _path("leaf", "File name without .json.", "fibers"),
    "Directory": _path("directory", "Path of a directory.", "lab/mouse-3/1_1_1"),
    "File": _path("file", "Path of a file.", "lab/mouse-3/info"),
    "Asset": _path("asset", "A file that the page loads.", "index.html"),
    "Kind": _path(
        "kind",
        "Kind of geometry; line strings and polygons are polylines.",
        "polylines",
        {"type": "string", "enum": [kind.value for kind in GeometryKind]},
    ),
    "Number": _path(
        "number",
        "Number of an annotation: the hash of its id.",
        "17785851773300877357",
        {"type": "string", "pattern": "^[0-9]{1,20}$"},
    ),
    "Level": _path(
        "level", "Level of the index; 0 is the coarsest.", 0, {**_NUMBER, "maximum": 999}
    ),
    "Cell": _path(
        "cell",
        "Index of a cell in the grid: x_y_z.",
        "0_0_0",
        {"type": "string", "pattern": "^[0-9]{1,9}_[0-9]{1,9}_[0-9]{1,9}$"},
    ),
    "Revision": {**_REVISION, "required": True},
}


def _query(name: str, description: str, schema: Json, **more: object) -> Json:
    return {"name": name, "description": description, "schema": schema, **more}


QUERIES: dict[str, Json] = {
    "Bbox": _query(
        "bbox",
        "Only annotations that touch this box: x0,y0,z0,x1,y1,z1 in voxels, both ends inclusive.",
        {"type": "string"},
        example="0,0,0,250,420,150",
    ),
    "Anntype": _query(
        "anntype",
        "Only annotations of this `anntype`; repeat it for any of several.",
        {"type": "array", "items": {"type": "string"}},
    ),
    "Type": _query(
        "type",
        "Only annotations of this geometry, in any case; repeat it for any of several.",
        {"type": "array", "items": _NAME},
    ),
    "Reviewed": _query(
        "reviewed", "Only annotations that a person has, or has not, reviewed.", {"type": "boolean"}
    ),
    "Format": _query(
        "format",
        "Output format. SWC holds line strings only, in micrometres.",
        {"type": "string", "enum": list(FORMATS)},
    ),
    "OptionalId": {**_ID, "required": False},
    "OneOrMoreIds": {
        "name": "id",
        "description": "The annotation's id; repeat it for several, each once.",
        "schema": {"oneOf": [_NAME, {"type": "array", "minItems": 1, "items": _NAME}]},
        "required": True,
    },
    "Position": _query(
        "position",
        "A voxel, x,y,z: selects the block that contains it, by block_info.csv.",
        {"type": "string", "pattern": r"^-?\d{1,18},-?\d{1,18},-?\d{1,18}$"},
        required=True,
        example="70,10,5",
    ),
    "OptionalRevision": _REVISION,
    "Since": _query("since", "At or after this time (ISO 8601).", _TIME),
    "Until": _query("until", "Before this time (ISO 8601).", _TIME),
    "By": _query("by", "Only changes by this author.", {"type": "string"}),
    "Session": _query("session", "Only changes by the viewer with this label.", {"type": "string"}),
    "Left": _query(
        "navigation",
        "Only saves that were ignored because their viewer left the slice.",
        {"type": "boolean"},
    ),
    "LeftIn": _query(
        "navigation",
        "Number of a save that was ignored because its viewer left the slice.",
        {"type": "integer", "minimum": 1},
    ),
    "Before": _query("before", "Only changes with a smaller number.", _NUMBER),
    "Limit": _query(
        "limit", "Changes per page.", {"type": "integer", "minimum": 1, "maximum": 10000}
    ),
    "Ids": _query(
        "ids",
        "How many ids of each kind to list per change.",
        {"oneOf": [_NUMBER, {"type": "string", "enum": ["all"]}], "default": 20},
    ),
    "Removed": _query("removed", "Restore everything that was removed.", {"type": "boolean"}),
    "Reverted": _query(
        "reverted", "Bring back changes that saves of old copies undid.", {"type": "boolean"}
    ),
}


def _header(name: str, example: str) -> Json:
    return {"name": name, "schema": {"type": "string"}, "example": example}


REQUEST_HEADERS: dict[str, Json] = {
    "Range": _header("Range", "bytes=0-1023"),
    "IfNoneMatch": _header("If-None-Match", '"18a1-80000-2f"'),
    "NewIfNoneMatch": _header("If-None-Match", "*"),
    "IfMatch": _header("If-Match", '"9f2c41d07be3aa55"'),
    "IdempotencyKey": {
        **_header("Idempotency-Key", "0b8f6c1e-5d0a-4c55-9b5a-2f3f1f0f6a11"),
        "description": (
            "Names this request, so that it can be sent again when its answer is lost: what the"
            " file's history has under this name is answered again, and not made again."
        ),
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": MOST_CHARACTERS,
            "pattern": "^[ -~]+$",
        },
    },
}


def parameters() -> Iterator[tuple[str, str, Json]]:
    """Yield every shared parameter: its name in the document, where it is sent, and itself."""
    for location, group in (("path", PATHS), ("query", QUERIES), ("header", REQUEST_HEADERS)):
        for key, parameter in group.items():
            yield key, location, parameter
