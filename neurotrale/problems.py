"""Which HTTP status each error becomes, and the one JSON shape of them all."""

from __future__ import annotations

import logging
from collections.abc import Callable

import falcon
import msgspec
from falcon import Request, Response

from neurotrale import errors
from neurotrale.router import App

log = logging.getLogger(__name__)

# Error class -> status, title.
TABLE: dict[type[Exception], tuple[str, str]] = {
    errors.BadInputError: (falcon.HTTP_400, "Bad request"),
    errors.NoTokenError: (falcon.HTTP_401, "Token needed"),
    errors.ReadOnlyError: (falcon.HTTP_403, "Not allowed"),
    errors.MissingError: (falcon.HTTP_404, "Not found"),
    errors.NotAcceptableError: (falcon.HTTP_406, "Not acceptable"),
    errors.ConflictError: (falcon.HTTP_409, "Conflict"),
    errors.ChangedError: (falcon.HTTP_412, "Changed in the meantime"),
    errors.TooLargeError: (falcon.HTTP_413, "Too large"),
    errors.NameTooLongError: (falcon.HTTP_414, "Name too long"),
    errors.RuleBrokenError: (falcon.HTTP_422, "Not a valid annotation"),
    errors.DamagedError: (falcon.HTTP_500, "Damaged file"),
    errors.BusyError: (falcon.HTTP_503, "Try again"),
    errors.DiskFullError: (falcon.HTTP_507, "Disk full"),
}


# Set before the error came up, they describe an answer that is not given.
_STALE_HEADERS = ("ETag", "Last-Modified", "Content-Encoding", "Content-Length", "Accept-Ranges")


def add_error_handlers(app: App) -> None:
    """Make every error of an app, expected or not, an answer in the one JSON shape."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _raise_again)
    for kind, (status, title) in TABLE.items():
        app.add_error_handler(kind, _handler(status, title))


def _handler(status: str, title: str) -> Callable[..., None]:
    def handle(req: Request, resp: Response, error: Exception, params: object) -> None:
        headers = {}
        if isinstance(error, errors.BusyError):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, errors.NoTokenError):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, (errors.DamagedError, errors.DiskFullError, errors.BusyError)):
            log.error("%s: %s", title, error)
        raise falcon.HTTPError(status, title=title, description=str(error), headers=headers)

    return handle


def _raise_again(req: Request, resp: Response, error: falcon.HTTPError, params: object) -> None:
    raise error


def _unexpected(req: Request, resp: Response, error: Exception, params: object) -> None:
    log.error("unexpected error on %s %r", req.method, req.path, exc_info=error)
    raise falcon.HTTPInternalServerError(
        title="Internal error",
        description="Something went wrong that should not; the service's log has the details.",
    )


def _serialize(req: Request, resp: Response, error: falcon.HTTPError) -> None:
    for header in _STALE_HEADERS:
        resp.delete_header(header)
    if not isinstance(error, falcon.HTTPRangeNotSatisfiable):
        resp.delete_header("Content-Range")
    resp.stream = None
    resp.content_type = "application/json"
    resp.set_header("Cache-Control", "no-store")
    resp.data = problem(error.title or str(error.status), error.description or _describe(error))


def _describe(error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        return f"This URL answers {dict(error.headers or {}).get('Allow', '')} only."
    return "The request could not be answered."


def problem(title: str, description: str) -> bytes:
    """Give the body of an error."""
    return msgspec.json.encode({"title": title, "description": description})
