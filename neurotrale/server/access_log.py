"""The access log: one line per request."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from neurotrale.tokens.file import hide_tokens

log = logging.getLogger("neurotrale.access")

# The only query parameter that is logged: others may hold a token.
LOGGED_PARAMETER = "id"


def is_logged() -> bool:
    """Return whether the access log is on."""
    return log.isEnabledFor(logging.INFO)


def log_response(
    *,
    address: str,
    user: str | None,
    method: str,
    path: str,
    query: str,
    status: str,
    size: int,
    began_s: float,
) -> None:
    """Log a response: client, method, path, status, bytes, milliseconds.

    Args:
        address: The client's IP address; "" if unknown.
        user: The name of the token's holder, logged before the address: ``anna@127.0.0.1``.
        method: "" if the request was malformed.
        path: Decoded as Latin-1, one character per byte; "" if the request was malformed.
        query: The query string as sent.
        status: Three digits.
        size: The size of the body in bytes.
        began_s: When the response was begun, in seconds since the epoch.
    """
    if not is_logged():
        return
    client = address or "-"
    log.info(
        "%s %s %s%s %s %s %.1f ms",
        f"{quote(user)}@{client}" if user else client,
        _quoted(method),
        _quoted(path),
        _logged_query(query),
        status,
        0 if method == "HEAD" else size,
        (time.time() - began_s) * 1000,
    )


def _quoted(text: str) -> str:
    """Percent-encode a part of a request again, so that it cannot forge a log line."""
    return quote(hide_tokens(text or "-").encode("latin-1"), safe="/:@!$&'()*+,;=~-._")


def _logged_query(query: str) -> str:
    logged = [item for item in query.split("&") if item.startswith(f"{LOGGED_PARAMETER}=")]
    return quote(hide_tokens(f"?{'&'.join(logged)}"), safe="?&=%*") if logged else ""
