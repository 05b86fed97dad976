"""The OpenAPI document, built from the docstrings of the resources.

falcon-apispec reads them; a small subclass makes it work with current Falcon and our router.
The operation ids are listed here: generated clients use them as the names of their functions, so
renaming one breaks the scripts of everyone who generated a client.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apispec import APISpec, yaml_utils
from falcon_apispec import FalconPlugin

import neurotrale
from neurotrale.web.auth import PUBLIC_PATH
from neurotrale.web.openapi.components import COMMON, HEADERS, RESPONSES, complete
from neurotrale.web.openapi.parameters import parameters
from neurotrale.web.openapi.schemas import SCHEMAS
from neurotrale.web.router import App, OrderedRouter, Route

Json = dict[str, Any]

_FILE = "/{dataset}/annotations/{block}/{leaf}.json"
_AT = "/{dataset}/annotations/{leaf}.json"  # with ?position=
_LAYERS = "/{dataset}/annotations/layers"
_DATASET = "/api/datasets/{dataset}"

OPERATION_IDS: dict[tuple[str, str], str] = {
    ("GET", "/api/health"): "getHealth",
    ("GET", "/api/metrics"): "getMetrics",
    ("GET", "/api/openapi.json"): "getOpenapi",
    ("GET", "/api/"): "getDocsPage",
    ("GET", "/api"): "redirectToDocsPage",
    ("GET", "/api/{asset}"): "getDocsAsset",
    ("GET", _DATASET): "getDataset",
    ("GET", f"{_DATASET}/preview.png"): "getPreview",
    ("GET", f"{_DATASET}/open"): "openDataset",
    ("GET", f"{_DATASET}/history"): "getHistoryFilesPage",
    ("POST", f"{_DATASET}/start"): "startAnnotating",
    ("GET", "/viewer/"): "getViewerPage",
    ("GET", "/viewer"): "redirectToViewerPage",
    ("GET", "/viewer/{asset}"): "getViewerAsset",
    ("GET", "/ui/"): "getUiPage",
    ("GET", "/ui"): "redirectToUiPage",
    ("GET", "/ui/{asset}"): "getUiAsset",
    ("GET", "/"): "getIndexPage",
    ("GET", "/index.html"): "getIndexHtml",
    ("GET", _FILE): "getAnnotations",
    ("PUT", _FILE): "putAnnotations",
    ("PATCH", _FILE): "patchAnnotation",
    ("DELETE", _FILE): "deleteAnnotation",
    ("GET", f"{_FILE}/history"): "getHistory",
    ("GET", f"{_FILE}/history/"): "getHistoryPage",
    ("GET", f"{_FILE}/history/{{revision}}"): "getRevision",
    ("GET", f"{_FILE}/changes"): "getChanges",
    ("POST", f"{_FILE}/restore"): "restore",
    ("GET", f"{_FILE}/held"): "getHeld",
    ("DELETE", f"{_FILE}/held"): "confirmHeld",
    ("GET", _AT): "getAnnotationsAt",
    ("PUT", _AT): "putAnnotationsAt",
    ("PATCH", _AT): "patchAnnotationAt",
    ("DELETE", _AT): "deleteAnnotationAt",
    ("GET", f"{_AT}/history"): "getHistoryAt",
    ("GET", f"{_AT}/history/{{revision}}"): "getRevisionAt",
    ("GET", f"{_AT}/changes"): "getChangesAt",
    ("POST", f"{_AT}/restore"): "restoreAt",
    ("GET", f"{_AT}/held"): "getHeldAt",
    ("DELETE", f"{_AT}/held"): "confirmHeldAt",
    ("GET", "/{dataset}/annotations/corrections"): "getCorrections",
    ("GET", "/{dataset}/annotations/search"): "searchAnnotations",
    ("GET", "/{dataset}/annotations/mine"): "getMySaves",
    ("GET", _LAYERS): "getLayers",
    ("GET", f"{_LAYERS}/{{kind}}/info"): "getLayerInfo",
    ("GET", f"{_LAYERS}/{{kind}}/by_id/{{number}}"): "getLayerAnnotation",
    ("GET", f"{_LAYERS}/{{kind}}/origin/{{number}}"): "getLayerOrigin",
    ("GET", f"{_LAYERS}/{{kind}}/spatial{{level}}/{{cell}}"): "getLayerCell",
    ("GET", f"{_FILE}/layers"): "getFileLayers",
    ("GET", f"{_FILE}/layers/{{kind}}/info"): "getFileLayerInfo",
    ("GET", f"{_FILE}/layers/{{kind}}/by_id/{{number}}"): "getFileLayerAnnotation",
    ("GET", f"{_FILE}/layers/{{kind}}/origin/{{number}}"): "getFileLayerOrigin",
    ("GET", f"{_FILE}/layers/{{kind}}/spatial{{level}}/{{cell}}"): "getFileLayerCell",
    ("GET", "/{dataset}/{scale}/{chunk}"): "getChunk",
    ("GET", "/{dataset}/{scale}/{chunk}.tiff"): "getTiff",
    ("GET", "/{dataset}/info"): "getInfo",
    ("GET", "/{directory}/"): "getListing",
    ("GET", "/{file}"): "getFile",
}


class RouterPlugin(FalconPlugin):  # type: ignore[misc]
    """FalconPlugin for `OrderedRouter`.

    falcon-apispec 0.4 walks the private tree of Falcon's own router, and recognizes default
    responders by an attribute that they lost in Falcon 3. Our routes know both, and one resource
    may have several of them.
    """

    def path_helper(self, operations: Json, resource: object, *, route: Route, **_: object) -> str:
        """Return the path of a route, and fill in the operations of its resource."""
        for method in route.own_methods:
            responder = route.method_map[method]
            operation = yaml_utils.load_yaml_from_docstring(responder.__doc__)
            operation["operationId"] = OPERATION_IDS[method, route.uri_template]
            complete(operation)
            for status in _common_statuses(method, route.uri_template):
                operation["responses"].setdefault(status, COMMON[status])
            if route.parameter and method != "GET":
                operation["responses"][405] = "NotAllowed"
            _keep_own_parameters(operation, route)
            operations[method.lower()] = operation
        return route.uri_template


def _common_statuses(method: str, template: str) -> Iterator[int]:
    """Yield the errors that any operation at this path may end in, whatever it does."""
    if template != PUBLIC_PATH:
        yield from (401, 503)
    if template in ("/", "/index.html") or ("{" in template and template != "/api/{asset}"):
        yield from (403, 404, 414, 500)
        if method != "GET":
            yield 507


def _keep_own_parameters(operation: Json, route: Route) -> None:
    """Drop the parameters that this route lacks: one class may serve several routes."""
    absent = [name for name in ("Block", "Leaf") if f"{{{name.lower()}}}" not in route.uri_template]
    if not route.parameter:
        absent.append("Position")
    if "parameters" in operation:
        operation["parameters"] = [one for one in operation["parameters"] if one not in absent]


def openapi_document(app: App, router: OrderedRouter, *, tokens: bool = False) -> Json:
    """Describe every route of the service as an OpenAPI 3.0 document.

    Args:
        app: The application.
        router: Its router, which has the routes.
        tokens: Whether requests need a token.
    """
    spec = APISpec(
        title="neurotrale",
        version=neurotrale.__version__,
        openapi_version="3.0.3",
        info={"description": _DESCRIPTION},
        servers=[{"url": "../"}],
        tags=[{"name": name} for name in _TAGS],
        plugins=[RouterPlugin(app)],
    )
    for name, schema in SCHEMAS.items():
        spec.components.schema(name, schema)
    for key, location, parameter in parameters():
        spec.components.parameter(key, location, parameter)
    for name, component in HEADERS.items():
        spec.components.header(name, component)
    for name, response in RESPONSES.items():
        spec.components.response(name, response)
    for route in router.routes:
        spec.path(resource=route.resource, route=route)
    if tokens:
        spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
        query = {"type": "apiKey", "in": "query", "name": "token"}
        spec.components.security_scheme("query", query)
    document: Json = spec.to_dict()
    if tokens:
        # The empty requirement: below /token/{token}/ the URL already holds the token.
        document["security"] = [{}, {"bearer": []}, {"query": []}]
    return document


_TAGS = ("Image chunks", "Annotations", "Layers", "History", "Files", "Pages", "Service")
_DESCRIPTION = (
    "Image chunks in Neuroglancer's Precomputed format, directory pages and plain files, and"
    " editable JSON annotations. The axis order is x, y, z everywhere; coordinates are voxels of"
    " the full scale. HEAD and OPTIONS work wherever GET does; other methods return 405. Every"
    " error is JSON with `title` and `description`. Datasets may be nested: `{dataset}` may"
    " contain slashes. All of it also works behind `/as/{session}`, which tells one viewer from"
    " others."
)
