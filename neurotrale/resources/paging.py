"""How pages for people are sent."""

from __future__ import annotations

from collections.abc import Iterator

from falcon import Request, Response

from neurotrale.pages.frame import POLICY


def root_of(req: Request) -> str:
    """Give the relative way from a page to the root of the service.

    It holds behind proxies and prefixes, as it only goes up.
    """
    return "../" * (req.path.count("/") - 1) or "./"


def send_page(req: Request, resp: Response, pieces: Iterator[str]) -> None:
    """Send a page as it is made."""
    resp.content_type = "text/html; charset=utf-8"
    resp.cache_control = ["no-cache"]
    resp.set_header("Content-Security-Policy", POLICY)
    if req.method != "HEAD":
        resp.stream = (piece.encode() for piece in pieces)
