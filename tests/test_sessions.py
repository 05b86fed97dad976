"""Sessions in the path, and who a viewer is: the prefixes, and what stays behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from falcon import Request
from falcon.testing import create_environ
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.errors import MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.state import SERVICE_ID, STATE, ServiceId
from neurotrale.tokens import USER
from neurotrale.tokens.file import hide_tokens
from neurotrale.tokens.sessions import SESSION, label_of, new_session
from neurotrale.web.identity import COOKIE, viewer_of
from neurotrale.web.prefixes import ANY_PREFIX, VOXELS, Prefixes
from tests.conftest import Service, StartService
from tests.datasets import write_dataset
from tests.processes import ACCESS_LINE, eventually
from tests.test_listings import all_below

TOKEN = "annas-token-may-write.0123456789"
READER = "bobs-token-may-look.0123456789_A"
SESSION_A, SESSION_B = "s-AAAAAAAAAAAAAAAA", "s-b_-0123456789zZq"
NAVIGATION = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}

CHUNK = "/brain/1_1_1/0-64_0-64_0-64"
FILE = "/brain/annotations/x0y0z0/fibers.json"
PATHS = ("/", "/brain/", "/brain/info", CHUNK, FILE, "/api/openapi.json", "/api/datasets/brain")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sessions") / "data"
    write_dataset(root / "brain")
    (root / "brain/annotations/block_info.csv").write_text("64,64,64\n")
    for name in ("s-1", "s-AAAAAAAAAAAAAAAAA", "s-AAAAAAAAAAAAAAA!", "S-AAAAAAAAAAAAAAAA"):
        write_dataset(root / "as" / name, (8, 8, 8))
    (root / "as/note.txt").write_text("a file of a directory that is named as")
    return root


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Iterator[Service]:
    """A service without tokens; its log must not hold any session."""
    service = start_service(root, "--log-level", "debug")
    yield service
    service.stop()
    assert_nothing_is_shown(service)


@pytest.fixture(scope="module")
def guarded(root: Path, start_service: StartService) -> Iterator[Service]:
    """A service with tokens; its log must not hold any session or token."""
    tokens = root.with_name("tokens")
    tokens.touch(0o600)
    tokens.write_text(f"anna:rw:{TOKEN}\nbob:ro:{READER}\n")
    service = start_service(root, "--token-file", str(tokens), "--log-level", "debug")
    yield service
    service.stop()
    assert_nothing_is_shown(service)


def assert_nothing_is_shown(service: Service) -> None:
    for secret in (SESSION_A, SESSION_B, TOKEN, READER):
        assert secret not in service.log()
        for journal in service.root.rglob(".*.journal"):
            assert secret not in journal.read_text()


def get(url: str, **more: Any) -> requests.Response:
    return requests.get(url, timeout=60, **more)


# --- prefixes ---


@pytest.mark.parametrize(
    "prefix", [f"/as/{SESSION_A}", f"//as//{SESSION_B}", "/%61s/s%2D" + "A" * 16]
)
def test_session_in_front_of_any_path_changes_nothing_of_the_answer(
    service: Service, prefix: str
) -> None:
    for path in PATHS:
        plain, behind = (get(f"{service.url}{each}{path}") for each in ("", prefix))
        # The way out of the session is all that pages say of it.
        said = re.sub(b' data-outer="[./]*"', b"", behind.content)
        assert said == re.sub(b' data-outer="[./]*"', b"", plain.content), path
        assert behind.status_code == plain.status_code
        assert behind.headers.get("ETag") == plain.headers.get("ETag")
        assert behind.headers["Referrer-Policy"] == "same-origin"
        assert "Referrer-Policy" not in plain.headers


@pytest.mark.parametrize("voxels", ["", "/voxels"])
@pytest.mark.parametrize("token", [f"/token/{READER}", f"/token/{READER}/token/{READER}"])
def test_session_stands_behind_the_token(guarded: Service, token: str, voxels: str) -> None:
    for path in PATHS:
        answer = get(f"{guarded.url}{token}/as/{SESSION_A}{voxels}{path}")
        assert answer.status_code == 200, path
    without = get(f"{guarded.url}/as/{SESSION_A}{voxels}/brain/info")
    assert without.status_code == 401
    assert get(f"{guarded.url}/as/{SESSION_A}/api/health").status_code == 200


def test_token_in_the_header_works_with_a_session_in_the_path(guarded: Service) -> None:
    headers = {"Authorization": f"Bearer {READER}"}
    assert get(f"{guarded.url}/as/{SESSION_A}{FILE}", headers=headers).status_code == 200
    found = get(f"{guarded.url}/as/{SESSION_A}/brain/?token={READER}&x=1", headers=NAVIGATION)
    assert found.url == f"{guarded.url}/token/{READER}/as/{SESSION_A}/brain/?x=1"
    assert found.status_code == 200


@pytest.mark.parametrize(
    "prefix",
    [
        f"/as/{SESSION_A}/token/{TOKEN}",
        f"/as/{SESSION_A}/voxels/token/{TOKEN}",
        f"/voxels/token/{TOKEN}/as/{SESSION_A}",
        f"/token/{TOKEN}/voxels/as/{SESSION_A}",
        f"/token/{TOKEN}/as/{SESSION_A}/token/{TOKEN}",
        f"/token/{TOKEN}/as/{SESSION_A}/as/{SESSION_A}",
        f"/token/{TOKEN}/as/{SESSION_A}/voxels/as/{SESSION_B}",
        f"/token/{TOKEN}/as/{SESSION_A}/voxels/voxels",
        f"/token/{TOKEN}/voxels",
    ],
)
def test_prefixes_in_another_order_are_404(guarded: Service, prefix: str) -> None:
    for method, path in (("GET", "/brain/info"), ("GET", FILE), ("PUT", FILE)):
        answer = requests.request(method, f"{guarded.url}{prefix}{path}", data=b"[]", timeout=60)
        assert answer.status_code == 404
        assert not {secret for secret in (TOKEN, SESSION_A) if secret in answer.text}


def test_what_is_no_session_is_a_directory_like_any_other(service: Service, root: Path) -> None:
    for path in sorted((root / "as").iterdir()):
        name = path.name
        if path.is_dir():
            assert get(f"{service.url}/as/{name}/info").content == (path / "info").read_bytes()
            assert get(f"{service.url}/as/{SESSION_A}/as/{name}/info").status_code == 200
    assert get(f"{service.url}/as/note.txt").status_code == 200
    listing = get(f"{service.url}/as/")
    assert 'href="s-1/"' in listing.text
    assert get(f"{service.url}/as/s-0/info").status_code == 404


class _Root(DataRoot):
    """A data root in which nothing exists."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))

    def status(self, parts: tuple[str, ...]) -> None:
        return None


NAMES = st.one_of(
    st.from_regex("s-[A-Za-z0-9_-]{14,18}", fullmatch=True),
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1),
)
SLASHES = st.sampled_from(["/", "//"])


@given(NAMES, SLASHES, SLASHES, st.sampled_from(["", "/", "/brain/info", "//brain"]))
def test_exactly_one_form_is_a_session(name: str, first: str, second: str, rest: str) -> None:
    path = f"{first}as{second}{name}{rest}"
    req = Request(create_environ(path="/"))
    req.path = path
    assert ANY_PREFIX.match(path)
    Prefixes(_Root(), tokens=False).strip(req)
    if re.fullmatch("s-[A-Za-z0-9_-]{16}", name, re.ASCII):
        assert (req.env[SESSION], req.path) == (name, rest or "/")
        assert req.env["SCRIPT_NAME"] == path.removesuffix(rest)
        shown = hide_tokens(path)
        assert name not in shown
        assert label_of(name) in shown
    else:
        assert (SESSION in req.env, req.path) == (False, path)


PARTS = {"token": f"/token/{TOKEN}", "as": f"/as/{SESSION_A}", "voxels": "/voxels"}
IN_ORDER: tuple[list[str], ...] = (
    [],
    ["token"],
    ["as"],
    ["token", "as"],
    ["as", "voxels"],
    ["token", "as", "voxels"],
)


@given(st.lists(st.sampled_from(sorted(PARTS)), max_size=4))
def test_any_other_order_leaves_a_prefix_or_is_an_error(parts: list[str]) -> None:
    req = Request(create_environ(path="/"))
    req.path = "".join(PARTS[part] for part in parts) + "/brain/info"
    # Careless concatenation repeats a token; that is accepted.
    repeated = sum(one == following == "token" for one, following in pairwise(parts))
    once = parts[repeated:] if parts[:repeated] == ["token"] * repeated else parts
    try:
        if ANY_PREFIX.match(req.path):
            Prefixes(_Root(), tokens=True).strip(req)
    except MissingError:
        assert once not in IN_ORDER
        return
    assert (req.path == "/brain/info") == (once in IN_ORDER)
    assert (SESSION in req.env and req.path == "/brain/info") == (once in IN_ORDER and "as" in once)
    assert not (VOXELS in req.env and "as" not in parts)


def test_new_sessions_have_the_one_form_and_differ() -> None:
    made = {new_session() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("s-[A-Za-z0-9_-]{16}", session) for session in made)


# --- what stays behind the prefixes ---


@pytest.mark.parametrize("behind", ["", "/voxels"])
def test_links_of_every_page_stay_behind_token_and_session(guarded: Service, behind: str) -> None:
    start = f"{guarded.url}/token/{READER}/as/{SESSION_A}{behind}/"
    history = f"{start}api/datasets/brain/history"
    seen = all_below(start, NAVIGATION, history, but=lambda url: url.endswith("/as/"))
    assert f"{start}brain/annotations/x0y0z0/fibers.json/history/" in seen
    assert f"{start}api/pages.css" in seen


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("/as/{}", "/as/{}/", id="session alone"),
        pytest.param("/as/{}?x=1", "/as/{}/?x=1", id="session alone with a query"),
        pytest.param("/as/{}/voxels", "/as/{}/voxels/", id="voxels alone"),
        pytest.param("/as/{}/brain", "/as/{}/brain/", id="directory"),
        pytest.param("/as/{}/voxels/brain", "/as/{}/voxels/brain/", id="directory of voxels"),
        pytest.param("/as/{}/api", "/as/{}/api/", id="documentation"),
        pytest.param("/as/{}/viewer", "/as/{}/viewer/", id="viewer"),
    ],
)
def test_redirects_stay_behind_the_session(service: Service, asked: str, found: str) -> None:
    answer = get(service.url + asked.format(SESSION_A))
    assert answer.url == service.url + found.format(SESSION_A)
    assert answer.history


def test_content_location_and_document_stay_behind_the_session(service: Service) -> None:
    asked = f"{service.url}/as/{SESSION_A}/brain/annotations/x70y3z9/fibers.json"
    answer = requests.put(asked, data=b"[]", timeout=60)
    assert answer.status_code in (200, 201)  # a session makes it a viewer, which names a position
    found = urljoin(asked, answer.headers["Content-Location"])
    assert found == f"{service.url}/as/{SESSION_A}/brain/annotations/x1y0z0/fibers.json"
    assert requests.put(asked.replace(f"/as/{SESSION_A}", ""), data=b"[]", timeout=60).ok
    assert (service.root / "brain/annotations/x70y3z9").is_dir()  # a script's is a name
    document = get(f"{service.url}/as/{SESSION_A}/api/openapi.json").json()
    assert document["servers"] == [{"url": "../"}]


def test_access_log_shows_the_label_of_a_session(service: Service) -> None:
    get(f"{service.url}/as/{SESSION_B}/brain/info?id=labelled")
    shown = f"/as/{label_of(SESSION_B)}/brain/info?id=labelled"

    def find() -> list[str]:
        lines = map(ACCESS_LINE.fullmatch, service.log().splitlines())
        return [match["path"] for match in lines if match and match["path"] == shown]

    eventually(find, f"a line for {shown}")


# --- who a viewer is ---


def request(
    address: str = "10.0.0.1", agent: str = "Mozilla/5.0", user: str = "", session: str = "",
    cookie: str = "",
) -> Request:  # fmt: skip
    headers = {"User-Agent": agent, **({"Cookie": f"a=1; {cookie}; b=2"} if cookie else {})}
    environ = create_environ(remote_addr=address, headers=headers)
    environ[COOKIE] = "neurotrale-0"
    environ.update({key: value for key, value in ((USER, user), (SESSION, session)) if value})
    return Request(environ)


COOKIE_A = f"neurotrale-0={SESSION_B}"


@pytest.mark.parametrize(
    ("one", "other", "same_label", "same_view"),
    [
        pytest.param({}, {}, True, True, id="nothing differs"),
        pytest.param({}, {"address": "10.0.0.2"}, False, False, id="address"),
        pytest.param({}, {"agent": "curl/8"}, False, False, id="agent"),
        pytest.param({"user": "anna"}, {"user": "bob"}, False, False, id="token"),
        pytest.param({"session": SESSION_A}, {"session": SESSION_B}, False, False, id="session"),
        pytest.param({"session": SESSION_A}, {"session": SESSION_A, "address": "10.0.0.2",
                     "agent": "curl/8", "cookie": COOKIE_A}, True, True, id="same session"),
        pytest.param({"session": SESSION_A, "user": "anna"},
                     {"session": SESSION_A, "user": "bob"}, True, False, id="copied link"),
        pytest.param({"cookie": COOKIE_A}, {"cookie": COOKIE_A, "address": "10.0.0.2"},
                     True, True, id="same cookie"),
        pytest.param({"cookie": COOKIE_A, "user": "anna"}, {"cookie": COOKIE_A, "user": "bob"},
                     True, False, id="same cookie, other tokens"),
        pytest.param({"cookie": f"neurotrale-1={SESSION_B}"}, {}, True, True,
                     id="cookie of another service"),
        pytest.param({"cookie": "neurotrale-0=mine"}, {}, True, True, id="cookie of no form"),
    ],
)  # fmt: skip
def test_viewer_is_known_by_the_first_thing_that_tells(
    one: dict[str, str], other: dict[str, str], same_label: bool, same_view: bool
) -> None:
    a, b = (viewer_of(request(**each)) for each in (one, other))
    assert (a.label == b.label, a.key == b.key) == (same_label, same_view)
    assert re.fullmatch("[0-9a-f]{10}", a.label)


def test_label_of_a_session_is_the_one_in_the_log() -> None:
    assert viewer_of(request(session=SESSION_A, user="anna")).label == label_of(SESSION_A)


def test_page_gives_a_browser_one_cookie_of_this_service(service: Service) -> None:
    browser = requests.Session()
    for path in ("/brain/info", "/as/note.txt", CHUNK, FILE):
        assert not browser.get(f"{service.url}{path}", headers=NAVIGATION).cookies  # no page
    assert not get(f"{service.url}/as/{SESSION_A}/", headers=NAVIGATION).cookies
    answer = browser.get(f"{service.url}/", headers=NAVIGATION)
    header = answer.headers["Set-Cookie"]
    assert re.fullmatch(
        "neurotrale-[0-9a-f]{16}=s-[A-Za-z0-9_-]{16}; HttpOnly; Path=/; SameSite=Strict", header
    )
    assert "Set-Cookie" not in browser.get(f"{service.url}/", headers=NAVIGATION).headers
    name = header.partition("=")[0]
    again = get(f"{service.url}/", headers={**NAVIGATION, "Cookie": f"{name}=damaged"})
    assert "Set-Cookie" in again.headers


@pytest.mark.long
def test_cookie_is_the_same_after_a_restart(tmp_path: Path, start_service: StartService) -> None:
    write_dataset(tmp_path / "brain")
    names = []
    for _ in range(2):
        service = start_service(tmp_path)
        answer = get(f"{service.url}/", headers=NAVIGATION)
        names.append(answer.headers["Set-Cookie"].partition("=")[0])
        service.stop()
    assert names[0] == names[1]
    reading = start_service(tmp_path, "--read-only")
    assert "Set-Cookie" not in get(f"{reading.url}/", headers=NAVIGATION).headers


def test_id_of_the_service_is_kept_and_made_anew_if_it_is_lost(tmp_path: Path) -> None:
    first = ServiceId(tmp_path)
    assert re.fullmatch("[0-9a-f]{16}", first.value)
    assert not list(tmp_path.iterdir())  # nothing is created before a browser comes
    first.keep()
    assert ServiceId(tmp_path).value == first.value
    place = tmp_path / STATE
    assert [path.name for path in place.iterdir()] == [SERVICE_ID]
    for damaged in ("", "x" * 16, first.value + "\n"):
        (place / SERVICE_ID).write_text(damaged)
        second = ServiceId(tmp_path)
        assert second.value not in (first.value, damaged)
        second.keep()
        assert ServiceId(tmp_path).value == second.value


def test_id_of_the_service_is_not_written_through_what_others_planted(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / STATE).symlink_to(target)
    ServiceId(tmp_path).keep()
    assert not list(target.iterdir())


# --- voxels of one nanometre ---


def test_voxels_are_stated_as_one_nanometre_large(
    tmp_path: Path, start_service: StartService
) -> None:
    info = {
        "type": "image", "data_type": "uint16", "num_channels": 1, "mesh": "mesh", "unknown": [1],
        "scales": [
            {"key": f"{n}", "size": [64 // n] * 3, "chunk_sizes": [[64, 64, 64]],
             "resolution": [n * 0.5, n * 900, n * 3600], "encoding": "raw", "note": n}
            for n in (1, 2, 4)
        ],
    }  # fmt: skip
    (tmp_path / "brain/skeletons").mkdir(parents=True)
    (tmp_path / "brain/info").write_text(json.dumps(info))
    (tmp_path / "brain/skeletons/info").write_text('{"@type": "neuroglancer_skeletons"}')
    service = start_service(tmp_path)
    plain, voxels = f"{service.url}/brain/info", f"{service.url}/as/{SESSION_A}/voxels/brain/info"
    assert get(plain).json() == info
    answer = get(voxels)
    stated = answer.json()
    assert [scale["resolution"] for scale in stated["scales"]] == [[n] * 3 for n in (1, 2, 4)]
    assert "1 nm" in stated.pop("comment")
    assert "mesh" not in stated
    for scale, own in zip(stated["scales"], info["scales"], strict=True):  # type: ignore[call-overload]
        assert {**scale, "resolution": own["resolution"]} == own
    assert stated["unknown"] == [1]
    assert answer.headers["ETag"] != get(plain).headers["ETag"]
    assert answer.headers["Cache-Control"] == "no-cache"
    assert get(voxels, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert get(voxels, headers={"Range": "bytes=0-0"}).content == answer.content[:1]
    assert requests.head(voxels, timeout=60).headers["Content-Length"] == str(len(answer.content))
    other = f"{service.url}/as/{SESSION_A}/voxels/brain/skeletons/info"
    assert get(other).text == '{"@type": "neuroglancer_skeletons"}'
    (tmp_path / "brain/info").write_text('{"scales": [{"key": 1}]}')
    assert get(voxels).status_code == 500
    (tmp_path / "voxels").mkdir()
    (tmp_path / "voxels/a.txt").write_text("real")
    assert get(f"{service.url}/as/{SESSION_A}/voxels/a.txt").text == "real"
    assert get(voxels).status_code == 404


def test_chunks_and_annotations_are_the_same_with_voxels_of_one_nanometre(service: Service) -> None:
    for path in (CHUNK, FILE, "/brain/", "/brain/annotations/search"):
        url = f"{service.url}/as/{SESSION_A}/voxels{path}"
        assert get(url).content == get(f"{service.url}{path}").content
        assert urlsplit(url).path == urlsplit(get(url).url).path
