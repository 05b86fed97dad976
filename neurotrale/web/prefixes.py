"""Prefixes of paths: ``{base}/token/{token}/as/{session}/voxels/``, each optional, in this order.

A prefix works with every viewer: whatever a client does to a URL happens behind it, and all links
of the service are relative, so they stay behind it too. What is behind the prefixes is routed; the
environment says what they were. The base is a path that a proxy in front of the service keeps.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from falcon import Request, Response

from neurotrale.errors import MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.tokens.sessions import SESSION, SESSION_PATTERN

TOKENS_IN_PATH = "neurotrale.tokens_in_path"
"""Key of the WSGI environment for the tokens in the path, a tuple; absent if it has none."""

VOXELS = "neurotrale.voxels"
"""Key of the WSGI environment that is set when voxels are to be stated as 1 nm large."""

BEHIND_TOKEN = "neurotrale.behind_token"
"""Key of the WSGI environment for the prefixes behind the token, as sent; absent if none."""

IS_BARE = "neurotrale.is_bare_prefix"
"""Key of the WSGI environment for whether nothing follows the prefixes, not even a slash."""

BASE_PATH = "neurotrale.base_path"
"""Key of the WSGI environment for the path that a proxy has in front of the service; absent if
none."""

ANY_PREFIX = re.compile("/+(?:token|as|voxels)/")
"""What a path begins with that may have one of the prefixes behind the base."""

_TOKEN = re.compile("/+token/+([^/]+)")
_SESSION = re.compile(f"/+as/+({SESSION_PATTERN})(?=/|$)")
_VOXELS = re.compile("/+voxels(?=/|$)")


def base_pattern(base_path: str) -> re.Pattern[str]:
    """Return the pattern of a path that a proxy keeps in front of all others; "" is none."""
    pattern = re.escape(base_path).replace("/", "/+")
    return re.compile(f"{pattern}(?=/|$)" if base_path else "")


def without_prefixes(
    path: str, base: re.Pattern[str], *, tokens: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Strip the prefixes of a path without looking at the data.

    Args:
        path: The path.
        base: The `base_pattern`.
        tokens: Whether the service asks for tokens.

    Returns:
        The tokens in the path, and what may be behind the prefixes: it is not known here whether
        ``voxels`` is a directory in the data root.
    """
    found = _prefixes_of(path, base, tokens=tokens)
    ends = [found.end]
    if found.session is not None and found.voxels is not None:
        ends.append(found.voxels.end())
    return found.tokens, [path[end:] or "/" for end in ends]


class _Found(NamedTuple):
    """The prefixes of a path; `end` is behind all of them but ``voxels``."""

    base_end: int
    tokens: tuple[str, ...]
    tokens_end: int
    session: re.Match[str] | None
    end: int
    voxels: re.Match[str] | None


def _prefixes_of(path: str, base: re.Pattern[str], *, tokens: bool) -> _Found:
    found = base.match(path)
    base_end = tokens_end = found.end() if found else 0
    given = []
    while tokens and (match := _TOKEN.match(path, tokens_end)):
        given.append(match[1])
        tokens_end = match.end()
    session = _SESSION.match(path, tokens_end)
    end = session.end() if session else tokens_end
    return _Found(base_end, tuple(given), tokens_end, session, end, _VOXELS.match(path, end))


class Prefixes:
    """Strips the prefixes of paths.

    Args:
        data_root: The data root, in which a directory ``voxels`` is served as such.
        tokens: Whether the service asks for tokens; else ``token`` is an ordinary name.
        base_path: A path that a proxy keeps in front of all others, as in ``/lab/brains``; "" for
            none. Paths without it are served as they are, for whoever comes without the proxy.

    Attributes:
        pattern: What a path begins with that may have prefixes: few have, so others are not
            looked at.
    """

    def __init__(self, data_root: DataRoot, *, tokens: bool, base_path: str = "") -> None:
        self.data_root = data_root
        self.tokens = tokens
        self.base_path = base_path
        self._base = base_pattern(base_path)
        either = f"{ANY_PREFIX.pattern}|{self._base.pattern}"
        self.pattern = re.compile(either) if base_path else ANY_PREFIX

    def strip(self, req: Request) -> None:
        """Strip the prefixes from the path of a request, and note them in its environment.

        Several token prefixes, from carelessly concatenated URLs, are all noted.

        Raises:
            MissingError: The prefixes are in another order.
        """
        path, env = req.path, req.env
        base_end, given, tokens_end, session, end, voxels = _prefixes_of(
            path, self._base, tokens=self.tokens
        )
        if base_end:
            env[BASE_PATH] = env.get(BASE_PATH, "") + self.base_path
        if given:
            env[TOKENS_IN_PATH] = given
        if session is not None:
            env[SESSION] = session[1]
        if voxels is not None and self.data_root.status(("voxels",)) is None:
            self._check_order(path, voxels.end())
            if session is not None:
                env[VOXELS] = True
                end = voxels.end()
        if session is not None:
            self._check_order(path, end)
            env[BEHIND_TOKEN] = path[tokens_end:end]
        if end:
            env["SCRIPT_NAME"] = env.get("SCRIPT_NAME", "") + path[:end]
            env[IS_BARE] = end == len(path)
            req.path = path[end:] or "/"

    def _check_order(self, path: str, end: int) -> None:
        if _SESSION.match(path, end) or (self.tokens and _TOKEN.match(path, end)):
            raise MissingError(
                "The parts before the dataset are in another order than"
                " /token/{token}/as/{session}/voxels/, or appear twice. Put them in this order."
            )


def redirect_bare_prefix(req: Request, resp: Response) -> None:
    """Redirect a path that ends in a prefix, whose relative links need a slash behind it."""
    if req.env.get(IS_BARE) and req.method in ("GET", "HEAD"):
        last = str(req.env["SCRIPT_NAME"]).rpartition("/")[2]
        query = f"?{req.query_string}" if req.query_string else ""
        redirect(resp, f"./{quote(last)}/{query}")


def redirect(resp: Response, location: str) -> None:
    """Respond with a redirect that no cache keeps, as it may hold a token or a session."""
    resp.status = "302 Found"
    resp.set_header("Location", location)
    resp.set_header("Cache-Control", "no-store")
    resp.complete = True


def outer_href(req: Request) -> str:
    """Return the relative URL from a page to the root of the service, outside of any session."""
    behind = str(req.env.get(BEHIND_TOKEN, ""))
    return "../" * ((behind + req.path).count("/") - 1) or "./"
