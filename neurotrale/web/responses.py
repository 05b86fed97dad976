"""Send bytes, files and pages: validators, 304, 206, 416, content codings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import falcon
from falcon import Request, Response

from neurotrale.annotations.write_requests import Written
from neurotrale.settings.service import CompressMode as CompressMode
from neurotrale.storage.compression import CODINGS, compress
from neurotrale.storage.descriptors import FilePart
from neurotrale.storage.files import Files, StoredFile
from neurotrale.web.pages import POLICY
from neurotrale.web.requests import (
    ByteRange,
    Unsatisfiable,
    byte_range,
    is_conditional,
    is_current,
    may_encode,
)

# An HTML file among the data is not part of this service: it may be displayed, but not run scripts.
DATA_POLICY = (
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
)
"""Content-Security-Policy of every file below the data root, whatever its type."""

# Clients revalidate each time, and mostly get 304: edits and new chunks are visible at once.
REVALIDATE = "no-cache"


@dataclass(frozen=True, slots=True)
class ContentVersion:
    """The headers that describe one version of a body.

    Attributes:
        etag: ETag of the body without any coding, without quotes.
        date_s: The second of the last change since the epoch; None if that does not identify the
            version, so that clients are not told.
        media_type: Media type of the body without any coding.
        vary: Request headers that the response depends on.
        cache_control: How long a copy may be used without revalidation.
    """

    etag: str
    date_s: int | None
    media_type: str
    vary: str = ""
    cache_control: str = REVALIDATE

    def coded(self, coding: str) -> ContentVersion:
        """Return this version in a content coding: its bytes differ, so its ETag does too."""
        if not coding:
            return self
        etag = f"{self.etag}-{coding}"
        return ContentVersion(etag, self.date_s, self.media_type, self.vary, self.cache_control)


def respond_not_modified(req: Request, resp: Response, version: ContentVersion) -> bool:
    """Respond 304 if the client has this version, in any coding; return whether it does."""
    if not is_conditional(req):
        return False
    for coding in ("", *CODINGS):
        copy = version.coded(coding)
        if is_current(req, copy.etag, copy.date_s):
            return _is_not_modified(req, resp, copy)
    return False


def send_bytes(
    req: Request, resp: Response, body: bytes, version: ContentVersion, coding: str = ""
) -> None:
    """Send bytes from memory: all of them, the requested range, or 304.

    Args:
        req: The request.
        resp: The response.
        body: The bytes to send, already compressed if there is a coding.
        version: The version of the uncompressed body.
        coding: The content coding of the body; "" for none.
    """
    if coding:
        send_compressed(req, resp, (body,), version, coding)
        return
    if _is_not_modified(req, resp, version):
        return
    part = byte_range(req, len(body), version.etag, version.date_s)
    resp.set_header("Accept-Ranges", "bytes")
    if isinstance(part, Unsatisfiable):
        _refuse_range(resp, len(body))
    elif isinstance(part, ByteRange):
        _set_partial(resp, part, len(body))
        resp.data = body[part.start : part.stop]
    else:
        resp.data = body


def send_compressed(
    req: Request, resp: Response, pieces: Sequence[bytes], version: ContentVersion, coding: str
) -> None:
    """Send a compressed body, or 304.

    Args:
        req: The request.
        resp: The response.
        pieces: The body, in consecutive pieces.
        version: The version of the uncompressed body.
        coding: The content coding of the body.
    """
    if _is_not_modified(req, resp, version.coded(coding)):
        return
    resp.set_header("Content-Encoding", coding)
    if len(pieces) == 1:
        (resp.data,) = pieces
    else:
        resp.stream = list(pieces)
        resp.content_length = sum(map(len, pieces))


def sandbox(resp: Response) -> None:
    """Forbid the response to run scripts in a browser."""
    resp.set_header("Content-Security-Policy", DATA_POLICY)


def send_stored_file(req: Request, resp: Response, files: Files, file: StoredFile) -> None:
    """Send a file; a compressed twin as it is, or decompressed if the client cannot do that.

    Whatever the response is, the file is closed, or is sent and then closed.
    """
    try:
        _send_stored(req, resp, files, file)
    finally:
        file.close()


def _send_stored(req: Request, resp: Response, files: Files, file: StoredFile) -> None:
    sandbox(resp)
    stamp = file.stamp
    date_s = stamp.date_s
    if not file.coding:
        _send_file(req, resp, files, file, ContentVersion(stamp.etag, date_s, file.media_type))
    elif may_encode(req, file.coding):
        etag = f"{stamp.etag}-{file.coding}"
        version = ContentVersion(etag, date_s, file.media_type, "Accept-Encoding")
        resp.set_header("Content-Encoding", file.coding)
        _send_file(req, resp, files, file, version)
    else:
        version = ContentVersion(stamp.etag, date_s, file.media_type, "Accept-Encoding")
        if not is_current(req, version.etag, date_s):
            send_bytes(req, resp, files.decompress(file), version)
        else:
            _is_not_modified(req, resp, version)


def _send_file(
    req: Request, resp: Response, files: Files, file: StoredFile, version: ContentVersion
) -> None:
    if _is_not_modified(req, resp, version):
        return
    size = file.stamp.size
    part = None if file.coding else byte_range(req, size, version.etag, version.date_s)
    if not file.coding:
        resp.set_header("Accept-Ranges", "bytes")
    if isinstance(part, Unsatisfiable):
        _refuse_range(resp, size)
        return
    if isinstance(part, ByteRange):
        _set_partial(resp, part, size)
    start, stop = (part.start, part.stop) if isinstance(part, ByteRange) else (0, size)
    resp.content_length = stop - start
    stream = files.stream(file)
    if req.method == "HEAD" or start == stop:
        stream.close()
    else:
        resp.stream = FilePart(stream, start, stop)


def _is_not_modified(req: Request, resp: Response, version: ContentVersion) -> bool:
    """Set the headers that 200 and 304 share; return whether the response is 304."""
    resp.set_header("ETag", f'"{version.etag}"')
    if version.date_s is not None:
        resp.set_header("Last-Modified", _http_date(version.date_s))
    resp.set_header("Cache-Control", version.cache_control)
    if version.vary:
        resp.append_header("Vary", version.vary)
    if not is_current(req, version.etag, version.date_s):
        resp.content_type = version.media_type
        return False
    resp.status = falcon.HTTP_304  # no content, and so no Content-Type
    return True


@lru_cache(1024)  # the chunks of a dataset are often written within a few seconds
def _http_date(seconds: int) -> str:
    return falcon.dt_to_http(datetime.fromtimestamp(seconds, UTC))


def _set_partial(resp: Response, part: ByteRange, size: int) -> None:
    resp.status = falcon.HTTP_206
    resp.set_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")


def _refuse_range(resp: Response, size: int) -> None:
    raise falcon.HTTPRangeNotSatisfiable(
        size, description=f"The range begins beyond the end; the content has {size} bytes."
    )


def root_href(req: Request) -> str:
    """Return the relative URL from a page to the root of the service.

    It works behind proxies and prefixes, as it only goes up.
    """
    return "../" * (req.path.count("/") - 1) or "./"


def send_stream(resp: Response, pieces: Iterator[bytes]) -> None:
    """Send a body that is produced in pieces.

    The first piece is produced here, while an error can still be answered with its status.
    """
    resp.stream = _resumed(next(pieces, b""), pieces)


def _resumed(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from pieces


def send_page(req: Request, resp: Response, pieces: Iterator[str]) -> None:
    """Stream a page while it is rendered."""
    resp.content_type = "text/html; charset=utf-8"
    resp.cache_control = ["no-cache"]
    resp.set_header("Content-Security-Policy", POLICY)
    if req.method != "HEAD":
        send_stream(resp, (piece.encode() for piece in pieces))


ContentKind = Literal["image", "labels", "text"]

# Below this size the extra headers cost more than compression saves.
MIN_COMPRESSED_BYTES = 1024


class Compressor:
    """Compresses bodies for clients that accept it.

    Args:
        mode: ``gzip`` or ``zstd`` compress everything with that coding; ``none`` compresses
            nothing; ``auto`` compresses label volumes and text, which shrink many times over, but
            not images, whose noise does not compress.
    """

    def __init__(self, mode: CompressMode = "auto") -> None:
        self._codings = CODINGS if mode == "auto" else tuple(c for c in CODINGS if c == mode)
        self._images = mode != "auto"

    def compress(self, req: Request, body: bytes, kind: ContentKind) -> tuple[bytes, str]:
        """Compress a body if it is worthwhile and the request allows it.

        Returns:
            The body to send, and its content coding ("" for none).
        """
        if len(body) < MIN_COMPRESSED_BYTES or (kind == "image" and not self._images):
            return body, ""
        coding = next((coding for coding in self._codings if may_encode(req, coding)), "")
        return (compress(body, coding), coding) if coding else (body, "")


def send_written(resp: Response, written: Written, media: dict[str, object]) -> None:
    """Respond to a write: the given members, what was held back or not, warnings, the new ETag."""
    if written.newly_held:
        media["kept"] = written.newly_held
    notes = written.notes
    if notes.conflicts:
        media["conflicts"] = notes.conflicts
    if notes.navigated:
        media["ignored"] = len(notes.navigated)
    if written.warnings:
        media["warnings"] = list(written.warnings)
    resp.media = media
    resp.status = falcon.HTTP_201 if written.created else falcon.HTTP_200
    if written.etag:
        resp.set_header("ETag", f'"{written.etag}"')
    resp.cache_control = ["no-cache"]
