"""The HTTP status of each error, and the one JSON shape of all errors."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import falcon
import msgspec
from falcon import Request, Response

from neurotrale import errors
from neurotrale.annotations.handover import ParkedError
from neurotrale.web.responses import sandbox
from neurotrale.web.router import App

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
    errors.OtherRequestError: (falcon.HTTP_422, "Another request"),
    errors.RuleBrokenError: (falcon.HTTP_422, "Not a valid annotation"),
    errors.DamagedError: (falcon.HTTP_500, "Damaged file"),
    errors.BusyError: (falcon.HTTP_503, "Try again"),
    errors.TokensUnusableError: (falcon.HTTP_503, "Tokens cannot be used"),
    errors.DiskFullError: (falcon.HTTP_507, "Disk full"),
}

# Set before the error was raised, these headers describe a response that is not sent.
_STALE_HEADERS = (
    "ETag",
    "Last-Modified",
    "Content-Encoding",
    "Content-Length",
    "Content-Location",
    "Accept-Ranges",
)

_WRITE_METHODS = frozenset({"PUT", "PATCH", "DELETE"})
_WRITABLE_URLS = (
    "Only annotation files can be changed: /{dataset}/annotations/{block}/{leaf}.json, or, for the"
    " block at a position, /{dataset}/annotations/{leaf}.json?position=x,y,z."
)


def add_error_handlers(app: App) -> None:
    """Make an app answer every error, expected or not, in the one JSON shape."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(Exception, _releasing(_unexpected))
    app.add_error_handler(falcon.HTTPError, _releasing(_reraise))
    app.add_error_handler(ParkedError, _parked)
    app.add_error_handler(MemoryError, _releasing(_out_of_memory))
    for error_class, (status, title) in TABLE.items():
        app.add_error_handler(error_class, _releasing(_handler(status, title)))


def _releasing(handler: Callable[..., None]) -> Callable[..., None]:
    """Let go of what the functions that an error ended have had: open directories, bodies.

    Falcon keeps the error in a circle of references, which Python finds sooner or later only.
    """

    def handle(req: Request, resp: Response, error: BaseException, params: object) -> None:
        try:
            handler(req, resp, error, params)
        finally:
            above: BaseException | None = error
            while above is not None:
                traceback.clear_frames(above.__traceback__)
                above = above.__context__

    return handle


def _handler(status: str, title: str) -> Callable[..., None]:
    def handle(req: Request, resp: Response, error: Exception, params: object) -> None:
        headers = {}
        if isinstance(error, (errors.BusyError, errors.TokensUnusableError)):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, errors.NoTokenError):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, (errors.DamagedError, errors.DiskFullError, errors.BusyError)):
            log.error("%s: %s", title, error)
        raise falcon.HTTPError(status, title=title, description=str(error), headers=headers)

    return handle


def _reraise(req: Request, resp: Response, error: falcon.HTTPError, params: object) -> None:
    raise error


def _parked(req: Request, resp: Response, error: ParkedError, params: object) -> None:
    resp.status = falcon.HTTP_202  # the server drops this answer


def _unexpected(req: Request, resp: Response, error: Exception, params: object) -> None:
    log.error("unexpected error on %s %r", req.method, req.path, exc_info=error)
    raise falcon.HTTPInternalServerError(
        title="Internal error",
        description="An unexpected error occurred; the log of the service has the details.",
    )


def _out_of_memory(req: Request, resp: Response, error: MemoryError, params: object) -> None:
    log.error("out of memory on %s %r", req.method, req.path)
    raise falcon.HTTPServiceUnavailable(
        title="Out of memory",
        description="The service has too little memory for this request right now. Try again in a"
        " moment; if that does not help, ask whoever runs it to give it more.",
        headers={"Retry-After": "5"},
    )


def _serialize(req: Request, resp: Response, error: falcon.HTTPError) -> None:
    for header in _STALE_HEADERS:
        resp.delete_header(header)
    if not isinstance(error, falcon.HTTPRangeNotSatisfiable):
        resp.delete_header("Content-Range")
    resp.stream = None
    resp.content_type = "application/json"
    sandbox(resp)
    resp.set_header("Cache-Control", "no-store")
    resp.data = error_body(
        error.title or str(error.status), error.description or _describe(req, error)
    )


def _describe(req: Request, error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        allowed = f"This URL supports only {dict(error.headers or {}).get('Allow', '')}."
        return f"{allowed} {_WRITABLE_URLS}" if req.method in _WRITE_METHODS else allowed
    return "The request could not be answered."


def error_body(title: str, description: str) -> bytes:
    """Return the JSON body of an error."""
    return msgspec.json.encode({"title": title, "description": description})


# --- refusals: responses to requests that never reach the application ---

OVERLOADED_CODE = 503
OVERLOADED = "The service is overloaded. Try again in a moment."
RETRY_AFTER_S = "1"


def refusal(code: int, reason: str, text: str) -> tuple[list[tuple[str, str]], bytes]:
    """Return the headers and the body of a refusal, in the JSON shape of other errors.

    Args:
        code: The HTTP status code.
        reason: The reason phrase of the status.
        text: What is wrong with the request.
    """
    headers = [
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if code == OVERLOADED_CODE:
        headers.append(("Retry-After", RETRY_AFTER_S))
    return headers, error_body(reason, text)
