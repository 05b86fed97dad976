"""What a request's headers ask for: versions, ranges, codings (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import MappingProxyType

from falcon import Request

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` to ``stop`` (exclusive) of an identity-coded body."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """The range asked for begins behind the end."""


def is_current(req: Request, etag: str, mtime_s: float) -> bool:
    """Tell whether the client's copy is this very version, so that 304 is the answer.

    Args:
        req: A GET or HEAD.
        etag: The current version, without quotes.
        mtime_s: Its time of change in seconds since the epoch.
    """
    asked = req.get_header("If-None-Match")
    if asked is not None:
        return asked.strip() == "*" or etag in _TAG.findall(asked)
    since = _date(req.get_header("If-Modified-Since"))
    return since is not None and int(mtime_s) <= since


def has_copy(req: Request) -> bool:
    """Tell whether the client has some version, and asks whether it is current."""
    return (
        req.get_header("If-None-Match") is not None
        or req.get_header("If-Modified-Since") is not None
    )


def byte_range(
    req: Request, size: int, etag: str, mtime_s: float
) -> ByteRange | Unsatisfiable | None:
    """Read the Range of a GET.

    Returns:
        None where the whole body is the answer: no range, several ranges, a range that is
        malformed, or one that If-Range ties to another version.
    """
    header = req.get_header("Range")
    if header is None or req.method != "GET" or not _same_version(req, etag, mtime_s):
        return None
    match = _RANGE.fullmatch(header)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return ByteRange(size - length, size) if length else Unsatisfiable()
    start = int(first)
    stop = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    return ByteRange(start, stop) if start < size else Unsatisfiable()


def wants_identity(req: Request) -> bool:
    """Tell whether the answer must not be compressed: HEAD, and any request with a Range."""
    return req.method == "HEAD" or req.get_header("Range") is not None


def accepts_coding(req: Request, coding: str) -> bool:
    """Tell whether Accept-Encoding names a content coding (or ``*``) with a weight above 0.

    A client that sends no such header, like plain curl, gets identity: it could not unpack.
    """
    weights = _coding_weights(req.get_header("Accept-Encoding") or "")
    return weights.get(coding, weights.get("*", 0.0)) > 0


def may_encode(req: Request, coding: str) -> bool:
    """Tell whether this answer may be sent in a content coding."""
    return not wants_identity(req) and accepts_coding(req, coding)


def prefers_decoded(req: Request) -> bool:
    """Tell whether Accept names ``application/octet-stream`` and not TIFF."""
    accept = (req.get_header("Accept") or "").lower()
    return "application/octet-stream" in accept and "image/tif" not in accept


@lru_cache(64)  # browsers send the same with every request
def _coding_weights(header: str) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for item in header.split(","):
        name, _, parameters = item.partition(";")
        weights[name.strip().lower()] = _weight(parameters)
    return MappingProxyType(weights)


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _same_version(req: Request, etag: str, mtime_s: float) -> bool:
    condition = req.get_header("If-Range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition.strip() == f'"{etag}"'
    return _date(condition) == int(mtime_s)


def _date(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        when: datetime = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):  # the last for a zone that is years away
        return None
    return int(when.replace(tzinfo=when.tzinfo or UTC).timestamp())
