"""Shared parts of the OpenAPI document: headers and responses.

The docstrings of the responders name these parts. `complete` adds what follows from the
parameters of an operation, so that no docstring has to repeat it.
"""

from __future__ import annotations

from typing import Any

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


def _json(description: str, *schemas: str) -> Json:
    found: list[Json] = [{"$ref": f"#/components/schemas/{schema}"} for schema in schemas]
    content = {"application/json": {"schema": found[0] if len(found) == 1 else {"oneOf": found}}}
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
    "Changed": _json("Done; 201 when an annotation is new.", "Changed", "ChangedMany"),
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
    "PreconditionFailed": _error(
        "The file or an annotation exists, or is not the version that If-Match names."
    ),
    "UnsupportedMediaType": _error("The Content-Type is one that any form can send."),
    "TooLarge": _error("The body exceeds the size limit of the service."),
    "NameTooLong": _error("A name is longer than the file system allows."),
    "RangeNotSatisfiable": _error("The range begins beyond the end.", Content_Range=_TEXT),
    "RuleBroken": _error(
        "Well-formed, but breaks a rule, or has the Idempotency-Key of another request; the"
        " description names each place."
    ),
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
    "IdempotencyKey": {422: "RuleBroken"},
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
