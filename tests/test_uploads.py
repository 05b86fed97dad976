"""Uploads: refused by their headers alone, kept where there is room, and answered in every case."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import unquote_to_bytes

import falcon.testing
import pytest
import requests

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.writes import AnnotationWriter, FileWriter
from neurotrale.errors import DiskFullError, StartError
from neurotrale.locking.locks import Locks
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.descriptors import PATH_FLAGS, Directory
from neurotrale.storage.spool import (
    ALL_MEMORY_BYTES,
    MEMORY_BYTES,
    SMALL_BYTES,
    STALE_S,
    Body,
    Spool,
    _make_file,
)
from neurotrale.tokens.watch import SharedTokens, watch_in_background
from neurotrale.web.admission import Admission
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from neurotrale.web.error_handlers import TABLE
from neurotrale.web.routes import ROUTES
from tests.conftest import Service, StartService, answer, connect
from tests.datasets import ANNOTATIONS, write_dataset
from tests.disks import disk_of, fill
from tests.processes import children, eventually, names_in, neurotrale, run

NO_WRITER: AnnotationWriter = FileWriter(FileChanges(Locks("none", 0), Contents()))
"""A writer that nobody calls."""

MIB = 2**20
FILE = "/brain/annotations/x0y0z0/fibers.json"
OTHER = "/brain/annotations/x0y0z0/other.json"
ANNA, GUEST = "anna-token-1234567", "guest-token-123456"
TOKENS = f"anna:rw:{ANNA}\nguest:ro:{GUEST}\n"


def large_body(size: int) -> bytes:
    """A file of annotations of a size."""
    return json.dumps(ANNOTATIONS).encode().ljust(size)


def head(method: str, target: str, *headers: str) -> bytes:
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: localhost",
        "Origin: http://localhost",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


# --- what is refused ---


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("uploads") / "data"
    write_dataset(place / "brain")
    return place


@pytest.fixture(scope="module")
def services(root: Path, start_service: StartService) -> dict[str, Service]:
    tokens = root.parent / "tokens"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    limit = ("--max-body-mb", "4")
    return {
        "open": start_service(root, *limit),
        "guarded": start_service(root, *limit, "--token-file", str(tokens)),
        "read-only": start_service(root, *limit, "--read-only"),
    }


@dataclass(frozen=True)
class Refused:
    """A request whose body is not wanted.

    Attributes:
        service: Which service refuses it.
        status: The status of the answer.
        says: Words of the answer.
        size: The size of its body.
    """

    service: str
    method: str
    target: str
    status: int
    says: str
    headers: tuple[str, ...] = ()
    size: int = 3 * MIB


SESSION = "/as/s-0123456789abcdef"
WITHIN = 3 * MIB
REFUSED = {
    "no-token": Refused("guarded", "PUT", FILE, 401, "requires a token"),
    "no-token-for-get": Refused("guarded", "GET", FILE, 401, "requires a token"),
    "wrong-token": Refused("guarded", "PUT", f"/token/{'x' * 20}{FILE}", 401, "not valid"),
    "wrong-bearer": Refused(
        "guarded", "PUT", FILE, 401, "not valid", ("Authorization: Bearer no-such-token-here",)
    ),
    "two-tokens": Refused("guarded", "PUT", f"/token/{ANNA}{FILE}?token={GUEST}", 401, "several"),
    "ro-token-in-path": Refused("guarded", "PUT", f"/token/{GUEST}{FILE}", 403, "read-only"),
    "ro-token-in-query": Refused("guarded", "PUT", f"{FILE}?token={GUEST}", 403, "read-only"),
    "ro-token-in-header": Refused(
        "guarded", "PATCH", f"{FILE}?id=a", 403, "read-only", (f"Authorization: Bearer {GUEST}",)
    ),
    "ro-token-before-session": Refused(
        "guarded", "PUT", f"/token/{GUEST}{SESSION}/voxels{FILE}", 403, "read-only"
    ),
    "read-only-service": Refused("read-only", "PUT", FILE, 403, "--read-only"),
    "no-annotation-file": Refused("open", "PUT", "/brain/info", 405, "annotation files"),
    "chunk": Refused("open", "PUT", "/brain/1_1_1/0-64_0-64_0-64", 405, "annotation files"),
    "health": Refused("guarded", "PUT", "/api/health", 405, "annotation files"),
    "behind-a-session": Refused("open", "PUT", f"{SESSION}/voxels/api/x.json", 405, "only GET"),
    "post": Refused("open", "POST", FILE, 405, "supports only"),
    "unknown-method": Refused("open", "BREW", FILE, 405, "supports only"),
    "hidden-name": Refused("open", "PUT", "/brain/annotations/.x/a.json", 404, "nothing at"),
    "long-name": Refused("open", "PUT", f"/brain/annotations/{'b' * 256}/a.json", 414, "too long"),
    "too-large": Refused("open", "PUT", FILE, 413, "--max-body-mb", size=5 * MIB),
    "patch-too-large": Refused("open", "PATCH", f"{FILE}?id=a", 413, "--max-body-mb", size=5 * MIB),
    "too-large-with-token": Refused(
        "guarded", "PUT", f"/token/{ANNA}{FILE}", 413, "--max-body-mb", size=5 * MIB
    ),
    "get-with-a-body": Refused("open", "GET", FILE, 413, "A GET takes no body"),
    "delete-with-a-body": Refused("open", "DELETE", f"{FILE}?id=a", 413, "DELETE takes no body"),
    "post-with-a-body": Refused("open", "POST", f"{FILE}/restore", 413, "POST takes no body"),
}
refused = pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)


def assert_refused(case: Refused, response: http.client.HTTPResponse) -> None:
    body = response.read()
    assert response.status == case.status, body
    assert case.says in json.loads(body)["description"]
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Connection"] == "close"
    assert (response.status == 405) == ("Allow" in response.headers)


def assert_calm(services: dict[str, Service]) -> None:
    for service in services.values():
        for word in ("Traceback", " CRITICAL ", "xception"):
            assert word not in service.log()
        assert requests.get(f"{service.url}/api/health").ok


@refused
def test_request_is_refused_before_its_client_is_told_to_go_on(
    services: dict[str, Service], case: Refused
) -> None:
    with closing(connect(services[case.service])) as connection:
        framing = (f"Content-Length: {case.size}", "Expect: 100-continue")
        connection.sendall(head(case.method, case.target, *case.headers, *framing))
        assert_refused(case, answer(connection))  # 100 would be another status
        assert connection.recv(1) == b""


@refused
def test_client_that_sends_all_before_it_reads_gets_the_answer(
    services: dict[str, Service], case: Refused
) -> None:
    with closing(connect(services[case.service])) as connection:
        framing = f"Content-Length: {case.size}"
        connection.sendall(head(case.method, case.target, *case.headers, framing))
        for _ in range(case.size // MIB):
            connection.sendall(b" " * MIB)
        assert_refused(case, answer(connection))
        assert connection.recv(1) == b""


@refused
def test_body_in_chunks_is_refused_as_soon_as_that_is_known(
    services: dict[str, Service], case: Refused
) -> None:
    with closing(connect(services[case.service])) as connection:
        chunked = "Transfer-Encoding: chunked"
        connection.sendall(head(case.method, case.target, *case.headers, chunked))
        for _ in range(case.size // MIB):
            connection.sendall(b"%x\r\n" % MIB + b" " * MIB + b"\r\n")
        assert_refused(case, answer(connection))  # of a body without an end
        assert connection.recv(1) == b""


def test_nothing_was_changed_and_nothing_is_left(services: dict[str, Service], root: Path) -> None:
    before = (root / FILE[1:]).read_bytes()
    with closing(connect(services["open"])) as connection:
        connection.sendall(head("PUT", FILE, f"Content-Length: {2**40}"))
        assert answer(connection).status == 413
    assert (root / FILE[1:]).read_bytes() == before
    assert_calm(services)


@pytest.mark.parametrize("size", [0, 100, 2**16])
def test_connection_of_a_short_body_that_is_refused_is_kept(
    services: dict[str, Service], size: int
) -> None:
    with closing(connect(services["guarded"])) as connection:
        for _ in range(2):
            connection.sendall(head("PUT", FILE, f"Content-Length: {size}") + b" " * size)
            response = answer(connection)
            assert (response.status, "Connection" in response.headers) == (401, False)
            response.read()


@pytest.mark.parametrize("status", [401, 413])
@pytest.mark.parametrize("program", ["curl", "requests", "chunks"])
def test_usual_clients_get_the_answer(
    services: dict[str, Service], tmp_path: Path, program: str, status: int
) -> None:
    service = services["guarded"]
    url = f"{service.url}{FILE}" if status == 401 else f"{service.url}/token/{ANNA}{FILE}"
    body = b" " * (6 * MIB)
    if program == "curl":
        (tmp_path / "body").write_bytes(body)
        # An empty Expect: curl sends the body at once, as browsers do.
        command = ["curl", "-sS", "-T", str(tmp_path / "body"), "-H", "Expect:", url]
        done = subprocess.run([*command, "-w", "\n%{http_code}"], capture_output=True, text=True)
        text, _, code = done.stdout.rpartition("\n")
        assert int(code) == status, done.stderr
    else:
        data = (
            body
            if program == "requests"
            else (body[at : at + MIB] for at in range(0, 6 * MIB, MIB))
        )
        got = requests.put(url, data=data)
        text, code = got.text, str(got.status_code)
        assert got.status_code == status
    assert "token" in text if status == 401 else "--max-body-mb" in text


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b" " * MIB)


def test_client_that_never_ends_is_cut_off_and_can_read_the_answer(
    services: dict[str, Service],
) -> None:
    case = REFUSED["no-token"]
    with closing(connect(services["guarded"])) as connection:
        connection.sendall(head("PUT", FILE, f"Content-Length: {2**40}"))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            send_for_ever(connection)
        assert_refused(case, answer(connection))


def test_client_that_waits_after_the_answer_is_cut_off(services: dict[str, Service]) -> None:
    with closing(connect(services["guarded"])) as connection:
        connection.sendall(head("PUT", FILE, f"Content-Length: {2**40}"))
        assert answer(connection).status == 401

        def is_closed() -> bool:
            try:
                connection.sendall(b" ")
            except OSError:
                return True
            return False

        eventually(is_closed, "the connection is closed")


@pytest.mark.long
def test_stopping_waits_for_a_refused_body_for_a_moment_only(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--read-only")
    with closing(connect(service)) as connection:
        connection.sendall(head("PUT", FILE, f"Content-Length: {2**40}"))
        assert answer(connection).status == 403
        assert service.stop() == 0


def test_request_behind_a_refused_body_is_not_made_of_the_body(
    services: dict[str, Service], root: Path
) -> None:
    hidden = head("PUT", OTHER, "Content-Length: 2") + b"[]"
    with closing(connect(services["open"])) as connection:
        connection.sendall(head("PUT", "/brain/info", "Content-Length: 100000") + hidden)
        assert answer(connection).status == 405
    with closing(connect(services["open"])) as connection:
        connection.sendall(
            head("GET", "/brain/info") + head("PUT", "/brain/info", "Content-Length: 100000")
        )
        connection.sendall(hidden)
        answers = b""
        while piece := connection.recv(2**16):
            answers += piece
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"405"]
    assert not (root / OTHER[1:]).exists()


# --- admission and application say the same ---

METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE")
SAMPLES = {
    "{dataset}": "brain", "{scale}": "1_1_1", "{chunk}": "0-64_0-64_0-64", "{block}": "x0y0z0",
    "{leaf}": "fibers", "{kind}": "points", "{number}": "1", "{level}": "0", "{cell}": "0_0_0",
    "{asset}": "main.js", "{directory}": "brain", "{file}": "brain/info", "{revision}": "1",
}  # fmt: skip
PLACES = sorted(
    {re.sub(r"{\w+}", lambda match: SAMPLES[match[0]], row.template.rstrip("?")) for row in ROUTES}
    | {"/brain//annotations//x0y0z0/fibers.json", "/ui/annotations/x0y0z0/a.json", "/.x/a.json"}
    | {"/viewer/annotations/x0y0z0/a.json", "/br%C3%A4in/annotations/x0y0z0/a.json", "//", "/%00"}
)
PREFIXES = ("", SESSION, f"{SESSION}/voxels", f"/token/{ANNA}", f"/token/{ANNA}{SESSION}/voxels")


@pytest.fixture(scope="module")
def tokens_of(root: Path) -> SharedTokens:
    path = root.parent / "more-tokens"
    path.write_text(TOKENS)
    path.chmod(0o600)
    return watch_in_background(path)


@pytest.mark.quick(3)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("query", ["", "position=1,1,1"])
def test_application_refuses_the_methods_that_are_not_admitted(
    root: Path, tokens_of: SharedTokens, prefix: str, query: str
) -> None:
    tokens = tokens_of if "token" in prefix else None
    token_file = root.parent / "more-tokens" if tokens else None
    settings = AppSettings(root, read_only=True, token_file=token_file)
    client = falcon.testing.TestClient(create_app(settings, tokens))
    # A writer, as otherwise the service would refuse what it could not change.
    writable = Admission(tokens, NO_WRITER, MIB, has_ui=False)
    for method in METHODS:
        for place in PLACES:
            got = client.simulate_request(method, prefix + place, query_string=query, body=b"{}")
            path = unquote_to_bytes(prefix + place).decode("latin-1")
            refusal = writable.admit(method, path, query, {"CONTENT_LENGTH": "2"})
            if isinstance(refusal, falcon.HTTPMethodNotAllowed):
                assert got.status_code == 405
                assert got.headers["Allow"] == dict(refusal.headers or {})["Allow"]
            elif refusal is not None:
                assert got.status_code == int(TABLE[type(refusal)][0].split()[0])
            elif "voxels" not in prefix:  # which might be the name of a dataset
                assert got.status_code != 405


def test_admission_asks_the_system_for_nothing(tokens_of: SharedTokens) -> None:
    called: set[str] = set()

    def note(frame: FrameType, event: str, function: object) -> None:
        if event == "c_call":
            called.add(f"{getattr(function, '__module__', None)}.{function!r}")

    admissions = {
        "open": Admission(None, NO_WRITER, 4 * MIB, has_ui=False),
        "guarded": Admission(tokens_of, NO_WRITER, 4 * MIB, has_ui=False),
        "read-only": Admission(None, None, 4 * MIB, has_ui=False),
    }
    found = {}
    sys.setprofile(note)
    try:
        for name, case in REFUSED.items():
            path, _, query = case.target.partition("?")
            headers = dict(line.split(": ") for line in case.headers)
            headers = {key.upper(): value for key, value in headers.items()}
            found[name] = admissions[case.service].admit(
                case.method, path, query, {**headers, "CONTENT_LENGTH": str(case.size)}
            )
    finally:
        sys.setprofile(None)
    assert [name for name, refusal in found.items() if refusal is None] == []
    assert {
        name for name in called if name.startswith(("posix.", "io.", "_io.", "socket."))
    } == set()


# --- where bodies wait ---


def put_in_chunks(url: str, body: bytes) -> requests.Response:
    return requests.put(url, data=(body[at : at + MIB] for at in range(0, len(body), MIB)))


def put_whole(url: str, body: bytes) -> requests.Response:
    return requests.put(url, data=body)


Put = Callable[[str, bytes], requests.Response]


@pytest.fixture(scope="module")
def cramped(
    tmp_path_factory: pytest.TempPathFactory, root: Path, start_service: StartService
) -> Iterator[Service]:
    """A service whose temporary directory is full."""
    with disk_of(tmp_path_factory.mktemp("cramped") / "tmp", "64m") as disk:
        fill(disk)
        service = start_service(root, env={"TMPDIR": str(disk)})
        yield service
        service.stop()


@pytest.mark.quick(3)
@pytest.mark.parametrize("put", [put_whole, put_in_chunks])
@pytest.mark.parametrize("size", [600_000, MEMORY_BYTES + 1, 20 * MIB])
def test_full_temporary_directory_loses_no_save(
    cramped: Service, root: Path, put: Put, size: int
) -> None:
    body = large_body(size)
    before = names_in((root / FILE[1:]).parent)
    assert put(f"{cramped.url}{FILE}", body).ok
    assert (root / FILE[1:]).read_bytes() == body
    left = names_in((root / FILE[1:]).parent) - before
    assert {name for name in left if not name.startswith(".fibers.json.")} == set()
    assert "Traceback" not in cramped.log()


def test_first_file_of_a_new_block_needs_no_temporary_directory(
    cramped: Service, root: Path
) -> None:
    path = "brain/annotations/x7y0z0/fibers.json"
    assert requests.put(f"{cramped.url}/{path}", data=large_body(17 * MIB)).status_code == 201
    assert (root / path).stat().st_size == 17 * MIB


@pytest.mark.long
def test_file_of_the_block_at_a_position_needs_no_temporary_directory(
    cramped: Service, root: Path
) -> None:
    url = f"{cramped.url}/brain/annotations/fibers.json?position=1,1,1"
    assert requests.put(url, data=large_body(17 * MIB)).ok


def test_body_that_has_no_room_anywhere_is_507_with_a_sentence(
    tmp_path: Path, start_service: StartService
) -> None:
    with (
        disk_of(tmp_path / "tmp", "4m") as spool,
        disk_of(tmp_path / "data", "8m") as data,
    ):
        write_dataset(data / "brain")
        before = (data / FILE[1:]).read_bytes()
        free = free_bytes(spool), free_bytes(data)
        service = start_service(data, "--spool", str(spool))
        url = f"{service.url}{FILE}"
        for put in (put_whole, put_in_chunks):
            got = put(url, large_body(20 * MIB))
            assert got.status_code == 507
            for word in ("--spool", "No space left", "Nothing was changed"):
                assert word in got.json()["description"]
        assert (data / FILE[1:]).read_bytes() == before
        eventually(lambda: free_bytes(spool) == free[0], "its room is free again")
        assert requests.put(url, data=large_body(600_000)).ok
        assert "Traceback" not in service.log()
        service.stop()


def begin_upload(service: Service, path: str, size: int, sent: int) -> socket.socket:
    """Send a part of a body."""
    connection = connect(service)
    connection.sendall(head("PUT", path, f"Content-Length: {size}"))
    for _ in range(sent // MIB):
        connection.sendall(b" " * MIB)
    return connection


def test_upload_of_a_service_that_is_killed_leaves_nothing(
    tmp_path: Path, start_service: StartService
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    block = (tmp_path / "data" / FILE[1:]).parent
    names = names_in(block)
    with disk_of(tmp_path / "spool", "64m") as disk:
        free = free_bytes(disk)
        service = start_service(tmp_path / "data", "--spool", str(disk))
        (worker,) = children(service.process.pid)
        with closing(begin_upload(service, FILE, 40 * MIB, 30 * MIB)):
            eventually(lambda: free_bytes(disk) < free - 20 * MIB, "it waits on the disk")
            assert os.listdir(disk) == []  # without a name
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: free_bytes(disk) == free, "its room is free again")
        assert names_in(block) == names
        service.stop()


def test_upload_whose_client_goes_away_leaves_nothing(
    tmp_path: Path, start_service: StartService
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    with disk_of(tmp_path / "spool", "64m") as disk:
        free = free_bytes(disk)
        service = start_service(tmp_path / "data", "--spool", str(disk))
        with closing(begin_upload(service, FILE, 40 * MIB, 30 * MIB)):
            eventually(lambda: free_bytes(disk) < free - 20 * MIB, "it waits on the disk")
        eventually(lambda: free_bytes(disk) == free, "its room is free again")
        service.stop()


def test_uploads_without_a_token_fill_no_directory(
    tmp_path: Path, start_service: StartService
) -> None:
    write_dataset(tmp_path / "data" / "brain")
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    with disk_of(tmp_path / "tmp", "64m") as disk:
        service = start_service(
            tmp_path / "data", "--token-file", str(tokens), env={"TMPDIR": str(disk)}
        )
        free = free_bytes(disk)
        targets = [FILE, f"/token/{GUEST}{FILE}", "/api/health", "/brain/1_1_1/0-64_0-64_0-64"]
        connections = [begin_upload(service, target, 60 * MIB, 7 * MIB) for target in targets]
        for connection in connections:
            assert answer(connection).status in (401, 403, 405)
            assert free_bytes(disk) > free - MIB  # counts take a little
            connection.close()
        service.stop()


def test_directory_for_uploads_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data" / "brain")
    missing = tmp_path / "missing"
    done = run(neurotrale("serve", tmp_path / "data", "--port", "0", "--spool", missing))
    assert done.returncode != 0
    for word in (str(missing), "--spool", "No such file"):
        assert word in done.stderr
    with pytest.raises(StartError, match="--spool"):
        Spool(tmp_path / "data" / "brain" / "info").check()


# --- the buffer ---


def read(body: Body) -> bytes:
    return body.getfile().read()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES + 1, MEMORY_BYTES, MEMORY_BYTES + 1])
def test_body_is_read_as_it_was_appended(tmp_path: Path, size: int, known: bool) -> None:
    content = os.urandom(size)
    body = Spool(tmp_path).body(size if known else 0, tuple)
    for at in range(0, size, 100_003):
        body.append(content[at : at + 100_003])
    assert len(body) == size
    assert body.getfile() is body.getfile()
    assert read(body) == content
    assert os.listdir(tmp_path) == []
    body.close()
    body.close()


def test_body_moves_on_to_where_there_is_room_with_all_that_it_has(tmp_path: Path) -> None:
    data = DataRoot(tmp_path / "data")
    (tmp_path / "data/brain/annotations").mkdir(parents=True)
    content = os.urandom(30 * MIB)
    with disk_of(tmp_path / "spool", "24m") as disk:
        body = Spool(disk, data).body(0, lambda: ("brain", "annotations", "x0y0z0"))
        for at in range(0, len(content), MIB):
            body.append(content[at : at + MIB])
        assert free_bytes(disk) == 24 * MIB
        assert read(body) == content
        body.close()


def test_bodies_of_all_requests_take_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    piece = b" " * (8 * MIB)
    bodies = []
    for _ in range(2 * ALL_MEMORY_BYTES // len(piece)):
        bodies.append(spool.body(0, tuple))
        bodies[-1].append(piece)
    kept = [body for body in bodies if type(body.getfile()).__name__ == "BytesIO"]
    assert len(kept) == ALL_MEMORY_BYTES // len(piece)
    assert all(len(read(body)) == len(piece) for body in bodies)
    bodies[0].close()
    del kept, bodies[1]
    for _ in range(2):
        bodies.append(spool.body(0, tuple))
        bodies[-1].append(piece)
        assert type(bodies[-1].getfile()).__name__ == "BytesIO"


def test_body_without_any_place_is_an_error_that_says_so() -> None:
    body = Spool().body(0, tuple)
    with pytest.raises(DiskFullError, match="no directory can be used"):
        body.append(b" " * (MEMORY_BYTES + 1))


class OfAnOldKind(Directory):
    """A directory of a file system that makes no files without a name."""

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, os.strerror(95))
        return super().open(name, flags, mode)


def test_file_system_without_nameless_files_keeps_no_names_of_ours(tmp_path: Path) -> None:
    ours = ".neurotrale-upload-0123456789abcdef"
    names = {
        "stale": (tmp_path / ours, b"", True),
        "new": (tmp_path / f"{ours[:-1]}e", b"", False),
        "not empty": (tmp_path / f"{ours[:-1]}d", b"data", True),
        "of another name": (tmp_path / ".neurotrale-upload-notes", b"", True),
    }
    for path, content, is_old in names.values():
        path.write_bytes(content)
        if is_old:
            os.utime(path, (0, time.time() - 2 * STALE_S))
    (tmp_path / f"{ours[:-1]}c").symlink_to("elsewhere")
    before = set(os.listdir(tmp_path))
    descriptor = _make_file(OfAnOldKind(os.open(tmp_path, PATH_FLAGS), str(tmp_path)))
    assert os.write(descriptor, b"hello") == 5
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)
    assert before - set(os.listdir(tmp_path)) == {ours}
    assert set(os.listdir(tmp_path)) <= before
