"""Parse what a request asks for: versions, ranges, codings (RFC 9110), write conditions, times."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import MappingProxyType

from falcon import HTTPInvalidParam, Request

from neurotrale.annotations.journals.changes import parse_time
from neurotrale.errors import BadInputError
from neurotrale.tokens.sessions import SESSION

# Any one of them is enough. Browsers send no Origin with a same-origin GET, no Sec-Fetch headers
# over plain HTTP to another machine, and no Referer where the page forbids it.
VIEWER_HEADERS = (
    "Origin",
    "Referer",
    "User-Agent",
    "Sec-Fetch-Dest",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-Fetch-User",
)
"""The request headers that identify a viewer; so does a session in the path."""

MAX_NUMBER = 2**53

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that change nothing."""


def is_viewer(req: Request) -> bool:
    """Return whether a viewer sent this; it names blocks by position and may drop annotations."""
    return (
        SESSION in req.env
        or req.get_header("Origin") is not None
        or req.get_header("Referer") is not None
        or (req.user_agent or "").startswith("Mozilla/")
        or any(key.startswith("HTTP_SEC_FETCH_") for key in req.env)
    )


def is_preflight(req: Request) -> bool:
    """Return whether a browser asks if a page may send another request."""
    return (
        req.method == "OPTIONS"
        and req.get_header("Origin") is not None
        and req.get_header("Access-Control-Request-Method") is not None
    )


def is_navigation(req: Request) -> bool:
    """Return whether a person follows a link or opens a page."""
    # Browsers omit Sec-Fetch-Mode on plain HTTP to other machines; fall back to Accept.
    mode = req.get_header("Sec-Fetch-Mode")
    return mode == "navigate" if mode else "application/xhtml+xml" in req.accept


_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` to ``stop`` (exclusive) of an identity-coded body."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """The requested range begins beyond the end."""


def is_current(req: Request, etag: str, date_s: int | None) -> bool:
    """Return whether the client's copy is this version, so that 304 is the response.

    Args:
        req: A GET or HEAD.
        etag: The current version, without quotes.
        date_s: The second of its last change since the epoch; None if that does not identify it.
    """
    tags = req.get_header("If-None-Match")
    if tags is not None:
        return tags.strip() == "*" or etag in (req.if_none_match or ())
    # Not "before that date": a file may be replaced by an older one.
    return date_s is not None and _date(req.get_header("If-Modified-Since")) == date_s


def is_conditional(req: Request) -> bool:
    """Return whether the client has a copy and asks whether it is current."""
    return (
        req.get_header("If-None-Match") is not None
        or req.get_header("If-Modified-Since") is not None
    )


def byte_range(
    req: Request, size: int, etag: str, date_s: int | None
) -> ByteRange | Unsatisfiable | None:
    """Parse the Range header of a GET.

    Returns:
        None where the whole body is to be sent: there is no range, several, a malformed one, or
        one that If-Range ties to another version.
    """
    header = req.get_header("Range")
    if header is None or req.method != "GET" or not _same_version(req, etag, date_s):
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
    """Return whether compression is ruled out: for HEAD, and for any request with a Range."""
    return req.method == "HEAD" or req.get_header("Range") is not None


def accepts_coding(req: Request, coding: str) -> bool:
    """Return whether Accept-Encoding names a content coding (or ``*``) with a weight above 0.

    A client without this header, like plain curl, gets identity: it may not be able to decompress.
    """
    weights = _coding_weights(req.get_header("Accept-Encoding") or "")
    return weights.get(coding, weights.get("*", 0.0)) > 0


def may_encode(req: Request, coding: str) -> bool:
    """Return whether the response may be sent in a content coding."""
    return not wants_identity(req) and accepts_coding(req, coding)


def prefers_decoded(req: Request) -> bool:
    """Return whether Accept names ``application/octet-stream`` and not TIFF."""
    accept = (req.get_header("Accept") or "").lower()
    return "application/octet-stream" in accept and "image/tif" not in accept


@lru_cache(64)  # browsers send the same header with every request
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


def _same_version(req: Request, etag: str, date_s: int | None) -> bool:
    condition = req.get_header("If-Range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition.strip() == f'"{etag}"'
    return date_s is not None and _date(condition) == date_s


def _date(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        when: datetime = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):  # the last for an absurd time zone
        return None
    return int(when.replace(tzinfo=when.tzinfo or UTC).timestamp())


def single_param(req: Request, name: str) -> str | None:
    """Return a query parameter; None if it is absent.

    Raises:
        BadInputError: It appears more than once.
    """
    values = req.get_param_as_list(name) or []
    if len(values) > 1:
        raise BadInputError(f"The query has {name} more than once.")
    return values[0] if values else None


def time_parameter(req: Request, name: str) -> str | None:
    """Return a time from the query, in the spelling of the journal; None if absent.

    Raises:
        BadInputError: It is not an ISO 8601 time.
    """
    text = req.get_param(name)
    return parse_time(text, name) if text else None


def number_parameter(
    req: Request, name: str, minimum: int = 0, maximum: int = MAX_NUMBER
) -> int | None:
    """Return a number from the query; None if it is absent.

    Raises:
        BadInputError: It is not a number of this range.
    """
    try:
        return req.get_param_as_int(name, min_value=minimum, max_value=maximum)
    except HTTPInvalidParam as error:
        raise BadInputError(
            f"{name}={req.get_param(name)!r} is not a number from {minimum} to {maximum}."
        ) from error


def flag_parameter(req: Request, name: str) -> bool:
    """Return whether the query has a parameter, with a value that means yes or without one."""
    return req.get_param_as_bool(name, blank_as_true=True) or False


def optional_id(req: Request) -> str | None:
    """Return the annotation id in the query; None if it is absent.

    Raises:
        BadInputError: The id is empty, which does not mean all of them, or there are several.
    """
    ids = _ids(req)
    if len(ids) > 1:
        raise BadInputError("The query has more than one id; send one at a time.")
    return ids[0] if ids else None


def required_ids(req: Request) -> list[str]:
    """Return the annotation ids in the query of a DELETE, at least one.

    Raises:
        BadInputError: There is none, one is empty, or one is there twice.
    """
    ids = _ids(req)
    if not ids:
        raise BadInputError(
            f"{req.method} needs the annotation's id in the query, as in ?id=4f2a..., or several,"
            " as in ?id=4f2a...&id=91b7... (a file is never deleted)."
        )
    repeated, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise BadInputError(
            f"The query has the id {repeated!r} more than once; send each id once."
            " Nothing was changed."
        )
    return ids


def _ids(req: Request) -> list[str]:
    ids = req.get_param_as_list("id") or []
    if "" in ids:
        raise BadInputError("The query's id is empty; name an annotation, as in ?id=4f2a...")
    return ids
