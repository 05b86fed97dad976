"""Resources for built web applications: the viewer, and the one that ``--ui`` names."""

from __future__ import annotations

from falcon import Request, Response

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.errors import MissingError
from neurotrale.storage.compression import CODINGS
from neurotrale.storage.names import Parts
from neurotrale.web.requests import may_encode
from neurotrale.web.resources.files import redirect_to_directory
from neurotrale.web.responses import (
    REVALIDATE,
    ContentVersion,
    respond_not_modified,
    send_bytes,
    send_stored_file,
)
from neurotrale.web.webapps import VIEWER_PACKAGE, Bundle, is_immutable

NOT_INSTALLED = (
    "The viewer is not installed. Whoever runs this service can install it with"
    f" 'pip install --no-deps {VIEWER_PACKAGE}' and restart the service."
)
# Viewers compile WebAssembly and generate code for each data type, start workers (also from blobs),
# and read data from any origin that the user names. Scripts come from the bundle alone.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' blob:; worker-src 'self' blob:;"
    " style-src 'self' 'unsafe-inline'; img-src * data: blob:; font-src 'self' data:;"
    " connect-src * data: blob:; object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)
IMMUTABLE = "private, max-age=31536000, immutable"


class BundleResource:
    """A resource for the files of a built web application.

    Args:
        bundle: The application; None if it is not installed.
    """

    def __init__(self, bundle: Bundle | None) -> None:
        self.bundle = bundle


class ViewerResource(BundleResource):
    """``/viewer/``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Send the page of the viewer.
        ---
        summary: The viewer
        description: >-
            Neuroglancer, if it is installed. Its state follows the `#!` in the URL;
            `/api/datasets/{dataset}/open` redirects to a suitable one.
        tags: [Pages]
        responses:
            200: {description: The page., content: [text/html]}
            304: NotModified
            404: NotFound
        """
        _send_page(req, resp, self.bundle)


class ViewerAssetResource(BundleResource):
    """``/viewer/{asset}``."""

    def on_get(self, req: Request, resp: Response, asset: Parts) -> None:
        """Send a file of the viewer.
        ---
        summary: A file of the viewer
        tags: [Pages]
        parameters: [Asset, Range, IfNoneMatch]
        responses:
            200: {description: The file., content: [application/octet-stream, '*/*']}
            406: NotAcceptable
        """
        _send_asset(req, resp, self.bundle, asset)


class UiResource(BundleResource):
    """``/ui/``."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Send the page of the user interface.
        ---
        summary: The user interface of --ui
        tags: [Pages]
        responses:
            200: {description: The page., content: [text/html]}
            304: NotModified
        """
        _send_page(req, resp, self.bundle)


class UiAssetResource(BundleResource):
    """``/ui/{asset}``."""

    def on_get(self, req: Request, resp: Response, asset: Parts) -> None:
        """Send a file of the user interface.
        ---
        summary: A file of the user interface
        tags: [Pages]
        parameters: [Asset, Range, IfNoneMatch]
        responses:
            200: {description: The file., content: [application/octet-stream, '*/*']}
            406: NotAcceptable
        """
        _send_asset(req, resp, self.bundle, asset)


class ViewerRedirect:
    """``/viewer``, without the trailing slash."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Redirect to the page.
        ---
        summary: Redirects to the page
        tags: [Pages]
        responses:
            302:
                description: The page has a trailing slash.
                headers: {Location: {schema: {type: string}}}
        """
        redirect_to_directory(req, resp)


class UiRedirect(ViewerRedirect):
    """``/ui``, without the trailing slash."""


def _send_page(req: Request, resp: Response, bundle: Bundle | None) -> None:
    content, stamp = _installed(bundle).page()
    version = ContentVersion(etag_of(content), stamp.date_s, "text/html; charset=utf-8")
    send_bytes(req, resp, content, version)
    resp.set_header("Content-Security-Policy", POLICY)


def _send_asset(req: Request, resp: Response, bundle: Bundle | None, asset: Parts) -> None:
    bundle = _installed(bundle)
    file = bundle.find(asset)
    compressible = bundle.is_compressible(file)
    codings = [coding for coding in CODINGS if compressible and may_encode(req, coding)]
    if codings:
        version = ContentVersion(
            file.stamp.etag, file.stamp.date_s, file.media_type, "Accept-Encoding"
        )
        if not respond_not_modified(req, resp, version):
            body = bundle.compressed(file, codings[0])
            send_bytes(req, resp, body, version, codings[0])
    else:
        send_stored_file(req, resp, bundle.files, file)
        if compressible:
            resp.append_header("Vary", "Accept-Encoding")
    resp.set_header("Cache-Control", IMMUTABLE if is_immutable(file.name) else REVALIDATE)
    resp.set_header("Content-Security-Policy", POLICY)


def _installed(bundle: Bundle | None) -> Bundle:
    if bundle is None:
        raise MissingError(NOT_INSTALLED)
    return bundle
