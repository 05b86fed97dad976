"""Who saves and loads, as far as the service can tell viewers apart: a hint, never a right.

The first of these that a request has is its identity: the session in its path; the cookie that a
page of the service set (the same origin alone sends it); the address and the User-Agent. Behind a
tunnel or a proxy the address is the same for everybody, which is why links of the service carry a
session. What is remembered of a viewer belongs to the identity and the name of the token together:
another person's request with a copied link never touches it.
"""

from __future__ import annotations

import re

from falcon import Request, Response

from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.tokens import USER
from neurotrale.tokens.sessions import SESSION, SESSION_PATTERN, label_of, new_session
from neurotrale.web.prefixes import BASE_PATH

COOKIE = "neurotrale.cookie"
"""Key of the WSGI environment for the name of the cookie."""

_VALUE = re.compile(SESSION_PATTERN)


def viewer_of(req: Request) -> Viewer:
    """Return the viewer that sent a request."""
    user = req.env.get(USER) or ""
    identity = session_of(req)
    if identity is None:
        identity = "\0".join((user, req.remote_addr or "", req.user_agent or ""))
    return Viewer("\0".join((identity, user)), label_of(identity))


def session_of(req: Request) -> str | None:
    """Return the session in the path of a request, else in its cookie; None if it has neither."""
    session: str | None = req.env.get(SESSION)
    return session if session is not None else _cookie(req)


def _cookie(req: Request) -> str | None:
    name = req.env.get(COOKIE)
    if name is None or req.get_header("Cookie") is None:
        return None
    values = [value for value in req.get_cookie_values(name) or () if _VALUE.fullmatch(value)]
    return values[0] if values else None


def set_cookie(req: Request, resp: Response) -> None:
    """Give a browser that opens a page a cookie, if it has none and the URL has no session.

    The cookies of localhost are shared by all of its ports, so the name is that of the service.
    """
    name = req.env.get(COOKIE)
    if name is not None and req.method == "GET" and session_of(req) is None:
        resp.set_cookie(
            name,
            new_session(),
            path=f"{req.env.get(BASE_PATH, '')}/",
            secure=req.scheme == "https",
            http_only=True,
            same_site="Strict",
        )
