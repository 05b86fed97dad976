"""What a trusted proxy tells of the request that it passes on: from whom, to which host, by https.

A proxy adds the address that it was asked from to ``X-Forwarded-For``, or to ``Forwarded``
(RFC 7239). Whatever is further left in these headers may come from the client itself, so it is
believed only as far as those who added it are trusted: the client is the last address that no
trusted proxy has.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from neurotrale.settings.shared import UNIX, is_network
from neurotrale.web.origins import HOST_TO_PROXY, host_of, ip_address_of
from neurotrale.web.prefixes import BASE_PATH

log = logging.getLogger(__name__)

# Peers that connect through a Unix socket have no address; servers write one of these.
_UNIX_PEERS = frozenset({"", "localhost"})

# A proxy in another container may be given another address.
RESOLVED_AGAIN_S = 30.0

_PREFIX = re.compile(r"(?:/[\w.~-]+)+", re.ASCII)
_PAIR = re.compile(
    r'\s*(?:([\w!#$%&\'*+.^`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*)?([;,]|\Z)', re.ASCII
)
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9.]+):\d+")
_LONGEST = 8192

Application = Callable[..., Iterable[bytes]]

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class _Hop:
    """What one proxy added: whom it was asked by, for which host, and how; "" if it did not say."""

    client: str
    host: str = ""
    scheme: str = ""


class TrustedProxies:
    """WSGI middleware that puts in place of a trusted proxy the client that it speaks for.

    Args:
        app: The application.
        proxies: Addresses, networks and host names; `UNIX` stands for whoever connects through a
            Unix socket.
    """

    def __init__(self, app: Application, proxies: Sequence[str]) -> None:
        self.app = app
        self._unix = UNIX in proxies
        fixed = [one for one in proxies if is_network(one)]
        self._fixed = [ipaddress.ip_network(one, strict=False) for one in fixed]
        self._names = [one for one in proxies if one != UNIX and one not in fixed]
        self._resolved: dict[str, list[_Network]] = {}
        self._resolve_at = 0.0
        self._has_warned = False

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request; its environment is corrected if a trusted proxy passes it on."""
        self.correct(environ)
        return self.app(environ, start_response)

    def correct(self, env: dict[str, Any]) -> None:
        """Correct the environment of a request that a trusted proxy passes on."""
        peer = env.get("REMOTE_ADDR") or ""
        if not self._is_trusted(peer):
            return
        classic = _classic_hops(env)
        standard = _standard_hops(env.get("HTTP_FORWARDED", ""))
        hops = classic or standard
        passed, client = self._client(hops, peer)
        if classic and standard and self._client(standard, peer)[1] != client:
            self._warn_of_contradiction(peer)
            return
        env["REMOTE_ADDR"] = client
        if hops:
            hop = hops[-max(passed, 1)]
            if host_of(hop.host):
                env[HOST_TO_PROXY], env["HTTP_HOST"] = env.get("HTTP_HOST"), hop.host
            if hop.scheme in ("http", "https"):
                env["wsgi.url_scheme"] = hop.scheme
        prefix = env.get("HTTP_X_FORWARDED_PREFIX", "").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            env["SCRIPT_NAME"] = env[BASE_PATH] = prefix

    def _client(self, hops: Sequence[_Hop], peer: str) -> tuple[int, str]:
        """Return how many hops are believed, and the client that they lead to."""
        passed, client = 0, peer
        for hop in reversed(hops):
            if not self._is_trusted(client) or not hop.client:
                break
            passed, client = passed + 1, hop.client
        return passed, client

    def _is_trusted(self, peer: str) -> bool:
        if peer in _UNIX_PEERS:
            return self._unix
        address = ip_address_of(peer)
        if address is None:
            return False
        return any(address in one for one in (*self._fixed, *self._networks_of_names()))

    def _networks_of_names(self) -> Iterable[_Network]:
        """Return the addresses of the host names, which are looked up again now and then."""
        now = time.monotonic()
        if self._names and now >= self._resolve_at:
            self._resolve_at = now + RESOLVED_AGAIN_S
            # A name that cannot be looked up keeps what it had.
            found = {name: _look_up(name) or self._resolved.get(name, []) for name in self._names}
            self._resolved = found
        return chain.from_iterable(self._resolved.values())

    def _warn_of_contradiction(self, peer: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "the proxy %s sends both X-Forwarded-For and Forwarded, with different clients, so"
                " neither is believed: have it remove the one that it does not set",
                peer,
            )


def _look_up(name: str) -> list[_Network]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:  # it may not be running yet
        return []
    addresses = [a for a in (ip_address_of(str(entry[4][0])) for entry in found) if a is not None]
    # This machine connects to itself from another address than the one that its name may have.
    local = ("127.0.0.0/8", "::1") if any(one.is_loopback for one in addresses) else ()
    return [ipaddress.ip_network(one) for one in (*map(str, addresses), *local)]


def _client_in(text: str) -> str:
    """Return the address in an entry, which may have a port; "" if it has none."""
    match = _WITH_PORT.fullmatch(text.strip())
    address = ip_address_of((match[1] or match[2]) if match else text.strip())
    return "" if address is None else str(address)


def _classic_hops(env: dict[str, Any]) -> list[_Hop]:
    """Parse ``X-Forwarded-For``, ``-Host`` and ``-Proto``; proxies set some of them once only."""
    clients, hosts, schemes = (
        [item.strip() for item in env.get(f"HTTP_X_FORWARDED_{name}", "")[-_LONGEST:].split(",")]
        for name in ("FOR", "HOST", "PROTO")
    )
    if not any((*clients, *hosts, *schemes)):
        return []
    return [
        _Hop(
            _client_in(client),
            hosts[-min(place, len(hosts))],
            schemes[-min(place, len(schemes))].lower(),
        )
        for place, client in zip(range(len(clients), 0, -1), clients, strict=True)
    ]


def _standard_hops(header: str) -> list[_Hop]:
    """Parse ``Forwarded``; of a malformed one nothing is believed."""
    if not header or len(header) > _LONGEST:
        return []
    hops, values, at, separator = [], dict[str, str](), 0, ";"
    while separator:
        match = _PAIR.match(header, at)
        if match is None:
            return []
        name, value, separator = match.groups(default="")
        if name:
            values[name.lower()] = _unquoted(value)
        if separator != ";":
            client = _client_in(values.get("for", ""))
            hops.append(_Hop(client, values.get("host", ""), values.get("proto", "").lower()))
            values = {}
        at = match.end()
    return hops


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
