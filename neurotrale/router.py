"""A Falcon router for URLs whose data set path may have any depth.

Routes are tried in order; the first whose pattern matches the whole path answers, with every
method: those that its resource has not are 405 with an Allow header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import falcon
from falcon import Request, Response
from falcon.routing import map_http_methods, set_default_responders

App = falcon.App[Request, Response]
Values = Callable[[Mapping[str, str]], dict[str, object]]

_SLASHES = re.compile("/{2,}")


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of URL.

    Args:
        uri_template: How the API documentation writes it.
        pattern: What the path must match, as a whole.
        values: From the named groups of the match to the responder's arguments.
        resource: Answers it.
        method_map: HTTP method -> responder.
        own_methods: The methods that the resource itself has, HEAD and OPTIONS left out.
    """

    uri_template: str
    pattern: re.Pattern[str]
    values: Values
    resource: object
    method_map: dict[str, Any]
    own_methods: tuple[str, ...]


class _AnyMethod(dict[str, Any]):
    """A method map that answers a method unknown to Falcon like TRACE, which no resource has."""

    def __missing__(self, method: str) -> Any:
        return self["TRACE"]


class OrderedRouter:
    """Finds the first route that matches; follows the interface of Falcon's own router."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def add_route(
        self, uri_template: str, resource: object, *, pattern: str, values: Values = dict, **_: Any
    ) -> None:
        """Add a route behind those that are there.

        Args:
            uri_template: How the API documentation writes it.
            resource: Its ``on_get`` and the like answer; HEAD is answered by ``on_get``.
            pattern: A regular expression for the whole decoded path.
            values: From the pattern's named groups to the responder's arguments.
        """
        method_map = dict(map_http_methods(resource))
        own = tuple(method_map)
        if "GET" in method_map:
            method_map.setdefault("HEAD", method_map["GET"])
        set_default_responders(method_map)  # type: ignore[arg-type]
        method_map = _AnyMethod(method_map)
        compiled = re.compile(pattern, re.DOTALL)
        self.routes.append(Route(uri_template, compiled, values, resource, method_map, own))

    def find(
        self, uri: str, req: Request | None = None
    ) -> tuple[object, dict[str, Any], dict[str, object], str] | None:
        """Find who answers a path; doubled slashes count as one.

        Raises:
            MissingError, NameTooLongError: The path holds a name that is never served.
        """
        path = _SLASHES.sub("/", uri) if "//" in uri else uri
        for route in self.routes:
            match = route.pattern.fullmatch(path)
            if match is not None:
                values = route.values(match.groupdict(default=""))
                return route.resource, route.method_map, values, route.uri_template
        return None
