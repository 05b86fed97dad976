"""The access log: one plain line for every request."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from neurotrale.tokens import USER
from neurotrale.tokens.hiding import hide_tokens

log = logging.getLogger("neurotrale.access")

# Shown in the log of queries; anything else, a token above all, is not.
LOGGED_PARAMETER = "id"


def log_task(task: Any) -> None:
    """Write the line of a waitress task: client, method, path, status, bytes, milliseconds.

    The client is its address; with tokens, their name stands before it, as in anna@127.0.0.1.
    """
    if not log.isEnabledFor(logging.INFO):
        return
    request = task.request
    milliseconds = (time.time() - task.start_time) * 1000
    size = task.content_length if task.content_length is not None else getattr(task, "written", 0)
    log.info(
        "%s %s %s%s %s %s %.1f ms",
        _client(task),
        _as_sent(request, "command"),
        _as_sent(request, "path"),
        _logged_query(getattr(request, "query", "")),
        task.status.partition(" ")[0],
        size if task.has_body and getattr(request, "command", "") != "HEAD" else 0,
        milliseconds,
    )


def _client(task: Any) -> str:
    address = task.channel.addr[0] if task.channel.addr else "-"
    user = (getattr(task, "environ", None) or {}).get(USER)
    return f"{quote(user)}@{address}" if user else address


def _as_sent(request: Any, name: str) -> str:
    """Percent-encode a part of a request again, so that nothing in it can forge a line of the log.

    What could not be parsed, waitress does not set at all.
    """
    text: str = getattr(request, name, "") or "-"
    return quote(hide_tokens(text).encode("latin-1"), safe="/:@!$&'()*+,;=~-._")


def _logged_query(query: str) -> str:
    kept = [item for item in query.split("&") if item.startswith(f"{LOGGED_PARAMETER}=")]
    return quote(hide_tokens(f"?{'&'.join(kept)}"), safe="?&=%*") if kept else ""
