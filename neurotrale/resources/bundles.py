"""Built web applications: the viewer, and another one that the administrator names."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.annotations.content import etag_of
from neurotrale.bundles import VIEWER_PACKAGE, Bundle, never_changes
from neurotrale.codings import CODINGS
from neurotrale.errors import MissingError
from neurotrale.names import Parts
from neurotrale.resources.listing import redirect_to_directory
from neurotrale.resources.negotiation import may_encode
from neurotrale.resources.sending import (
    REVALIDATE,
    Version,
    answered_from_copy,
    send_bytes,
    send_found,
)

NOT_INSTALLED = (
    "The viewer is not installed beside this service. Whoever runs it can add it with"
    f" 'pip install --no-deps {VIEWER_PACKAGE}' and start the service again."
)
# Viewers compile WebAssembly and make code for each type of voxels, start workers (from blobs,
# too), and read data of any origin that a person names. Scripts come from the bundle alone.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' blob:; worker-src 'self' blob:;"
    " style-src 'self' 'unsafe-inline'; img-src * data: blob:; font-src 'self' data:;"
    " connect-src * data: blob:; object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)
FOREVER = "private, max-age=31536000, immutable"


class ViewerResource:
    """``/viewer/``.

    Args:
        bundle: The viewer; None when it is not installed.
    """

    def __init__(self, bundle: Bundle | None) -> None:
        self.bundle = bundle

    def on_get(self, req: Request, resp: Response) -> None:
        """Send the page of the viewer.
        ---
        summary: The viewer
        description: >-
            Neuroglancer, when it is installed beside the service. What it shows stands behind the
            `#!` of its URL; `/api/datasets/{dataset}/open` leads to a fitting one.
        tags: [Pages]
        responses:
            200:
                description: The page.
                content: {text/html: {schema: {type: string}}}
            304: NotModified
            404: NotFound
        """
        _send_page(req, resp, self.bundle)


class ViewerAssetResource:
    """``/viewer/{asset}``.

    Args:
        bundle: The viewer; None when it is not installed.
    """

    def __init__(self, bundle: Bundle | None) -> None:
        self.bundle = bundle

    def on_get(self, req: Request, resp: Response, asset: Parts) -> None:
        """Send a file of the viewer.
        ---
        summary: A file of the viewer
        tags: [Pages]
        parameters: [Asset, Range, IfNoneMatch]
        responses:
            200:
                description: The file.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {'*/*': {}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            406: NotAcceptable
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        _send_asset(req, resp, self.bundle, asset)


class UiResource(ViewerResource):
    """``/ui/``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Send the page of the user interface.
        ---
        summary: The user interface of --ui
        tags: [Pages]
        responses:
            200:
                description: The page.
                content: {text/html: {schema: {type: string}}}
            304: NotModified
        """
        _send_page(req, resp, self.bundle)


class UiAssetResource(ViewerAssetResource):
    """``/ui/{asset}``."""

    def on_get(self, req: Request, resp: Response, asset: Parts) -> None:
        """Send a file of the user interface.
        ---
        summary: A file of the user interface
        tags: [Pages]
        parameters: [Asset, Range, IfNoneMatch]
        responses:
            200:
                description: The file.
                headers: {ETag: ETag, Last-Modified: LastModified, Cache-Control: CacheControl}
                content: {'*/*': {}}
            206: PartialContent
            304: NotModified
            403: Forbidden
            404: NotFound
            406: NotAcceptable
            414: NameTooLong
            416: RangeNotSatisfiable
            500: Damaged
            503: Busy
        """
        _send_asset(req, resp, self.bundle, asset)


class SlashResource:
    """``/viewer`` and ``/ui``, without their slash."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Lead to the page.
        ---
        summary: Leads to the page
        tags: [Pages]
        responses:
            302:
                description: The page is behind the slash.
                headers: {Location: {schema: {type: string}}}
        """
        redirect_to_directory(req, resp)


def _send_page(req: Request, resp: Response, bundle: Bundle | None) -> None:
    content, stamp = _installed(bundle).page()
    version = Version(etag_of(content), stamp.mtime_ns / 1e9, "text/html; charset=utf-8")
    send_bytes(req, resp, content, version)
    resp.set_header("Content-Security-Policy", POLICY)


def _send_asset(req: Request, resp: Response, bundle: Bundle | None, asset: Parts) -> None:
    bundle = _installed(bundle)
    found = bundle.find(asset)
    keep = FOREVER if never_changes(found.name) else REVALIDATE
    packs = bundle.packs(found)
    coding = next((name for name in CODINGS if may_encode(req, name)), "") if packs else ""
    if coding:
        version = Version(
            found.stamp.etag, found.stamp.mtime_ns / 1e9, found.media_type, "Accept-Encoding"
        )
        if not answered_from_copy(req, resp, version):
            send_bytes(req, resp, bundle.packed(found, coding), version, coding)
    else:
        send_found(req, resp, bundle.files, found)
        if packs:
            resp.append_header("Vary", "Accept-Encoding")
    resp.set_header("Cache-Control", keep)
    resp.set_header("Content-Security-Policy", POLICY)


def _installed(bundle: Bundle | None) -> Bundle:
    if bundle is None:
        raise MissingError(NOT_INSTALLED)
    return bundle
