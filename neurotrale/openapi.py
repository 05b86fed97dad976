"""The OpenAPI document, built from the docstrings of the resources.

falcon-apispec reads them; a small subclass makes it work with current Falcon and our router.
"""

from __future__ import annotations

from typing import Any

from apispec import APISpec, yaml_utils
from falcon_apispec import FalconPlugin

import neurotrale
from neurotrale.annotations.check import GEOMETRY
from neurotrale.datasets.described import SCHEMAS
from neurotrale.gate import OPEN_PATH
from neurotrale.router import App, OrderedRouter

Json = dict[str, Any]


class RouterPlugin(FalconPlugin):  # type: ignore[misc]
    """FalconPlugin for `OrderedRouter`.

    falcon-apispec 0.4 walks the private tree of Falcon's own router and tells default responders
    by an attribute that they lost in Falcon 3; our routes know both.
    """

    def __init__(self, app: App, router: OrderedRouter) -> None:
        super().__init__(app)
        self._routes = {route.resource: route for route in router.routes}

    def path_helper(self, operations: Json, resource: object, **_: object) -> str:
        """Give the path of a resource and fill in its operations."""
        route = self._routes[resource]
        for method in route.own_methods:
            responder = route.method_map[method]
            operation = yaml_utils.load_yaml_from_docstring(responder.__doc__)
            if route.uri_template != OPEN_PATH:
                operation["responses"][401] = "Unauthorized"
            operations[method.lower()] = operation
        return route.uri_template


def openapi_document(app: App, router: OrderedRouter, *, tokens: bool = False) -> Json:
    """Describe every route of the service as an OpenAPI 3.0 document.

    Args:
        app: Has the routes.
        router: Its router.
        tokens: Whether requests need one.
    """
    spec = APISpec(
        title="neurotrale",
        version=neurotrale.__version__,
        openapi_version="3.0.3",
        info={"description": _DESCRIPTION},
        servers=[{"url": "../"}],
        tags=[{"name": name} for name in _TAGS],
        plugins=[RouterPlugin(app, router)],
    )
    _add_schemas(spec)
    _add_parameters(spec)
    for name, component in _HEADERS.items():
        spec.components.header(name, component)
    for name, response in _RESPONSES.items():
        spec.components.response(name, response)
    for route in router.routes:
        spec.path(resource=route.resource)
    if tokens:
        spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
        query = {"type": "apiKey", "in": "query", "name": "token"}
        spec.components.security_scheme("query", query)
    document: Json = spec.to_dict()
    if tokens:
        # The empty one: below /token/{token}/ the URL has it already.
        document["security"] = [{}, {"bearer": []}, {"query": []}]
    return document


_TAGS = ("Image chunks", "Annotations", "History", "Files", "Pages", "Service")
_DESCRIPTION = (
    "Image chunks in Neuroglancer's Precomputed format, directory pages and plain files, and JSON"
    " annotations that can be edited. Axis order is x, y, z everywhere; coordinates are voxels of"
    " the full scale. HEAD and OPTIONS work wherever GET does; other methods are 405. Every error"
    " is JSON with `title` and `description`. A data set may be nested: `{dataset}` may hold"
    " slashes."
)


def _add_schemas(spec: APISpec) -> None:
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
    for key, schema in SCHEMAS.items():
        spec.components.schema(key, schema)
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


def _path_parameter(name: str, description: str, example: str, **schema: object) -> Json:
    return {
        "name": name,
        "description": description,
        "required": True,
        "schema": {"type": "string", "minLength": 1, **schema},
        "example": example,
    }


def _add_parameters(spec: APISpec) -> None:
    paths = {
        "Dataset": ("dataset", "Path of the data set; may be nested.", "lab/mouse-3"),
        "Scale": ("scale", "Key of the scale in `info`.", "1_1_1"),
        "Chunk": ("chunk", "Box of voxels, ends exclusive: x0-x1_y0-y1_z0-z1.", "0-64_0-64_0-64"),
        "Block": (
            "block",
            "x<int>y<int>z<int>: index of a block, or position in voxels (see block_info.csv).",
            "x1y0z0",
        ),
        "Leaf": ("leaf", "File name without .json.", "fibers"),
        "Directory": ("directory", "Path of a directory.", "lab/mouse-3/1_1_1"),
        "File": ("file", "Path of a file.", "lab/mouse-3/info"),
        "Asset": ("asset", "A file that the page loads.", "index.html"),
    }
    for key, (name, description, example) in paths.items():
        spec.components.parameter(key, "path", _path_parameter(name, description, example))
    id_ = {
        "name": "id",
        "description": "The annotation's id.",
        "schema": {"type": "string", "minLength": 1},
    }
    spec.components.parameter("Id", "query", {**id_, "required": True})
    spec.components.parameter("OptionalId", "query", {**id_, "required": False})
    revision: Json = {
        "name": "revision",
        "description": "Number of a change; 0 is before the first one.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 0,
    }
    spec.components.parameter("Revision", "path", {**revision, "required": True})
    spec.components.parameter("OptionalRevision", "query", revision)
    queries: dict[str, tuple[str, Json]] = {
        "since": ("At or after this time (ISO 8601).", {"type": "string"}),
        "until": ("Before this time (ISO 8601).", {"type": "string"}),
        "by": ("By this name.", {"type": "string"}),
        "before": ("Changes with a smaller number.", {"type": "integer", "minimum": 0}),
        "limit": ("Changes a page.", {"type": "integer", "minimum": 1, "maximum": 10000}),
        "removed": ("All that was removed.", {"type": "boolean"}),
    }
    for name, (description, schema) in queries.items():
        parameter = {"name": name, "description": description, "schema": schema}
        spec.components.parameter(name.capitalize(), "query", parameter)
    for key, name, example in (
        ("Range", "Range", "bytes=0-1023"),
        ("IfNoneMatch", "If-None-Match", '"18a1-80000-2f"'),
        ("PutIfNoneMatch", "If-None-Match", "*"),
        ("IfMatch", "If-Match", '"9f2c41d07be3aa55"'),
    ):
        header = {"name": name, "schema": {"type": "string"}, "example": example}
        spec.components.parameter(key, "header", header)


_HEADERS: dict[str, Json] = {
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
_RESPONSES: dict[str, Json] = {
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
