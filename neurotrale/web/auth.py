"""Token authentication: middleware that admits a request only with a token that allows it.

A token may be sent in any of three forms. The prefix ``/token/{token}`` works with every viewer
(see `neurotrale.web.prefixes`).

``?token=`` does not survive relative links, so a browser that navigates to a page with it is
redirected to the same page with the prefix. Only navigations are redirected: Neuroglancer resolves
the links of a page against the URL that it requested and appends the query of that URL to each of
them, and it recognizes a directory by a redirect from ``name`` to ``name/`` on the same path. After
any other redirect it would take the listing for the content of a file.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from falcon import Request, Response

from neurotrale.errors import NoTokenError, ReadOnlyError
from neurotrale.tokens import MAY_WRITE, USER
from neurotrale.tokens.file import Token, TokenList
from neurotrale.tokens.watch import SharedTokens
from neurotrale.web.prefixes import BEHIND_TOKEN, TOKENS_IN_PATH, outer_href, redirect
from neurotrale.web.requests import SAFE_METHODS, is_navigation, is_preflight

PUBLIC_PATH = "/api/health"
"""The one path that never needs a token, so that monitoring needs none."""
METRICS_PATH = "/api/metrics"

_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_SLASHES = re.compile("/{2,}")
_HOW_TO_SEND = (
    "Send one in the header 'Authorization: Bearer TOKEN', in front of the path as in"
    " /token/TOKEN/..., or in the query as ?token=TOKEN. Ask whoever started the service for one."
)


class TokenMiddleware:
    """Falcon middleware that requires a token.

    Args:
        tokens: The valid tokens.
        public: The paths that need none.
    """

    def __init__(self, tokens: SharedTokens, public: frozenset[str]) -> None:
        self.tokens = tokens
        self.public = public

    def process_request(self, req: Request, resp: Response) -> None:
        """Check the token of a request.

        Raises:
            NoTokenError: The request has no token, an invalid one, or several.
            ReadOnlyError: The token does not allow changes.
            TokensUnusableError: The token file cannot be used.
        """
        given: tuple[str, ...] = req.env.get(TOKENS_IN_PATH, ())
        if is_public(req.path, self.public) and not given:
            return
        queried = req.get_param_as_list("token") or []
        if is_preflight(req):
            return  # browsers send no token with a preflight, and it reveals nothing about the data
        sent = {*given, *queried, *bearer(req.get_header("Authorization"))}
        secret, token = find_token(self.tokens.now(), sent)
        req.env[USER], req.env[MAY_WRITE] = token.name, token.may_write
        check_method(token, req.method)
        if queried and not given and req.method in ("GET", "HEAD"):
            _redirect(req, resp, secret)

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Keep URLs, which may contain a token, from leaking to other sites."""
        resp.set_header("Referrer-Policy", "same-origin")


def public_paths(*, with_metrics: bool) -> frozenset[str]:
    """Return the paths that need no token."""
    return frozenset({PUBLIC_PATH, *([METRICS_PATH] if with_metrics else [])})


def is_public(path: str, public: frozenset[str]) -> bool:
    """Return whether a path, in which repeated slashes count as one, is among the public ones."""
    return _SLASHES.sub("/", path) in public


def find_token(tokens: TokenList, given: set[str]) -> tuple[str, Token]:
    """Return the one token of a request.

    Args:
        tokens: The valid tokens.
        given: What the request has.

    Raises:
        NoTokenError: There is none, none that is valid, or several.
    """
    given.discard("")
    if not given:
        raise NoTokenError(f"This service requires a token. {_HOW_TO_SEND}")
    if len(given) > 1:
        raise NoTokenError(f"The request has several different tokens; send one. {_HOW_TO_SEND}")
    (secret,) = given
    token = tokens.find(secret)
    if token is None:
        raise NoTokenError(f"The token is not valid, or no longer valid. {_HOW_TO_SEND}")
    return secret, token


def check_method(token: Token, method: str) -> None:
    """Check that a token allows a method.

    Raises:
        ReadOnlyError: It does not.
    """
    if method not in SAFE_METHODS and not token.may_write:
        raise ReadOnlyError(
            f"The token of {token.name} is read-only. To change annotations, ask whoever"
            " started the service for a token with 'rw'."
        )


def bearer(authorization: str | None) -> list[str]:
    """Return the token of an Authorization header, if it has one."""
    match = _BEARER.fullmatch(authorization or "")
    return [match[1]] if match else []


def _redirect(req: Request, resp: Response, secret: str) -> None:
    if _is_page(req.path) and is_navigation(req):
        items = [item for item in req.query_string.split("&") if not _is_token(item)]
        query = f"?{'&'.join(items)}" if items else ""
        path = f"{req.env.get(BEHIND_TOKEN, '')}{req.path}"
        redirect(resp, f"{outer_href(req)}token/{quote(secret)}{quote(path)}{query}")


def _is_page(path: str) -> bool:
    ends = ("/", "/index.html", "/api", "/annotations/mine")
    return path.endswith(ends) or path.startswith("/api/datasets/")


def _is_token(item: str) -> bool:
    return unquote_plus(item.partition("=")[0]) == "token"
