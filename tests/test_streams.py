"""Clients that take nothing, or not all at once, of what the service sends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.annotations.handover import PARKING
from neurotrale.server.buffers import Stream
from tests.conftest import StartService, connect
from tests.datasets import write_dataset
from tests.processes import PATIENCE_S, eventually
from tests.shapes import make_many, write
from tests.wsgi_servers import worker_like

FILE = "brain/annotations/x0y0z0/fibers.json"
SEARCH = "/brain/annotations/search?format=jsonl"
READERS = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams") / "data"
    write_dataset(root / "brain")
    write(root / FILE, make_many("point", 60_000, (1000, 1000, 1000)))
    with (root / "large.bin").open("wb") as file:
        file.truncate(2**26)
    return root


@pytest.mark.quick(1)
@pytest.mark.parametrize("path", [SEARCH, f"/{FILE}", "/large.bin", "/brain/"])
def test_clients_that_take_nothing_keep_nobody_waiting(
    root: Path, start_service: StartService, path: str
) -> None:
    service = start_service(root, "--threads", "2")
    with ExitStack() as stack:
        for _ in range(READERS):
            connection = stack.enter_context(closing(connect(service, 4096)))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        for _ in range(5):
            assert requests.get(f"{service.url}/api/health", timeout=PATIENCE_S).ok
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE_S) == 0


@pytest.mark.long
def test_stream_reaches_a_slow_client_whole(root: Path, start_service: StartService) -> None:
    service = start_service(root)
    with closing(connect(service, 4096)) as connection:
        connection.sendall(f"GET {SEARCH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        found = [json.loads(line) for line in iter(response.readline, b"")]
    assert len(found) == len(json.loads((root / FILE).read_bytes()))
    eventually(lambda: "annotations/search 200" in service.log(), "a line in the access log")


def taken_until_closed(connection: socket.socket) -> int:
    taken = 0
    with suppress(ConnectionResetError):
        while part := connection.recv(2**20):
            taken += len(part)
    return taken


@pytest.mark.long
def test_client_that_takes_nothing_is_cut_off(root: Path, start_service: StartService) -> None:
    service = start_service(root, "--stall-timeout", "1")
    with closing(connect(service, 4096)) as stalled, closing(connect(service, 4096)) as slow:
        for connection in (stalled, slow):
            connection.sendall(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until = time.monotonic() + 3
        while time.monotonic() < until:  # one that takes little at a time is not
            assert slow.recv(2**16)
            time.sleep(0.05)
        eventually(lambda: "took nothing" in service.log(), "the stalled client is cut off")
        assert taken_until_closed(stalled) < 2**26
        assert slow.recv(2**16)
    assert service.log().count("took nothing") == 1


@pytest.mark.long
def test_requests_sent_together_are_answered_in_turn_as_answers_are_taken(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root)
    ask = b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(connect(service, 4096)) as connection:
        connection.sendall(
            ask * 3 + b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        time.sleep(0.5)
        assert requests.get(f"{service.url}/api/health", timeout=PATIENCE_S).ok
        size = sum(map(len, iter(lambda: connection.recv(2**20), b"")))
    assert size > 3 * 2**26


def test_port_of_a_service_that_was_killed_is_free_while_an_upload_is_unfinished(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "2")
    with closing(connect(service, 4096)) as upload:
        upload.sendall(
            b"PUT /brain/annotations/x0y0z0/new.json HTTP/1.1\r\nContent-Length: 9\r\n\r\n["
        )
        time.sleep(0.2)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()

        def is_free() -> bool:
            try:
                socket.create_server(("127.0.0.1", service.port)).close()
            except OSError:
                return False
            return True

        started = time.monotonic()
        eventually(is_free, "the port is free")
        assert time.monotonic() - started < 15  # the time for what is in flight is 30 s


# --- the server alone ---


@pytest.fixture
def serve() -> Iterator[Callable[[Any], int]]:
    """Serve an application; return the port."""
    with ExitStack() as stack:

        def start(app: Any) -> int:
            port = urlsplit(stack.enter_context(worker_like(app))).port
            assert port is not None
            return port

        yield start


# --- whether an answer has arrived ---


def asked_of(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


@pytest.mark.parametrize("size", [10, 200_000])
def test_answer_that_a_client_has_taken_is_not_broken_if_it_leaves_at_once(
    serve: Callable[[Any], int], size: int
) -> None:
    broken = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[PARKING].on_broken = lambda: broken.append(size)
        time.sleep(0.02)  # meanwhile another thread begins to watch the connection
        start_response("200 OK", [("Content-Length", str(size))])
        return [bytes(size)]

    port = serve(app)
    for _ in range(100):
        with asked_of(port) as connection:
            taken = b""
            while len(taken.partition(b"\r\n\r\n")[2]) < size:
                taken += connection.recv(2**16)
    assert broken == []


@pytest.mark.parametrize("size", [10, 200_000, 20_000_000])
def test_answer_to_a_client_that_has_gone_is_broken_once(
    serve: Callable[[Any], int], size: int
) -> None:
    broken, asked, gone = [], Event(), Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[PARKING].on_broken = lambda: broken.append(size)
        asked.set()
        assert gone.wait(PATIENCE_S)
        start_response("200 OK", [("Content-Length", str(size))])
        return [bytes(size)]

    def other(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    port = serve(lambda *args: (other if asked.is_set() else app)(*args))
    with asked_of(port) as connection:
        assert asked.wait(PATIENCE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.set()
    eventually(lambda: broken, "that the answer is broken")
    with asked_of(port) as connection:
        assert connection.recv(100)
    assert broken == [size]


class Body:
    """The pieces of a body, and whether it was closed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.closed = Event()

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        self.closed.set()


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read()


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [0, 0, 5, 0], [2**17, 1], [300_000] * 4, [7] * 999]
)
@pytest.mark.parametrize("is_stated", [True, False])
def test_body_of_any_pieces_arrives_whole_and_is_closed(
    serve: Callable[[Any], int], sizes: list[int], is_stated: bool
) -> None:
    pieces = [os.urandom(size) for size in sizes]
    body = Body(iter(pieces))
    headers = [("Content-Length", str(sum(sizes)))] if is_stated else []

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", headers)
        return body

    assert get(serve(app)) == b"".join(pieces)
    assert body.closed.wait(PATIENCE_S)


@pytest.mark.parametrize("stated", [10**7, None])
def test_body_that_breaks_off_is_not_taken_for_the_whole(
    serve: Callable[[Any], int], stated: int | None
) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(10**6)
        yield bytes(10**6)
        raise RuntimeError("the disk is gone")

    body = Body(pieces())

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("Content-Length", str(stated))] if stated else [])
        return body

    with pytest.raises((http.client.IncompleteRead, OSError)):
        get(serve(app))
    assert body.closed.wait(PATIENCE_S)


def test_client_that_goes_away_ends_the_body(serve: Callable[[Any], int]) -> None:
    def pieces() -> Iterator[bytes]:
        while True:
            yield bytes(10**5)

    body = Body(pieces())

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [])
        return body

    with closing(socket.create_connection(("127.0.0.1", serve(app)))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(2**16)
        assert not body.closed.is_set()
    assert body.closed.wait(PATIENCE_S)


@given(st.lists(st.integers(0, 200_000), max_size=12), st.booleans())
def test_blocks_of_a_stream_are_its_pieces_in_order(sizes: list[int], is_framed: bool) -> None:
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    stream = Stream(pieces, None)
    stream.is_framed = is_framed
    blocks = list(iter(stream.read, b""))
    if is_framed:
        for number, block in enumerate(blocks):
            head, _, rest = block.partition(b"\r\n")
            assert (int(head, 16), rest[-2:]) == (len(rest) - 2, b"\r\n")
            blocks[number] = rest[:-2]
    assert b"".join(blocks) == b"".join(pieces)
    assert stream.written == sum(sizes)
