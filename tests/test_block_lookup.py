"""Which block a request reads and writes: scripts name it, viewers and ``?position=`` find it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from tests.brains import error_of
from tests.conftest import Service, StartService

AXONS = json.dumps(
    [{"id": f"a{n}", "type": "point", "anntype": "axon", "point": [n, 1, 2]} for n in range(49)],
    indent=1,
).encode()
MINE = [{"id": "mine", "type": "point", "point": [5, 0, 0]}]
SIZE = "64,64,64\n"

SCRIPTS = {
    "requests": {},
    "curl": {"User-Agent": "curl/8.5.0"},
    "text": {"User-Agent": "tool (not Mozilla/5.0)", "Content-Type": "text/plain"},
}
VIEWERS = {
    "origin": {"Origin": "http://localhost:8080"},
    "origin-null": {"Origin": "null"},
    "referer": {"Referer": "http://neurotrale.test/ui/"},
    "sec-fetch-mode": {"Sec-Fetch-Mode": "cors"},
    "sec-fetch-site": {"Sec-Fetch-Site": "same-origin"},
    "user-agent": {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36"},
}
METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE")

scripts = pytest.mark.parametrize("headers", SCRIPTS.values(), ids=SCRIPTS)
viewers = pytest.mark.parametrize("headers", VIEWERS.values(), ids=VIEWERS)
everyone = pytest.mark.parametrize(
    "headers", [*SCRIPTS.values(), *VIEWERS.values()], ids=[*SCRIPTS, *VIEWERS]
)
methods = pytest.mark.parametrize("method", METHODS)


@dataclass(frozen=True)
class Brain:
    """A dataset of one test: blocks that are there, each with 49 axons, and a block size."""

    service: Service
    name: str

    @property
    def annotations(self) -> Path:
        return self.service.root / self.name / "annotations"

    def url(self, block: str = "", leaf: str = "fibers.json") -> str:
        """A file of a block; without one, that at a position."""
        return "/".join(filter(None, (self.service.url, self.name, "annotations", block, leaf)))

    def blocks(self) -> dict[str, dict[str, bytes]]:
        """The files of each block directory, hidden ones left out."""
        return {
            entry.name: {
                file.name: file.read_bytes() for file in entry.iterdir() if file.name[0] != "."
            }
            for entry in self.annotations.iterdir()
            if entry.is_dir()
        }

    def hidden(self) -> list[str]:
        return [str(path) for path in self.annotations.rglob(".*")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("blocks"), "--cors-origins", "*")


def new_brain(service: Service, *blocks: str, size: str | None = SIZE) -> Brain:
    brain = Brain(service, f"brain-{len(os.listdir(service.root))}")
    for block in blocks:
        (brain.annotations / block).mkdir(parents=True)
        (brain.annotations / block / "fibers.json").write_bytes(AXONS)
    brain.annotations.mkdir(parents=True, exist_ok=True)
    if size is not None:
        (brain.annotations / "block_info.csv").write_text(size)
    return brain


def ask(method: str, url: str, headers: dict[str, str], **params: str) -> requests.Response:
    """Read, replace the file, or change one annotation."""
    body: Any = {"PUT": MINE, "PATCH": MINE[0]}.get(method)
    id_ = {"PATCH": "mine", "DELETE": "a7"}.get(method)
    query = {**params, **({"id": id_} if id_ else {})}
    answer = requests.request(method, url, params=query, json=body, headers=headers)
    if method == "HEAD":
        assert answer.content == b""
    return answer


def refused(answer: requests.Response, method: str, status: int = 404) -> str:
    """Hold that a request was refused, and names no block as answered; give why."""
    assert "Content-Location" not in answer.headers
    assert answer.status_code == status, answer.text
    return "" if method == "HEAD" else error_of(answer, status)


def changed(method: str) -> list[str]:
    """The ids of a file with 49 axons after a request."""
    ids = [f"a{n}" for n in range(49)]
    if method == "PUT":
        return ["mine"]
    if method == "PATCH":
        return [*ids, "mine"]
    return [id_ for id_ in ids if id_ != "a7"] if method == "DELETE" else ids


def ids_in(content: bytes) -> list[str]:
    return [annotation["id"] for annotation in json.loads(content)]


def location(answer: requests.Response) -> str:
    """Where the answer says that it is from, resolved as a browser does it."""
    return urljoin(str(answer.url), answer.headers["Content-Location"])


# If-Match: the guard has no part in which block is meant.
def forced(headers: dict[str, str], method: str) -> dict[str, str]:
    return {**headers, "If-Match": "*"} if method in ("PUT", "PATCH", "DELETE") else headers


# --- a directory of the very name ---


@pytest.mark.quick(36)
@methods
@everyone
@pytest.mark.parametrize("block", ["x5y0z0", "x0001_y0001", "made by hand"])
def test_directory_of_the_very_name_is_meant_by_everyone(
    shared: Service, block: str, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, "x0y0z0", block)
    answer = ask(method, brain.url(block), forced(headers, method))
    assert answer.status_code in (200, 201)
    after = brain.blocks()
    assert after.keys() == {"x0y0z0", block}
    assert after["x0y0z0"] == {"fibers.json": AXONS}
    assert ids_in(after[block]["fibers.json"]) == changed(method)
    if headers in VIEWERS.values():
        assert location(answer) == answer.url
    else:
        assert "Content-Location" not in answer.headers


# --- no directory of that name: scripts ---


@pytest.mark.quick(36)
@methods
@scripts
@pytest.mark.parametrize("size", [SIZE, "64;64", "", None], ids=["size", "bad", "empty", "none"])
@pytest.mark.parametrize("present", [("x0y0z0",), ("x0001_y0001",), ()], ids=str)
def test_absent_name_means_nothing_else_to_a_script_and_put_makes_it(
    shared: Service,
    present: tuple[str, ...],
    size: str | None,
    headers: dict[str, str],
    method: str,
) -> None:
    brain = new_brain(shared, *present, size=size)
    before = brain.blocks()
    answer = ask(method, brain.url("x5y0z0"), headers)
    if method == "PUT":
        assert answer.status_code == 201
        assert answer.json() == {"filename": f"{brain.name}/annotations/x5y0z0/fibers.json"}
        assert ids_in(brain.blocks()["x5y0z0"]["fibers.json"]) == ["mine"]
        assert brain.blocks() == {**before, "x5y0z0": brain.blocks()["x5y0z0"]}
    else:
        said = refused(answer, method)
        hint = f"/{brain.name}/annotations/fibers.json?position=x,y,z"
        assert hint in said or method == "HEAD"
        assert brain.blocks() == before
        assert brain.hidden() == []


@pytest.mark.quick(54)
@methods
@everyone
@pytest.mark.parametrize("block", ["x-5y0z0", "x5y-1z0", "x0y0z-64"])
@pytest.mark.parametrize("size", [SIZE, None], ids=["size", "none"])
def test_negative_numbers_lie_outside_for_everyone(
    shared: Service, size: str | None, block: str, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, "x0y0z0", size=size)
    said = refused(ask(method, brain.url(block), headers), method)
    assert "outside the volume" in said or method == "HEAD"
    assert brain.blocks() == {"x0y0z0": {"fibers.json": AXONS}}
    assert brain.hidden() == []


# --- no directory of that name: viewers ---


@pytest.mark.quick(30)
@methods
@viewers
@pytest.mark.parametrize(
    ("present", "asked", "meant"),
    [
        pytest.param(("x0y0z0",), "x5y0z0", "x0y0z0", id="first"),
        pytest.param(("x0y0z0", "x1y2z3"), "x64y129z200", "x1y2z3", id="index"),
        pytest.param(("x0001_y0001", "x0002_y0003"), "x64y129z200", "x0002_y0003", id="legacy"),
    ],
)
def test_position_means_its_block_to_a_viewer(
    shared: Service,
    present: tuple[str, ...],
    asked: str,
    meant: str,
    headers: dict[str, str],
    method: str,
) -> None:
    brain = new_brain(shared, *present)
    answer = ask(method, brain.url(asked), forced(headers, method))
    assert answer.status_code in (200, 201)
    query = {"PATCH": "?id=mine", "DELETE": "?id=a7"}.get(method, "")
    assert location(answer) == brain.url(meant) + query
    assert "Content-Location" in answer.headers.get("Access-Control-Expose-Headers", "") or (
        "Origin" not in headers
    )
    after = brain.blocks()
    assert after.keys() == set(present)
    assert ids_in(after.pop(meant)["fibers.json"]) == changed(method)
    assert all(files == {"fibers.json": AXONS} for files in after.values())


@pytest.mark.quick(30)
@methods
@viewers
@pytest.mark.parametrize(
    ("present", "made"),
    [
        pytest.param((), "x1y2z3", id="no-blocks"),
        pytest.param(("x0y0z0",), "x1y2z3", id="by-index"),
        pytest.param(("x0001_y0001",), "x0002_y0003", id="legacy"),
    ],
)
def test_block_that_is_not_there_is_missing_to_a_viewer_and_put_makes_it_by_its_index(
    shared: Service, present: tuple[str, ...], made: str, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, *present)
    before = brain.blocks()
    answer = ask(method, brain.url("x64y129z200"), headers)
    if method == "PUT":
        assert answer.status_code == 201
        assert answer.json() == {"filename": f"{brain.name}/annotations/{made}/fibers.json"}
        assert location(answer) == brain.url(made)
        assert brain.blocks() == {**before, made: brain.blocks()[made]}
        assert ids_in(brain.blocks()[made]["fibers.json"]) == ["mine"]
        again = requests.get(brain.url("x64y129z200"), headers=headers)
        assert (again.json(), location(again)) == (MINE, brain.url(made))
    else:
        said = refused(answer, method)
        assert repr(made) in said or method == "HEAD"
        assert brain.blocks() == before
        assert brain.hidden() == []


@pytest.mark.quick(30)
@methods
@viewers
@pytest.mark.parametrize("size", ["64;64;64", "0,0,0", "", None], ids=["bad", "0", "empty", "none"])
def test_position_without_a_block_size_is_a_name_to_a_viewer(
    shared: Service, size: str | None, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, "x0y0z0", size=size)
    answer = ask(method, brain.url("x5y0z0"), headers)
    if method == "PUT":
        assert answer.status_code == 201
        assert brain.blocks().keys() == {"x0y0z0", "x5y0z0"}
    else:
        refused(answer, method)
        assert brain.blocks().keys() == {"x0y0z0"}
    assert brain.blocks()["x0y0z0"] == {"fibers.json": AXONS}


def test_script_and_viewer_at_one_url_each_get_their_own_block(shared: Service) -> None:
    brain, viewer = new_brain(shared, "x0y0z0"), VIEWERS["referer"]
    url = brain.url("x5y0z0")
    assert requests.put(url, json=MINE, headers=viewer | {"If-Match": "*"}).status_code == 200
    assert brain.blocks().keys() == {"x0y0z0"}
    seen = requests.get(url, headers=viewer)
    assert seen.headers["Vary"].split(", ")[:3] == ["Origin", "Referer", "User-Agent"]
    known = {"If-None-Match": seen.headers["ETag"]}
    assert requests.get(url, headers=known).status_code == 404
    same = requests.get(url, headers=viewer | known)
    assert (same.status_code, location(same)) == (304, brain.url("x0y0z0"))
    assert requests.put(url, json=[]).status_code == 201
    assert brain.blocks()["x5y0z0"] == {"fibers.json": b"[]"}
    # Now that it has a directory of its own, the name means that one to viewers, too.
    assert requests.get(url, headers=viewer).json() == []
    assert ids_in(brain.blocks()["x0y0z0"]["fibers.json"]) == ["mine"]


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_etag_tells_answers_apart_that_name_another_block(shared: Service, format_: str) -> None:
    brain, viewer = new_brain(shared, "x0y0z0"), VIEWERS["origin"]
    url, params = brain.url("x5y0z0"), {"format": format_}
    first = requests.get(url, params=params, headers=viewer)
    assert "x0y0z0" in first.text
    requests.put(url, data=AXONS)
    known = viewer | {"If-None-Match": first.headers["ETag"]}
    second = requests.get(url, params=params, headers=known)
    assert second.status_code == 200
    assert "x5y0z0" in second.text


# --- ?position= ---


@pytest.mark.quick(36)
@methods
@everyone
@pytest.mark.parametrize(
    ("present", "meant"),
    [
        pytest.param(("x0y0z0", "x1y2z3"), "x1y2z3", id="index"),
        pytest.param(("x0001_y0001", "x0002_y0003"), "x0002_y0003", id="legacy"),
        pytest.param(("x1y2z3", "x64y129z200"), "x1y2z3", id="name-like-the-position"),
    ],
)
def test_position_in_the_query_is_the_block_that_holds_it(
    shared: Service, present: tuple[str, ...], meant: str, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, *present)
    answer = ask(method, brain.url(), forced(headers, method), position="64,129,200")
    assert answer.status_code in (200, 201)
    query = {"PATCH": "?id=mine", "DELETE": "?id=a7"}.get(method, "")
    assert location(answer) == brain.url(meant) + query
    after = brain.blocks()
    assert after.keys() == set(present)
    assert ids_in(after.pop(meant)["fibers.json"]) == changed(method)
    assert all(files == {"fibers.json": AXONS} for files in after.values())


@pytest.mark.quick(30)
@methods
@everyone
@pytest.mark.parametrize(
    ("present", "made"),
    [(("x0y0z0",), "x1y2z3"), (("x0001_y0001",), "x0002_y0003")],
    ids=["by-index", "legacy"],
)
def test_position_in_the_query_without_its_block_is_missing_and_put_makes_it(
    shared: Service, present: tuple[str, ...], made: str, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, *present)
    before = brain.blocks()
    answer = ask(method, brain.url(), headers, position="64,129,200")
    if method == "PUT":
        assert answer.status_code == 201
        assert location(answer) == brain.url(made)
        assert brain.blocks() == {**before, made: brain.blocks()[made]}
        assert ids_in(brain.blocks()[made]["fibers.json"]) == ["mine"]
    else:
        refused(answer, method)
        assert brain.blocks() == before


@methods
@pytest.mark.parametrize(
    "position",
    ["", "1", "1,2", "1,2,3,4", "1.5,2,3", "x1y2z3", "1 2 3", "1,2,", "1e3,0,0", "1" * 19 + ",0,0"],
)
def test_position_in_the_query_that_is_malformed_is_400_and_says_how_to_write_it(
    shared: Service, position: str, method: str
) -> None:
    brain = new_brain(shared, "x0y0z0")
    said = refused(ask(method, brain.url(), {}, position=position), method, 400)
    assert "x,y,z" in said or method == "HEAD"
    assert brain.blocks() == {"x0y0z0": {"fibers.json": AXONS}}
    assert brain.hidden() == []


def test_position_in_the_query_twice_or_beside_a_block_is_400(shared: Service) -> None:
    brain = new_brain(shared, "x0y0z0")
    twice = requests.put(f"{brain.url()}?position=1,2,3&position=1,2,3", json=MINE)
    assert "more than once" in refused(twice, "PUT", 400)
    both = requests.put(f"{brain.url('x0y0z0')}?position=1,2,3", json=MINE)
    assert "Leave one out" in refused(both, "PUT", 400)
    assert brain.blocks() == {"x0y0z0": {"fibers.json": AXONS}}


@methods
@pytest.mark.parametrize("position", ["-1,0,0", "0,-64,0", "5,5,-5"])
def test_position_in_the_query_that_is_negative_is_missing(
    shared: Service, position: str, method: str
) -> None:
    brain = new_brain(shared, "x0y0z0")
    said = refused(ask(method, brain.url(), {}, position=position), method)
    assert "outside the volume" in said or method == "HEAD"
    assert brain.blocks() == {"x0y0z0": {"fibers.json": AXONS}}


@pytest.mark.quick(36)
@methods
@everyone
@pytest.mark.parametrize(
    ("size", "status"), [(None, 404), ("64;64;64", 500), ("", 500)], ids=["none", "bad", "empty"]
)
def test_position_in_the_query_without_a_block_size_is_an_error_that_names_its_file(
    shared: Service, size: str | None, status: int, headers: dict[str, str], method: str
) -> None:
    brain = new_brain(shared, "x0y0z0", size=size)
    said = refused(ask(method, brain.url(), headers, position="1,2,3"), method, status)
    assert f"{brain.name}/annotations/block_info.csv" in said or method == "HEAD"
    assert brain.blocks() == {"x0y0z0": {"fibers.json": AXONS}}


def test_position_in_the_query_goes_with_every_other_parameter(shared: Service) -> None:
    brain = new_brain(shared, "x0y0z0", "x1y0z0")
    url = f"{brain.url()}?position=70,1,1"
    assert requests.get(f"{url}&id=a3").json()["id"] == "a3"
    boxed = requests.get(f"{url}&bbox=0,0,0,5,5,5")
    assert len(boxed.json()) == 6
    assert location(boxed) == f"{brain.url('x1y0z0')}?bbox=0,0,0,5,5,5"
    assert requests.get(location(boxed)).content == boxed.content
    part = requests.get(url, headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, AXONS[:10])
    assert location(part) == brain.url("x1y0z0")
    beyond = requests.get(url, headers={"Range": "bytes=99999999-"})
    refused(beyond, "GET", 416)


def test_history_at_a_position_is_that_of_its_block(shared: Service) -> None:
    brain = new_brain(shared, "x0y0z0", "x1y0z0")
    at = {"position": "70,1,1"}
    requests.delete(brain.url(), params={**at, "id": "a7"})
    past = requests.get(f"{brain.url()}/history", params=at)
    assert past.json() == requests.get(f"{brain.url('x1y0z0')}/history").json()
    assert [change["removed"] for change in past.json()["changes"]] == [["a7"]]
    assert location(past) == f"{brain.url('x1y0z0')}/history"
    first = requests.get(f"{brain.url()}/history/0", params=at)
    assert first.content == AXONS
    assert location(first) == f"{brain.url('x1y0z0')}/history/0"
    assert requests.get(f"{brain.url()}/held", params=at).json() == []
    assert requests.post(f"{brain.url()}/restore", json={}, params={**at, "revision": "0"}).ok
    assert brain.blocks() == {block: {"fibers.json": AXONS} for block in ("x0y0z0", "x1y0z0")}


@pytest.mark.parametrize("below", ["history", "history/0", "history/", "held", "layers"])
def test_what_is_below_a_file_is_found_by_position_for_viewers_alone(
    shared: Service, below: str
) -> None:
    brain = new_brain(shared, "x0y0z0")
    requests.put(brain.url("x0y0z0"), json=MINE)
    url = f"{brain.url('x5y0z0')}/{below}"
    seen = requests.get(url, headers=VIEWERS["user-agent"])
    assert seen.status_code == 200
    assert location(seen) == f"{brain.url('x0y0z0')}/{below}"
    assert requests.get(url).status_code == 404


# --- a file of the annotations directory itself ---


@everyone
def test_file_beside_the_blocks_is_a_plain_file_that_only_disk_changes(
    shared: Service, headers: dict[str, str]
) -> None:
    brain = new_brain(shared, "x0y0z0")
    (brain.annotations / "notes.json").write_text('{"by": "ann"}')
    url = brain.url(leaf="notes.json")
    assert requests.get(url, headers=headers).json() == {"by": "ann"}
    for method in ("PUT", "PATCH", "DELETE"):
        answer = ask(method, url, headers)
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
        assert "/{dataset}/annotations/{leaf}.json?position=x,y,z" in error_of(answer, 405)
    assert (brain.annotations / "notes.json").read_text() == '{"by": "ann"}'
    assert requests.get(brain.url(), headers=headers).status_code == 404


# --- how the block is named in the answer ---


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("{0}/annotations/x5y0z0/fibers.json", "{0}/annotations/x0y0z0/fibers.json"),
        (
            "{0}/annotations/x5y0z0/my%20%23%3F%3A.json",
            "{0}/annotations/x0y0z0/my%20%23%3F%3A.json",
        ),
        ("{0}/annotations/x5y0z0/fibers.json?id=a3", "{0}/annotations/x0y0z0/fibers.json?id=a3"),
        (
            "{0}/annotations/fibers.json?token=secret&p%6Fsition=1%2C2%2C3",
            "{0}/annotations/x0y0z0/fibers.json",
        ),
    ],
)
def test_location_is_relative_to_the_url_as_it_was_written(
    shared: Service, path: str, meant: str
) -> None:
    brain = new_brain(shared, "x0y0z0")
    (brain.annotations / "x0y0z0" / "my #?:.json").write_bytes(AXONS)
    asked = f"{shared.url}/{path.format(brain.name)}"
    answer = requests.get(asked, headers=VIEWERS["origin"])
    assert answer.status_code == 200, answer.text
    reference = answer.headers["Content-Location"]
    assert not reference.startswith("/")
    assert "secret" not in reference
    assert urljoin(asked, reference) == f"{shared.url}/{meant.format(brain.name)}"
    assert requests.get(urljoin(asked, reference)).content == answer.content


def test_location_stays_below_a_token(tmp_path: Path, start_service: StartService) -> None:
    token = "tok-" + "0123456789abcdef" * 2
    tokens = tmp_path / "tokens"
    tokens.write_text(f"anna:rw:{token}\n")
    tokens.chmod(0o600)
    (tmp_path / "data").mkdir()
    service = start_service(tmp_path / "data", "--token-file", str(tokens))
    brain = new_brain(service, "x0y0z0")
    block = f"{service.url}/token/{token}/{brain.name}/annotations/x0y0z0/fibers.json"
    for asked in (
        block.replace("x0y0z0", "x5y0z0"),
        block.replace("x0y0z0/", "") + "?position=5,0,0",
    ):
        answer = requests.get(asked, headers=VIEWERS["origin"])
        assert answer.content == AXONS
        assert token not in answer.headers["Content-Location"]
        assert location(answer) == block
    queried = requests.get(f"{brain.url()}?position=5,0,0&token={token}")
    assert token not in queried.headers["Content-Location"]
    assert location(queried) == brain.url("x0y0z0")
    service.stop()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_preflight_at_a_position_allows_every_change(shared: Service, method: str) -> None:
    brain = new_brain(shared, size=None)  # where the block is, is not asked yet
    asked = {"Origin": "http://localhost:8080", "Access-Control-Request-Method": method}
    for url in (brain.url("x-5y0z0"), f"{brain.url()}?position=5,0,0"):
        answer = requests.options(url, headers=asked)
        assert answer.status_code == 200
        assert method in answer.headers["Access-Control-Allow-Methods"]
