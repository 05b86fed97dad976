"""Passed by every request: a Falcon router for dataset paths of any depth, and middleware.

Routes are tried in order, and the first whose pattern matches the whole path answers every method:
those that its resource lacks get 405 with an Allow header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import falcon
from falcon import Request, Response
from falcon.routing import map_http_methods, set_default_responders

from neurotrale.storage.state import ServiceId
from neurotrale.tokens.sessions import SESSION
from neurotrale.web.identity import COOKIE, set_cookie
from neurotrale.web.origins import KnownHosts, WritingPages, check_not_from_form
from neurotrale.web.prefixes import IS_BARE, Prefixes, redirect_bare_prefix
from neurotrale.web.requests import SAFE_METHODS, is_navigation, is_preflight
from neurotrale.web.responses import DATA_POLICY

App = falcon.App[Request, Response]
Values = Callable[[Mapping[str, str]], dict[str, object]]

ROUTE = "neurotrale.route"
"""Key of the WSGI environment for the path of the request as the API documentation shows it."""

NOT_ADMITTED = "neurotrale.not_admitted"
"""Key of the WSGI environment for the error of a request that the server did not admit, because of
its headers; its body was not received. None or absent for others."""

_SLASHES = re.compile("/{2,}")

# Clients ask for the same paths again. Long paths are not cached, to bound the memory.
CACHED_PATHS = 2048
CACHED_PATH_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of URL.

    Args:
        uri_template: The path as the API documentation shows it.
        pattern: Pattern of the whole path.
        values: Converts the named groups of the match into the responder's arguments.
        resource: The resource that responds.
        parameter: Query parameter that the route requires; "" for none.
        method_map: Responder of each HTTP method.
        own_methods: The methods that the resource itself implements, without HEAD and OPTIONS.
        allowed: All methods but those that are answered with 405.
    """

    uri_template: str
    pattern: re.Pattern[str]
    values: Values
    resource: object
    parameter: str
    method_map: dict[str, Any]
    own_methods: tuple[str, ...]
    allowed: tuple[str, ...]


class _AnyMethod(dict[str, Any]):
    """A method map that treats a method unknown to Falcon like TRACE, which no resource has."""

    def __missing__(self, method: str) -> Any:
        return self["TRACE"]


class OrderedRouter:
    """Finds the first route that matches; has the interface of Falcon's own router."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._parameters: set[str] = set()
        self._match_cached = lru_cache(CACHED_PATHS)(self._match)

    def add_route(
        self,
        uri_template: str,
        resource: object,
        *,
        pattern: str,
        values: Values = dict,
        parameter: str = "",
        **_: Any,
    ) -> None:
        """Append a route.

        Args:
            uri_template: The path as the API documentation shows it.
            resource: Has the responders, ``on_get`` and so on; ``on_get`` serves HEAD, too.
            pattern: Regular expression for the whole decoded path.
            values: Converts the pattern's named groups into the responder's arguments.
            parameter: Required query parameter; without it the following routes are tried.
        """
        method_map = dict(map_http_methods(resource))
        own = tuple(method_map)
        if "GET" in method_map:
            method_map.setdefault("HEAD", method_map["GET"])
        allowed = (*sorted(method_map.keys() - {"OPTIONS"}), "OPTIONS")
        set_default_responders(method_map)  # type: ignore[arg-type]
        method_map = _AnyMethod(method_map)
        compiled = re.compile(pattern, re.DOTALL)
        self.routes.append(
            Route(uri_template, compiled, values, resource, parameter, method_map, own, allowed)
        )
        if parameter:
            self._parameters.add(parameter)
        self._match_cached.cache_clear()

    def find(
        self, uri: str, req: Request | None = None
    ) -> tuple[object, dict[str, Any], dict[str, object], str] | None:
        """Find the route of a path; doubled slashes count as one.

        Raises:
            MissingError, NameTooLongError: The path contains a name that is never served.
        """
        found = self.match(uri, (lambda name: False) if req is None else req.has_param)
        if found is None:
            return None
        route, values = found
        if req is not None:
            req.env[ROUTE] = route.uri_template
        return route.resource, route.method_map, values, route.uri_template

    def match(
        self, uri: str, has_param: Callable[[str], bool]
    ) -> tuple[Route, dict[str, object]] | None:
        """Find the route of a path, and the arguments of its responder; see `find`.

        Args:
            uri: The path.
            has_param: Returns whether the query has a parameter.
        """
        path = _SLASHES.sub("/", uri) if "//" in uri else uri
        parameters = frozenset(filter(has_param, self._parameters))
        match = self._match_cached if len(path) <= CACHED_PATH_CHARACTERS else self._match
        found = match(path, parameters)
        # Falcon's hooks may change the values.
        return None if found is None else (found[0], dict(found[1]))

    def _match(
        self, path: str, parameters: frozenset[str]
    ) -> tuple[Route, dict[str, object]] | None:
        for route in self.routes:
            match = route.pattern.fullmatch(path)
            if match is not None and (not route.parameter or route.parameter in parameters):
                return route, route.values(match.groupdict(default=""))
        return None


class ViewerMiddleware:
    """Middleware that strips the prefixes of paths, and gives browsers a cookie.

    Args:
        prefixes: The prefixes that this service has.
        service_id: Tells the cookie of this service from those of others on the same machine; None
            for no cookie, as nothing is remembered of viewers that cannot save.
        on_refused: Called with each PUT that was refused, or the preflight of one, its response,
            and the resource, which is None if the path, the token or the page was refused.
    """

    def __init__(
        self,
        prefixes: Prefixes,
        service_id: ServiceId | None,
        on_refused: Callable[[Request, Response, object], None],
    ) -> None:
        self.prefixes = prefixes
        self.service_id = service_id
        self.on_refused = on_refused

    def process_request(self, req: Request, resp: Response) -> None:
        """Strip the prefixes, before anything else looks at the path.

        Raises:
            MissingError: The prefixes are in another order.
        """
        if self.service_id is not None:
            req.env[COOKIE] = f"neurotrale-{self.service_id.value}"
        if self.prefixes.pattern.match(req.path):
            self.prefixes.strip(req)

    def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, object]
    ) -> None:
        """Redirect a bare prefix, once its token has been checked; refuse what has no body.

        Raises:
            Exception: The server did not admit the request.
        """
        refused = req.env.get(NOT_ADMITTED)
        if refused is not None:
            raise refused
        if req.env.get(IS_BARE):
            redirect_bare_prefix(req, resp)

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Give a browser that opens a page a cookie, and tell of refused saves."""
        if SESSION in req.env:  # the URL must not leak to other sites
            resp.set_header("Referrer-Policy", "same-origin")
        if not req_succeeded and _is_save(req):
            self.on_refused(req, resp, resource)
        is_page = resp.get_header("Content-Security-Policy", default=DATA_POLICY) != DATA_POLICY
        if self.service_id is not None and req_succeeded and is_page and is_navigation(req):
            set_cookie(req, resp)
            self.service_id.keep()


def _is_save(req: Request) -> bool:
    """Return whether a request is a PUT, or asks if a page may send one."""
    if req.method == "OPTIONS" and is_preflight(req):
        return req.get_header("Access-Control-Request-Method") == "PUT"
    return bool(req.method == "PUT")


class OriginMiddleware:
    """Middleware that refuses what a page of another site makes a browser send.

    Args:
        hosts: The names that a request may call the service by; None for any.
        pages: The pages that may write; None for all.
        read_only: Whether the service refuses all writes anyway.
    """

    def __init__(
        self, hosts: KnownHosts | None, pages: WritingPages | None, *, read_only: bool
    ) -> None:
        self.hosts = hosts
        self.pages = pages
        self.read_only = read_only

    def process_request(self, req: Request, resp: Response) -> None:
        """Check whom a request is for.

        Raises:
            ReadOnlyError: The host is not known.
        """
        if self.hosts is not None:
            self.hosts.check(req)

    def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, object]
    ) -> None:
        """Check where a request is from that would change something, or the preflight of one.

        Raises:
            ReadOnlyError: The page may not write.
            HTTPUnsupportedMediaType: It is a POST that a form could have sent.
        """
        if self.read_only or req.method in ("GET", "HEAD"):
            return
        method = req.env["HTTP_ACCESS_CONTROL_REQUEST_METHOD"] if is_preflight(req) else req.method
        if method.upper() in SAFE_METHODS or not hasattr(resource, f"on_{method.lower()}"):
            return
        if self.pages is not None and not self.pages.may_write(req):
            self.pages.refuse(req)
        if req.method == "POST":
            check_not_from_form(req)

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Grant in a preflight no method that would be refused."""
        granted = resp.get_header("Access-Control-Allow-Methods")
        if granted and self.pages is not None and not self.pages.may_write(req):
            safe = [method for method in granted.split(", ") if method in SAFE_METHODS]
            resp.set_header("Access-Control-Allow-Methods", ", ".join(safe))


class CommonHeaders:
    """Middleware that sets the headers common to all responses.

    Args:
        varies: Whether responses depend on the Origin of the request.
    """

    def __init__(self, *, varies: bool) -> None:
        self.varies = varies

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Set the headers, also on errors."""
        resp.set_header("X-Content-Type-Options", "nosniff")
        if self.varies:
            resp.append_header("Vary", "Origin")
