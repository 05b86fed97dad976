"""What the OpenAPI document says of answers: headers, and a response for each status."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

HEADERS: dict[str, Json] = {
    "ETag": {"description": "Identifies this version.", "schema": {"type": "string"}},
    "LastModified": {"description": "Time of the last change.", "schema": {"type": "string"}},
    "CacheControl": {
        "description": "`no-cache`: keep a copy, but ask each time whether it is current.",
        "schema": {"type": "string"},
    },
}


def _error(description: str, **headers: Json) -> Json:
    response: Json = {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if headers:
        response["headers"] = {name.replace("_", "-"): value for name, value in headers.items()}
    return response


def _answer(description: str, schema: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "headers": {"ETag": "ETag"}, "content": content}


_TEXT: Json = {"schema": {"type": "string"}}
RESPONSES: dict[str, Json] = {
    "PartialContent": {
        "description": "The bytes that Range asked for, never compressed.",
        "headers": {"Content-Range": _TEXT, "ETag": "ETag"},
        "content": {"*/*": {}},  # of any type: of JSON, too
    },
    "NotModified": {"description": "The client's copy is current.", "headers": {"ETag": "ETag"}},
    "Stored": _answer("Written; 201 when the file is new.", "Stored"),
    "Changed": _answer("Done; 201 when the annotation is new.", "Changed"),
    "BadRequest": _error("The request cannot be understood; says why."),
    "Unauthorized": _error("The service asks for tokens, and none that is valid was given."),
    "Forbidden": _error("The service or the token is read-only, or file permissions forbid it."),
    "NotFound": _error("There is nothing under this name."),
    "NotAcceptable": _error("Stored only in a coding that the client does not accept."),
    "Conflict": _error("What is on disk does not allow this change."),
    "PreconditionFailed": _error("The file is not the version that If-Match names, or exists."),
    "TooLarge": _error("The body is larger than the service takes."),
    "NameTooLong": _error("A name is longer than file systems take."),
    "RangeNotSatisfiable": _error("The range begins behind the end.", Content_Range=_TEXT),
    "RuleBroken": _error("Well-formed, but breaks a rule; names each place."),
    "Damaged": _error("A file is there but damaged, or something failed; says what."),
    "Busy": _error("Works later: overload or a passing fault.", Retry_After=_TEXT),
    "DiskFull": _error("No space or quota left; nothing was changed."),
}
