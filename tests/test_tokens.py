"""Tokens: who may look, who may change, and that no token is ever seen where it should not be."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import numpy as np
import pytest
import requests

from neurotrale.errors import StartError
from neurotrale.locking.locks import make_lock
from neurotrale.server.sockets import open_socket, url_of
from neurotrale.server.threads import LeaderFollowerPool
from neurotrale.server.uploads import Uploads
from neurotrale.server.waitress_adapter import HttpServer
from neurotrale.tokens.file import (
    MOST_FILE_BYTES,
    Token,
    TokenList,
    digest_of,
    hide_tokens,
    new_token_line,
    parse_list,
    parse_tokens,
)
from neurotrale.tokens.watch import TokenWatch
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, gradient, write_dataset
from tests.processes import ACCESS_LINE, environment, eventually, neurotrale, run, running
from tests.test_clients import CLIENTS, Open, read
from tests.test_http import Answer, ask, assert_problem, exchange
from tests.test_listings import Targets, all_below

ANNA = "annas-token-may-write.0123456789"
BOB = "bobs-token-may-look~0123456789_A"
WRONG = "a-token-that-nobody-has-0123456789"
SECRETS = (ANNA, BOB, WRONG)
LINES = f"# who may do what\n\nanna:rw:{ANNA}\nbob:ro:{BOB}\n"

INFO = "/brain/info"
CHUNK = "/brain/1_1_1/0-64_0-64_0-64"
FILE = "/brain/annotations/x0y0z0/fibers.json"
POINT = {"type": "point", "point": [1, 2, 3]}
ORIGIN = "https://viewer.example.org"
# What browsers accept when a person follows a link.
NAVIGATION = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

Form = Callable[[str, str], tuple[str, dict[str, str]]]
FORMS: dict[str, Form] = {
    "bearer": lambda path, token: (path, {"Authorization": f"Bearer {token}"}),
    "bearer, any case": lambda path, token: (path, {"authorization": f"bEARER  {token} "}),
    "query": lambda path, token: (f"{path}?token={token}", {}),
    "query, encoded": lambda path, token: (f"{path}?a=1&%74oken=%{ord(token[0]):x}{token[1:]}", {}),
    "prefix": lambda path, token: (f"/token/{token}{path}", {}),
    "prefix, encoded": lambda path, token: (f"/%74oken/%{ord(token[0]):x}{token[1:]}{path}", {}),
    "prefix, doubled slashes": lambda path, token: (f"//token//{token}/{path}", {}),
    "prefix, twice": lambda path, token: (f"/token/{token}/token/{token}{path}", {}),
    "prefix, absolute URL": lambda path, token: (f"http://127.0.0.1/token/{token}{path}", {}),
    "all at once": lambda path, token: (
        f"/token/{token}{path}?token={token}",
        {"Authorization": f"Bearer {token}"},
    ),
    "beside a password": lambda path, token: (
        f"/token/{token}{path}",
        {"Authorization": "Basic dXNlcjpwYXNz"},
    ),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def owned(path: Path, text: str) -> Path:
    """Write a token file as it should be: for its owner alone, at once."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(0o600)
    return new.rename(path)


def listed(path: Path) -> TokenList:
    """What a service would take from a token file now."""
    return TokenWatch(path).tokens.now()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens") / "data"
    write_dataset(root / "brain")
    with (root / "large.bin").open("wb") as file:
        file.truncate(2**26)
    return root


@pytest.fixture(scope="module")
def tokens(root: Path) -> Path:
    return owned(root.with_name("tokens"), LINES)


@pytest.fixture(scope="module")
def service(root: Path, tokens: Path, start_service: StartService) -> Iterator[Service]:
    """A service with tokens; at its end, its whole log must not hold any of them."""
    options = ("--token-file", str(tokens), "--log-level", "debug", "--max-body-mb", "1")
    service = start_service(root, *options)
    yield service
    service.stop()
    for secret in SECRETS:
        assert secret not in service.log()
        # No test that makes one may be part of the run.
        for journal in root.glob("brain/annotations/*/.*.journal"):
            assert secret not in journal.read_text()
    assert "Traceback" not in service.log()


def asked(
    service: Service, form: Form, path: str, token: str, method: str = "GET", body: object = None
) -> Answer:
    target, headers = form(path, token)
    data = b"" if body is None else json.dumps(body).encode()
    headers = {"Origin": ORIGIN, "Content-Type": "application/json", **headers}
    return ask(service, target, headers, method=method, body=data)


# --- who may do what ---


@forms
@pytest.mark.parametrize("token", [ANNA, BOB], ids=["rw", "ro"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_token_of_either_kind_may_look(
    service: Service, form: Form, token: str, method: str
) -> None:
    for path in ("/", "/brain/", INFO, CHUNK, FILE, "/api/", "/api/openapi.json"):
        answer = asked(service, form, path, token, method)
        assert answer.status == 200, path
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert (len(answer.body) > 0) == (method == "GET")


@forms
def test_token_may_look_at_the_very_bytes_of_the_file(service: Service, form: Form) -> None:
    assert asked(service, form, INFO, BOB).body == (service.root / "brain/info").read_bytes()
    assert asked(service, form, CHUNK, BOB).body == (
        gradient((70, 90, 100))[:64, :64, :64].tobytes()
    )


@forms
def test_token_with_rw_may_change(service: Service, form: Form) -> None:
    mine = f"/brain/annotations/x0y0z0/mine-{uuid4().hex}.json"  # to which nobody went back
    asked(service, form, mine, ANNA, "PUT", [{"id": "a", **POINT}])
    file = service.root / mine[1:]
    assert [each["id"] for each in json.loads(file.read_text())] == ["a"]
    with_id: Form = lambda path, token: (  # noqa: E731
        (target := form(path, token))[0] + ("&" if "?" in target[0] else "?") + "id=b",
        target[1],
    )
    assert asked(service, with_id, mine, ANNA, "PATCH", POINT).status == 201
    assert [each["id"] for each in json.loads(file.read_text())] == ["a", "b"]
    assert asked(service, with_id, mine, ANNA, "DELETE").status == 200
    assert [each["id"] for each in json.loads(file.read_text())] == ["a"]
    assert asked(service, with_id, f"{mine}/restore", ANNA, "POST").status == 200
    assert [each["id"] for each in json.loads(file.read_text())] == ["a", "b"]


@forms
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "BREW"])
@pytest.mark.parametrize("path", [FILE, f"{FILE}/restore", f"{FILE}/held", INFO, "/new/a.json"])
def test_token_with_ro_may_not_change(service: Service, form: Form, method: str, path: str) -> None:
    before = (service.root / FILE[1:]).read_bytes()
    answer = asked(service, form, path, BOB, method, [])
    assert_problem(answer, 403)
    assert "read-only" in json.loads(answer.body)["description"]
    assert (service.root / FILE[1:]).read_bytes() == before


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("{}", {}, id="none"),
        pytest.param("{}?token=", {}, id="empty query"),
        pytest.param("/token{}", {}, id="no token in the prefix"),
        pytest.param("{}?Token=" + ANNA, {}, id="other parameter"),
        pytest.param("/Token/" + ANNA + "{}", {}, id="other prefix"),
        pytest.param("/brain/token/" + ANNA + "{}", {}, id="prefix inside the path"),
        pytest.param("/%2574oken/" + ANNA + "{}", {}, id="prefix encoded twice"),
        pytest.param("{}?id=1?token=" + ANNA, {}, id="query inside the query"),
        pytest.param("{}%3Ftoken=" + ANNA, {}, id="query inside the path"),
        pytest.param("{}#token=" + ANNA, {}, id="fragment"),
        pytest.param("{}", {"Authorization": ANNA}, id="header without its scheme"),
        pytest.param("{}", {"Authorization": f"Basic {ANNA}"}, id="other scheme"),
        pytest.param("{}", {"Cookie": f"token={ANNA}"}, id="cookie"),
        pytest.param("{}", {"X-Token": ANNA, "Remote-User": "anna"}, id="other headers"),
        pytest.param("/token/" + WRONG + "{}", {}, id="wrong prefix"),
        pytest.param("{}?token=" + WRONG, {}, id="wrong query"),
        pytest.param("{}", {"Authorization": f"Bearer {WRONG}"}, id="wrong header"),
        pytest.param("/token/" + ANNA[:-1] + "{}", {}, id="part of a token"),
        pytest.param("/token/" + ANNA + "0{}", {}, id="more than a token"),
        pytest.param("/token/" + ANNA.upper() + "{}", {}, id="other case"),
        pytest.param("/token/%00%ff%F0%9F%A7%A0{}", {}, id="bytes that no token has"),
        pytest.param("{}", {"Authorization": f"Bearer {ANNA}, Bearer {ANNA}"}, id="two in one"),
        pytest.param("/token/" + ANNA + "{}?token=" + BOB, {}, id="prefix and query differ"),
        pytest.param("{}?token=" + ANNA + "&token=" + BOB, {}, id="two queries differ"),
        pytest.param("/token/" + ANNA + "/token/" + BOB + "{}", {}, id="two prefixes differ"),
        pytest.param(
            "{}?token=" + ANNA, {"Authorization": f"Bearer {WRONG}"}, id="query and header differ"
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_request_without_a_valid_token_is_401_whatever_it_asks(
    service: Service, path: str, headers: dict[str, str], method: str
) -> None:
    before = (service.root / FILE[1:]).read_bytes()
    for name in ("/", INFO, FILE, "/nothing", "/.hidden", "/../../etc/passwd", "/api/"):
        target = path.format(name)
        answer = ask(service, target, {"Origin": ORIGIN, **headers}, method=method, body=b"[]")
        assert_problem(answer, 401, has_body=method != "HEAD")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        if method != "HEAD":
            assert "Authorization: Bearer" in json.loads(answer.body)["description"]
            assert not [secret for secret in SECRETS if secret.encode() in answer.body]
    assert (service.root / FILE[1:]).read_bytes() == before


@pytest.mark.parametrize("path", ["/api/health", "//api//health", "/api/health?token=" + WRONG])
def test_health_needs_no_token(service: Service, path: str) -> None:
    answer = ask(service, path)
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
    assert ask(service, path, method="HEAD").status == 200


def test_health_behind_a_wrong_prefix_is_401_so_that_a_url_can_be_tried(service: Service) -> None:
    assert ask(service, f"/token/{ANNA}/api/health").status == 200
    assert ask(service, f"/token/{WRONG}/api/health").status == 401


# --- browsers ---


@pytest.mark.parametrize("prefix", ["", f"/token/{ANNA}", f"/token/{WRONG}"])
@pytest.mark.parametrize("path", [FILE, "/nothing/annotations/x0y0z0/fibers.json"])
def test_preflight_needs_no_token_and_allows_to_send_one(
    service: Service, prefix: str, path: str
) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = ask(service, prefix + path, headers, method="OPTIONS")
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "put" in answer.listed("Access-Control-Allow-Methods")
    assert "authorization" in answer.listed("Access-Control-Allow-Headers")
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


def test_pages_of_listed_origins_alone_may_read_that_a_token_is_needed(
    root: Path, tokens: Path, start_service: StartService
) -> None:
    service = start_service(root, "--token-file", str(tokens), "--cors-origins", ORIGIN)
    try:
        listed, other = (
            ask(service, INFO, {"Origin": origin}) for origin in (ORIGIN, "https://x.example")
        )
    finally:
        service.stop()
    assert (listed.status, other.status) == (401, 401)
    assert listed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Access-Control-Allow-Origin" not in other.headers
    assert listed.headers["Vary"] == other.headers["Vary"] == "Origin"


def test_links_lead_a_person_to_every_page_and_file_behind_the_prefix(service: Service) -> None:
    start = f"{service.url}/token/{BOB}/"
    # ../ of the data root leads out of the prefix; no page has a link to above it.
    seen = all_below(start, {"Accept": NAVIGATION})
    for path in (INFO, FILE, f"{CHUNK}.tiff", "/api/", "/large.bin"):
        assert f"{start}{path[1:]}" in seen


@pytest.mark.parametrize(
    ("asked_for", "page"),
    [
        pytest.param("/token/{}", "/token/{}/", id="prefix alone"),
        pytest.param("/token/{}?x=1", "/token/{}/?x=1", id="prefix alone with a query"),
        pytest.param("/token/{}/brain", "/token/{}/brain/", id="directory"),
        pytest.param("/token/{}/api", "/token/{}/api/", id="documentation"),
        pytest.param("/?token={}", "/token/{}/", id="root"),
        pytest.param("/?x=1&token={}&y", "/token/{}/?x=1&y", id="root with a query"),
        pytest.param("/index.html?token={}", "/token/{}/index.html", id="index.html"),
        pytest.param("/brain/?token={}", "/token/{}/brain/", id="listing"),
        pytest.param("/brain?token={}", "/token/{}/brain/", id="directory without its slash"),
        pytest.param("/brain/annotations/x0y0z0/?token={}",
                     "/token/{}/brain/annotations/x0y0z0/", id="deep listing"),
        pytest.param("//brain//annotations/?token={}", "/token/{}/brain/annotations/",
                     id="doubled slashes"),
        pytest.param("/api/?token={}", "/token/{}/api/", id="Swagger UI"),
        pytest.param("/api?token={}", "/token/{}/api", id="Swagger UI without its slash"),
    ],
)  # fmt: skip
def test_browser_is_led_to_the_page_behind_the_prefix(
    service: Service, asked_for: str, page: str
) -> None:
    answer = requests.get(
        service.url + asked_for.format(ANNA), headers={"Accept": NAVIGATION}, allow_redirects=True
    )
    assert answer.status_code == 200
    expected = page.format(ANNA) + ("/" if page.endswith("/api") else "")
    assert answer.url == service.url + expected
    assert {each.headers["Referrer-Policy"] for each in answer.history} == {"same-origin"}


@pytest.mark.parametrize("path", [INFO, FILE, CHUNK, "/large.bin"])
def test_browser_that_opens_a_file_with_a_query_just_gets_it(service: Service, path: str) -> None:
    answer = ask(service, f"{path}?token={ANNA}", {"Accept": NAVIGATION})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "led"),
    [
        pytest.param({"Sec-Fetch-Mode": "navigate", "Accept": "*/*"}, True, id="navigation"),
        pytest.param({"Sec-Fetch-Mode": "cors", "Accept": NAVIGATION}, False, id="fetch"),
        pytest.param({"Accept": "text/html"}, False, id="Neuroglancer"),
        pytest.param({"Accept": "*/*"}, False, id="curl"),
        pytest.param({}, False, id="script"),
    ],
)
def test_page_with_a_query_is_redirected_for_people_only(
    service: Service, headers: dict[str, str], led: bool
) -> None:
    assert ask(service, f"/brain/?token={ANNA}", headers).status == (302 if led else 200)


@pytest.mark.parametrize(
    ("base", "query"),
    [
        pytest.param(f"/token/{BOB}/brain/", "", id="prefix"),
        pytest.param("/brain/", f"?token={BOB}", id="query"),
    ],
)
def test_neuroglancer_finds_every_entry_of_a_listing(
    service: Service, base: str, query: str
) -> None:
    # As it does: links resolve against the URL without its query, which goes behind each of them.
    url = service.url + base
    answer = requests.get(url + query, headers={"Accept": "text/html", "Origin": ORIGIN})
    assert (answer.status_code, answer.url) == (200, url + query)
    assert answer.headers["Content-Type"].startswith("text/html")
    found = {urljoin(url, href) for href in Targets(answer.text).found}
    below = sorted(each for each in found if each.startswith(url) and each != url)
    assert [each.removeprefix(url) for each in below] == ["1_1_1/", "annotations/", "info"]
    for each in below:
        assert requests.get(each + query).status_code == 200
    # It knows a directory by this.
    without_slash = requests.get(url.rstrip("/") + query)
    assert urlsplit(without_slash.url).path == base


def test_answer_that_redirects_keeps_the_token_out_of_caches(service: Service) -> None:
    for path in (f"/token/{ANNA}", f"/?token={ANNA}"):
        answer = ask(service, path, {"Accept": NAVIGATION})
        assert (answer.status, answer.headers["Cache-Control"]) == (302, "no-store")


# --- clients ---


@pytest.mark.clients
@pytest.mark.parametrize("open_scale", CLIENTS.values(), ids=CLIENTS)
def test_client_reads_every_voxel_behind_the_prefix(service: Service, open_scale: Open) -> None:
    found = read(open_scale(f"{service.url}/token/{BOB}/brain", 0))
    assert np.array_equal(found, gradient((70, 90, 100))[np.newaxis])


@pytest.mark.long  # cloud-volume tries again for twenty seconds
@pytest.mark.clients
@pytest.mark.parametrize("open_scale", CLIENTS.values(), ids=CLIENTS)
def test_client_with_a_wrong_token_does_not_see_empty_space(
    service: Service, open_scale: Open
) -> None:
    with pytest.raises(Exception, match="401"):
        read(open_scale(f"{service.url}/token/{WRONG}/brain", 0))


# --- names ---


def test_name_of_the_token_stands_in_the_history(service: Service) -> None:
    url = f"{service.url}/token/{ANNA}{FILE}"
    assert requests.patch(url, params={"id": "by-anna"}, json=POINT).status_code == 201
    history = requests.get(f"{url}/history", params={"by": "anna"}).json()
    newest = history["changes"][0]
    assert (newest["by"], newest["from"], newest["added"]) == ("anna", "127.0.0.1", ["by-anna"])
    assert ANNA not in json.dumps(history)
    journal = (service.root / FILE[1:]).with_name(".fibers.json.journal").read_text()
    assert '"anna"' in journal
    assert ANNA not in journal


@pytest.mark.parametrize(
    ("target", "headers", "client", "shown"),
    [
        pytest.param("/token/{}/brain/info?id=log1", {}, "anna@127.0.0.1",
                     "/token/***/brain/info?id=log1", id="prefix"),
        pytest.param("/brain/info?token={}&id=log2", {}, "anna@127.0.0.1",
                     "/brain/info?id=log2", id="query"),
        pytest.param("/brain/info?id=log3", {"Authorization": "Bearer {}"}, "anna@127.0.0.1",
                     "/brain/info?id=log3", id="header"),
        pytest.param("/%74oken/{}/x%20y?id=log4", {}, "anna@127.0.0.1",
                     "/token/***/x%20y?id=log4", id="encoded"),
        pytest.param("//token//{}//x?id=log5", {}, "anna@127.0.0.1",
                     "//token//***//x?id=log5", id="doubled slashes"),
        pytest.param("/%2574oken%252f{}/x?id=log6", {}, "127.0.0.1",
                     "/token/***/x?id=log6", id="encoded twice"),
        pytest.param("/brain/TOKEN/{}?id=log7", {}, "127.0.0.1",
                     "/brain/TOKEN/***?id=log7", id="elsewhere in the path"),
        pytest.param("/brain%3Ftoken={}/info?id=log8", {}, "127.0.0.1",
                     "/brain%3Ftoken=***/info?id=log8", id="query in the path"),
        pytest.param("/x?id=log9?token={}", {}, "127.0.0.1",
                     "/x?id=log9?token=***", id="query in the query"),
        pytest.param("/x?id=log10%3Ftoken%3D{}", {}, "127.0.0.1",
                     "/x?id=log10?token=***", id="encoded query in the query"),
    ],
)  # fmt: skip
def test_access_log_has_the_name_of_the_token_and_not_the_token(
    service: Service, target: str, headers: dict[str, str], client: str, shown: str
) -> None:
    ask(service, target.format(ANNA), {key: text.format(ANNA) for key, text in headers.items()})

    def find() -> list[dict[str, str]]:
        lines = map(ACCESS_LINE.fullmatch, service.log().splitlines())
        found = [match.groupdict() for match in lines if match]
        return [line for line in found if line["path"] == shown]

    (line,) = eventually(find, f"a line for {shown}")
    assert line["client"] == client


# --- nothing leaks ---

ODD = {
    "space in the URL": f"GET /token/{ANNA} x HTTP/1.1\r\n\r\n",
    "no version": f"GET /token/{ANNA}/brain/info\r\n\r\n",
    "lower-case method": f"get /token/{ANNA}/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "token as the method": f"{ANNA.lower()} / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad header": f"GET /token/{ANNA}/x HTTP/1.1\r\nbad header\r\n\r\n",
    "bad header with it": f"GET / HTTP/1.1\r\n Authorization: Bearer {ANNA}\r\n\r\n",
    "bare line feed": f"GET / HTTP/1.1\r\nAuthorization: Bearer {ANNA}\nX: y\r\n\r\n",
    "bad length": f"PUT /token/{ANNA}/x HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "huge body": f"PUT /token/{ANNA}/x HTTP/1.1\r\nHost: x\r\nContent-Length: {2**40}\r\n\r\n",
    "unknown coding": f"PUT /token/{ANNA}/x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "bad URL": f"GET http://[/token/{ANNA}/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "user in the URL": f"GET http://anna:{ANNA}@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": f"OPTIONS * HTTP/1.1\r\nAuthorization: Bearer {ANNA}\r\n\r\n",
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
def test_odd_request_is_answered_without_its_token(service: Service, raw: str) -> None:
    before = len(service.log())
    body = exchange(service.port, raw.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode())
    assert ANNA.lower() not in body.body.decode("latin-1").lower()
    eventually(lambda: "neurotrale.access" in service.log()[before:], "a line in the log")
    assert ANNA.lower() not in service.log()[before:].lower()


def test_request_beyond_the_queue_leaves_no_token_in_the_log(
    dataset: Path, tmp_path: Path, start_service: StartService
) -> None:
    tokens = owned(tmp_path / "tokens", LINES)
    options = ("--threads", "1", "--queue", "1", "--lock", "flock", "--token-file", str(tokens))
    service = start_service(dataset.parent, *options)
    edit = json.dumps({"id": "a" * 40, **POINT})
    head = f"PATCH /token/{ANNA}{FILE}?id={'a' * 40} HTTP/1.1\r\nHost: x\r\n"
    request = f"{head}Content-Length: {len(edit)}\r\n\r\n{edit}".encode()
    with ExitStack() as stack:
        lock = make_lock("flock", dataset.parent / FILE[1:])
        lock.acquire()
        stack.callback(lock.release)
        for _ in range(6):
            address = ("127.0.0.1", service.port)
            stack.enter_context(closing(socket.create_connection(address))).sendall(request)
        eventually(lambda: " 503 " in service.log(), "a request is refused")
    service.stop()
    assert f" PATCH /token/***{FILE}?id={'a' * 40} 503 " in service.log()
    assert ANNA not in service.log()


def test_error_below_the_prefix_does_not_repeat_the_prefix(service: Service) -> None:
    for target in (
        f"/token/{ANNA}/nothing",
        f"/token/{ANNA}/token/{ANNA}/nothing",
        f"/token/{ANNA}/brain/annotations/x9y9z9/a.json",
        f"/token/{ANNA}{FILE}?id=nobody&token={ANNA}",
        f"/token/{ANNA}/api/nothing",
        f"/token/{ANNA}/brain/1_1_1/0-1_0-1_0-1?token={ANNA}",
        f"/token/{ANNA}{FILE}/history?limit=none",
    ):
        answer = ask(service, target, {"Authorization": f"Bearer {ANNA}"})
        assert answer.status in (400, 404)
        assert ANNA.encode() not in answer.body


def test_document_of_the_api_stays_behind_the_prefix_and_holds_no_token(service: Service) -> None:
    answer = requests.get(f"{service.url}/token/{ANNA}/api/openapi.json")
    document = answer.json()
    assert ANNA not in answer.text
    assert document["servers"] == [{"url": "../"}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "query"}
    assert {} in document["security"]
    health = document["paths"]["/api/health"]["get"]
    assert "401" not in health["responses"]
    assert "401" in document["paths"]["/{file}"]["get"]["responses"]


def test_client_that_goes_away_leaves_no_token_in_the_log(service: Service) -> None:
    with closing(socket.create_connection(("127.0.0.1", service.port))) as connection:
        connection.sendall(f"GET /token/{ANNA}/large.bin HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert ask(service, f"/token/{ANNA}{INFO}").status == 200


@pytest.fixture
def failing() -> Iterator[str]:
    """The URL of a server like a worker's, whose application always fails."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise RuntimeError("the application failed")

    pool = LeaderFollowerPool(
        1, poll=lambda timeout_s: http.poll(timeout_s), wake=lambda: http.wake()
    )
    with closing(open_socket("127.0.0.1", 0)) as listening:
        http = HttpServer(
            application, listening, pool, queue=1, connections=10, uploads=Uploads(), idle_s=60,
            stall_s=60, on_response=lambda: None,
        )  # fmt: skip
        pool.start()
        yield url_of(listening, "127.0.0.1").rstrip("/")
        pool.stop()
        http.close()


def test_failure_below_the_application_is_logged_without_the_token(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = requests.get(f"{failing}/token/{ANNA}/brain/info")
    assert answer.status_code == 500
    assert ANNA not in answer.text
    assert "/token/***/brain/info" in caplog.text
    assert "the application failed" in caplog.text
    assert ANNA not in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("/brain/info", "/brain/info", id="none"),
        pytest.param("/50%25%20of/tokens", "/50%25%20of/tokens", id="no token, encoded"),
        pytest.param("/token/", "/token/", id="nothing behind it"),
        pytest.param("/tokens/abc", "/tokens/abc", id="another word"),
        pytest.param("/token/a/token/b", "/token/***/token/***", id="two"),
        pytest.param("/x;token=a;y", "/x;token=***;y", id="semicolons"),
        pytest.param("%2ftoken%2fa", "/token/***", id="encoded"),
        pytest.param("/%25252574oken/a", "/token/***", id="encoded four times"),
    ],
)
def test_hidden_is_what_stands_where_a_token_does(text: str, shown: str) -> None:
    assert hide_tokens(text) == shown


# --- start ---


def test_start_prints_where_the_tokens_are_and_none_of_them(root: Path, tokens: Path) -> None:
    ready = tokens.with_name("ready.json")
    command = neurotrale("serve", root, "--port", "0", "--workers", "1")
    command += ["--token-file", str(tokens), "--ready-file", str(ready)]
    with running(command) as service:
        facts = ready.read_text()
        assert service.url.endswith("/token/TOKEN")
        assert str(tokens) in "\n".join(service.said)
        url = service.url.replace("TOKEN", BOB)
        assert requests.get(url + INFO).status_code == 200
        said = "\n".join(service.said) + service.log() + facts
        environ = Path(f"/proc/{service.process.pid}/environ").read_text()
    assert json.loads(facts)["url"] + "token/TOKEN" == service.url
    assert not [secret for secret in SECRETS if secret in said + environ]


def test_service_without_a_token_file_asks_for_none(dataset: Path) -> None:
    with running(neurotrale("serve", dataset.parent, "--port", "0", "--workers", "1")) as service:
        answer = requests.get(service.url + INFO)
        assert answer.status_code == 200
        assert "Referrer-Policy" not in answer.headers
        assert "security" not in requests.get(f"{service.url}/api/openapi.json").json()
        assert requests.get(f"{service.url}/token/{ANNA}{INFO}").status_code == 404


def test_directory_that_the_prefix_hides_is_named_at_the_start(
    dataset: Path, tmp_path: Path, start_service: StartService
) -> None:
    (dataset.parent / "token").mkdir()
    tokens = owned(tmp_path / "tokens", LINES)
    service = start_service(dataset.parent, "--token-file", str(tokens))
    service.stop()
    assert f"{dataset.parent}/token is not served" in service.log()


BROKEN = {
    "no colon": f"{ANNA}\n",
    "one colon": f"anna:{ANNA}\n",
    "no access": f"anna::{ANNA}\n",
    "other access": f"anna:r:{ANNA}\n",
    "access in upper case": f"anna:RW:{ANNA}\n",
    "no name": f":rw:{ANNA}\n",
    "name with a space": f"an na:rw:{ANNA}\n",
    "name with a control character": f"an\x1bna:rw:{ANNA}\n",
    "endless name": f"{'a' * 65}:rw:{ANNA}\n",
    "no token": "anna:rw:\n",
    "short token": f"anna:rw:{ANNA[:15]}\n",
    "endless token": f"anna:rw:{ANNA * 9}\n",
    "token with a space": f"anna:rw:{ANNA} {ANNA}\n",
    "token with a slash": f"anna:rw:{ANNA}/a\n",
    "token with a percent sign": f"anna:rw:{ANNA}%41\n",
    "token with a colon": f"anna:rw:{ANNA}:x\n",
    "token with an umlaut": f"anna:rw:{ANNA}ü\n",
    "comment behind it": f"anna:rw:{ANNA} # mine\n",
    "fields mixed up": f"{ANNA}:rw:anna\n",
    "same name": f"bob:rw:{ANNA}\n",
    "same token": f"anna:rw:{BOB}\n",
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_malformed_line_is_named_by_its_number_and_not_repeated(line: str, tmp_path: Path) -> None:
    path = owned(tmp_path / "tokens", f"# tokens\n\nbob:ro:{BOB}\n{line}")
    with pytest.raises(StartError, match=f"^{re.escape(str(path))}:4: ") as caught:
        TokenWatch(path)
    for secret in (*SECRETS, ANNA[:15]):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "names", "notes"),
    [
        pytest.param(f"a:rw:{ANNA}\n", ["a"], 0, id="finished"),
        pytest.param(f"a:rw:{ANNA}\nb:ro:{BOB}", ["a"], 1, id="unfinished"),
        pytest.param(f"a:rw:{ANNA}\nb:r", ["a"], 1, id="too short to be a line"),
        pytest.param(f"a:rw:{ANNA}\na:ro:{BOB}", ["a"], 1, id="unfinished, name doubled"),
        pytest.param(f"a:rw:{ANNA}\nzo\udcc3", ["a"], 1, id="half a letter"),
        pytest.param(f"a:rw:{ANNA}\n# end", ["a"], 0, id="comment at the end"),
        pytest.param(f"a:rw:{ANNA}\n \t", ["a"], 0, id="blanks at the end"),
        pytest.param(f"a:rw:{ANNA}\r", [], 2, id="lines of another system"),
        pytest.param(f"a:rw:{ANNA}", [], 2, id="nothing is finished"),
        pytest.param("", [], 1, id="empty"),
        pytest.param("\ufeff", [], 1, id="byte-order mark alone"),
        pytest.param("# nobody\n\n", [], 1, id="comments only"),
    ],
)
def test_last_line_without_a_newline_does_not_count(
    content: str, names: list[str], notes: int
) -> None:
    found = parse_list(content.encode(errors="surrogateescape"), Path("tokens"))
    assert [token.name for token in found.tokens] == names
    assert len(found.notes) == notes


def test_line_may_be_indented_and_end_as_on_other_systems(tmp_path: Path) -> None:
    text = f"\ufeff# tokens\r\n  Zoë@lab:ro:{BOB}\r\n\t# more\n\tanna:rw:{ANNA} \n"
    tokens = listed(owned(tmp_path / "tokens", text))
    zoe, anna = tokens.find(BOB), tokens.find(ANNA)
    assert zoe == Token("Zoë@lab", False, digest_of(BOB))
    assert anna == Token("anna", True, digest_of(ANNA))
    assert tokens.find(WRONG) is None
    assert ANNA not in repr(tokens)
    assert digest_of(ANNA).hex() not in repr(anna)


def _mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        owned(path, LINES).chmod(mode)

    return make


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot be read: No such file"),
    "directory": (lambda path: path.mkdir(), "Is a directory"),
    "pipe": (lambda path: os.mkfifo(path, 0o600), "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
    "readable by others": (_mode(0o604), "chmod 600 "),
    "readable by the group": (_mode(0o640), "chmod 600 "),
    "writable by the group": (_mode(0o620), "chmod 600 "),
    "no text": (
        lambda path: owned(path, "").write_bytes(f"a:rw:{ANNA}\nb:rw:{ANNA}".encode() + b"\xff\n"),
        ":2: not UTF-8",
    ),
    "much too large": (lambda path: owned(path, "#" * (MOST_FILE_BYTES + 1)), "larger than 1 MiB"),
}


@pytest.mark.parametrize(("make", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_token_file_that_cannot_be_used_is_refused_with_the_mend(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    make(path)
    with pytest.raises(StartError) as caught:
        TokenWatch(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


def test_service_does_not_start_with_a_broken_token_file(dataset: Path, tmp_path: Path) -> None:
    tokens = owned(tmp_path / "tokens", f"anna:admin:{ANNA}\n")
    done = run(neurotrale("serve", dataset.parent, "--port", "0", "--token-file", tokens))
    assert done.returncode == 1
    assert f"{tokens}:1: expected name:rw:token" in done.stderr
    assert "Traceback" not in done.stderr
    assert ANNA not in done.stderr + done.stdout


def test_token_file_that_would_be_served_is_refused(dataset: Path, tmp_path: Path) -> None:
    root = dataset.parent
    inside = owned(root / "tokens", LINES)
    link = tmp_path / "link"
    link.symlink_to(inside)
    for path in (inside, link, owned(dataset / "tokens", LINES)):
        with pytest.raises(StartError, match="would be served"):
            create_app(AppSettings(root, token_file=path))
    create_app(AppSettings(root, token_file=owned(root / ".tokens", LINES)))


# --- the command that makes tokens ---


def test_token_command_prints_a_strong_line_of_the_file() -> None:
    lines = [
        run(neurotrale("token", "--name", "anna", *more)).stdout for more in ((), ("--rw",), ())
    ]
    text = "".join(lines).replace("anna", "a", 1).replace("anna", "b", 1)
    tokens = parse_tokens(text.encode(), Path("lines"))
    assert [token.may_write for token in tokens] == [False, True, False]
    for line in lines:
        assert re.fullmatch(r"anna:r[wo]:[A-Za-z0-9_-]{43}\n", line)


def test_token_command_appends_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    umask = os.umask(0)
    try:
        done = run(neurotrale("token", "--name", "anna", "--rw", "--append", path))
    finally:
        os.umask(umask)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (secret,) = (line.split(":")[2] for line in path.read_text().splitlines())
    assert secret not in done.stdout + done.stderr
    path.write_text("# mine\n" + path.read_text().rstrip("\n"))
    assert listed(path).find(secret) is None
    done = run(neurotrale("token", "--name", "bob", "--ro", "--append", path))
    assert done.returncode == 0
    assert "had no newline at its end, and was ignored; now it is valid" in done.stdout
    assert re.fullmatch(rf"# mine\nanna:rw:{secret}\nbob:ro:[\w-]{{43}}\n", path.read_text())
    assert listed(path).find(secret) == Token("anna", True, digest_of(secret))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        pytest.param(f"anna:ro:{BOB}\n", 0o600, "the same name", id="name that is there"),
        pytest.param(f"bob:ro:{BOB}\n", 0o644, "chmod 600", id="file that others read"),
        pytest.param("some notes\n", 0o600, ":1: expected", id="another file"),
        pytest.param(f"bob:ro:{BOB[:15]}", 0o600, ":1: a token has", id="part of a line"),
        pytest.param(f"anna:ro:{BOB}", 0o600, "the same name", id="name in the unfinished line"),
    ],
)
def test_token_command_leaves_a_file_alone_that_it_cannot_add_to(
    content: str, mode: int, said: str, tmp_path: Path
) -> None:
    path = owned(tmp_path / "tokens", content)
    path.chmod(mode)
    done = run(neurotrale("token", "--name", "anna", "--append", path))
    assert done.returncode == 1
    assert said in done.stderr
    assert BOB not in done.stderr
    assert path.read_text() == content


def test_token_command_leaves_no_part_of_a_line_on_a_full_disk(tmp_path: Path) -> None:
    path = owned(tmp_path / "tokens", f"bob:ro:{BOB}\n")
    whole = path.stat().st_size
    done = subprocess.run(
        neurotrale("token", "--name", "anna", "--append", path), env=environment(),
        capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 30, whole + 30)),
    )  # fmt: skip
    assert done.returncode == 1
    assert f"Nothing was added to {path}" in done.stderr
    assert path.read_text() == f"bob:ro:{BOB}\n"


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["", "an na", "a:b", "a\nb", "a/b", "x" * 65])
def test_token_command_refuses_what_is_no_name(name: str) -> None:
    done = run(neurotrale("token", "--name", name))
    assert done.returncode == 2
    assert "--name" in done.stderr
    assert done.stdout == ""


def test_token_command_warns_when_its_output_is_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for mode, warned in ((0o644, True), (0o600, False)):
        with path.open("w") as output:
            path.chmod(mode)
            done = subprocess.run(
                neurotrale("token", "--name", "anna"), stdout=output, stderr=subprocess.PIPE,
                env=environment(), text=True, check=True, timeout=60,
            )  # fmt: skip
        assert ("chmod 600" in done.stderr) == warned
        assert len(parse_tokens(path.read_bytes(), path)) == 1


def test_line_of_a_new_token_is_one_that_is_accepted() -> None:
    lines = [new_token_line(f"user{i}", may_write=bool(i % 2)) for i in range(50)]
    tokens = parse_tokens("".join(lines).encode(), Path("lines"))
    assert [token.may_write for token in tokens] == [False, True] * 25
    assert len({token.digest for token in tokens}) == 50


def test_annotations_of_the_dataset_are_those_it_began_with(service: Service) -> None:
    # Last of the service's tests: what was refused above has changed nothing.
    shown = requests.get(f"{service.url}{FILE}", params={"token": BOB}).json()
    assert [each for each in shown if each["id"] != "by-anna"] == ANNOTATIONS
