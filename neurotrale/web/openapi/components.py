"""Shared parts of the OpenAPI document: headers, responses, parameters.

The docstrings of the responders name these parts. `complete` adds what follows from the
parameters of an operation, so that no docstring has to repeat it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neurotrale.layers.geometry import GeometryKind
from neurotrale.queries.formats import FORMATS

Json = dict[str, Any]

HEADERS: dict[str, Json] = {
    "ETag": {"description": "Identifies this version.", "schema": {"type": "string"}},
    "LastModified": {"description": "Time of the last change.", "schema": {"type": "string"}},
    "ContentLocation": {
        "description": (
            "Relative URL of the file by its block, in responses to viewers and to `position`."
        ),
        "schema": {"type": "string"},
    },
    "CacheControl": {
        "description": "`no-cache`: store a copy, but revalidate it before each use.",
        "schema": {"type": "string"},
    },
}

# --- responses ---


def _error(description: str, **headers: Json) -> Json:
    response: Json = {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if headers:
        response["headers"] = {name.replace("_", "-"): value for name, value in headers.items()}
    return response


def _json(description: str, schema: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "headers": {"ETag": "ETag"}, "content": content}


_TEXT: Json = {"schema": {"type": "string"}}
_BYTES: Json = {"schema": {"type": "string", "format": "binary"}}
RESPONSES: dict[str, Json] = {
    "PartialContent": {
        "description": "The requested byte range, never compressed.",
        "headers": {"Content-Range": _TEXT, "ETag": "ETag"},
        # The media type is that of the whole body; generators need one that they know.
        "content": {"application/octet-stream": _BYTES, "*/*": {}},
    },
    "NotModified": {"description": "The client's copy is current.", "headers": {"ETag": "ETag"}},
    "Stored": _json("Written; 201 when the file is new.", "Stored"),
    "Changed": _json("Done; 201 when the annotation is new.", "Changed"),
    "Started": {
        "description": "Created, unless somebody else did in the same moment.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"created": {"type": "array", "items": {"type": "string"}}},
                }
            }
        },
    },
    "BadRequest": _error("The request is malformed; the description says why."),
    "Unauthorized": _error("The service requires a token, and no valid one was sent."),
    "Forbidden": _error("The service or the token is read-only, or file permissions forbid it."),
    "NotFound": _error("Nothing exists under this name."),
    "NotAllowed": _error("Without the required parameter, this URL names a plain file."),
    "NotAcceptable": _error("Stored only in a content coding that the client does not accept."),
    "Conflict": _error("The file on disk does not allow this change."),
    "PreconditionFailed": _error("The file exists, or is not the version that If-Match names."),
    "UnsupportedMediaType": _error("The Content-Type is one that any form can send."),
    "TooLarge": _error("The body exceeds the size limit of the service."),
    "NameTooLong": _error("A name is longer than the file system allows."),
    "RangeNotSatisfiable": _error("The range begins beyond the end.", Content_Range=_TEXT),
    "RuleBroken": _error("Well-formed, but breaks a rule; the description names each place."),
    "Damaged": _error("A file is damaged, or something failed; the description says what."),
    "Busy": _error("Overload or a passing fault; retry later.", Retry_After=_TEXT),
    "DiskFull": _error("No space or quota left; nothing was changed."),
}

COMMON: dict[int, str] = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    414: "NameTooLong",
    500: "Damaged",
    503: "Busy",
    507: "DiskFull",
}
"""Errors that operations share, and the response that describes each."""

IMPLIED: dict[str, dict[int, str]] = {
    "Range": {206: "PartialContent", 416: "RangeNotSatisfiable"},
    "IfNoneMatch": {304: "NotModified"},
    "IfMatch": {412: "PreconditionFailed"},
    "Block": {400: "BadRequest"},
}
"""Responses that follow from a parameter."""

_VERSION_HEADERS = {
    "ETag": "ETag",
    "Last-Modified": "LastModified",
    "Cache-Control": "CacheControl",
}


def complete(operation: Json) -> None:
    """Add to an operation what its docstring leaves out.

    Every parameter adds the responses in `IMPLIED`; an operation with `IfNoneMatch` gets the
    version headers on its 200. Content may be written short: a list of media types, or the name
    of a schema for JSON.
    """
    responses = operation["responses"]
    names = [name for name in operation.get("parameters", ()) if isinstance(name, str)]
    for name in names:
        for status, response in IMPLIED.get(name, {}).items():
            responses.setdefault(status, response)
    if "IfNoneMatch" in names:
        responses[200]["headers"] = _VERSION_HEADERS | responses[200].get("headers", {})
    for described in (operation.get("requestBody"), *responses.values()):
        if isinstance(described, dict) and "content" in described:
            described["content"] = _content(described["content"])


def _content(short: str | list[str] | Json) -> Json:
    if isinstance(short, str):
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{short}"}}}
    if isinstance(short, list):
        return {media_type: _media(media_type) for media_type in short}
    return short


def _media(media_type: str) -> Json:
    if media_type == "*/*":
        return {}
    is_text = media_type.startswith("text/") or media_type == "application/x-ndjson"
    return _TEXT if is_text else _BYTES


# --- parameters ---

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
    "Id": {**_ID, "required": True},
    "OptionalId": {**_ID, "required": False},
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
    "PutIfNoneMatch": _header("If-None-Match", "*"),
    "IfMatch": _header("If-Match", '"9f2c41d07be3aa55"'),
}


def parameters() -> Iterator[tuple[str, str, Json]]:
    """Yield every shared parameter: its name in the document, where it is sent, and itself."""
    for location, group in (("path", PATHS), ("query", QUERIES), ("header", REQUEST_HEADERS)):
        for key, parameter in group.items():
            yield key, location, parameter
