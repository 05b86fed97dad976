"""Admits requests that have a body by their headers alone, before the body is received."""

from __future__ import annotations

from collections.abc import Mapping

import falcon
from falcon.uri import parse_query_string

from neurotrale.annotations.files.blocks import ANNOTATIONS
from neurotrale.annotations.store import writable
from neurotrale.annotations.writes import AnnotationWriter
from neurotrale.errors import TooLargeError
from neurotrale.storage.names import AnnotationUrl, Parts
from neurotrale.tokens.watch import SharedTokens
from neurotrale.web.auth import bearer, check_method, find_token, is_public
from neurotrale.web.error_handlers import TABLE
from neurotrale.web.prefixes import base_pattern, without_prefixes
from neurotrale.web.router import OrderedRouter, Route
from neurotrale.web.routes import OF_UI, ROUTES, add_routes

MIB = 2**20
# Of requests whose method replaces nothing: some clients send a few bytes with each.
OTHER_BODY_BYTES = MIB

_REFUSALS: tuple[type[Exception], ...] = (falcon.HTTPError, *TABLE)
_METHODS_WITH_BODY = frozenset({"PUT", "PATCH"})
_METHODS_THAT_CHANGE = frozenset({"PUT", "PATCH", "POST", "DELETE"})


class Admission:
    """Decides which requests are admitted, in the order in which the application would refuse them.

    It opens no file, so it never waits.

    Args:
        tokens: The valid tokens; None if the service requires none.
        writer: Writes annotation files; None if the service is read-only.
        body_bytes: The largest accepted body of a PUT or PATCH.
        has_ui: Whether the service hosts a second user interface.
        base_path: The path that a proxy keeps in front of all others; "" for none.
        public: The paths that need no token.
    """

    def __init__(
        self,
        tokens: SharedTokens | None,
        writer: AnnotationWriter | None,
        body_bytes: int,
        *,
        has_ui: bool,
        base_path: str = "",
        public: frozenset[str] = frozenset(),
    ) -> None:
        self._base = base_pattern(base_path)
        self._routes = OrderedRouter()
        add_routes(
            self._routes, {row.resource for row in ROUTES} - (frozenset() if has_ui else OF_UI)
        )
        self._tokens = tokens
        self._public = public
        self._writer = writer
        self._body_bytes = body_bytes

    def admit(
        self, method: str, path: str, query: str, headers: Mapping[str, str]
    ) -> Exception | None:
        """Return why a request is refused; None if it is admitted.

        Args:
            method: The method.
            path: The path as in WSGI: decoded as Latin-1.
            query: The query string.
            headers: The headers, with names in the form ``CONTENT_LENGTH``. That one is the size
                of the body, or of the part that has arrived, in bytes.
        """
        try:
            self._check(method, path, query, headers)
        except _REFUSALS as error:
            return error
        return None

    def beside(self, path: str, query: str) -> Parts:
        """Return the names down to the directory of an annotation file that is replaced.

        A block at a position, which takes files to find, is left out; of another path, nothing is
        returned.
        """
        for _, values in self._matches(path, query)[1]:
            for value in values.values():
                if isinstance(value, AnnotationUrl):
                    block = () if value.block is None else (value.block.text,)
                    return (*value.dataset, ANNOTATIONS, *block)
        return ()

    def _check(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> None:
        given, matches = self._matches(path, query)
        if self._tokens is not None and not is_public(path, self._public):
            queried = parse_query_string(query, keep_blank=True).get("token", [])
            sent = {*given, *_listed(queried), *bearer(headers.get("AUTHORIZATION"))}
            _, token = find_token(self._tokens.now(), sent)
            check_method(token, method)
        allowed = [route.allowed for route, _ in matches]
        if allowed and not any(method in methods for methods in allowed):
            raise falcon.HTTPMethodNotAllowed(allowed[-1])
        if method in _METHODS_THAT_CHANGE:
            writable(self._writer)
        _check_size(method, int(headers["CONTENT_LENGTH"]), self._body_bytes)

    def _matches(
        self, path: str, query: str
    ) -> tuple[tuple[str, ...], list[tuple[Route, dict[str, object]]]]:
        """Return the tokens in a path, and the routes that it may have."""
        decoded = path.encode("latin-1").decode("utf-8", "replace")
        given, paths = without_prefixes(decoded, self._base, tokens=self._tokens is not None)
        parameters = parse_query_string(query, keep_blank=True)
        found = [self._routes.match(one, parameters.__contains__) for one in paths]
        return given, [one for one in found if one is not None]


def _check_size(method: str, size: int, most: int) -> None:
    if method not in _METHODS_WITH_BODY:
        if size > OTHER_BODY_BYTES:
            raise TooLargeError(
                f"A {method} takes no body, and this one has more than"
                f" {OTHER_BODY_BYTES // MIB} MiB. Send it without, or use PUT."
            )
    elif size > most:
        raise TooLargeError(
            f"The body has {-(-size // MIB):,} MiB or more, and at most {most // MIB:,} MiB are"
            " accepted (the option --max-body-mb). Nothing was changed: split the file, or have the"
            " service started with a larger limit."
        )


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
