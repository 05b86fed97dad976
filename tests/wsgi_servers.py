"""The application on three servers, each of which refuses whatever PEP 3333 does not allow."""

from __future__ import annotations

import http.client
import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.validate import validator

from falcon.testing import simulate_request

from neurotrale.server.sockets import open_socket, url_of
from neurotrale.server.threads import LeaderFollowerPool
from neurotrale.server.uploads import Uploads
from neurotrale.server.waitress_adapter import HttpServer
from tests.processes import PATIENCE_S

Application = Callable[..., Iterable[bytes]]

# What the servers themselves add, each in its own way.
OF_THE_SERVER = {"date", "server", "connection", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Asked:
    """A request."""

    path: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Given:
    """An answer, without the headers that are the server's."""

    status: int
    headers: dict[str, str]
    body: bytes


Ask = Callable[[Asked], Given]
Start = Callable[[Application], Any]


def given(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Given:
    lower = {name.lower(): value for name, value in headers}
    kept = {name: value for name, value in lower.items() if name not in OF_THE_SERVER}
    return Given(status, kept, body)


def held_to_its_length(app: Application) -> Application:
    """Refuse a body that is not as long as its Content-Length; the validator does not count."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        announced: list[int] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            announced[:] = [int(value) for name, value in headers if name == "content-length"]
            return start_response(status, headers, exc_info)

        body: Any = validator(app)(environ, start)
        try:
            size = 0
            for piece in body:
                size += len(piece)
                yield piece
        finally:
            body.close()
        if environ["REQUEST_METHOD"] != "HEAD" and announced:
            assert announced == [size], f"announced {announced}, gave {size}"

    return application


@contextmanager
def falcon_client(app: Application) -> Iterator[Ask]:
    """Falcon's own test client, which has no `wsgi.file_wrapper`."""

    def ask(asked: Asked) -> Given:
        path, _, query = asked.path.partition("?")
        result = simulate_request(
            held_to_its_length(app), asked.method, path, query_string=query,
            headers=asked.headers, body=asked.body or None,
        )  # fmt: skip
        return given(result.status_code, result.headers.items(), result.content)

    yield ask


@contextmanager
def standard_library(app: Application) -> Iterator[Ask]:
    """The server of wsgiref, over HTTP; its `wsgi.file_wrapper` sends until the file ends."""
    errors = io.StringIO()

    class Handler(WSGIRequestHandler):
        def get_stderr(self) -> io.StringIO:
            return errors

        def log_message(self, format: str, *args: object) -> None:
            pass

    with WSGIServer(("127.0.0.1", 0), Handler) as server:
        server.set_app(held_to_its_length(app))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield over_http(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
    assert errors.getvalue() == ""


@contextmanager
def worker_like(app: Application) -> Iterator[str]:
    """The URL of a server like a worker's, in threads of this process."""
    pool = LeaderFollowerPool(
        2, poll=lambda timeout_s: http_server.poll(timeout_s), wake=lambda: http_server.wake()
    )
    with closing(open_socket("127.0.0.1", 0)) as listening:
        http_server = HttpServer(
            app, listening, pool, queue=8, connections=20, uploads=Uploads(), idle_s=60,
            stall_s=60, on_response=lambda: None,
        )  # fmt: skip
        ended = threading.Event()
        monitor = threading.Thread(target=pool.monitor, args=(ended.is_set,))
        pool.start()
        monitor.start()
        try:
            yield url_of(listening, "127.0.0.1")
        finally:
            ended.set()
            pool.wake_monitor()
            monitor.join()
            pool.stop()
            http_server.close()


@contextmanager
def our_own(app: Application) -> Iterator[Ask]:
    """The server of a worker."""
    said: list[str] = []

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Said(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with worker_like(held_to_its_length(app)) as url:
            yield over_http(url)
    finally:
        logging.getLogger().removeHandler(handler)
    assert [line for line in said if "xception" in line or "ontent" in line] == []


def over_http(url: str) -> Ask:
    def ask(asked: Asked) -> Given:
        with closing(
            http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        ) as connection:
            connection.putrequest(asked.method, asked.path, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                connection.putheader(name, value)
            if asked.body:
                connection.putheader("Content-Length", str(len(asked.body)))
            connection.endheaders(asked.body or None)
            response = connection.getresponse()
            return given(response.status, response.getheaders(), response.read())

    return ask


SERVERS: dict[str, Start] = {
    "falcon-client": falcon_client,
    "standard-library": standard_library,
    "our-own": our_own,
}
