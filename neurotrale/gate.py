"""The gate: lets a request through to the resources only with a token that allows it.

A token is given in any of three forms. The prefix ``/token/{token}`` works with every viewer, as
all that a client does to a URL happens behind it; all links of the service are relative, so they
stay behind it too.

``?token=`` does not survive relative links, so a person's browser is led from a page with it to
the same page with the prefix. Only a person's: Neuroglancer resolves the links of a page against
the URL that it asked for and puts its query behind each of them, and it knows a directory by being
redirected from ``name`` to ``name/`` of the same path; elsewhere it would take the listing for the
content of a file.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from falcon import Request, Response

from neurotrale.errors import NoTokenError, ReadOnlyError
from neurotrale.tokens import MAY_WRITE, USER
from neurotrale.tokens.file import TokenFile
from neurotrale.tokens.lines import Token

OPEN_PATH = "/api/health"
"""Needs no token; so that those who watch the service need none."""

_PREFIX = re.compile("/+token/+([^/]+)")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_OPEN = re.compile(OPEN_PATH.replace("/", "/+"))
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HOW = (
    "Give one as the header 'Authorization: Bearer TOKEN', in front of the path as in"
    " /token/TOKEN/..., or behind it as ?token=TOKEN. Who started the service has the tokens."
)


class Gate:
    """Falcon middleware that asks for tokens.

    Args:
        tokens: Those that are valid.
    """

    def __init__(self, tokens: TokenFile) -> None:
        self.tokens = tokens

    def process_request(self, req: Request, resp: Response) -> None:
        """Let a request pass, without its prefix, or raise.

        Raises:
            NoTokenError: It has no token, a wrong one, or several.
            ReadOnlyError: Its token does not allow changes.
        """
        if _OPEN.fullmatch(req.path):
            return
        path, given = _without_prefix(req.path)
        req.path = path or "/"
        queried = req.get_param_as_list("token") or []
        if _is_preflight(req):
            return  # browsers send no token with it, and it tells nothing about the data
        secret, token = self._check({*given, *queried, *_bearer(req)})
        req.env[USER], req.env[MAY_WRITE] = token.name, token.may_write
        if req.method not in _READING and not token.may_write:
            raise ReadOnlyError(
                f"The token of {token.name} is read-only. To change annotations, ask whoever"
                " started the service for one with 'rw'."
            )
        if req.method in ("GET", "HEAD"):
            _lead_on(
                req,
                resp,
                secret,
                at_root=bool(given) and not path,
                queried=bool(queried) and not given,
            )

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Keep URLs, which may hold a token, from other sites."""
        resp.set_header("Referrer-Policy", "same-origin")

    def _check(self, given: set[str]) -> tuple[str, Token]:
        given.discard("")
        if not given:
            raise NoTokenError(f"This service needs a token. {_HOW}")
        if len(given) > 1:
            raise NoTokenError(f"The request has different tokens; which one counts? {_HOW}")
        (secret,) = given
        token = self.tokens.find(secret)
        if token is None:
            raise NoTokenError(f"The token is not valid, or not any more. {_HOW}")
        return secret, token


def _without_prefix(path: str) -> tuple[str, list[str]]:
    """Split a path into what is behind its prefixes, and the tokens in them.

    More than one prefix, from URLs that were put together carelessly, count as one.
    """
    given, end = [], 0
    while match := _PREFIX.match(path, end):
        given.append(match[1])
        end = match.end()
    return path[end:], given


def _bearer(req: Request) -> list[str]:
    match = _BEARER.fullmatch(req.get_header("Authorization") or "")
    return [match[1]] if match else []


def _is_preflight(req: Request) -> bool:
    return (
        req.method == "OPTIONS"
        and req.get_header("Origin") is not None
        and req.get_header("Access-Control-Request-Method") is not None
    )


def _lead_on(req: Request, resp: Response, secret: str, *, at_root: bool, queried: bool) -> None:
    if at_root:  # /token/{token}, whose relative links need the slash
        query = f"?{req.query_string}" if req.query_string else ""
        location = f"./{quote(secret)}/{query}"
    elif queried and _is_page(req.path) and _is_navigation(req):
        items = [item for item in req.query_string.split("&") if not _names_token(item)]
        query = f"?{'&'.join(items)}" if items else ""
        up = "../" * (req.path.count("/") - 1) or "./"
        location = f"{up}token/{quote(secret)}{quote(req.path)}{query}"
    else:
        return
    resp.status = "302 Found"
    resp.set_header("Location", location)
    resp.set_header("Cache-Control", "no-store")
    resp.complete = True


def _is_page(path: str) -> bool:
    return path.endswith(("/", "/index.html", "/api")) or path.startswith("/api/datasets/")


def _is_navigation(req: Request) -> bool:
    # Browsers leave Sec-Fetch-Mode out on plain HTTP to other machines; their Accept tells then.
    mode = req.get_header("Sec-Fetch-Mode")
    return mode == "navigate" if mode else "application/xhtml+xml" in req.accept


def _names_token(item: str) -> bool:
    return unquote_plus(item.partition("=")[0]) == "token"
