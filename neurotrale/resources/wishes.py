"""Who writes, and on what condition: from a request's headers."""

from __future__ import annotations

import re

from falcon import Request

from neurotrale.annotations.author import Author
from neurotrale.annotations.guard import GuardMode
from neurotrale.annotations.wishes import Condition, Wish
from neurotrale.codings import CODINGS
from neurotrale.tokens import USER

# The tag of a compressed copy names the same content.
_CODED = re.compile(f"-(?:{'|'.join(CODINGS)})$")
_TAG = re.compile(r'"([^"]*)"')


def wish_of(req: Request, guard: GuardMode = "off") -> Wish:
    """Read who sends a request, and what it demands of the file before.

    Args:
        req: A request that writes.
        guard: Which whole-file writes are guarded against removing several annotations.
    """
    condition = _condition(req)
    address = req.remote_addr or ""
    name = req.env.get(USER) or address
    guarded = not condition.match and (guard == "all" or (guard == "browser" and _is_viewer(req)))
    return Wish(Author(name, address), condition, guarded)


def _condition(req: Request) -> Condition:
    match = (req.get_header("If-Match") or "").strip()
    # Weak tags never match in If-Match (RFC 9110, 13.1.1); one that matches nothing stands for all.
    strong = _TAG.findall(re.sub(r'W/"[^"]*"', "", match))
    tags = ("*",) if match == "*" else tuple(tag for tag in strong if tag != "*")
    if match and not tags:
        tags = ("",)
    tags = tuple(_CODED.sub("", tag) for tag in tags)
    return Condition(tags, (req.get_header("If-None-Match") or "").strip() == "*")


def _is_viewer(req: Request) -> bool:
    """Tell the viewer's own saves: it has an origin and calls its JSON plain text."""
    content_type = (req.content_type or "").lower()
    return req.get_header("Origin") is not None and content_type.startswith("text/plain")
