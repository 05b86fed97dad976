"""The service about itself: health, the OpenAPI document, Swagger UI with local assets only."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources.abc import Traversable

import falcon
from falcon import Request, Response
from swagger_ui_bundle import swagger_ui_path

import neurotrale
from neurotrale.annotations.content import etag_of
from neurotrale.pages.frame import ASSETS, asset_content
from neurotrale.resources.coding import Coder
from neurotrale.resources.sending import Version, answered_from_copy, send_bytes
from neurotrale.tree import Tree

SWAGGER_UI = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>neurotrale API</title>
<link rel="icon" href="favicon-32x32.png"><link rel="stylesheet" href="swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui"})</script>
</body></html>
"""


class HealthResource:
    """``/api/health``.

    Args:
        tree: The data root.
        read_only: Whether writes are refused.
    """

    def __init__(self, tree: Tree, *, read_only: bool) -> None:
        self.tree = tree
        self.read_only = read_only

    def on_get(self, req: Request, resp: Response) -> None:
        """Tell whether the service works.
        ---
        summary: Health
        description: 200 while the data root can be read, else 503.
        tags: [Service]
        responses:
            200:
                description: The service works.
                content:
                    application/json:
                        schema:
                            type: object
                            required: [status, version, read_only]
                            properties:
                                status: {type: string, enum: [ok]}
                                version: {type: string}
                                read_only: {type: boolean}
            503: Busy
        """
        self.tree.healthy()
        resp.media = {
            "status": "ok",
            "version": neurotrale.__version__,
            "read_only": self.read_only,
        }
        resp.cache_control = ["no-store"]


class DocumentResource:
    """``/api/openapi.json``.

    Args:
        document: Makes the document; called once, at the first request.
    """

    def __init__(self, document: Callable[[], dict[str, object]]) -> None:
        self._make = document
        self._made: dict[str, object] | None = None

    def on_get(self, req: Request, resp: Response) -> None:
        """Send the OpenAPI document.
        ---
        summary: This description as OpenAPI 3
        tags: [Service]
        responses:
            200:
                description: The document.
                content: {application/json: {schema: {type: object}}}
        """
        if self._made is None:
            self._made = self._make()
        resp.media = self._made
        resp.cache_control = ["no-cache"]


class DocsResource:
    """``/api/``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the documentation.
        ---
        summary: This documentation as a page
        tags: [Service]
        responses:
            200:
                description: Swagger UI; it needs nothing from the internet.
                content: {text/html: {schema: {type: string}}}
        """
        resp.content_type = "text/html; charset=utf-8"
        resp.text = _PAGE
        resp.cache_control = ["no-cache"]


class DocsRedirectResource:
    """``/api``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Lead to the documentation.
        ---
        summary: Leads to the documentation
        tags: [Service]
        responses:
            302:
                description: The page is behind the slash.
                headers: {Location: {schema: {type: string}}}
        """
        resp.status = falcon.HTTP_302
        query = f"?{req.query_string}" if req.query_string else ""
        resp.set_header("Location", f"./api/{query}")


class AssetResource:
    """``/api/{asset}``: what the pages of the service load.

    Args:
        coder: Compresses what is sent.
    """

    def __init__(self, coder: Coder) -> None:
        self.coder = coder
        self._kept: dict[str, bytes] = {}

    def on_get(self, req: Request, resp: Response, asset: str) -> None:
        """Send a file that pages load.
        ---
        summary: A file that pages load
        tags: [Service]
        parameters:
            - name: asset
              in: path
              required: true
              schema:
                  type: string
                  enum:
                      - swagger-ui.css
                      - swagger-ui-bundle.js
                      - favicon-32x32.png
                      - pages.css
                      - service.js
                      - index.js
                      - open.js
                      - viewer.js
                      - history.js
            - Range
            - IfNoneMatch
        responses:
            200:
                description: The file.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content:
                    text/css: {schema: {type: string}}
                    text/javascript: {schema: {type: string}}
                    image/png: {schema: {type: string, format: binary}}
            206: PartialContent
            304: NotModified
            404: NotFound
            416: RangeNotSatisfiable
        """
        media_type = SWAGGER_UI.get(asset) or ASSETS.get(asset)
        if media_type is None:
            raise falcon.HTTPNotFound(
                title="Not found", description=f"The API has no {asset[:80]!r}; see /api/."
            )
        if asset not in self._kept:
            self._kept[asset] = _read(asset)
        content = self._kept[asset]
        version = Version(etag_of(content), 0.0, media_type, "Accept-Encoding")
        if not answered_from_copy(req, resp, version):
            body, coding = self.coder.code(req, content, "text")
            send_bytes(req, resp, body, version, coding)


def _read(asset: str) -> bytes:
    if asset in ASSETS:
        return asset_content(asset)
    folder: Traversable = swagger_ui_path
    return (folder / asset).read_bytes()
