"""Which web pages may write, by which names a service may be called, and how refusals show."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from neurotrale.web.origins import host_of
from neurotrale.web.pages import index_page
from tests.chromium import running_chromium
from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, write_dataset
from tests.processes import eventually, neurotrale, running
from tests.test_http import Answer, ask, assert_problem, compose, exchange, read_answer

FIBERS = "/brain/annotations/x0y0z0/fibers.json"
ELSEWHERE = "https://viewer.example"
NAME = "lab-server"
OWN = socket.gethostname()
JSON = "application/json"

# Method, what follows the path of the file, and the body.
WRITES: dict[str, tuple[str, str, bytes]] = {
    "put": ("PUT", "", json.dumps(ANNOTATIONS).encode()),
    "patch": ("PATCH", "?id=by-a-page", b'{"type":"point","point":[1,2,3]}'),
    "delete": ("DELETE", "?id=by-a-page", b""),
    "restore": ("POST", "/restore?revision=0", b"{}"),
    "confirm": ("DELETE", "/held", b""),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origins") / "data"
    write_dataset(root / "brain")
    return root


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Service:
    """A service on a loopback address, without tokens, that is called by another name, too."""
    return start_service(root, "--allowed-hosts", NAME)


@pytest.fixture(scope="module")
def open_service(root: Path, start_service: StartService) -> Service:
    """A service that listens on all addresses, as in a container."""
    return start_service(root, "--host", "0.0.0.0")


def write(service: Service, kind: str, headers: Mapping[str, str], path: str = FIBERS) -> Answer:
    method, rest, body = WRITES[kind]
    fields = {"Content-Type": JSON, **headers}
    return ask(service, f"{path}{rest}", fields, method=method, body=body)


def preflight(
    service: Service, origin: str, method: str = "PUT", path: str = FIBERS, **headers: str
) -> Answer:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, **headers}
    return ask(service, path, asked, method="OPTIONS")


def state(root: Path) -> dict[str, bytes]:
    """All files of the annotations, hidden ones too."""
    block = (root / FIBERS[1:]).parent
    return {path.name: path.read_bytes() for path in block.iterdir() if path.is_file()}


# --- who may write ---

WELCOME: dict[str, dict[str, str]] = {
    "no page": {},
    "no page, by another name": {"Host": NAME},
    "the service itself": {"Origin": "http://127.0.0.1:9000", "Host": "127.0.0.1:9000"},
    "another port": {"Origin": "http://127.0.0.1:8080", "Host": "127.0.0.1:9000"},
    "localhost": {"Origin": "http://localhost:8080"},
    "localhost, in capitals": {"Origin": "HTTP://LOCALHOST:8080"},
    "localhost, https": {"Origin": "https://localhost"},
    "name below localhost": {"Origin": "http://viewer.localhost:8080"},
    "another loopback address": {"Origin": "http://127.1.2.3:8080"},
    "IPv6 loopback": {"Origin": "http://[::1]:8080"},
    "IPv4 in IPv6": {"Origin": "http://[::ffff:127.0.0.1]:8080"},
    "same name": {"Origin": f"http://{NAME}:8080", "Host": f"{NAME}:9000"},
    "same name, through https": {"Origin": f"https://{NAME}", "Host": NAME},
    "same name, spelt otherwise": {"Origin": f"http://{NAME.upper()}", "Host": f"{NAME}.:9000"},
    "same IPv6 address": {"Origin": "http://[2001:db8::1]:80", "Host": "[2001:DB8:0::1]:9000"},
    "same origin behind a proxy": {"Origin": ELSEWHERE, "Sec-Fetch-Site": "same-origin"},
    "same origin without Origin": {"Sec-Fetch-Site": "same-origin"},
    "typed address": {"Sec-Fetch-Site": "none"},
    "with a cookie": {"Cookie": "neurotrale-0123456789abcdef=s-AAAAAAAAAAAAAAAA"},
}
UNWELCOME: dict[str, dict[str, str]] = {
    "another site": {"Origin": ELSEWHERE},
    "another site, same port": {"Origin": "http://viewer.example:9000", "Host": "127.0.0.1:9000"},
    "another site, by its own word": {"Origin": ELSEWHERE, "Sec-Fetch-Site": "cross-site"},
    "another host of the site": {"Origin": ELSEWHERE, "Sec-Fetch-Site": "same-site"},
    "another site with a cookie": {
        "Origin": ELSEWHERE,
        "Cookie": "neurotrale-0123456789abcdef=s-AAAAAAAAAAAAAAAA",
    },
    "sandboxed page": {"Origin": "null"},
    "empty": {"Origin": ""},
    "cross-site without Origin": {"Sec-Fetch-Site": "cross-site"},
    "same-site without Origin": {"Sec-Fetch-Site": "same-site"},
    "name that begins like localhost": {"Origin": "http://localhost.viewer.example"},
    "name that ends like localhost": {"Origin": "http://notlocalhost"},
    "name that begins like an address": {"Origin": "http://127.0.0.1.viewer.example"},
    "name that begins like the host": {"Origin": f"http://{NAME}.viewer.example", "Host": NAME},
    "name that ends like the host": {"Origin": f"http://my-{NAME}", "Host": NAME},
    "user in front": {"Origin": "http://localhost@viewer.example"},
    "user behind": {"Origin": "http://viewer.example@localhost"},
    "fragment": {"Origin": "http://viewer.example#localhost"},
    "path": {"Origin": "http://localhost/viewer"},
    "two": {"Origin": f"http://localhost, {ELSEWHERE}"},
    "no scheme": {"Origin": "localhost"},
    "no host": {"Origin": "http://"},
    "file": {"Origin": "file://"},
    "extension": {"Origin": "chrome-extension://abcdefghijklmnopabcdefghijklmnop"},
    "public address": {"Origin": "http://192.0.2.1"},
    "all addresses": {"Origin": "http://0.0.0.0:8080"},
    "forwarded by nobody": {"Origin": ELSEWHERE, "X-Forwarded-Host": "viewer.example"},
    "forwarded by nobody, in the standard way": {
        "Origin": ELSEWHERE,
        "Forwarded": "for=127.0.0.1;host=viewer.example",
    },
}


@pytest.mark.parametrize("headers", WELCOME.values(), ids=WELCOME)
def test_page_of_this_host_and_what_is_no_page_may_write(
    service: Service, headers: dict[str, str]
) -> None:
    for kind in ("put", "patch", "delete", "restore"):
        answer = write(service, kind, headers)
        assert answer.status in (200, 201), (kind, answer.body)
    if "Origin" in headers:
        granted = preflight(service, headers["Origin"], Host=headers.get("Host", NAME))
        same_origin = "Sec-Fetch-Site" in headers  # has no preflight
        assert same_origin or {"put", "patch", "delete"} <= granted.listed(
            "Access-Control-Allow-Methods"
        )


@pytest.mark.parametrize("headers", UNWELCOME.values(), ids=UNWELCOME)
def test_page_of_another_site_changes_nothing(service: Service, headers: dict[str, str]) -> None:
    before = state(service.root)
    for kind in WRITES:
        answer = write(service, kind, headers)
        assert answer.status == 403, (kind, answer.body)
        assert "--cors-origins" in json.loads(answer.body)["description"]
    assert state(service.root) == before


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "patch"])
@pytest.mark.parametrize("origin", [ELSEWHERE, "null"])
def test_refusal_shows_in_the_preflight(service: Service, origin: str, method: str) -> None:
    answer = preflight(service, origin, method)
    assert_problem(answer, 403)
    assert "Access-Control-Allow-Methods" not in answer.headers


def test_preflight_of_a_restore_is_refused_too(service: Service) -> None:
    assert preflight(service, ELSEWHERE, "POST", f"{FIBERS}/restore").status == 403
    assert preflight(service, ELSEWHERE, "POST", "/api/datasets/brain/start").status == 403


def test_preflight_of_a_read_grants_reading_alone(service: Service) -> None:
    for path in (FIBERS, "/brain/info", f"{FIBERS}/held"):
        answer = preflight(service, ELSEWHERE, "GET", path)
        assert answer.status == 200
        assert answer.listed("Access-Control-Allow-Methods") == {"get", "head"}


@pytest.mark.parametrize("headers", UNWELCOME.values(), ids=UNWELCOME)
def test_any_page_may_read(service: Service, headers: dict[str, str]) -> None:
    answer = ask(service, FIBERS, headers)
    assert answer.status == 200
    assert "Origin" not in headers or answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["/brain/info", "/none", "/brain/annotations/x0y0z0/none"])
def test_what_cannot_be_written_is_no_matter_of_origins(service: Service, path: str) -> None:
    assert_problem(ask(service, path, {"Origin": ELSEWHERE}, method="PUT"), 404, 405)


# --- what the operator can say ---


@pytest.mark.quick(1)
@pytest.mark.parametrize("way", ["flag", "variable"])
def test_asterisk_that_is_given_lets_every_page_write(
    root: Path, start_service: StartService, way: str
) -> None:
    options = ("--cors-origins", "*") if way == "flag" else ()
    env = {"NEUROTRALE_CORS_ORIGINS": "*"} if way == "variable" else {}
    service = start_service(root, *options, env=env)
    for origin in (ELSEWHERE, "null"):
        assert write(service, "patch", {"Origin": origin}).status in (200, 201)
        assert "put" in preflight(service, origin).listed("Access-Control-Allow-Methods")
    assert write(service, "patch", {"Sec-Fetch-Site": "cross-site"}).status == 200


def test_page_that_is_named_may_write_and_is_refused_no_more(
    service: Service, start_service: StartService
) -> None:
    named, other = "https://named.example", "http://other.example:8080"
    for origin in (named, named, other):
        assert write(service, "put", {"Origin": origin}).status == 403
    page = ask(service, "/").body.decode()
    for origin in (named, other):
        assert page.count(f"Saves from {origin} were refused") == 1
        assert f"--cors-origins {origin}<" in page

    started = start_service(service.root, "--cors-origins", f"{named},http://b.example")
    assert write(started, "put", {"Origin": named}).status == 200
    assert "put" in preflight(started, named).listed("Access-Control-Allow-Methods")
    refused = write(started, "put", {"Origin": other})
    assert refused.status == 403
    # What is allowed already stays allowed.
    whole = f"--cors-origins {named},http://b.example,{other}"
    assert whole in json.loads(refused.body)["description"]
    page = ask(started, "/").body.decode()
    assert f"Saves from {named} " not in page
    assert f"Saves from {other} were refused" in page
    assert f"{whole}<" in page


def test_first_page_tells_of_pages_without_an_origin() -> None:
    page = "".join(index_page([], [], refused={"null": "'*'"}))
    assert "Saves from pages that tell no origin were refused" in page
    assert "--cors-origins &#39;*&#39;" in page or "--cors-origins '*'" in page


def test_refusal_is_in_the_log_once_with_the_option_to_set(service: Service) -> None:
    origin = "https://logged.example:8443"
    for _ in range(3):
        assert preflight(service, origin).status == 403
    for forged in ('http://x.example" 2026 ERROR', "http://x.example\xff"):
        assert write(service, "put", {"Origin": forged}).status == 403
    eventually(lambda: "(null)" in service.log(), "both are in the log")
    log = service.log()
    assert log.count(f"a save from pages of {origin} was refused") == 1
    assert log.count(f"add the option --cors-origins {origin}\n") == 1
    assert "add the option --cors-origins '*'\n" in log
    assert "x.example" not in log


def test_session_is_told_that_its_page_may_not_save(service: Service) -> None:
    session = "/as/s-CCCCCCCCCCCCCCCC"
    for asked in (
        preflight(service, ELSEWHERE, path=f"{session}{FIBERS}"),
        write(service, "put", {"Origin": ELSEWHERE}, f"{session}{FIBERS}"),
    ):
        assert asked.status == 403
    mine = ask(service, f"{session}/brain/annotations/mine", {"Accept": JSON})
    refused = json.loads(mine.body)["refused"]
    assert [(one["file"], one["status"]) for one in refused] == [(FIBERS[1:], 403)] * 2
    assert f"--cors-origins {ELSEWHERE}" in refused[0]["reason"]


def test_many_origins_leave_a_short_page_and_a_small_file(service: Service) -> None:
    for number in range(20):
        origin = f"https://n{number}.{'x' * 200}.example"
        assert preflight(service, origin).status == 403
    page = ask(service, "/").body.decode()
    assert page.count("were refused") == 5
    assert "https://n19." in page
    assert (service.root / ".neurotrale/refused/origins").stat().st_size < 20_000


# --- with tokens ---

TOKEN = "annas-token-may-write.0123456789"


@pytest.fixture(scope="module")
def guarded(
    root: Path, start_service: StartService, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"anna:rw:{TOKEN}\n")
    return start_service(root, "--token-file", str(tokens))


PORTALS: dict[str, dict[str, str]] = {
    "Open OnDemand": {"Host": "node17.cluster", "Origin": "https://ondemand.example.org"},
    "another site": {"Origin": ELSEWHERE, "Sec-Fetch-Site": "cross-site"},
    "sandboxed page": {"Origin": "null"},
    "another name": {"Host": "viewer.example"},
}


@pytest.mark.parametrize("headers", PORTALS.values(), ids=PORTALS)
def test_with_a_token_every_page_may_write_and_without_it_none(
    guarded: Service, headers: dict[str, str]
) -> None:
    path = f"/token/{TOKEN}{FIBERS}"
    assert write(guarded, "patch", headers, path).status in (200, 201)
    assert write(guarded, "restore", headers, path).status == 200
    assert write(guarded, "put", {**headers, "Authorization": f"Bearer {TOKEN}"}).status == 200
    assert write(guarded, "put", headers).status == 401
    if "Origin" in headers:
        asked = preflight(guarded, headers["Origin"], path=path, Host=headers.get("Host", "x"))
        assert "put" in asked.listed("Access-Control-Allow-Methods")
    assert "were refused" not in ask(guarded, f"/token/{TOKEN}/").body.decode()


# --- what a form can send ---

FORM_TYPES = [
    None,
    "",
    "text/plain",
    "TEXT/Plain; charset=utf-8",
    "text/plain;application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain,application/json",
    ";application/json",
    "json",
]


@pytest.mark.parametrize("kind", FORM_TYPES, ids=str)
@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://localhost:8080"}], ids=["no page", "page"]
)
def test_post_that_a_form_can_send_is_refused(
    service: Service, guarded: Service, kind: str | None, headers: dict[str, str]
) -> None:
    fields = headers if kind is None else {**headers, "Content-Type": kind}
    before = state(service.root)
    for path in (f"{FIBERS}/restore?removed=true", "/api/datasets/brain/start"):
        answer = ask(service, path, fields, method="POST")
        assert answer.status == 415
        assert "application/json" in json.loads(answer.body)["description"]
    assert ask(guarded, f"/token/{TOKEN}{FIBERS}/restore", fields, method="POST").status == 415
    assert state(service.root) == before


@pytest.mark.parametrize("kind", [JSON, "Application/JSON; charset=utf-8", "application/x-any"])
def test_post_with_another_type_is_taken(service: Service, kind: str) -> None:
    answer = ask(service, f"{FIBERS}/restore?removed", {"Content-Type": kind}, method="POST")
    assert answer.status in (200, 201), answer.body


def test_every_post_is_refused_to_a_form(service: Service) -> None:
    document: dict[str, Any] = requests.get(f"{service.url}/api/openapi.json", timeout=60).json()
    posts = [path for path, operations in document["paths"].items() if "post" in operations]
    assert len(posts) >= 3
    values = {"dataset": "brain", "block": "x0y0z0", "leaf": "fibers"}
    for path in posts:
        url = service.url + path.format(**values)
        answer = requests.post(url, params={"position": "0,0,0"}, data={"a": "b"}, timeout=60)
        assert answer.status_code == 415, path


# --- the host ---

KNOWN = {
    "127.0.0.1", "127.0.0.1:9000", "localhost", "LOCALHOST:9000", "localhost.", "brain.localhost",
    "[::1]:9000", "192.0.2.7", "[2001:db8::7]", NAME, f"{NAME}:80", NAME.upper(), OWN,
    OWN.partition(".")[0], f"{OWN}:9000",
}  # fmt: skip
UNKNOWN = {
    "viewer.example", "viewer.example:9000", "localhost.viewer.example", "127.0.0.1.nip.io",
    f"{NAME}.viewer.example", f"x{NAME}", "", "localhost, viewer.example",
    "viewer.example@localhost", "local host", "[::1", "[viewer.example]", "localhost/x",
    f"{OWN}.viewer.example",
}  # fmt: skip


@pytest.mark.parametrize("host", sorted(KNOWN))
def test_known_host_is_answered(service: Service, host: str) -> None:
    assert ask(service, "/brain/info", {"Host": host}).status == 200


@pytest.mark.parametrize("host", sorted(UNKNOWN))
def test_name_that_leads_here_is_refused_whatever_it_asks_for(service: Service, host: str) -> None:
    origin = f"http://{host}"  # as of a page whose name now leads to this machine
    for path, method in (("/brain/info", "GET"), (FIBERS, "PUT"), ("/none", "HEAD"), ("/", "GET")):
        answer = ask(service, path, {"Host": host, "Origin": origin}, method=method)
        assert_problem(answer, 403, has_body=method != "HEAD")
    answer = ask(service, FIBERS, {"Host": host, "Sec-Fetch-Site": "same-origin"}, method="PUT")
    assert "--allowed-hosts" in json.loads(answer.body)["description"]


def test_unknown_host_is_in_the_log_with_the_option_to_set(service: Service) -> None:
    assert ask(service, "/", {"Host": "brains.example:9000"}).status == 403
    eventually(
        lambda: "add the option --allowed-hosts brains.example\n" in service.log(), "it is told"
    )


def test_request_without_a_host_is_answered(service: Service) -> None:
    request = b"GET /brain/info HTTP/1.0\r\n\r\n"
    assert exchange(service.port, request).status == 200


def test_service_on_all_addresses_is_called_by_any_name(open_service: Service) -> None:
    assert ask(open_service, "/brain/info", {"Host": "brains.example:9000"}).status == 200
    same = {"Host": "brains.example:9000", "Origin": "http://brains.example:8080"}
    assert write(open_service, "put", same).status == 200
    assert write(open_service, "put", {**same, "Origin": ELSEWHERE}).status == 403


@pytest.mark.long
def test_service_on_all_addresses_is_called_by_the_names_that_are_given(
    root: Path, start_service: StartService
) -> None:
    service = start_service(root, "--host", "0.0.0.0", "--allowed-hosts", NAME)
    for host, status in ((NAME, 200), ("127.0.0.1", 200), (OWN, 200), ("viewer.example", 403)):
        assert ask(service, "/brain/info", {"Host": host}).status == status


def test_request_through_a_unix_socket_is_answered_by_any_name(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(neurotrale("serve", root, "--unix-socket", path, "--workers", "1")):
        for headers in ({"Host": "viewer.example"}, {"Host": "x", "Origin": "http://x:8080"}):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(str(path))
                request = compose("/brain/info", headers)
                connection.sendall(request)
                answer, _ = read_answer(connection, request)
            assert answer.status == 200


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a.example", "a.example"),
        (" A.Example.:80 ", "a.example"),
        ("127.0.0.1:9000", "127.0.0.1"),
        ("[0:0::1]:9000", "::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1"),
        ("under_score", "under_score"),
        ("", ""),
        ("a b", ""),
        ("a/b", ""),
        ("a@b", ""),
        ("a:b", ""),
        ("[a]", ""),
        ("::1", ""),
        ("a,b", ""),
        ("\u00e4.example", ""),
    ],
)
def test_host_of_an_authority_has_one_spelling(authority: str, host: str) -> None:
    assert host_of(authority) == host


# --- in a browser ---

SAVE = """async ([url, body]) => {
    try {
        const answer = await fetch(url, {method: "PUT", body})
        return answer.status
    } catch (error) {
        return String(error)
    }
}"""
SUBMIT = """([url, kind]) => {
    const form = document.createElement("form")
    Object.assign(form, {method: "post", action: url, enctype: kind})
    document.body.append(form)
    form.submit()
}"""


@pytest.fixture
def other_port(tmp_path: Path) -> Iterator[int]:
    """The port of a server of pages that is not the service."""
    (tmp_path / "index.html").write_text("<!DOCTYPE html><title>viewer</title><body></body>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.browser
def test_browser_lets_pages_of_this_host_save_and_no_others(
    service: Service, other_port: int
) -> None:
    url, body = f"http://127.0.0.1:{service.port}{FIBERS}", json.dumps(ANNOTATIONS)
    rules = f"MAP viewer.example 127.0.0.1,MAP {NAME} 127.0.0.1"
    with running_chromium(f"--host-resolver-rules={rules}") as browser:
        page = browser.new_page()

        page.goto(f"http://127.0.0.1:{other_port}/")
        assert page.evaluate(SAVE, [url, body]) == 200
        page.goto(f"http://localhost:{other_port}/")
        assert page.evaluate(SAVE, [url, body]) == 200
        page.goto(f"http://{NAME}:{other_port}/")  # opened by the name of a remote machine
        by_name = url.replace("127.0.0.1", NAME)
        assert page.evaluate(SAVE, [by_name, body]) == 200

        before = state(service.root)
        page.goto(f"http://viewer.example:{other_port}/")
        assert "Failed to fetch" in page.evaluate(SAVE, [url, "[]"])
        for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
            page.goto(f"http://viewer.example:{other_port}/")
            with page.expect_navigation():
                page.evaluate(SUBMIT, [f"{url}/restore?revision=0", kind])
            assert "Not allowed" in page.content()
        # The name of the page leads to the service now.
        answer = page.goto(f"http://viewer.example:{service.port}/")
        assert answer is not None
        assert answer.status == 403
        page.route("**/before", lambda route: route.fulfill(body="x", content_type="text/html"))
        page.goto(f"http://viewer.example:{service.port}/before")
        # The service refuses it, or Chromium does itself, for a page that came from elsewhere.
        assert page.evaluate(SAVE, [FIBERS, "[]"]) in (403, "TypeError: Failed to fetch")
        assert state(service.root) == before

        page.goto(f"http://127.0.0.1:{service.port}/")
        told = page.get_by_role("alert").filter(has_text=f"viewer.example:{other_port}")
        assert "were refused" in told.inner_text()
