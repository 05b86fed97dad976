"""How bytes and files are put into a response: validators, 304, 206, 416, codings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast

import falcon
from falcon import Request, Response

from neurotrale.codings import CODINGS
from neurotrale.files import Files, Found
from neurotrale.resources.negotiation import (
    ByteRange,
    Unsatisfiable,
    byte_range,
    has_copy,
    is_current,
    may_encode,
)

# Ask again each time, and take 304 for an answer: edits and new chunks are seen at once.
REVALIDATE = "no-cache"


@dataclass(frozen=True, slots=True)
class Version:
    """What names one version of a body in headers.

    Attributes:
        etag: Of the body without any coding.
        mtime_s: Time of change in seconds since the epoch.
        media_type: Of the body without any coding.
        vary: Request headers that the answer depends on.
        cache_control: How long a copy may be used.
    """

    etag: str
    mtime_s: float
    media_type: str
    vary: str = ""
    cache_control: str = REVALIDATE

    def coded(self, coding: str) -> Version:
        """Name the same version in a content coding; its bytes differ, so its tag does."""
        if not coding:
            return self
        etag = f"{self.etag}-{coding}"
        return Version(etag, self.mtime_s, self.media_type, self.vary, self.cache_control)


def answered_from_copy(req: Request, resp: Response, version: Version) -> bool:
    """Answer 304 if the client has this version, in any coding; tell whether that is so."""
    if not has_copy(req):
        return False
    for coding in ("", *CODINGS):
        copy = version.coded(coding)
        if is_current(req, copy.etag, copy.mtime_s):
            return _answered(req, resp, copy)
    return False


def send_bytes(
    req: Request, resp: Response, body: bytes | bytearray, version: Version, coding: str = ""
) -> None:
    """Send bytes that are in memory, whole or in part, or 304.

    Args:
        req: The request.
        resp: The response.
        body: What to send, coded already if it is.
        version: Its version, not coded.
        coding: How the body is coded.
    """
    if _answered(req, resp, version.coded(coding)):
        return
    if coding:
        resp.set_header("Content-Encoding", coding)
        resp.data = cast(bytes, body)
        return
    part = byte_range(req, len(body), version.etag, version.mtime_s)
    resp.set_header("Accept-Ranges", "bytes")
    if isinstance(part, Unsatisfiable):
        _refuse_range(resp, len(body))
    elif isinstance(part, ByteRange):
        _announce_part(resp, part, len(body))
        resp.data = cast(bytes, body[part.start : part.stop])
    else:
        resp.data = cast(bytes, body)


def send_found(req: Request, resp: Response, files: Files, found: Found) -> None:
    """Send a file as it is, or its twin: with its coding if the client takes it, else unpacked."""
    stamp = found.stamp
    mtime_s = stamp.mtime_ns / 1e9
    if not found.coding:
        _send_file(req, resp, files, found, Version(stamp.etag, mtime_s, found.media_type))
    elif may_encode(req, found.coding):
        etag = f"{stamp.etag}-{found.coding}"
        version = Version(etag, mtime_s, found.media_type, "Accept-Encoding")
        resp.set_header("Content-Encoding", found.coding)
        _send_file(req, resp, files, found, version)
    else:
        version = Version(stamp.etag, mtime_s, found.media_type, "Accept-Encoding")
        if not is_current(req, version.etag, mtime_s):
            send_bytes(req, resp, files.unpack(found), version)
        else:
            _answered(req, resp, version)


def _send_file(req: Request, resp: Response, files: Files, found: Found, version: Version) -> None:
    if _answered(req, resp, version):
        return
    size = found.stamp.size
    part = None if found.coding else byte_range(req, size, version.etag, version.mtime_s)
    if not found.coding:
        resp.set_header("Accept-Ranges", "bytes")
    if isinstance(part, Unsatisfiable):
        _refuse_range(resp, size)
        return
    if isinstance(part, ByteRange):
        _announce_part(resp, part, size)
    start, stop = (part.start, part.stop) if isinstance(part, ByteRange) else (0, size)
    resp.content_length = stop - start
    file = files.open(found)  # for HEAD too: what may not be read is 403 for both
    if req.method == "HEAD" or start == stop:
        file.close()
    else:
        file.seek(start)
        resp.stream = file


def _answered(req: Request, resp: Response, version: Version) -> bool:
    """Set the headers that 200 and 304 share; tell whether 304 is all there is to say."""
    resp.content_type = version.media_type
    resp.set_header("ETag", f'"{version.etag}"')
    resp.set_header("Last-Modified", _http_date(int(version.mtime_s)))
    resp.set_header("Cache-Control", version.cache_control)
    if version.vary:
        resp.append_header("Vary", version.vary)
    if version.media_type.startswith(("text/html", "image/svg")):
        resp.set_header("Content-Security-Policy", "sandbox")  # a page among the data is no app
    if not is_current(req, version.etag, version.mtime_s):
        return False
    resp.status = falcon.HTTP_304
    return True


@lru_cache(1024)  # the chunks of a data set were often written within a few seconds
def _http_date(seconds: int) -> str:
    return falcon.dt_to_http(datetime.fromtimestamp(seconds, UTC))


def _announce_part(resp: Response, part: ByteRange, size: int) -> None:
    resp.status = falcon.HTTP_206
    resp.set_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")


def _refuse_range(resp: Response, size: int) -> None:
    raise falcon.HTTPRangeNotSatisfiable(
        size, description=f"The range begins behind the end; the content has {size} bytes."
    )
