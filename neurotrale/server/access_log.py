"""The access log, one line per request, and the counts of responses."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from neurotrale.metrics import count_response
from neurotrale.tokens.file import hide_tokens

ACCESS = "neurotrale.access"
"""Name of the logger."""
FIELDS = ("client", "method", "path", "query", "status", "bytes", "ms")
"""Names of the arguments of its records."""

log = logging.getLogger(ACCESS)

# The only query parameter that is logged: others may hold a token.
LOGGED_PARAMETER = "id"


def log_response(
    *,
    route: str,
    address: str,
    user: str | None,
    method: str,
    path: str,
    query: str,
    status: str,
    size: int,
    began_s: float,
) -> None:
    """Count a response, and log client, method, path, status, bytes, milliseconds.

    Args:
        route: The path as the API documentation shows it; "" if none matched.
        address: The client's IP address; "" if unknown.
        user: The name of the token's holder, logged before the address: ``anna@127.0.0.1``.
        method: "" if the request was malformed.
        path: Decoded as Latin-1, one character per byte; "" if the request was malformed.
        query: The query string as sent.
        status: Three digits.
        size: The size of the body in bytes.
        began_s: When the response was begun, in seconds since the epoch.
    """
    seconds = time.time() - began_s
    sent = 0 if method == "HEAD" else size
    count_response(route, method, status, sent, seconds)
    if not log.isEnabledFor(logging.INFO):
        return
    client = address or "-"
    log.info(
        "%s %s %s%s %s %s %.1f ms",
        f"{quote(user)}@{client}" if user else client,
        _quoted(method),
        _quoted(path),
        _logged_query(query),
        status,
        sent,
        seconds * 1000,
    )


def _quoted(text: str) -> str:
    """Percent-encode a part of a request again, so that it cannot forge a log line."""
    return quote(hide_tokens(text or "-").encode("latin-1"), safe="/:@!$&'()*+,;=~-._")


def _logged_query(query: str) -> str:
    logged = [item for item in query.split("&") if item.startswith(f"{LOGGED_PARAMETER}=")]
    return quote(hide_tokens(f"?{'&'.join(logged)}"), safe="?&=%*") if logged else ""
