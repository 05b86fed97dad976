"""HTTP itself: methods, CORS, errors, conditions, ranges, codings. No test here looks at data."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import imagecodecs
import pytest

from tests.conftest import Service, StartService
from tests.datasets import gradient, wait_until_settled, write_dataset

CHUNK = "/brain/1_1_1/64-100_64-90_64-70"
ANNOTATIONS = "/brain/annotations/x0y0z0/fibers.json"
ORIGIN = "https://viewer.example.org"
BODY = bytes(range(200))
TEXT = b"".join(b"line %d\n" % i for i in range(500))

WHEREVER_GET_WORKS = {
    "index": "/",
    "index.html": "/index.html",
    "directory": "/brain/",
    "redirect": "/brain",
    "file": "/plain.bin",
    "empty-file": "/empty.bin",
    "twin": "/zipped",
    "info": "/brain/info",
    "chunk": CHUNK,
    "tiff": f"{CHUNK}.tiff",
    "annotations": ANNOTATIONS,
    "changes": f"{ANNOTATIONS}/changes?since=0",
    "one-annotation": f"{ANNOTATIONS}?id={'a' * 40}",
    "api-redirect": "/api",
    "api": "/api/",
    "openapi": "/api/openapi.json",
    "health": "/api/health",
    "asset": "/api/swagger-ui.css",
}
PATHS = [pytest.param(path, id=name) for name, path in WHEREVER_GET_WORKS.items()]

CHUNK_BODY = gradient((70, 90, 100))[64:70, 64:90, 64:100].tobytes()


@dataclass(frozen=True)
class Answer:
    """What came back, nothing decoded."""

    status: int
    headers: Message
    body: bytes

    def listed(self, header: str) -> set[str]:
        """Split all headers of a name at their commas, in lower case."""
        joined = ",".join(self.headers.get_all(header, []))
        return {item.strip().lower() for item in joined.split(",") if item.strip()}


def read_answer(connection: socket.socket, request: bytes) -> tuple[Answer, bool]:
    """Read the answer to a request that was sent; tell too whether the connection is kept."""
    method = request.partition(b" ")[0].decode("latin-1")
    with closing(HTTPResponse(connection, method=method)) as response:
        response.begin()
        answer = Answer(response.status, response.headers, response.read())
        return answer, not response.will_close


def exchange(port: int, request: bytes) -> Answer:
    """Send bytes exactly as they are over a connection of their own, and read one answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with suppress(ConnectionError):  # refused half-way: the answer is there all the same
            connection.sendall(request)
        return read_answer(connection, request)[0]


class Connections:
    """One connection after the other, each used for as long as the service keeps it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: socket.socket | None = None

    def exchange(self, request: bytes) -> Answer:
        """Send bytes exactly as they are, and read one answer."""
        if self._open is None:
            self._open = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        with suppress(ConnectionError):
            self._open.sendall(request)
        kept = False
        try:
            answer, kept = read_answer(self._open, request)
        finally:
            if not kept:
                self.close()
        return answer

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def compose(
    target: str | bytes,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes = b"",
) -> bytes:
    """Give a request with just these headers; nothing is normalised, nothing added."""
    raw_target = target if isinstance(target, bytes) else target.encode()
    fields = {"Host": "127.0.0.1", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return method.encode() + b" " + raw_target + b" HTTP/1.1\r\n" + head.encode() + b"\r\n" + body


def ask(
    service: Service,
    target: str | bytes,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes = b"",
) -> Answer:
    """Send a request with just these headers over a connection of its own."""
    return exchange(service.port, compose(target, headers, method=method, body=body))


def assert_problem(answer: Answer, *statuses: int, has_body: bool = True) -> None:
    """Check the one shape that every error has; the request must have named an origin."""
    assert answer.status in statuses, answer.body[:500]
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers
    assert "Content-Encoding" not in answer.headers
    if has_body:
        problem = json.loads(answer.body)
        assert set(problem) == {"title", "description"}
        assert all(isinstance(text, str) and text for text in problem.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("http") / "data"
    write_dataset(root / "brain")
    (root / "plain.bin").write_bytes(BODY)
    (root / "empty.bin").write_bytes(b"")
    (root / "text.txt").write_bytes(TEXT)
    (root / "zipped.gz").write_bytes(gzip.compress(TEXT))
    (root / "squeezed.br").write_bytes(imagecodecs.brotli_encode(TEXT))
    (root / "page.html").write_text("<script>alert(1)</script>")
    return root


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Service:
    service = start_service(root, "--max-body-mb", "1")
    wait_until_settled(root)
    return service


@pytest.fixture(scope="module")
def choosy_service(root: Path, start_service: StartService) -> Service:
    return start_service(root, "--cors-origins", f"{ORIGIN},http://localhost:8080")


# --- Methods ---


@pytest.mark.parametrize("path", PATHS)
def test_head_wherever_get_works_has_the_headers_of_get_and_no_body(
    service: Service, path: str
) -> None:
    get, head = ask(service, path), ask(service, path, method="HEAD")
    assert get.status in (200, 302)
    assert head.status == get.status
    assert head.body == b""
    ignored = {"date", "transfer-encoding", "content-length", "connection"}
    assert [(k, v) for k, v in head.headers.items() if k.lower() not in ignored] == [
        (k, v) for k, v in get.headers.items() if k.lower() not in ignored
    ]
    if "Content-Length" in get.headers:
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.parametrize("path", PATHS)
def test_options_wherever_get_works_names_the_methods(service: Service, path: str) -> None:
    answer = ask(service, path, method="OPTIONS")
    assert answer.status in (200, 204)
    assert answer.body == b""
    assert {"get", "head"} <= answer.listed("Allow")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_refused_with_the_allowed_ones(
    service: Service, path: str, method: str
) -> None:
    writable = path.partition("?")[0] == ANNOTATIONS
    if writable and method in ("PUT", "PATCH", "DELETE"):
        return  # what these do is a matter of the annotation tests
    answer = ask(service, path, {"Origin": ORIGIN}, method=method)
    assert_problem(answer, 405)
    writes = {"put", "patch", "delete"} if writable else set()
    assert answer.listed("Allow") == {"get", "head", "options"} | writes


def test_asterisk_form_gets_a_json_error(service: Service) -> None:
    assert_problem(ask(service, "*", {"Origin": ORIGIN}, method="OPTIONS"), 400, 404)


def test_absolute_form_of_the_target_is_understood(service: Service) -> None:
    assert ask(service, "http://elsewhere.example/plain.bin?x=y").body == BODY


def test_connection_is_kept_alive_between_answers(service: Service) -> None:
    request = b"GET /plain.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for _ in range(3):
            connection.sendall(request)
            with closing(HTTPResponse(connection)) as response:
                response.begin()
                assert response.read() == BODY


@pytest.mark.parametrize(
    ("request_line", "header", "kept"),
    [
        pytest.param("GET {} HTTP/1.1", "", True, id="kept"),
        pytest.param("HEAD {} HTTP/1.1", "", True, id="head"),
        pytest.param("GET {} HTTP/1.1", "Connection: close\r\n", False, id="asked-to-close"),
        pytest.param("GET {} HTTP/1.0", "", False, id="old"),
    ],
)
@pytest.mark.parametrize("path", ["/plain.bin", CHUNK, ANNOTATIONS, f"{ANNOTATIONS}/changes"])
def test_connection_is_kept_after_an_answer_without_a_body(
    service: Service, path: str, request_line: str, header: str, kept: bool
) -> None:
    tag = ask(service, path).headers["ETag"]
    line = request_line.format(path)
    request = f"{line}\r\nHost: localhost\r\nIf-None-Match: {tag}\r\n{header}\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for _ in range(2 if kept else 1):
            connection.sendall(request)
            answer, is_kept = read_answer(connection, request)
            assert (answer.status, answer.body, is_kept) == (304, b"", kept)
            assert ("Connection" in answer.headers) is not kept
        if not kept:
            assert connection.recv(1) == b""


# --- CORS ---


@pytest.mark.parametrize("path", PATHS)
def test_any_page_may_read_the_answer_and_the_headers_it_needs(service: Service, path: str) -> None:
    answer = ask(service, path, {"Origin": ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    exposed = answer.listed("Access-Control-Expose-Headers")
    assert {"etag", "content-range", "content-encoding", "content-length"} <= exposed


@pytest.mark.parametrize("path", PATHS)
def test_preflight_of_a_read_is_granted(service: Service, path: str) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "range,if-none-match",
    }
    answer = ask(service, path, asked, method="OPTIONS")
    assert answer.status in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert {"get", "head"} <= answer.listed("Access-Control-Allow-Methods")
    assert {"range", "if-none-match"} <= answer.listed("Access-Control-Allow-Headers")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path", [ANNOTATIONS, "/brain/annotations/x7y7z7/new.json"], ids=["there", "new"]
)
def test_preflight_of_a_write_is_granted_on_annotations(
    service: Service, path: str, method: str
) -> None:
    asked = {
        "Origin": "http://localhost:8080",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,if-match",
    }
    answer = ask(service, path, asked, method="OPTIONS")
    assert method.lower() in answer.listed("Access-Control-Allow-Methods")
    # "*" never covers Authorization: it must be named.
    assert {"authorization", "content-type", "if-match"} <= answer.listed(
        "Access-Control-Allow-Headers"
    )


def test_preflight_of_a_missing_file_is_granted_so_that_its_404_can_be_read(
    service: Service,
) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    answer = ask(service, "/brain/zarr.json", asked, method="OPTIONS")
    assert answer.status in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_preflight_for_a_private_network_is_granted(service: Service) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = ask(service, "/brain/info", asked, method="OPTIONS")
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


def test_preflight_without_private_network_does_not_mention_it(service: Service) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    answer = ask(service, "/brain/info", asked, method="OPTIONS")
    assert "Access-Control-Allow-Private-Network" not in answer.headers


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:8080"], ids=["first", "second"])
@pytest.mark.parametrize("path", ["/brain/info", "/none"], ids=["answer", "error"])
def test_origin_on_the_list_may_read(choosy_service: Service, path: str, origin: str) -> None:
    answer = ask(choosy_service, path, {"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "origin" in answer.listed("Vary")


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", f"{ORIGIN}.evil.example", f"{ORIGIN}:8080", ORIGIN.upper()],
    ids=["other", "null", "suffix", "port", "upper-case"],
)
@pytest.mark.parametrize("path", ["/brain/info", "/none"], ids=["answer", "error"])
def test_origin_not_on_the_list_may_not_read(
    choosy_service: Service, path: str, origin: str
) -> None:
    answer = ask(choosy_service, path, {"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "origin" in answer.listed("Vary")


def test_preflight_from_an_origin_not_on_the_list_is_not_granted(choosy_service: Service) -> None:
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = ask(choosy_service, ANNOTATIONS, asked, method="OPTIONS")
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_vary_keeps_the_coding_beside_the_origin(choosy_service: Service) -> None:
    answer = ask(choosy_service, "/zipped", {"Origin": ORIGIN, "Accept-Encoding": "gzip"})
    assert {"accept-encoding", "origin"} <= answer.listed("Vary")


# --- Errors ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/none", 404, id="file"),
        pytest.param("/none/", 404, id="directory"),
        pytest.param("/brain/1_1_1/900-964_0-64_0-64", 404, id="chunk"),
        pytest.param("/brain/1_1_1/900-964_0-64_0-64.tiff", 404, id="tiff"),
        pytest.param("/brain/annotations/x0y0z0/none.json", 404, id="annotations"),
        pytest.param(f"{ANNOTATIONS}?id=none", 404, id="annotation"),
        pytest.param(f"{ANNOTATIONS}?id=", 400, id="empty-id"),
        pytest.param("/api/none", 404, id="api"),
        pytest.param("/api/none/", 404, id="api-directory"),
        pytest.param(f"/{'n' * 300}", 414, id="long-name"),
    ],
)
def test_error_has_title_description_and_cors(
    service: Service, path: str, status: int, method: str
) -> None:
    answer = ask(service, path, {"Origin": ORIGIN}, method=method)
    assert_problem(answer, status, has_body=method == "GET")
    assert (answer.body == b"") == (method == "HEAD")


HEAD_END = f"Host: localhost\r\nOrigin: {ORIGIN}\r\n\r\n".encode()
PUT_LINE = f"PUT {ANNOTATIONS} HTTP/1.1\r\n".encode()
MALFORMED = [
    pytest.param(b"GARBAGE\r\n\r\n", 400, id="no-request-line"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, id="tls-hello"),
    pytest.param(b"get / HTTP/1.1\r\n" + HEAD_END, 400, id="lower-case-method"),
    pytest.param(b"GET /\xff\xfe HTTP/1.1\r\n" + HEAD_END, 400, id="target-not-ascii"),
    pytest.param(b"GET /a\x00b HTTP/1.1\r\n" + HEAD_END, 404, id="target-with-nul"),
    pytest.param(b"GET /brain?a\rb HTTP/1.1\r\n" + HEAD_END, 400, id="bare-cr"),
    pytest.param(b"GET /brain?a\nb HTTP/1.1\r\n" + HEAD_END, 400, id="bare-lf"),
    pytest.param(b"GET http://[bad/ HTTP/1.1\r\n" + HEAD_END, 400, id="target-no-url"),
    pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n" + HEAD_END, 400, id="header-without-colon"),
    pytest.param(b"GET / HTTP/1.1\r\nA B: c\r\n" + HEAD_END, 400, id="space-in-header-name"),
    pytest.param(b"GET / HTTP/1.1\r\nA: b\x00\r\n" + HEAD_END, 400, id="nul-in-header"),
    pytest.param(b"GET / HTTP/1.1\r\nContent-Length: x\r\n" + HEAD_END, 400, id="length-no-number"),
    pytest.param(b"GET / HTTP/1.1\r\nContent-Length: -1\r\n" + HEAD_END, 400, id="length-negative"),
    pytest.param(
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + HEAD_END,
        400,
        id="two-lengths",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + HEAD_END, 501, id="unknown-transfer"
    ),
    pytest.param(
        PUT_LINE + b"Transfer-Encoding: chunked\r\n" + HEAD_END + b"zz\r\n[]\r\n0\r\n\r\n",
        400,
        id="chunk-size-no-number",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\nA: " + b"a" * 300_000 + b"\r\n" + HEAD_END, 431, id="header-too-large"
    ),
    pytest.param(
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n" + HEAD_END, 431, id="target-too-large"
    ),
    pytest.param(
        PUT_LINE + b"Content-Length: 5000000\r\n" + HEAD_END, 413, id="announced-body-too-large"
    ),
    pytest.param(
        PUT_LINE + b"Content-Length: 5000000\r\n" + HEAD_END + b" " * 5_000_000,
        413,
        id="sent-body-too-large",
    ),
    pytest.param(
        PUT_LINE + b"Content-Length: %d\r\n" % (2**20 + 1) + HEAD_END + b" " * (2**20 + 1),
        413,
        id="body-one-byte-too-large",
    ),
    pytest.param(
        PUT_LINE
        + b"Transfer-Encoding: chunked\r\n"
        + HEAD_END
        + (b"80000\r\n" + b" " * 0x80000 + b"\r\n") * 4
        + b"0\r\n\r\n",
        413,
        id="chunked-body-too-large",
    ),
    pytest.param(
        PUT_LINE + b"Expect: 100-continue\r\nContent-Length: 5000000\r\n" + HEAD_END,
        413,
        id="expected-body-too-large",
    ),
]


@pytest.mark.parametrize(("request_bytes", "status"), MALFORMED)
def test_malformed_http_gets_a_json_error_and_no_traceback(
    service: Service, root: Path, request_bytes: bytes, status: int
) -> None:
    before = (root / "brain/annotations/x0y0z0/fibers.json").read_bytes()
    assert_problem(exchange(service.port, request_bytes), status)
    assert "Traceback" not in service.log()
    assert "uncaptured" not in service.log()
    assert (root / "brain/annotations/x0y0z0/fibers.json").read_bytes() == before
    assert ask(service, "/plain.bin").body == BODY  # and all is well


def test_body_of_just_the_largest_size_is_taken(service: Service, root: Path) -> None:
    body = b"[]".ljust(2**20)
    path = "/brain/annotations/x0y0z0/largest.json"
    assert ask(service, path, method="PUT", body=body).status == 201
    assert (root / path[1:]).read_bytes() == body


def test_error_on_a_kept_connection_leaves_the_next_request_whole(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        for target, status in ((b"/none", 404), (b"/plain.bin", 200)):
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with closing(HTTPResponse(connection)) as response:
                response.begin()
                assert (response.status, bool(response.read())) == (status, True)


@pytest.mark.parametrize("path", PATHS)
def test_browsers_are_told_not_to_guess_types(service: Service, path: str) -> None:
    answer = ask(service, path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert len(answer.headers.get_all("X-Content-Type-Options", [])) == 1


def test_html_among_the_data_runs_no_scripts(service: Service) -> None:
    assert "sandbox" in ask(service, "/page.html").headers["Content-Security-Policy"]


# --- Conditions ---

BODIES = {
    "file": ("/plain.bin", BODY),
    "twin-gz": ("/zipped", TEXT),
    "twin-br": ("/squeezed", TEXT),
    "chunk": (CHUNK, CHUNK_BODY),
    "tiff": (f"{CHUNK}.tiff", None),
    "info": ("/brain/info", None),
    "annotations": (ANNOTATIONS, None),
    "one-annotation": (f"{ANNOTATIONS}?id={'a' * 40}", None),
}
KINDS = [pytest.param(path, id=name) for name, (path, _) in BODIES.items()]


def test_bodies_are_what_is_stored(service: Service, root: Path) -> None:
    for path, body in BODIES.values():
        if body is not None:
            assert ask(service, path).body == body
    for path in (f"{CHUNK}.tiff", "/brain/info", ANNOTATIONS):
        assert ask(service, path).body == (root / path[1:]).read_bytes()


@pytest.mark.parametrize("path", KINDS)
def test_answer_has_validators_and_asks_to_revalidate(service: Service, path: str) -> None:
    answer = ask(service, path)
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["ETag"].endswith('"')
    assert answer.headers["Last-Modified"].endswith(" GMT")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("{}", id="same"),
        pytest.param("W/{}", id="weak"),
        pytest.param('"other", {}, W/"more"', id="in-a-list"),
        pytest.param("*", id="any"),
    ],
)
@pytest.mark.parametrize("path", KINDS)
def test_known_version_is_not_sent_again(
    service: Service, path: str, condition: str, method: str
) -> None:
    whole = ask(service, path)
    asked = {"If-None-Match": condition.format(whole.headers["ETag"]), "Origin": ORIGIN}
    answer = ask(service, path, asked, method=method)
    assert (answer.status, answer.body) == (304, b"")
    for header in ("ETag", "Cache-Control", "Vary", "Last-Modified"):
        assert answer.headers.get(header) == whole.headers.get(header)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    "condition",
    ['"other"', "other", "", '""', '"', "W/*", '"*"'],
    ids=["other", "unquoted", "empty", "empty-tag", "half", "weak-any", "quoted-any"],
)
def test_other_version_is_sent(service: Service, condition: str) -> None:
    answer = ask(service, "/plain.bin", {"If-None-Match": condition})
    assert (answer.status, answer.body) == (200, BODY)


@pytest.mark.parametrize("path", KINDS)
def test_file_not_changed_since_is_not_sent_again(service: Service, path: str) -> None:
    since = ask(service, path).headers["Last-Modified"]
    assert ask(service, path, {"If-Modified-Since": since}).status == 304
    assert ask(service, path, {"If-Modified-Since": formatdate(0, usegmt=True)}).status == 200


def test_date_is_told_only_when_it_identifies_the_version(
    tmp_path: Path, start_service: StartService
) -> None:
    root = tmp_path / "data"
    brain = write_dataset(root / "brain")
    plain = root / "plain.bin"
    plain.write_bytes(BODY)
    files = {f"/{plain.name}": plain}
    for path in (f"{CHUNK}.tiff", ANNOTATIONS):
        files[path] = root / path[1:]
    files[CHUNK] = files[f"{CHUNK}.tiff"]
    service = start_service(root)
    wait_until_settled(root)
    told = {path: ask(service, path).headers["Last-Modified"] for path in files}
    for path, date in told.items():
        assert ask(service, path, {"If-Modified-Since": date}).status == 304
        later = formatdate(time.time() + 3600, usegmt=True)
        assert ask(service, path, {"If-Modified-Since": later}).status == 200
    for path, file in files.items():  # restored with an older date, as from a backup
        other = file.with_name("other")
        other.write_bytes(file.read_bytes())
        os.utime(other, (1_000_000_000, 1_000_000_000))
        other.replace(file)
        answer = ask(service, path, {"If-Modified-Since": told[path]})
        assert answer.status == 200
        if time.time() < int(file.stat().st_ctime) + 1:  # it may change again within this second
            assert "Last-Modified" not in answer.headers
        now = formatdate(file.stat().st_ctime, usegmt=True)
        assert ask(service, path, {"If-Modified-Since": now}).status == 200
        assert ask(service, path, {"Range": "bytes=0-1", "If-Range": now}).status == 200
    wait_until_settled(brain)
    for path in files:
        again = ask(service, path, {"If-Modified-Since": told[path]})
        assert again.status == 200
        assert again.headers["Last-Modified"] != told[path]
    service.stop()


def test_etag_counts_more_than_the_date(service: Service) -> None:
    since = ask(service, "/plain.bin").headers["Last-Modified"]
    asked = {"If-None-Match": '"other"', "If-Modified-Since": since}
    assert ask(service, "/plain.bin", asked).status == 200


@pytest.mark.parametrize("header", ["If-Modified-Since", "If-Range"])
@pytest.mark.parametrize(
    "date",
    [
        pytest.param("", id="empty"),
        pytest.param("yesterday", id="word"),
        pytest.param("-1", id="number"),
        pytest.param("Mon, 32 Nov 1995 19:12:08 GMT", id="day-32"),
        pytest.param("Mon, 20 Nov 99999 19:12:08 GMT", id="year-99999"),
        pytest.param("Mon, 20 Nov 0000 19:12:08 GMT", id="year-0"),
        pytest.param("Mon, 20 Nov 1995 99:99:99 GMT", id="hour-99"),
        pytest.param("Mon, 20 Nov 1995 19:12:08 +99999999999999", id="far-zone"),
        pytest.param("Mon, 20 Nov 1995 19:12:08 +" + "9" * 400, id="absurd-zone"),
        pytest.param("Mon, 20 Nov " + "9" * 5000 + " 19:12:08 GMT", id="endless-year"),
    ],
)
def test_date_that_is_none_is_ignored(service: Service, header: str, date: str) -> None:
    answer = ask(service, "/plain.bin", {header: date, "Range": "bytes=0-0"})
    expected = (200, BODY) if header == "If-Range" else (206, BODY[:1])
    assert (answer.status, answer.body) == expected


@pytest.mark.parametrize("change", ["rewritten", "replaced", "appended", "touched"])
@pytest.mark.parametrize("name", ["file.bin", "twin"], ids=["file", "twin"])
def test_etag_changes_with_the_file(service: Service, root: Path, name: str, change: str) -> None:
    path = root / (name if name == "file.bin" else f"{name}.gz")

    def content(text: bytes) -> bytes:
        return text if name == "file.bin" else gzip.compress(text, mtime=0)

    path.write_bytes(content(b"one"))
    old = ask(service, f"/{name}")
    status = path.stat()
    if change == "rewritten":  # the same size, within the same second
        path.write_bytes(content(b"two"))
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns + 1000))
    elif change == "replaced":  # the same size and the same time, as `cp -p` and `rsync -t` do
        other = path.with_name("other")
        other.write_bytes(content(b"two"))
        os.utime(other, ns=(status.st_mtime_ns, status.st_mtime_ns))
        other.replace(path)
    elif change == "appended":
        path.write_bytes(content(b"one more"))
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    else:
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns + 1000))
    new = ask(service, f"/{name}", {"If-None-Match": old.headers["ETag"]})
    assert new.status == 200
    assert new.headers["ETag"] != old.headers["ETag"]


@pytest.mark.parametrize(
    "mtime_s",
    [0, -1, -86_400, 2**31, 2**33, 2**38],
    ids=["epoch", "second-before", "day-before", "2038", "2242", "10680"],
)
def test_file_with_an_odd_time_is_served(service: Service, root: Path, mtime_s: int) -> None:
    path = root / "odd-time.bin"
    path.write_bytes(BODY)
    os.utime(path, (mtime_s, mtime_s))
    answer = ask(service, "/odd-time.bin")
    assert (answer.status, answer.body) == (200, BODY)


# --- Ranges ---

SATISFIABLE = [
    pytest.param("bytes=0-0", slice(0, 1), id="first-byte"),
    pytest.param("bytes=0-99", slice(0, 100), id="first-hundred"),
    pytest.param("bytes=10-19", slice(10, 20), id="middle"),
    pytest.param("bytes=5-", slice(5, None), id="open"),
    pytest.param("bytes=0-", slice(0, None), id="open-from-the-start"),
    pytest.param("bytes=-1", slice(-1, None), id="last-byte"),
    pytest.param("bytes=-20", slice(-20, None), id="suffix"),
    pytest.param("bytes=-99999999", slice(0, None), id="suffix-longer-than-all"),
    pytest.param("bytes=3-99999999", slice(3, None), id="beyond-the-end"),
]


@pytest.mark.parametrize(("header", "part"), SATISFIABLE)
@pytest.mark.parametrize("path", KINDS)
def test_range_gives_just_these_bytes(
    service: Service, path: str, header: str, part: slice
) -> None:
    whole = ask(service, path)
    answer = ask(service, path, {"Range": header})
    start, stop, _ = part.indices(len(whole.body))
    assert answer.status == 206
    assert answer.body == whole.body[part]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole.body)}"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.headers["Content-Type"] == whole.headers["Content-Type"]
    assert answer.headers["ETag"] == whole.headers["ETag"]


@pytest.mark.parametrize(
    "header",
    ["bytes={}-", "bytes={}-{}", "bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"],
    ids=["open-at-the-end", "at-the-end", "open-behind", "behind", "suffix-of-nothing"],
)
@pytest.mark.parametrize("path", KINDS)
def test_range_behind_the_end_is_416_with_the_size(
    service: Service, path: str, header: str
) -> None:
    size = len(ask(service, path).body)
    answer = ask(service, path, {"Range": header.format(size, size), "Origin": ORIGIN})
    assert_problem(answer, 416)
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_range_of_an_empty_file_is_416(service: Service) -> None:
    answer = ask(service, "/empty.bin", {"Range": "bytes=0-0", "Origin": ORIGIN})
    assert_problem(answer, 416)
    assert answer.headers["Content-Range"] == "bytes */0"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param("bytes", id="unit-only"),
        pytest.param("bytes=", id="nothing"),
        pytest.param("bytes=-", id="dash"),
        pytest.param("bytes=a-b", id="letters"),
        pytest.param("bytes=5-2", id="backwards"),
        pytest.param("bytes=--5", id="two-dashes"),
        pytest.param("bytes=0x0-0x5", id="hexadecimal"),
        pytest.param("bytes=1.5-2", id="fraction"),
        pytest.param("bytes=0 5", id="no-dash"),
        pytest.param("bytes:0-5", id="colon"),
        pytest.param("items=0-5", id="other-unit"),
        pytest.param("0-5", id="no-unit"),
        pytest.param("bytes=0-1,5-6", id="two-ranges"),
        pytest.param("bytes=0-1, -1", id="range-and-suffix"),
        pytest.param("bytes=0-1,", id="comma-at-the-end"),
        pytest.param("bytes=" + ",".join(["0-"] * 1000), id="a-thousand-ranges"),
        pytest.param("bytes=" + "9" * 5000 + "-", id="endless-number"),
    ],
)
@pytest.mark.parametrize("path", KINDS)
def test_range_that_is_malformed_or_multiple_is_ignored(
    service: Service, path: str, header: str
) -> None:
    whole = ask(service, path)
    answer = ask(service, path, {"Range": header})
    assert (answer.status, answer.body) == (200, whole.body)
    assert "Content-Range" not in answer.headers


@pytest.mark.parametrize("path", KINDS)
def test_range_of_a_head_is_ignored(service: Service, path: str) -> None:
    size = ask(service, path).headers["Content-Length"]
    answer = ask(service, path, {"Range": "bytes=0-0"}, method="HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, size)


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("path", KINDS)
def test_if_range_with_the_version_at_hand_gives_the_part(
    service: Service, path: str, validator: str
) -> None:
    whole = ask(service, path)
    asked = {"Range": "bytes=2-5", "If-Range": whole.headers[validator]}
    answer = ask(service, path, asked)
    assert (answer.status, answer.body) == (206, whole.body[2:6])


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param('"other"', id="other-etag"),
        pytest.param("W/{etag}", id="weak-etag"),
        pytest.param("*", id="any"),
        pytest.param(formatdate(0, usegmt=True), id="older-date"),
        pytest.param(formatdate(4e9, usegmt=True), id="newer-date"),
    ],
)
@pytest.mark.parametrize("path", KINDS)
def test_if_range_with_another_version_gives_all(
    service: Service, path: str, condition: str
) -> None:
    whole = ask(service, path)
    asked = {"Range": "bytes=2-5", "If-Range": condition.format(etag=whole.headers["ETag"])}
    answer = ask(service, path, asked)
    assert (answer.status, answer.body) == (200, whole.body)


def test_if_range_with_another_version_comes_before_416(service: Service) -> None:
    asked = {"Range": "bytes=99999-", "If-Range": '"other"'}
    assert ask(service, "/plain.bin", asked).status == 200


def test_if_range_without_a_range_gives_all(service: Service) -> None:
    assert ask(service, "/plain.bin", {"If-Range": '"other"'}).body == BODY


@pytest.mark.parametrize("path", KINDS)
def test_known_version_counts_more_than_the_range(service: Service, path: str) -> None:
    etag = ask(service, path).headers["ETag"]
    answer = ask(service, path, {"If-None-Match": etag, "Range": "bytes=0-0"})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("path", KINDS)
def test_parts_put_together_are_the_whole(service: Service, path: str) -> None:
    """As Chromium does with the answers it has for a range and asks for the rest."""
    whole = ask(service, path, {"Accept-Encoding": "identity"})
    asked = {"Accept-Encoding": "gzip, deflate, br, zstd", "If-None-Match": '"other"'}
    first = ask(service, path, {**asked, "Range": "bytes=0-30"})
    rest = ask(service, path, {**asked, "Range": "bytes=31-", "If-Range": first.headers["ETag"]})
    assert (first.status, rest.status) == (206, 206)
    assert first.body + rest.body == whole.body
    assert first.headers["ETag"] == rest.headers["ETag"] == whole.headers["ETag"]


# --- Codings ---

TWINS = {"gzip": "/zipped", "br": "/squeezed"}
UNPACK: dict[str, Callable[[bytes], Any]] = {
    "gzip": gzip.decompress,
    "br": imagecodecs.brotli_decode,
}


@pytest.mark.parametrize("coding", TWINS)
@pytest.mark.parametrize(
    "accepted",
    [
        pytest.param("{}", id="named"),
        pytest.param("{};q=1", id="q-1"),
        pytest.param("{};q=0.001", id="q-0.001"),
        pytest.param("{} ; q=0.5", id="q-with-spaces"),
        pytest.param("deflate, {};q=0.5", id="second"),
        pytest.param("*", id="any"),
        pytest.param("identity, *;q=0.1", id="any-after-identity"),
    ],
)
def test_twin_is_sent_in_its_coding_to_who_accepts_it(
    service: Service, root: Path, coding: str, accepted: str
) -> None:
    answer = ask(service, TWINS[coding], {"Accept-Encoding": accepted.format(coding)})
    assert answer.headers["Content-Encoding"] == coding
    assert answer.listed("Vary") >= {"accept-encoding"}
    assert bytes(UNPACK[coding](answer.body)) == TEXT
    assert answer.headers["Content-Length"] == str(len(answer.body))
    suffix = {"gzip": ".gz", "br": ".br"}[coding]
    assert answer.body == (root / (TWINS[coding][1:] + suffix)).read_bytes()


@pytest.mark.parametrize("coding", TWINS)
def test_coding_is_named_in_any_case(service: Service, coding: str) -> None:
    answer = ask(service, TWINS[coding], {"Accept-Encoding": coding.upper()})
    assert answer.headers["Content-Encoding"] == coding


@pytest.mark.parametrize("coding", TWINS)
@pytest.mark.parametrize(
    "accepted",
    [
        pytest.param(None, id="no-header"),
        pytest.param("", id="empty"),
        pytest.param("identity", id="identity"),
        pytest.param("zstd, deflate", id="others"),
        pytest.param("{};q=0", id="q-0"),
        pytest.param("{};q=0.000", id="q-0.000"),
        pytest.param("{}; Q=0", id="capital-q-0"),
        pytest.param("*;q=0", id="any-q-0"),
        pytest.param("{};q=0, *;q=1", id="q-0-but-any"),
        pytest.param("{};q=nonsense", id="q-nonsense"),
        pytest.param("{};q=nan", id="q-nan"),
        pytest.param("not{}", id="longer-word"),
    ],
)
def test_twin_is_unpacked_for_who_does_not_accept_its_coding(
    service: Service, coding: str, accepted: str | None
) -> None:
    asked = {} if accepted is None else {"Accept-Encoding": accepted.format(coding)}
    answer = ask(service, TWINS[coding], asked)
    assert (answer.status, answer.body) == (200, TEXT)
    assert "Content-Encoding" not in answer.headers
    assert "accept-encoding" in answer.listed("Vary")


@pytest.mark.parametrize("coding", TWINS)
def test_etag_differs_between_codings(service: Service, coding: str) -> None:
    coded = ask(service, TWINS[coding], {"Accept-Encoding": coding})
    plain = ask(service, TWINS[coding])
    assert coded.headers["ETag"] != plain.headers["ETag"]
    for etag, accepted, status in (
        (coded.headers["ETag"], coding, 304),
        (plain.headers["ETag"], coding, 200),
        (coded.headers["ETag"], "identity", 200),
        (plain.headers["ETag"], "identity", 304),
    ):
        asked = {"If-None-Match": etag, "Accept-Encoding": accepted}
        assert ask(service, TWINS[coding], asked).status == status


@pytest.mark.parametrize(
    "header",
    ["bytes=3-40", "bytes=0-", "bytes=0-1,3-4", "nonsense"],
    ids=["part", "all", "two-parts", "nonsense"],
)
@pytest.mark.parametrize("path", KINDS)
def test_answer_to_a_range_is_never_compressed(service: Service, path: str, header: str) -> None:
    asked = {"Accept-Encoding": "gzip, deflate, br, zstd", "Range": header}
    answer = ask(service, path, asked)
    plain = ask(service, path, {"Range": header})
    assert "Content-Encoding" not in answer.headers
    assert (answer.status, answer.body) == (plain.status, plain.body)
    assert answer.headers["ETag"] == plain.headers["ETag"]


@pytest.mark.parametrize("path", KINDS)
def test_answer_to_head_is_never_compressed(service: Service, path: str) -> None:
    answer = ask(service, path, {"Accept-Encoding": "gzip, deflate, br, zstd"}, method="HEAD")
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Content-Length"] == str(len(ask(service, path).body))


def test_file_itself_is_preferred_to_its_twin(service: Service, root: Path) -> None:
    (root / "both").write_bytes(b"plain")
    (root / "both.gz").write_bytes(gzip.compress(b"old"))
    answer = ask(service, "/both", {"Accept-Encoding": "gzip"})
    assert answer.body == b"plain"
    assert "Content-Encoding" not in answer.headers


def test_twin_by_its_own_name_is_a_plain_file(service: Service, root: Path) -> None:
    answer = ask(service, "/zipped.gz", {"Accept-Encoding": "gzip"})
    assert answer.body == (root / "zipped.gz").read_bytes()
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("name", ["table.json.gz", "page.html.br", "picture.svgz"])
def test_packed_file_by_its_own_name_is_not_called_what_is_inside(
    service: Service, root: Path, name: str
) -> None:
    (root / name).write_bytes(b"packed")
    kind = ask(service, f"/{name}").headers["Content-Type"]
    assert not any(word in kind for word in ("json", "html", "svg"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("table.json", "application/json"), ("image.svg", "image/svg+xml")],
    ids=["json", "svg"],
)
def test_twin_has_the_type_of_what_is_inside(
    service: Service, root: Path, name: str, kind: str
) -> None:
    (root / f"{name}.gz").write_bytes(gzip.compress(b"[]"))
    assert ask(service, f"/{name}").headers["Content-Type"] == kind
