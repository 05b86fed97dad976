"""More than the service can do, clients that are slow, files that change: nobody else suffers."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import requests

from neurotrale.locking.locks import make_lock
from tests.conftest import Service, StartService, answer, connect
from tests.datasets import ANNOTATIONS, write_dataset
from tests.processes import (
    PATIENCE_S,
    children,
    descriptors,
    environment,
    eventually,
    neurotrale,
    run,
)

FILE = "/brain/annotations/x0y0z0/fibers.json"
EDIT = f"{FILE}?id={ANNOTATIONS[0]['id']}"
CHUNK = "/brain/1_1_1/0-64_0-64_0-64"
BIG_BYTES = 64 * 2**20
MARK = b"the end"


def worker_of(service: Service) -> int:
    (worker,) = children(service.process.pid)
    return worker


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def assert_calm(service: Service) -> None:
    log = service.log()
    for word in ("Traceback", " ERROR ", " CRITICAL ", "disconnect"):
        assert word not in log, log


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("overload") / "data"
    write_dataset(place / "brain")
    write_big(place / "big.bin")
    return place


def write_big(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(BIG_BYTES - len(MARK))
        file.seek(0, os.SEEK_END)
        file.write(MARK)


# The program, with an application that answers /slow/ only when a file has gone.
SLOW = """
import os, time
from neurotrale.cli import main
from neurotrale.server import service

create_app = service.create_app

def create_slow(*arguments):
    app = create_app(*arguments)
    def slow(environ, start_response):
        while environ["PATH_INFO"] == "/slow" and os.path.exists(os.environ["SLOW_WHILE"]):
            time.sleep(0.01)
        return app(environ, start_response)
    return slow

service.create_app = create_slow
main()
"""


@pytest.fixture(scope="module")
def slow_while(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As long as this file is there, a request for /slow is not answered."""
    return tmp_path_factory.mktemp("slow") / "while"


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService, slow_while: Path) -> Iterator[Service]:
    """One worker with one thread: whoever blocks it, blocks everybody."""
    running = start_service(
        root,
        "--threads",
        "1",
        "--queue",
        "2",
        env={"SLOW_WHILE": str(slow_while)},
        program=("-c", SLOW),
    )
    yield running
    running.stop()


# --- a full queue ---


@contextmanager
def busy(service: Service, slow_while: Path) -> Iterator[list[socket.socket]]:
    """Keep the only thread busy, and the queue full.

    Gives connections on which a further request was refused, or waits for its turn.
    """
    with ExitStack() as stack:
        slow_while.touch()
        waiting = []
        try:
            for number in range(10):
                connection = stack.enter_context(closing(connect(service)))
                connection.sendall(request("GET", "/slow" if number < 4 else CHUNK))
                waiting.append(connection)
            yield waiting
        finally:
            slow_while.unlink()


def test_request_beyond_the_queue_is_503_at_once_in_json(
    service: Service, slow_while: Path
) -> None:
    with busy(service, slow_while) as waiting:
        # The thread is busy: an answer that waited for its turn would never come.
        refused = answer(waiting[-1])
        body = json.loads(refused.read())
        assert (refused.status, refused.will_close) == (503, False)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["Content-Type"] == "application/json"
        assert refused.headers["Access-Control-Allow-Origin"] == "*"
        assert refused.headers["Cache-Control"] == "no-store"
        assert "again" in str(body)
    eventually(lambda: requests.get(service.url + CHUNK).ok, "the service recovers")
    assert set(body) == set(requests.get(f"{service.url}/absent").json())  # the shape of all errors
    assert_calm(service)


def test_requests_that_found_a_place_in_the_queue_are_answered_in_the_end(
    service: Service, slow_while: Path
) -> None:
    with ExitStack() as stack:
        connections = []
        slow_while.touch()
        try:
            for _ in range(10):
                connection = stack.enter_context(closing(connect(service)))
                connection.sendall(request("GET", "/slow"))
                connections.append(connection)
            last = answer(connections.pop())
            assert last.status == 503
            last.read()
        finally:
            slow_while.unlink()
        answers = [answer(connection) for connection in connections]
        for one in answers:
            one.read()
        statuses = [one.status for one in answers]
        # One was taken up and two waited, unless they came before the thread was free.
        assert statuses.count(404) in (2, 3)
        assert statuses.count(503) == len(statuses) - statuses.count(404)
        assert statuses == sorted(statuses)
        for connection in connections:  # all of them are kept alive, the refused ones too
            connection.sendall(request("GET", CHUNK))
            kept = answer(connection)
            assert (kept.status, len(kept.read())) == (200, 64**3 * 2)
    assert_calm(service)


# --- writes that wait ---


def test_writes_that_wait_for_a_lock_hold_no_thread_and_are_all_applied(
    root: Path, start_service: StartService
) -> None:
    """The service has one thread: a write that held it would hold up every read."""
    service = start_service(root, "--threads", "1")
    path = service.root / FILE[1:]
    with ExitStack() as stack:
        connections = []
        with make_lock("flock", path):
            for number in range(20):
                connection = stack.enter_context(closing(connect(service)))
                edit = json.dumps({**ANNOTATIONS[0], "id": f"waits-{number}"}).encode()
                headers = ("Origin: http://localhost:8080",)
                connection.sendall(request("PATCH", f"{FILE}?id=waits-{number}", edit, *headers))
                connections.append(connection)
            for _ in range(20):
                with requests.Session() as others:
                    assert others.get(service.url + FILE).ok
                    assert others.get(f"{service.url}/api/health").ok
            assert b"waits-" not in path.read_bytes()
        answers = [answer(connection) for connection in connections]
        assert [one.status for one in answers] == [201] * 20
        etags = {one.headers["ETag"] for one in answers}
        assert len(etags) == 20
        for one in answers:
            one.read()
        current = requests.get(service.url + FILE, headers={"Accept-Encoding": "identity"})
        assert current.headers["ETag"] in etags
        assert {f"waits-{number}" for number in range(20)} <= {one["id"] for one in current.json()}
    assert_calm(service)


def test_scripts_are_refused_beyond_the_queue_of_a_file_and_viewers_are_not(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--queue", "2")
    path = service.root / FILE[1:]
    viewer = {"Origin": "http://localhost:8080"}
    with ThreadPoolExecutor(12) as pool, make_lock("flock", path):  # released before the pool ends

        def patch(headers: dict[str, str]) -> requests.Response:
            url = service.url + EDIT
            return requests.patch(url, json=ANNOTATIONS[0], headers=headers, timeout=PATIENCE_S)

        # One or two are taken up and wait for the lock, and at most two wait for those.
        scripts = [pool.submit(patch, {}) for _ in range(5)]
        done, _ = wait(scripts, PATIENCE_S, FIRST_COMPLETED)
        people = [pool.submit(patch, viewer) for _ in range(5)]
        refused = pool.submit(patch, {}).result()
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "--queue" in refused.text
        time.sleep(0.3)  # longer on a busy machine would only find more
        assert not any(one.done() for one in people)
    assert {one.result().status_code for one in done} == {503}
    assert sorted(one.result().status_code for one in scripts)[:2] == [200, 200]
    assert [one.result().status_code for one in people] == [200] * 5


# --- slow clients and large files ---


def test_client_that_reads_a_large_file_slowly_does_not_stall_others(service: Service) -> None:
    with closing(connect(service, receive_bytes=4096)) as slow:
        slow.sendall(request("GET", "/big.bin"))
        body = answer(slow)
        read = 0
        for _ in range(30):
            read += len(body.read(1000))
            with requests.Session() as others:
                assert len(others.get(service.url + CHUNK).content) == 64**3 * 2
                assert others.get(service.url + FILE).ok
        end = b""
        while block := body.read(2**20):
            read += len(block)
            end = (end + block)[-len(MARK) :]
        assert (read, end) == (BIG_BYTES, MARK)
    assert_calm(service)


@pytest.mark.parametrize(
    ("headers", "size", "read_all"),
    [
        pytest.param([], BIG_BYTES, True, id="whole"),
        pytest.param(["Range: bytes=1000-30000000"], 29_999_001, True, id="range"),
        pytest.param(["Range: bytes=-7"], len(MARK), True, id="end"),
        pytest.param([], BIG_BYTES, False, id="aborted"),
        pytest.param(["Range: bytes=1000-60000000"], 59_999_001, False, id="aborted-range"),
    ],
)
def test_large_file_leaves_nothing_open(
    service: Service, headers: list[str], size: int, read_all: bool
) -> None:
    for _ in range(3):
        with closing(connect(service)) as connection:
            connection.sendall(request("GET", "/big.bin", b"", *headers))
            with closing(answer(connection)) as body:  # it keeps the connection open, too
                assert int(body.headers["Content-Length"]) == size
                wanted = size if read_all else 1000
                assert len(body.read(wanted)) == wanted
    worker = worker_of(service)
    eventually(
        lambda: not any(name.endswith("big.bin") for name in descriptors(worker)),
        "the file is closed",
    )
    assert requests.get(service.url + CHUNK).ok
    assert_calm(service)


def test_head_and_304_of_a_large_file_leave_nothing_open(service: Service) -> None:
    url = f"{service.url}/big.bin"
    tag = requests.head(url).headers["ETag"]
    assert requests.get(url, headers={"If-None-Match": tag}).status_code == 304
    assert requests.get(url, headers={"Range": f"bytes={BIG_BYTES}-"}).status_code == 416
    assert not any(name.endswith("big.bin") for name in descriptors(worker_of(service)))


def test_file_truncated_while_it_is_sent_closes_the_connection(
    service: Service, root: Path
) -> None:
    write_big(root / "shrinks.bin")
    with closing(connect(service, receive_bytes=4096)) as connection:
        connection.sendall(request("GET", "/shrinks.bin"))
        body = answer(connection)
        body.read(1000)
        os.truncate(root / "shrinks.bin", 1000)
        # The client must not take what came for the whole.
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            body.read()
    worker = worker_of(service)
    eventually(
        lambda: not any(name.endswith("shrinks.bin") for name in descriptors(worker)),
        "the file is closed",
    )
    assert requests.get(service.url + CHUNK).ok
    assert worker_of(service) == worker


def test_five_hundred_requests_open_nothing_more(service: Service) -> None:
    worker = worker_of(service)
    paths = (CHUNK, FILE, "/brain/info", "/brain/1_1_1/64-100_64-90_64-70", "/absent", "/brain/")

    def files() -> list[str]:
        return [name for name in descriptors(worker) if not name.startswith("socket:")]

    with requests.Session() as session:
        for path in paths:
            session.get(service.url + path)
        before = files()
        for number in range(500):
            session.get(service.url + paths[number % len(paths)])
    eventually(lambda: files() == before, "nothing more is open")
    assert_calm(service)


# --- a Unix socket ---


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def get(path: Path, url: str) -> tuple[int, bytes]:
    with closing(UnixConnection(path)) as connection:
        connection.request("GET", url)
        response = connection.getresponse()
        return response.status, response.read()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


StartUnix = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start(root: Path, place: Path) -> Iterator[StartUnix]:
    """Start a service on the socket, and wait for its ready file."""
    with ExitStack() as stack:

        def start() -> subprocess.Popen[bytes]:
            ready = place / "ready.json"
            ready.unlink(missing_ok=True)
            process = stack.enter_context(
                subprocess.Popen(
                    neurotrale(
                        "serve", root, "--unix-socket", place / "s", "--ready-file", ready,
                        "--workers", "1",
                    ),
                    env=environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
            stack.callback(process.terminate)
            eventually(lambda: ready.exists() or process.poll() is not None, "it starts")
            assert process.poll() is None
            return process

        yield start


def test_unix_socket_is_for_its_owner_alone_and_goes_at_the_end(
    place: Path, start: StartUnix
) -> None:
    process = start()
    path = place / "s"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    facts = json.loads((place / "ready.json").read_text())
    assert facts["socket"] == str(path)
    assert facts["pid"] == process.pid
    assert facts["url"].startswith("http+unix://")
    assert "port" not in facts
    status, body = get(path, "/brain/info")
    assert (status, json.loads(body)["data_type"]) == (200, "uint16")
    assert len(get(path, CHUNK)[1]) == 64**3 * 2
    assert get(path, "/absent")[0] == 404
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    assert list(place.iterdir()) == []


def test_unix_socket_of_a_service_that_was_killed_is_replaced(
    place: Path, start: StartUnix
) -> None:
    killed = start()
    (worker,) = children(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait(PATIENCE_S)
    eventually(lambda: not Path(f"/proc/{worker}").exists(), "its worker goes with it")
    assert (place / "s").is_socket()
    process = start()
    assert get(place / "s", "/brain/info")[0] == 200
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    assert not (place / "s").exists()


def test_unix_socket_of_a_running_service_is_refused_and_left_alone(
    root: Path, place: Path, start: StartUnix
) -> None:
    start()
    second = run(neurotrale("serve", root, "--unix-socket", place / "s"))
    assert second.returncode != 0
    assert f"Another service listens on the socket {place / 's'}" in second.stderr
    assert "Traceback" not in second.stderr
    assert get(place / "s", "/brain/info")[0] == 200


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("file", id="a-file-is-there"),
        pytest.param("absent/s", id="no-such-directory"),
        pytest.param("x" * 150, id="name-too-long"),
    ],
)
def test_unix_socket_that_cannot_be_is_refused_in_a_sentence(
    root: Path, place: Path, name: str
) -> None:
    (place / "file").write_text("precious")
    refused = run(neurotrale("serve", root, "--unix-socket", place / name))
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert str(place / name) in refused.stderr.replace("\n", "")
    assert (place / "file").read_text() == "precious"


# --- memory ---


def test_request_for_which_memory_does_not_suffice_is_503_and_the_next_is_answered(
    tmp_path: Path, start_service: StartService
) -> None:
    root = tmp_path / "data"
    path = write_dataset(root / "brain") / "annotations/x0y0z0/fibers.json"
    large = [{"id": str(number), "note": "x" * 2**20} for number in range(64)]
    path.write_text(json.dumps(large))
    service = start_service(root)
    (worker,) = children(service.process.pid)
    url = f"{service.url}/{path.relative_to(root)}"
    assert requests.get(f"{service.url}/brain/info", timeout=PATIENCE_S).ok
    used = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (used + 2**24, resource.RLIM_INFINITY))
    answer = requests.get(url, timeout=PATIENCE_S)
    assert (answer.status_code, answer.json()["title"]) == (503, "Out of memory")
    assert "Retry-After" in answer.headers
    assert requests.get(f"{service.url}/brain/info", timeout=PATIENCE_S).ok
    resource.prlimit(worker, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert requests.get(url, timeout=PATIENCE_S).ok
    assert "out of memory on GET" in service.log()
