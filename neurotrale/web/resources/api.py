"""Resources below ``/api/``: health, the OpenAPI document, Swagger UI with local assets only."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources.abc import Traversable

import falcon
from falcon import Request, Response

import neurotrale
from neurotrale.annotations.documents.contents import etag_of
from neurotrale.metrics import CONTENT_TYPE, exposition, is_enabled
from neurotrale.storage.data_root import DataRoot
from neurotrale.tokens.watch import SharedTokens
from neurotrale.web.pages import ASSETS, asset_content
from neurotrale.web.responses import Compressor, ContentVersion, respond_not_modified, send_bytes

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
        data_root: The data root.
        tokens: The valid tokens; None if requests need none.
        read_only: Whether writes are refused.
    """

    def __init__(
        self, data_root: DataRoot, tokens: SharedTokens | None, *, read_only: bool
    ) -> None:
        self.data_root = data_root
        self.tokens = tokens
        self.read_only = read_only

    def on_get(self, req: Request, resp: Response) -> None:
        """Report whether the service works.
        ---
        summary: Health
        description: >
            200 while the data root is readable and the token file is usable, else 503.
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
                                remarks:
                                    type: array
                                    description: Remarks for the administrator.
                                    items: {type: string}
            503: Busy
        """
        self.data_root.check_readable()
        notes = () if self.tokens is None else self.tokens.now().notes
        resp.media = {
            "status": "ok",
            "version": neurotrale.__version__,
            "read_only": self.read_only,
            **({"remarks": notes} if notes else {}),
        }
        resp.cache_control = ["no-store"]


class MetricsResource:
    """``/api/metrics``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Send counts of what the service does.
        ---
        summary: Counts for Prometheus
        description: >
            Requests by route and status, times, bytes, parked writes, deaths of processes, waits
            for locks, bytes of journals, removals that are held back, and hits of caches, of all
            processes of the service since it started. With tokens it needs one, unless the service
            runs with `--metrics-public`.
        tags: [Service]
        responses:
            200:
                description: The counts, in the text format of Prometheus.
                content: {text/plain: {schema: {type: string}}}
            404: NotFound
        """
        if not is_enabled():
            raise falcon.HTTPNotFound(
                title="Not found",
                description="Nothing is counted: the service has no temporary directory for it.",
            )
        resp.data = exposition()
        resp.content_type = CONTENT_TYPE
        resp.cache_control = ["no-store"]


class DocumentResource:
    """``/api/openapi.json``.

    Args:
        build: Builds the document; called once, on the first request.
    """

    def __init__(self, build: Callable[[], dict[str, object]]) -> None:
        self._build = build
        self._document: dict[str, object] | None = None

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
        if self._document is None:
            self._document = self._build()
        resp.media = self._document
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
                description: Swagger UI; it loads nothing from the internet.
                content: [text/html]
        """
        resp.content_type = "text/html; charset=utf-8"
        resp.text = _PAGE
        resp.cache_control = ["no-cache"]


class DocsRedirectResource:
    """``/api``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Redirect to the documentation.
        ---
        summary: Redirects to the documentation
        tags: [Service]
        responses:
            302:
                description: The page has a trailing slash.
                headers: {Location: {schema: {type: string}}}
        """
        resp.status = falcon.HTTP_302
        query = f"?{req.query_string}" if req.query_string else ""
        resp.set_header("Location", f"./api/{query}")


class AssetResource:
    """``/api/{asset}``: the files that the pages of the service load.

    Args:
        compressor: Compresses response bodies.
    """

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self._contents: dict[str, bytes] = {}

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
                content: [text/css, text/javascript, image/png]
            404: NotFound
        """
        media_type = SWAGGER_UI.get(asset) or ASSETS.get(asset)
        if media_type is None:
            raise falcon.HTTPNotFound(
                title="Not found", description=f"The API has no file {asset[:80]!r}; see /api/."
            )
        if asset not in self._contents:
            self._contents[asset] = _read(asset)
        content = self._contents[asset]
        version = ContentVersion(etag_of(content), None, media_type, "Accept-Encoding")
        if not respond_not_modified(req, resp, version):
            body, coding = self.compressor.compress(req, content, "text")
            send_bytes(req, resp, body, version, coding)


def _read(asset: str) -> bytes:
    if asset in ASSETS:
        return asset_content(asset)
    from swagger_ui_bundle import swagger_ui_path  # only the API documentation needs it

    folder: Traversable = swagger_ui_path
    return (folder / asset).read_bytes()
