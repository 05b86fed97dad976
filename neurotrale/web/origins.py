"""Which web pages may write without a token, and by which names the service may be called.

A browser sends requests for whatever page is open in it. Without tokens, the service cannot tell
the person at that browser from the page, so it looks at where the page is from: the browser says
so in ``Origin`` and ``Sec-Fetch-Site``, which no page can forge. A page of another site whose name
leads to this machine (DNS rebinding) seems to be from here; its ``Host`` tells.

Whatever a browser sends by itself, cookies included, is no right, so with tokens any page may
write: it has the token.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from falcon import CORSMiddleware, HTTPUnsupportedMediaType, Request

from neurotrale.annotations.refusals import Refusals
from neurotrale.errors import ReadOnlyError

log = logging.getLogger(__name__)

# Sent without a preflight, so that any page can send them to any service.
_FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?", re.ASCII | re.IGNORECASE)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{0,30})://([a-z0-9._:\[\]-]{1,255})", re.ASCII)

_EXPOSED_HEADERS = (
    "ETag",
    "Content-Range",
    "Content-Encoding",
    "Content-Length",
    "Content-Location",
    "Accept-Ranges",
)

# A viewer saves with each move of the mouse: of each origin one refusal in this time is told.
TOLD_AGAIN_S = 60.0
MOST_TOLD = 256
MOST_SHOWN = 5


@lru_cache(1024)
def host_of(authority: str) -> str:
    """Return the name or address in ``name:port``, in the one spelling that can be compared.

    Args:
        authority: The value of a header ``Host``, or what follows the scheme of an origin.

    Returns:
        "" for what is neither a name nor an address.
    """
    match = _AUTHORITY.fullmatch(authority.strip())
    if match is None:
        return ""
    name = match[1].lower().removesuffix(".")
    address = ip_address_of(name.strip("[]"))
    if address is not None:
        return str(address)
    return "" if name.startswith("[") else name


@lru_cache(1024)
def ip_address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address, that of IPv4 where it is written as one of IPv6; None if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # browsers look neither up
        return True
    address = ip_address_of(host)
    return address is not None and address.is_loopback


HOST_TO_PROXY = "neurotrale.host_to_proxy"
"""Key of the WSGI environment for the ``Host`` that a proxy sent, if it named another one."""


class KnownHosts:
    """The names by which a service that listens on a loopback address may be called.

    Args:
        names: Names besides localhost.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(map(host_of, names))
        self._warnings = _Warnings()

    def check(self, req: Request) -> None:
        """Refuse a request for another host; one that names none passes.

        Raises:
            ReadOnlyError: The host is not known.
        """
        # A page may claim to come through a proxy: what it was itself called by counts, too.
        for asked in (req.env.get("HTTP_HOST"), req.env.get(HOST_TO_PROXY)):
            if asked is not None:
                self._check(host_of(asked))

    def _check(self, host: str) -> None:
        if host in self.names or _is_loopback(host) or ip_address_of(host) is not None:
            return
        name = host or "NAME"
        self._warnings.tell(
            name,
            "a request was refused, because it names the host %s. If that is a name of this"
            " service, add the option --allowed-hosts %s",
            host or "in a way that cannot be read",
            name,
        )
        raise ReadOnlyError(
            f"This service is not known by the name {name}. Call it by its address or as localhost;"
            f" or have whoever runs it add the option --allowed-hosts {name}."
        )


class WritingPages:
    """Decides which pages may write, and remembers those that were refused.

    Args:
        named: Origins that may write, besides those of this host and of loopback addresses.
        refusals: Where to remember those that were refused.
    """

    def __init__(self, named: Sequence[str], refusals: Refusals) -> None:
        self.named = tuple(named)
        self.refusals = refusals
        self._warnings = _Warnings()

    def may_write(self, req: Request) -> bool:
        """Return whether the page that sent a request may change anything, or it was no page."""
        site = req.env.get("HTTP_SEC_FETCH_SITE")
        if site == "same-origin":
            return True
        origin = req.env.get("HTTP_ORIGIN")
        if origin is None:
            return site in (None, "none")
        if origin.lower() in self.named:
            return True
        match = _ORIGIN.fullmatch(origin.lower())
        host = host_of(match[2]) if match else ""
        return bool(host) and (_is_loopback(host) or host == host_of(req.env.get("HTTP_HOST", "")))

    def refuse(self, req: Request) -> None:
        """Remember that a page was refused, and tell how to allow it.

        Raises:
            ReadOnlyError: Always.
        """
        origin = (req.env.get("HTTP_ORIGIN") or "").lower()
        match = _ORIGIN.fullmatch(origin)
        origin = origin if match else "null"
        allowed = self.allowing(origin)
        pages = f"pages of {origin}" if match else "pages that tell no origin (null)"
        host = host_of(req.env.get("HTTP_HOST", "")) or "none"
        if self._warnings.tell(
            origin,
            "a save from %s was refused, because this service was called by another host, %s. To"
            " allow it, add the option --cors-origins %s",
            pages,
            host,
            allowed,
        ):
            self.refusals.add_origin(origin)
        raise ReadOnlyError(
            f"This service takes no changes from {pages}, because it was called by another host,"
            f" {host}. Whoever runs it can allow them with --cors-origins {allowed}."
        )

    def allowing(self, origin: str) -> str:
        """Return the value of ``--cors-origins`` that allows an origin, besides those allowed."""
        is_site = origin.startswith(("http://", "https://"))
        return ",".join((*self.named, origin)) if is_site else "'*'"

    def refused_lately(self) -> dict[str, str]:
        """Return the origins that were refused and still would be, each with what would allow it.

        The latest is first.
        """
        origins = [one for one in self.refusals.origins() if one not in self.named]
        return {origin: self.allowing(origin) for origin in origins[:MOST_SHOWN]}


def grants_to(origins: str | Sequence[str]) -> CORSMiddleware[Any, Any]:
    """Return the middleware that tells browsers which pages may read.

    Args:
        origins: Their origins; ``*`` for all.
    """
    return CORSMiddleware(
        allow_origins=origins, expose_headers=_EXPOSED_HEADERS, allow_private_network=True
    )


def check_not_from_form(req: Request) -> None:
    """Refuse a POST that a form could have sent: it would have had no preflight.

    Raises:
        HTTPUnsupportedMediaType: Its Content-Type is missing, or that of a form.
    """
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type in _FORM_TYPES or not _MEDIA_TYPE.fullmatch(media_type):
        raise HTTPUnsupportedMediaType(
            description="Send the header 'Content-Type: application/json', which no form can send;"
            " the body may be empty."
        )


class _Warnings:
    """Warnings about who was refused, one about each in `TOLD_AGAIN_S`."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, subject: str, message: str, *values: str) -> bool:
        """Log a warning, unless one about this subject was logged lately; return whether it was."""
        now = time.monotonic()
        if now < self._told.get(subject, -TOLD_AGAIN_S) + TOLD_AGAIN_S:
            return False
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told[subject] = now
        log.warning(message, *values)
        return True
