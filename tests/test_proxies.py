"""Behind a proxy: whom it speaks for, whom it cannot claim to speak for, and the path it keeps."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.server.proxies import TrustedProxies
from neurotrale.web.prefixes import BASE_PATH
from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, write_dataset
from tests.processes import ACCESS_LINE, eventually, neurotrale, running
from tests.test_http import ask, compose, read_answer

PROXY, OUTER = "10.1.0.1", "10.1.0.2"
FIBERS = "brain/annotations/x0y0z0/fibers.json"
PERSON = "203.0.113.7"


def corrected(peer: str, trusted: Iterable[str], **headers: str) -> dict[str, Any]:
    """What the application is told of a request from a peer."""
    environ: dict[str, Any] = {
        "REMOTE_ADDR": peer,
        "HTTP_HOST": "asked:9000",
        "wsgi.url_scheme": "http",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }
    TrustedProxies(lambda environ, start_response: [], tuple(trusted)).correct(environ)
    return environ


# What the proxies at 10.1.0.1 and .2 send, and whom it is from.
CHAINS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, PROXY),
    "one": ({"x_forwarded_for": PERSON}, PERSON),
    "two": ({"x_forwarded_for": f"{PERSON}, {OUTER}"}, PERSON),
    "what the person claims": ({"x_forwarded_for": f"198.51.100.1, {PERSON}"}, PERSON),
    "claimed to be a proxy": ({"x_forwarded_for": f"{OUTER}, {PERSON}"}, PERSON),
    "claimed, through two": ({"x_forwarded_for": f"198.51.100.1,{PERSON},{OUTER}"}, PERSON),
    "a proxy itself": ({"x_forwarded_for": OUTER}, OUTER),
    "with a port": ({"x_forwarded_for": f"{PERSON}:4711"}, PERSON),
    "IPv6": ({"x_forwarded_for": "2001:DB8::7"}, "2001:db8::7"),
    "IPv6 with a port": ({"x_forwarded_for": "[2001:db8::7]:4711"}, "2001:db8::7"),
    "IPv4 in IPv6": ({"x_forwarded_for": f"::ffff:{PERSON}"}, PERSON),
    "no address": ({"x_forwarded_for": "unknown"}, PROXY),
    "no address, claimed": ({"x_forwarded_for": f"{PERSON}, unknown"}, PROXY),
    "empty": ({"x_forwarded_for": ""}, PROXY),
    "commas": ({"x_forwarded_for": f",,{PERSON}"}, PERSON),
    "comma behind": ({"x_forwarded_for": f"{PERSON},"}, PROXY),
    "a line of the log": ({"x_forwarded_for": f"{PERSON}\n127.0.0.1 GET /"}, PROXY),
    "standard": ({"forwarded": f"for={PERSON}"}, PERSON),
    "standard, all of it": (
        {"forwarded": f'by=10.1.0.1;FOR="{PERSON}:80";host=a;proto=https'},
        PERSON,
    ),
    "standard, two": ({"forwarded": f"for={PERSON}, for={OUTER};by={PROXY}"}, PERSON),
    "standard, claimed": ({"forwarded": f"for=198.51.100.1, for={PERSON}"}, PERSON),
    "standard, IPv6": ({"forwarded": 'For="[2001:db8::7]:47011"'}, "2001:db8::7"),
    "standard, commas within quotes": (
        {"forwarded": f'for="a,b;c=\\"",for={PERSON};x="1,2"'},
        PERSON,
    ),
    "standard, hidden": ({"forwarded": "for=_hidden, for=unknown"}, PROXY),
    "standard, malformed": ({"forwarded": f'for={PERSON};"x'}, PROXY),
    "standard, claimed and malformed": ({"forwarded": f'for="1.2.3.4, for={PERSON}'}, PROXY),
    "both, the same": ({"x_forwarded_for": PERSON, "forwarded": f"for={PERSON}"}, PERSON),
    "both, different": ({"x_forwarded_for": PERSON, "forwarded": "for=198.51.100.1"}, PROXY),
}


@pytest.mark.parametrize(("headers", "client"), CHAINS.values(), ids=CHAINS)
def test_client_is_the_last_address_that_no_trusted_proxy_has(
    headers: dict[str, str], client: str
) -> None:
    for trusted in ([PROXY, OUTER], ["10.1.0.0/16"], ["0.0.0.0/32", "10.1.0.0/30"]):
        assert corrected(PROXY, trusted, **headers)["REMOTE_ADDR"] == client
    for peer in ("192.0.2.1", "", "localhost", "10.2.0.1", "::1"):
        told = corrected(peer, [PROXY, OUTER], **headers)
        assert (told["REMOTE_ADDR"], told["HTTP_HOST"]) == (peer, "asked:9000")


@pytest.mark.parametrize("peer", ["localhost", ""])
def test_peer_on_a_unix_socket_is_trusted_if_that_is_said(peer: str) -> None:
    assert corrected(peer, ["unix"], x_forwarded_for=PERSON)["REMOTE_ADDR"] == PERSON
    assert corrected(peer, ["0.0.0.0/0"], x_forwarded_for=PERSON)["REMOTE_ADDR"] == peer
    assert corrected(PROXY, ["unix"], x_forwarded_for=PERSON)["REMOTE_ADDR"] == PROXY


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.0.5", "::ffff:127.0.0.1"])
def test_proxy_may_be_named_and_a_name_of_this_machine_means_all_of_it(peer: str) -> None:
    assert corrected(peer, ["localhost"], x_forwarded_for=PERSON)["REMOTE_ADDR"] == PERSON
    assert corrected(peer, ["no-such-host.invalid"], x_forwarded_for=PERSON)["REMOTE_ADDR"] == peer


HOSTS: dict[str, tuple[dict[str, str], tuple[str, str]]] = {
    "nothing": ({}, ("asked:9000", "http")),
    "once": (
        {"x_forwarded_host": "brains.example", "x_forwarded_proto": "https"},
        ("brains.example", "https"),
    ),
    "once, through two": (
        {
            "x_forwarded_for": f"{PERSON}, {OUTER}",
            "x_forwarded_host": "brains.example",
            "x_forwarded_proto": "https",
        },
        ("brains.example", "https"),
    ),
    "each of two": (
        {
            "x_forwarded_for": f"{PERSON}, {OUTER}",
            "x_forwarded_host": "brains.example, inner:80",
            "x_forwarded_proto": "https, http",
        },
        ("brains.example", "https"),
    ),
    "claimed": (
        {"x_forwarded_for": f"1.2.3.4, {PERSON}", "x_forwarded_host": "evil.example, b.example"},
        ("b.example", "http"),
    ),
    "standard": (
        {"forwarded": f'for={PERSON};host="brains.example:8443";proto=HTTPS'},
        ("brains.example:8443", "https"),
    ),
    "standard, two": (
        {"forwarded": f"for={PERSON};host=brains.example;proto=https, for={OUTER};host=inner"},
        ("brains.example", "https"),
    ),
    "standard, claimed": (
        {"forwarded": f"for=1.2.3.4;host=evil.example, for={PERSON};host=brains.example"},
        ("brains.example", "http"),
    ),
    "no host": ({"x_forwarded_host": "a b", "x_forwarded_proto": "gopher"}, ("asked:9000", "http")),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "told"), HOSTS.values(), ids=HOSTS)
def test_host_and_scheme_are_those_that_the_client_asked_for(
    headers: dict[str, str], told: tuple[str, str]
) -> None:
    environ = corrected(PROXY, [PROXY, OUTER], **headers)
    assert (environ["HTTP_HOST"], environ["wsgi.url_scheme"]) == told


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("/lab/brains", "/lab/brains"),
        ("/brains/", "/brains"),
        ("", None),
        ("/", None),
        ("//evil.example", None),
        ("brains", None),
        ("/a;Domain=x", None),
        ("/a b", None),
    ],
)
def test_prefix_is_that_of_a_trusted_proxy(prefix: str, path: str | None) -> None:
    assert corrected(PROXY, [PROXY], x_forwarded_prefix=prefix).get(BASE_PATH) == path
    assert BASE_PATH not in corrected("192.0.2.1", [PROXY], x_forwarded_prefix=prefix)


HEADER = st.text(st.sampled_from('10.2,;="\\: []_forhstpx\n'), max_size=60)


@given(HEADER)
def test_whatever_a_person_claims_the_proxy_tells_who_it_is(claim: str) -> None:
    for headers in (
        {"x_forwarded_for": f"{claim}, {PERSON}"},
        {"forwarded": f"{claim}, for={PERSON}"},
    ):
        client = corrected(PROXY, [PROXY, OUTER], **headers)["REMOTE_ADDR"]
        assert client in (PERSON, PROXY)  # the latter if the claim breaks the header
        assert client == PERSON or "forwarded" in headers


# --- a service ---


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    root = tmp_path_factory.mktemp("proxies") / "data"
    write_dataset(root / "brain")
    options = ("--trusted-proxy", "127.0.0.1", "--allowed-hosts", "brains.example")
    return start_service(root, *options, "--base-path", "/lab/brains")


def last_change(service: Service) -> dict[str, Any]:
    answer = requests.get(f"{service.url}/{FIBERS}/history?limit=1", timeout=60)
    change: dict[str, Any] = answer.json()["changes"][0]
    return change


def test_history_and_log_have_the_address_of_the_person(service: Service) -> None:
    forwarded = {"X-Forwarded-For": f"198.51.100.1, {PERSON}"}
    url = f"{service.url}/{FIBERS}?id=forwarded"
    body = {"type": "point", "point": [1, 2, 3]}
    assert requests.patch(url, json=body, headers=forwarded, timeout=60).ok
    change = last_change(service)
    assert (change["by"], change["from"]) == (PERSON, PERSON)
    lines = eventually(
        lambda: [line for line in service.log().splitlines() if "id=forwarded" in line], "logged"
    )
    assert ACCESS_LINE.fullmatch(lines[0])
    assert f" {PERSON} PATCH " in lines[0]


@pytest.mark.parametrize("origin", ["https://brains.example", "http://brains.example:8080"])
def test_page_of_the_host_of_the_proxy_may_write(service: Service, origin: str) -> None:
    url, body = f"{service.url}/{FIBERS}", json.dumps(ANNOTATIONS)
    headers = {"Origin": origin, "X-Forwarded-Host": "brains.example"}
    assert requests.put(url, data=body, headers=headers, timeout=60).ok
    other = {**headers, "X-Forwarded-Host": "other.example"}
    refused = requests.put(url, data=body, headers=other, timeout=60)
    assert "--allowed-hosts other.example" in refused.json()["description"]
    foreign = {**headers, "Origin": "https://other.example"}
    refused = requests.put(url, data=body, headers=foreign, timeout=60)
    assert "--cors-origins https://other.example" in refused.json()["description"]


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "Forwarded"])
def test_page_whose_name_leads_here_cannot_claim_to_come_through_a_proxy(
    service: Service, name: str
) -> None:
    """Its browser connects from this machine, as the proxy does."""
    claim = {name: "localhost" if name == "X-Forwarded-Host" else "host=localhost"}
    headers = {"Host": "other.example", "Sec-Fetch-Site": "same-origin", **claim}
    for method in ("GET", "PUT"):
        assert ask(service, f"/{FIBERS}", headers, method=method, body=b"[]").status == 403


def test_proxy_on_a_unix_socket_is_believed_and_one_in_the_network_is_not(
    service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    options = ("--workers", "1", "--trusted-proxy", "unix")
    command = neurotrale("serve", service.root, "--unix-socket", path, *options)
    with (
        running(command),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(60)
        connection.connect(str(path))
        headers = {"Forwarded": f"for={PERSON};host=brains.example"}
        origin = {"Origin": "http://brains.example", "Content-Type": "application/json"}
        request = compose(
            f"/{FIBERS}/restore?revision=0", {**headers, **origin}, method="POST", body=b"{}"
        )
        connection.sendall(request)
        assert read_answer(connection, request)[0].status in (200, 201)
        assert last_change(service)["from"] == PERSON


# --- the base path ---

PAGE = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate"}


def test_pages_and_files_are_behind_the_base_path_and_without_it(service: Service) -> None:
    for path in ("/", "/brain/", "/brain/info", "/api/health", "/as/s-AAAAAAAAAAAAAAAA/brain/info"):
        plain = ask(service, path)
        assert plain.status == 200
        for base in ("/lab/brains", "//lab//brains"):
            assert ask(service, f"{base}{path}").status == 200
    listing = ask(service, "/lab/brains/brain/").body
    assert listing == ask(service, "/brain/").body  # its links are relative
    assert ask(service, "/lab/brains-too/brain/info").status == 404
    assert ask(service, "/lab/brain/info").status == 404


def test_files_are_saved_behind_the_base_path(service: Service) -> None:
    for path in (f"/lab/brains/{FIBERS}", f"//lab/brains//as/s-AAAAAAAAAAAAAAAA/{FIBERS}"):
        body = json.dumps(ANNOTATIONS).encode().ljust(2**21)
        assert ask(service, path, method="PUT", body=body).status == 200
    assert ask(service, "/lab/brains/brain/info", method="PUT", body=b"{}").status == 405


def test_base_path_without_a_slash_leads_to_the_one_with(service: Service) -> None:
    answer = ask(service, "/lab/brains?x=y")
    assert (answer.status, answer.headers["Location"]) == (302, "./brains/?x=y")
    session = ask(service, "/lab/brains/as/s-AAAAAAAAAAAAAAAA")
    assert session.headers["Location"] == "./s-AAAAAAAAAAAAAAAA/"


@pytest.mark.parametrize(
    ("path", "headers", "cookie"),
    [
        ("/lab/brains/", {}, "/lab/brains/"),
        ("/", {}, "/"),
        ("/", {"X-Forwarded-Prefix": "/stripped"}, "/stripped/"),
    ],
    ids=["kept", "none", "stripped"],
)
def test_cookie_is_for_the_paths_of_the_service_alone(
    service: Service, path: str, headers: dict[str, str], cookie: str
) -> None:
    for scheme in ("http", "https"):
        answer = ask(service, path, {**PAGE, **headers, "X-Forwarded-Proto": scheme})
        (value,) = answer.headers.get_all("Set-Cookie", [])
        assert re.search("[Pp]ath=([^;]*)", value)[1] == cookie  # type: ignore[index]
        assert ("secure" in value.lower()) == (scheme == "https")


def test_token_and_session_are_behind_the_base_path(
    service: Service, tmp_path: Path, start_service: StartService
) -> None:
    token = "annas-token-may-write.0123456789"
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"anna:rw:{token}\n")
    options = ("--token-file", str(tokens), "--base-path", "/node/n1/9000")
    guarded = start_service(service.root, *options)
    base = "/node/n1/9000"
    for path in (f"/token/{token}/brain/info", f"/token/{token}/as/s-AAAAAAAAAAAAAAAA/brain/info"):
        assert ask(guarded, base + path).status == 200
    assert ask(guarded, f"{base}/brain/info").status == 401
    moved = ask(guarded, f"{base}/brain/?token={token}", PAGE)
    assert (moved.status, moved.headers["Location"]) == (302, f"../token/{token}/brain/")
    eventually(lambda: "/brain/ 302" in guarded.log(), "the last line is there")
    assert token not in guarded.log()
