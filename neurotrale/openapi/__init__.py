"""The OpenAPI document, built from the docstrings of the resources.

falcon-apispec reads them; a small subclass makes it work with current Falcon and our router.
"""

from __future__ import annotations

from typing import Any

from apispec import APISpec, yaml_utils
from falcon_apispec import FalconPlugin

import neurotrale
from neurotrale.gate import OPEN_PATH
from neurotrale.openapi.layers import PATHS, QUERIES
from neurotrale.openapi.responses import HEADERS, RESPONSES
from neurotrale.openapi.schemas import add_schemas
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
            _keep_own_parameters(operation, route.uri_template)
            operations[method.lower()] = operation
        return route.uri_template


def _keep_own_parameters(operation: Json, template: str) -> None:
    """Drop the parts of a path that a route has not: one class may answer several routes."""
    absent = [name for name in ("Block", "Leaf") if f"{{{name.lower()}}}" not in template]
    if "parameters" in operation:
        operation["parameters"] = [one for one in operation["parameters"] if one not in absent]


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
    add_schemas(spec)
    _add_parameters(spec)
    for name, component in HEADERS.items():
        spec.components.header(name, component)
    for name, response in RESPONSES.items():
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


_TAGS = ("Image chunks", "Annotations", "Layers", "History", "Files", "Pages", "Service")
_DESCRIPTION = (
    "Image chunks in Neuroglancer's Precomputed format, directory pages and plain files, and JSON"
    " annotations that can be edited. Axis order is x, y, z everywhere; coordinates are voxels of"
    " the full scale. HEAD and OPTIONS work wherever GET does; other methods are 405. Every error"
    " is JSON with `title` and `description`. A data set may be nested: `{dataset}` may hold"
    " slashes."
)


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
    for where, components in (("path", PATHS), ("query", QUERIES)):
        for key, parameter in components.items():
            spec.components.parameter(key, where, parameter)
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
