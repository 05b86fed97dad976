"""The service as processes: what it logs, what it survives, how it stops."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Service, StartService, answer, connect
from tests.datasets import ANNOTATIONS, write_dataset
from tests.processes import (
    ACCESS_LINE,
    PATIENCE_S,
    children,
    descriptors,
    environment,
    eventually,
    neurotrale,
    running,
    state,
)

FILE = "/brain/annotations/x0y0z0/fibers.json"
CHUNK = "/brain/1_1_1/0-64_0-64_0-64"
LARGE_BYTES = 200 * 2**20  # more than the buffers of a connection hold
MARK = b"the end"


def worker_of(service: Service) -> int:
    """The process id of the only worker."""
    (worker,) = children(service.process.pid)
    return worker


def ready_file(service: Service) -> Path:
    """Where the service that the fixture started was told to put its ready file."""
    return service.log_path.with_name("ready.json")


def request(method: str, path: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def access_lines(service: Service) -> list[dict[str, str]]:
    found = (ACCESS_LINE.fullmatch(line) for line in service.log().splitlines())
    return [match.groupdict() for match in found if match]


def logged(service: Service, path: str) -> dict[str, str]:
    """Wait for the line of a request whose path, as it is logged, is used once."""

    def find() -> list[dict[str, str]]:
        return [line for line in access_lines(service) if line["path"] == path]

    (line,) = eventually(find, f"a line for {path}")
    return line


def assert_calm(service: Service) -> None:
    """Check that nothing in the log is worth a person's attention."""
    log = service.log()
    for word in ("Traceback", " ERROR ", " WARNING ", " CRITICAL ", "disconnect"):
        assert word not in log, log


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("server") / "data"
    write_dataset(place / "brain")
    with (place / "large.bin").open("wb") as file:
        file.truncate(LARGE_BYTES - len(MARK))
        file.seek(0, os.SEEK_END)
        file.write(MARK)
    (place / "ünïcode name.txt").write_text("hello")
    return place


@pytest.fixture(scope="module")
def shared(root: Path, start_service: StartService) -> Iterator[Service]:
    """One worker with one thread, that logs everything, for tests that leave it alive."""
    service = start_service(root, "--threads", "1", "--log-level", "debug")
    yield service
    service.stop()


# --- access log ---


@pytest.mark.parametrize(
    ("method", "path", "status", "size"),
    [
        pytest.param("GET", "/brain/info?id=get", 200, None, id="file"),
        pytest.param("GET", f"{CHUNK}?id=chunk", 200, 2 * 64**3, id="chunk"),
        pytest.param("GET", "/api/health?id=health", 200, None, id="health"),
        pytest.param("GET", "/nothing?id=missing", 404, None, id="missing file"),
        pytest.param("HEAD", "/brain/info?id=head", 200, 0, id="head"),
        pytest.param("PATCH", "/brain/info?id=patch", 405, None, id="wrong method"),
        pytest.param("GET", f"{FILE}?id={'a' * 40}", 200, None, id="one annotation"),
    ],
)
def test_access_log_has_client_method_path_status_bytes_and_time(
    shared: Service, method: str, path: str, status: int, size: int | None
) -> None:
    got = requests.request(method, shared.url + path)
    line = logged(shared, path)
    assert line["client"] == "127.0.0.1"
    assert line["method"] == method
    assert int(line["status"]) == got.status_code == status
    assert int(line["bytes"]) == (len(got.content) if size is None else size)
    assert float(line["ms"]) < PATIENCE_S * 1000


def test_access_log_of_an_unchanged_file_counts_no_bytes(shared: Service) -> None:
    etag = requests.get(f"{shared.url}/brain/info").headers["ETag"]
    path = "/brain/info?id=304"
    assert requests.get(shared.url + path, headers={"If-None-Match": etag}).status_code == 304
    assert logged(shared, path)["bytes"] == "0"


def test_access_log_of_a_range_counts_its_bytes(shared: Service) -> None:
    path = "/brain/info?id=206"
    assert requests.get(shared.url + path, headers={"Range": "bytes=5-9"}).status_code == 206
    assert logged(shared, path)["bytes"] == "5"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        pytest.param("/%C3%BCn%C3%AFcode%20name.txt", "/%C3%BCn%C3%AFcode%20name.txt", id="UTF-8"),
        pytest.param("/%FF%FE", "/%FF%FE", id="no UTF-8"),
        pytest.param("/a%0a2026-01-01 INFO b".replace(" ", "%20"),
                     "/a%0A2026-01-01%20INFO%20b", id="line feed"),
        pytest.param("/a%0D%1B[2Jb", "/a%0D%1B%5B2Jb", id="terminal escape"),
        pytest.param("/%E2%80%A8%C2%85", "/%E2%80%A8%C2%85", id="other line ends"),
        pytest.param("/q%3Fa", "/q%3Fa", id="question mark in the name"),
        pytest.param("/x?id=%0a%20b", "/x?id=%0a%20b", id="line feed in the id"),
        pytest.param("/x?id=a\x1b", "/x?id=a%1B", id="escape in the id"),
    ],
)  # fmt: skip
def test_access_log_quotes_what_could_forge_a_line(shared: Service, sent: str, shown: str) -> None:
    with closing(connect(shared)) as connection:
        connection.sendall(request("GET", sent, "Connection: close"))
        read_all(connection)
    assert logged(shared, shown)["method"] == "GET"


def test_access_log_has_the_id_of_a_query_and_nothing_else_of_it(shared: Service) -> None:
    requests.get(f"{shared.url}{FILE}?v=1&id=only-this&w=2")
    assert logged(shared, f"{FILE}?id=only-this")


def test_log_never_has_a_token(shared: Service, root: Path) -> None:
    secret = "5ecret-t0ken"
    query = f"token={secret}"
    requests.get(f"{shared.url}/brain/info?{query}")
    requests.get(f"{shared.url}/brain?{query}")  # redirects, and carries the query on
    requests.get(f"{shared.url}/nothing?id=1&{query}&id=2")
    requests.put(f"{shared.url}{FILE}?{query}", data=json.dumps(ANNOTATIONS))
    requests.put(f"{shared.url}{FILE}?{query}", data=b"[")
    requests.patch(f"{shared.url}{FILE}?{query}&id={'a' * 40}", data=b"{}")
    requests.request("BREW", f"{shared.url}/?{query}")
    headers = {"Authorization": f"Bearer {secret}", "Referer": f"http://x/?{query}"}
    requests.get(f"{shared.url}/brain/info", headers=headers)
    for raw in (
        request("GET", f"http://x/brain/info?{query}"),
        request("GET", f"//brain/info?{query}"),
        request("GET", f"/brain/info?{query}", "bad header"),
        request("GET", f"/brain/info?{query}", "Content-Length: x"),
        f"GET /brain/info?{query}\r\n\r\n".encode(),
        f"get /brain/info?{query} HTTP/1.1\r\n\r\n".encode(),
    ):
        with closing(connect(shared)) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
    with closing(connect(shared)) as connection:  # goes away before it is answered
        connection.sendall(request("GET", f"/large.bin?{query}"))
    requests.get(f"{shared.url}/brain/info?id=after-the-tokens&{query}")
    logged(shared, "/brain/info?id=after-the-tokens")
    assert secret not in shared.log()


# --- requests that are none ---


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GARBAGE\r\n\r\n", 400, id="garbage"),
        pytest.param(b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", 400, id="TLS hello"),
        pytest.param(b"get / HTTP/1.1\r\n\r\n", 400, id="lower-case method"),
        pytest.param(request("GET", "/", "no colon"), 400, id="header without colon"),
        pytest.param(request("GET", "/", "Content-Length: x"), 400, id="bad length"),
        pytest.param(b"GET \xff\xfe HTTP/1.1\r\n\r\n", 400, id="path is no ASCII"),
        pytest.param(b"GET http://[x HTTP/1.1\r\n\r\n", 400, id="URL is none"),
        pytest.param(request("PUT", "/x", "Transfer-Encoding: gzip"), 501, id="unknown coding"),
        pytest.param(
            request("PUT", FILE, "Transfer-Encoding: chunked") + b"zz\r\n", 400, id="bad chunk"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"x" * 2**18, 431, id="endless header"),
        pytest.param(request("PUT", FILE, f"Content-Length: {2**40}"), 413, id="huge body"),
    ],
)
def test_request_that_is_malformed_is_answered_in_json_and_closed(
    shared: Service, raw: bytes, status: int
) -> None:
    before = len(access_lines(shared))
    with closing(connect(shared)) as connection:
        connection.sendall(raw)
        got = answer(connection)
        assert got.status == status
        assert got.headers["Content-Type"] == "application/json"
        assert json.loads(got.read()).keys() == {"title", "description"}
        assert connection.recv(1) == b""
    eventually(lambda: len(access_lines(shared)) > before, "a line for it")
    assert access_lines(shared)[-1]["status"] == str(status)
    assert requests.get(f"{shared.url}/api/health").ok
    assert "Traceback" not in shared.log()
    assert "exception" not in shared.log()


# --- clients that go away ---


def abort(connection: socket.socket) -> None:
    """Close a connection the hard way, with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "length", "read"),
    [
        pytest.param("GET", "/large.bin", 0, 1000, id="in a large file"),
        pytest.param("GET", "/large.bin", 0, 0, id="before a large file"),
        pytest.param("GET", CHUNK, 0, 1000, id="in a chunk"),
        pytest.param("GET", CHUNK, 0, 0, id="before a chunk"),
        pytest.param("GET", "/%0aFORGED%20LINE", 0, 0, id="before an error"),
        pytest.param("GET", "/brain/1_1_1/", 0, 0, id="before a listing"),
        pytest.param("PUT", FILE, 1000, 0, id="in its own body"),
    ],
)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_request_that_is_aborted_leaves_nothing_behind(
    root: Path, shared: Service, method: str, path: str, length: int, read: int, how: str
) -> None:
    before = (root / FILE[1:]).read_bytes()
    worker = worker_of(shared)
    open_before = len(descriptors(worker))
    for _ in range(5):
        connection = connect(shared, receive_bytes=4096)
        connection.sendall(
            request(method, path, f"Content-Length: {length}") + b"[" * (length // 2)
        )
        if read:
            connection.recv(read)
        if how == "reset":
            abort(connection)
        else:
            connection.close()
    assert requests.get(f"{shared.url}/brain/info").ok
    eventually(lambda: len(descriptors(worker)) <= open_before, "every descriptor is closed")
    assert (root / FILE[1:]).read_bytes() == before
    assert worker_of(shared) == worker
    log = shared.log()
    for word in ("Traceback", "exception", "disconnect", "\nFORGED"):
        assert word not in log


# --- slow clients ---


def test_client_that_is_slow_does_not_keep_others_waiting(shared: Service) -> None:
    # There is one worker with one thread: whoever blocks it, blocks everybody.
    with ExitStack() as stack:
        for part in (
            b"GET /brain/in",  # never ends its line
            request("PUT", FILE, "Content-Length: 1000000") + b"[",  # never ends its body
            request("GET", "/large.bin"),  # never reads
            request("GET", CHUNK) * 2,  # never reads, and asks for more
        ):
            connection = stack.enter_context(closing(connect(shared, receive_bytes=4096)))
            connection.sendall(part)
        dripping = stack.enter_context(closing(connect(shared)))
        for byte in request("GET", "/brain/info?id=dripping", "Connection: close"):
            dripping.sendall(bytes([byte]))
            assert requests.get(f"{shared.url}/api/health").ok
        assert requests.get(shared.url + CHUNK).ok
        assert json.loads(answer(dripping).read())["data_type"] == "uint16"


# --- many connections ---


def test_connections_beyond_the_limit_wait_for_their_turn(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--connections", "1")
    with closing(connect(service)) as first, closing(connect(service)) as second:
        first.sendall(b"PUT /brain/annotations/x0y0z0/fibers.json HTTP/1.1\r\nContent-Length: 2")
        second.sendall(request("GET", "/brain/info"))
        eventually(lambda: "connection limit" in service.log(), "a warning")
        first.close()
        assert answer(second).read()
    assert service.stop() == 0


def test_connection_that_was_idle_longest_makes_place_for_a_new_one(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--connections", "2")

    def ask(connection: socket.socket) -> None:
        connection.sendall(request("GET", "/brain/info"))
        assert answer(connection).read()

    with closing(connect(service)) as one, closing(connect(service)) as two:
        ask(one)
        ask(two)
        ask(one)
        with closing(connect(service)) as three:
            ask(three)
            assert two.recv(1) == b""  # closed
            ask(one)
    assert "connection limit" not in service.log()


@pytest.mark.long
def test_connections_may_be_more_than_a_thousand(root: Path, start_service: StartService) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this machine does not allow that many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        service = start_service(root, "--connections", "2000")
        with ExitStack() as stack:
            for _ in range(1100):
                connection = stack.enter_context(closing(connect(service)))
            connection.sendall(request("GET", "/brain/info"))
            assert answer(connection).status == 200
        assert service.stop() == 0
        assert_calm(service)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def mixed_requests(url: str) -> Iterator[tuple[str, str, dict[str, Any], int]]:
    """Requests of every kind, each with the status of its answer, for ever."""
    annotation = json.dumps({"id": "new", "type": "point", "point": [1, 2, 3]})
    kinds: list[tuple[str, str, dict[str, Any], int]] = [
        ("GET", "/", {}, 200),
        ("GET", "/brain", {"allow_redirects": False}, 302),
        ("GET", "/brain/1_1_1/", {}, 200),
        ("GET", "/brain/info", {}, 200),
        ("HEAD", "/brain/info", {}, 200),
        ("GET", "/large.bin", {"headers": {"Range": "bytes=-7"}}, 206),
        ("GET", "/large.bin", {"headers": {"Range": f"bytes={LARGE_BYTES}-"}}, 416),
        ("GET", CHUNK, {}, 200),
        ("GET", f"{CHUNK}.tiff", {}, 200),
        ("GET", "/brain/1_1_1/1-2_3-4_5-6", {}, 404),
        ("OPTIONS", FILE, {"headers": {"Origin": "http://x"}}, 200),
        ("GET", FILE, {}, 200),
        ("PUT", FILE, {"data": json.dumps(ANNOTATIONS)}, 200),
        ("PUT", FILE, {"data": b"["}, 400),
        ("PATCH", f"{FILE}?id=new", {"data": annotation}, 201),
        ("DELETE", f"{FILE}?id=new", {}, 200),
        ("POST", FILE, {"data": b"x" * 10_000}, 405),
        ("GET", "/api/", {}, 200),
        ("GET", "/api/openapi.json", {}, 200),
        ("GET", "/..%2f..%2fetc/passwd", {}, 404),
    ]
    for method, path, options, status in itertools.cycle(kinds):
        yield method, url + path, options, status


@pytest.mark.long
def test_service_after_two_thousand_mixed_requests_holds_nothing_more_open(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--no-access-log")
    worker = worker_of(service)
    own = _sockets(worker)
    requests_of_all_kinds = mixed_requests(service.url)

    def ask(count: int) -> None:
        with requests.Session() as session:
            for method, url, options, status in itertools.islice(requests_of_all_kinds, count):
                assert session.request(method, url, **options).status_code == status, url

    ask(100)
    before = eventually(lambda: _when_idle(worker, own, root), "all connections are closed")
    ask(2000)
    eventually(lambda: _when_idle(worker, own, root) == before, "nothing more is open")
    assert children(service.process.pid) == [worker]
    assert state(worker) != "Z"
    assert children(worker) == []
    assert service.stop() == 0
    assert_calm(service)


def _sockets(worker: int) -> int:
    return sum(name.startswith("socket:") for name in descriptors(worker))


def _when_idle(worker: int, own: int, root: Path) -> list[str] | None:
    """The open files of a worker; None as long as clients are connected, or data is open."""
    found = descriptors(worker)
    sockets = [name for name in found if name.startswith("socket:")]
    if len(sockets) != own or any(name.startswith(str(root)) for name in found):
        return None
    return [name for name in found if name not in sockets]


# --- where it listens, and how that is told ---


def test_port_zero_takes_free_ports(root: Path, start_service: StartService) -> None:
    services = [start_service(root) for _ in range(2)]
    assert services[0].port != services[1].port
    for service in services:
        assert requests.get(f"{service.url}/brain/info").ok
        assert service.stop() == 0


def test_host_may_be_an_ipv6_address(root: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    command = neurotrale("serve", root, "--host", "::1", "--port", "0", "--workers", "1")
    with running(command) as service:
        assert re.fullmatch(r"http://\[::1\]:\d+", service.url)
        assert requests.get(f"{service.url}/brain/info").ok
        eventually(lambda: " ::1 GET /brain/info 200 " in service.log(), "its line")


def test_ready_file_is_whole_from_the_first_moment(root: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text('{"url": "of an old service"}')
    command = neurotrale("serve", root, "--port", "0", "--workers", "2", "--ready-file", ready)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        try:

            def read() -> bytes:
                content = ready.read_bytes() if ready.exists() else b""
                return b"" if b"old service" in content else content

            # It answers at once, by the facts of the first content that is there.
            facts = json.loads(eventually(read, "the ready file"))
            assert requests.get(f"{facts['url']}api/health").ok
            assert facts == {
                "url": f"http://127.0.0.1:{facts['port']}/",
                "host": "127.0.0.1",
                "port": facts["port"],
                "node": socket.gethostname(),
                "pid": process.pid,
            }
            assert list(tmp_path.iterdir()) == [ready]
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "node"),
    [
        ({"SLURMD_NODENAME": "cn7"}, "cn7"),
        ({"SLURMD_NODENAME": "cn7", "NEUROTRALE_NODE_NAME": "cn7.cluster"}, "cn7.cluster"),
        ({"SLURMD_NODENAME": "", "NEUROTRALE_NODE_NAME": ""}, socket.gethostname()),
    ],
    ids=["of Slurm", "of the user", "empty"],
)
def test_ready_file_names_the_machine_as_others_know_it(
    root: Path, tmp_path: Path, variables: dict[str, str], node: str
) -> None:
    ready = tmp_path / "ready.json"
    command = neurotrale("serve", root, "--port", "0", "--workers", "1", "--ready-file", ready)
    with running(command, variables):
        assert json.loads(ready.read_text())["node"] == node


# --- stopping ---

STOPPING = "finishing the requests in flight"
signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)


def tell_to_stop(service: Service, number: int = signal.SIGTERM) -> None:
    """Send a signal, and wait until the service has noticed."""
    service.process.send_signal(number)
    eventually(lambda: STOPPING in service.log(), "the service stops")


@pytest.mark.quick(1)
@signals
def test_signal_to_stop_finishes_a_body_that_is_being_sent(
    service: Service, number: int, dataset: Path
) -> None:
    body = json.dumps(ANNOTATIONS[:1]).encode()
    half = len(body) // 2
    head = request("PUT", FILE, f"Content-Length: {len(body)}", "Expect: 100-continue")
    with closing(connect(service)) as connection:
        connection.sendall(head)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body[:half])
        tell_to_stop(service, number)
        connection.sendall(body[half:])
        got = answer(connection)
        assert got.status == 200
        assert got.headers["Connection"] == "close"
    assert service.process.wait(PATIENCE_S) == 0
    assert (dataset.parent / FILE[1:]).read_bytes() == body
    assert_calm(service)


@pytest.mark.quick(1)
@signals
def test_signal_to_stop_finishes_a_download(
    root: Path, number: int, start_service: StartService
) -> None:
    service = start_service(root)
    with closing(connect(service, receive_bytes=4096)) as connection:
        connection.sendall(request("GET", "/large.bin"))
        got = answer(connection)
        tell_to_stop(service, number)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)  # the rest comes faster
        size = 0
        while piece := got.read(2**16):
            size += len(piece)
            last = piece
    assert size == LARGE_BYTES
    assert last.endswith(MARK)
    assert service.process.wait(PATIENCE_S) == 0
    assert_calm(service)


def test_signal_to_stop_finishes_what_was_sent_just_before(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "2")
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(service))) for _ in range(8)]
        for connection in connections:
            connection.sendall(request("GET", "/brain/info"))
        service.process.terminate()
        assert [answer(connection).status for connection in connections] == [200] * 8
    assert service.process.wait(PATIENCE_S) == 0


def test_signal_to_stop_does_not_wait_for_idle_connections(service: Service) -> None:
    with closing(connect(service)) as used, closing(connect(service)) as unused:
        used.sendall(request("GET", "/brain/info"))
        assert answer(used).read()
        assert service.stop() == 0
        assert used.recv(1) == b""
        assert unused.recv(1) == b""
    assert_calm(service)


def test_signal_to_stop_does_not_wait_for_clients_that_always_ask_again(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "2", "--drain-timeout", "3600")
    statuses: list[int] = []

    def ask_for_ever() -> None:
        with requests.Session() as session:
            try:
                while True:
                    statuses.append(session.get(f"{service.url}/brain/info").status_code)
            except requests.ConnectionError:
                return

    threads = [threading.Thread(target=ask_for_ever) for _ in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(statuses) > 50, "requests are answered")
    assert service.stop() == 0
    for thread in threads:
        thread.join(PATIENCE_S)
    assert set(statuses) == {200}
    assert_calm(service)


def test_drain_timeout_is_the_most_that_a_request_in_flight_gets(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--drain-timeout", "0.1")
    with closing(connect(service)) as connection:
        connection.sendall(request("PUT", FILE, "Content-Length: 10", "Expect: 100-continue"))
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        assert service.stop() == 0
        assert read_all(connection) == b""
    assert "requests unfinished" in service.log()
    assert "Traceback" not in service.log()


def test_signal_to_stop_may_come_twice(service: Service) -> None:
    ready = ready_file(service)
    assert ready.exists()
    body = json.dumps(ANNOTATIONS[:1]).encode()
    with closing(connect(service)) as connection:
        head = request("PUT", FILE, f"Content-Length: {len(body)}", "Expect: 100-continue")
        connection.sendall(head)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        tell_to_stop(service)
        # All of its processes get it again, in the way a batch system ends a job.
        for pid in (service.process.pid, *children(service.process.pid)):
            os.kill(pid, signal.SIGTERM)
        connection.sendall(body)
        assert answer(connection).status == 200
    assert service.process.wait(PATIENCE_S) == 0
    assert not ready.exists()
    assert_calm(service)


@pytest.mark.quick(1)
@signals
def test_signal_to_all_processes_at_once_stops_them_calmly(
    root: Path, number: int, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "3")
    for pid in (service.process.pid, *children(service.process.pid)):
        os.kill(pid, number)
    assert service.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in service.log()


# --- workers that die ---


def test_worker_that_is_killed_is_replaced_and_named_in_the_log(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "2")
    killed, other = children(service.process.pid)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: f"worker {killed} died (SIGKILL)" in service.log(), "it is in the log")

    def two_workers() -> list[int]:
        found = children(service.process.pid)
        return found if len(found) == 2 else []

    workers = eventually(two_workers, "another worker")
    assert other in workers
    assert killed not in workers
    # The new one answers, too: it is the only one that is not stopped.
    os.kill(other, signal.SIGSTOP)
    try:
        # Before every thread has stopped, one of them may still accept the connection.
        eventually(lambda: is_stopped(other), "the other worker stops")
        assert requests.get(f"{service.url}/brain/info").ok
    finally:
        os.kill(other, signal.SIGCONT)
    assert service.stop() == 0


def kill_all_workers(service: Service, killed: set[int], count: int) -> None:
    """Kill the workers, as soon as there are so many that were not killed yet."""

    def new_ones() -> set[int]:
        found = set(children(service.process.pid)) - killed
        return found if len(found) == count else set()

    for pid in eventually(new_ones, "new workers"):
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_service_that_answers_goes_on_however_often_its_worker_is_killed(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root)
    killed: set[int] = set()
    while len(killed) < 9:  # two more than what ends a service that never answers
        assert requests.get(f"{service.url}/brain/info").ok
        kill_all_workers(service, killed, 1)
    assert requests.get(f"{service.url}/brain/info").ok
    assert "workers die repeatedly; the next one starts in" in service.log()
    assert service.stop() == 0


@pytest.mark.long
def test_service_that_answered_once_is_not_ended_by_workers_that_die(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "2")
    assert requests.get(f"{service.url}/api/health").ok
    killed: set[int] = set()
    while len(killed) < 14:  # nobody asks in the meantime
        kill_all_workers(service, killed, 2)
    assert requests.get(f"{service.url}/brain/info").ok
    assert service.stop() == 0


@pytest.mark.long
def test_service_stops_at_once_while_it_waits_to_replace_workers(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root)
    assert requests.get(f"{service.url}/api/health").ok
    killed: set[int] = set()
    while "the next one starts in 1.0 s" not in service.log():
        kill_all_workers(service, killed, 1)
        deaths = len(killed)
        eventually(lambda: service.log().count(" died (SIGKILL)") == deaths, "it is noticed")  # noqa: B023
    assert service.stop() == 0
    assert children(service.process.pid) == []


def test_workers_that_die_before_the_first_answer_stop_the_service(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "2")
    ready = ready_file(service)
    assert ready.exists()
    killed: set[int] = set()

    def kill_new_ones() -> bool:
        for pid in children(service.process.pid):
            if pid not in killed:
                killed.add(pid)
                with suppress(ProcessLookupError):  # the supervisor was quicker
                    os.kill(pid, signal.SIGKILL)
        return service.process.poll() is not None

    eventually(kill_new_ones, "the service gives up")
    assert service.process.returncode == 1
    assert "workers die repeatedly" in service.log()
    assert not ready.exists()
    assert {state(pid) for pid in killed} == {""}


def test_supervisor_that_is_killed_takes_its_workers_with_it(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--workers", "3")
    workers = children(service.process.pid)
    service.process.kill()
    service.process.wait(PATIENCE_S)
    # Who inherits a dead process may never reap it.
    eventually(lambda: all(state(pid) in ("", "Z") for pid in workers), "the workers end")
    socket.create_server(("127.0.0.1", service.port)).close()


def is_stopped(pid: int) -> bool:
    return all(
        (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
        for thread in Path(f"/proc/{pid}/task").iterdir()
    )


def test_workers_share_the_load(root: Path, start_service: StartService) -> None:
    service = start_service(root, "--workers", "3")
    workers = children(service.process.pid)
    assert len(workers) == 3
    for answering in workers:
        stopped = [pid for pid in workers if pid != answering]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            # Before every thread has stopped, one of them may still accept the connection.
            eventually(lambda: all(map(is_stopped, stopped)), "the workers stop")  # noqa: B023
            assert requests.get(f"{service.url}/brain/info").ok
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert service.stop() == 0
    assert_calm(service)


def test_service_leaves_no_zombie_and_no_temporary_file(root: Path, tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path)}
    with running(neurotrale("serve", root, "--port", "0", "--workers", "2"), env) as service:
        requests.put(f"{service.url}/nothing", data=b"x" * 2**20)  # larger than what memory holds
        assert requests.get(f"{service.url}/large.bin").content.endswith(MARK)
        pids = [service.process.pid, *children(service.process.pid)]
        assert all(state(pid) not in ("", "Z") for pid in pids)
        assert service.stop() == 0
    assert {state(pid) for pid in pids} == {""}
    assert list(tmp_path.iterdir()) == []


def switches(pid: int) -> int:
    """How often the main thread of a process went to sleep."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[0])


def asleep(pids: list[int]) -> bool:
    before = list(map(switches, pids))
    time.sleep(0.2)
    return list(map(switches, pids)) == before


def test_idle_service_stops_in_order_when_ctrl_c_reaches_its_workers_too(dataset: Path) -> None:
    # A terminal sends SIGINT to all processes, and the supervisor adds SIGTERM: two at once.
    words = ("--port", "0", "--workers", "8", "--drain-timeout", "0")
    with running(["setsid", *neurotrale("serve", dataset.parent, *words)]) as service:
        workers = children(service.process.pid)
        assert len(workers) == 8
        eventually(lambda: asleep(workers), "the workers sleep")
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(PATIENCE_S) == 0
        assert "killing" not in service.log()


# --- what an administrator sees ---

FEW_FILES = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
runpy.run_module("neurotrale", run_name="__main__", alter_sys=True)
"""


def test_limit_of_open_files_that_is_too_small_is_logged_with_what_to_set(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, program=("-c", FEW_FILES))
    assert requests.get(f"{service.url}/api/health", timeout=PATIENCE_S).status_code == 200
    (line,) = [line for line in service.log().splitlines() if "--connections 500" in line]
    assert "each worker may open 300 files" in line
    assert "ulimit -n" in line
    assert "lower --connections to 44" in line
    service.stop()


ON_A_MOUNT = """
import os, sys
place, more = sys.argv[2], sys.argv[1:]
mount = 'mount -t tmpfs none "$1" && cp -r "$1-copy/." "$1" && shift && exec "$@"'
command = [sys.executable, "-m", "neurotrale", *more]
os.execvp("unshare", ["unshare", "-rm", "sh", "-c", mount, "sh", place, *command])
"""


def test_health_is_503_when_the_data_root_is_not_mounted_any_more(
    tmp_path: Path, start_service: StartService
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this system has no user namespaces for ordinary users")
    write_dataset(tmp_path / "data-copy" / "brain")
    (tmp_path / "data").mkdir()
    service = start_service(tmp_path / "data", program=("-c", ON_A_MOUNT))
    health = f"{service.url}/api/health"
    assert requests.get(health, timeout=PATIENCE_S).status_code == 200
    inside = ["nsenter", "--preserve-credentials", "-U", "-m", "-t", str(service.process.pid)]
    subprocess.run([*inside, "umount", "-l", str(tmp_path / "data")], check=True)
    refused = requests.get(health, timeout=PATIENCE_S)
    assert refused.status_code == 503
    assert "The data root is not mounted" in refused.json()["description"]
    assert "Retry-After" in refused.headers
    service.stop()
