"""Annotation files over HTTP: what is answered, what is on disk afterwards, what is left alone."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from tests.conftest import Service, StartService
from tests.datasets import wait_until_settled
from tests.processes import claims_in, names_in

POINT: dict[str, Any] = {"id": "p", "type": "point", "anntype": "neuron", "point": [1, 2, 3]}
LINE: dict[str, Any] = {"id": "l", "type": "LineString", "points": [[1, 2, 3], [4, 5.5, 6]]}
CONTENT = b"""[
   {"id": "p", "type": "point", "point": [1e0, 2.0, 3], "description": "soma"},
   {"id": "l", "type": "LineString", "points": [[1, 2, 3], [4, 5.50, 6]], "n": 123456789012345678901},
   {"id": "m", "type": "polygon", "points": [{"0": 1, "1": 2, "2": 3}, [0, 0, 0]], "x": null}
]
"""  # noqa: E501
BROKEN = b'[{"id": "p", "type": "point", "point": [1, 2'
MEBIBYTE = 2**20

# As Chromium sends them from a page of the viewer, on another port of the same machine.
PAGE = {
    "Origin": "http://localhost:8080",
    "Referer": "http://localhost:8080/",
    "Content-Type": "text/plain;charset=UTF-8",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Sec-Fetch-Mode": "cors",
}


@dataclass(frozen=True)
class Brain:
    """A dataset of one test below the root of a service that several tests share."""

    service: Service
    name: str

    @property
    def path(self) -> Path:
        return self.service.root / self.name

    @property
    def annotations(self) -> Path:
        return self.path / "annotations"

    @property
    def block(self) -> Path:
        return self.annotations / "x0y0z0"

    @property
    def file(self) -> Path:
        return self.block / "fibers.json"

    def url(self, leaf: str = "fibers.json", *, block: str = "x0y0z0") -> str:
        return f"{self.service.url}/{self.name}/annotations/{block}/{leaf}"


def dataset_of(service: Service, name: str) -> Brain:
    brain = Brain(service, name)
    brain.block.mkdir(parents=True)
    (brain.annotations / "block_info.csv").write_text("64,64,64\n")
    brain.file.write_bytes(CONTENT)
    return brain


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("data"), "--max-body-mb", "1")


@pytest.fixture
def brain(shared: Service) -> Brain:
    number = len(list(shared.root.iterdir()))
    return dataset_of(shared, f"brain-{number}")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Brain:
    """A dataset of a service that was started read-only."""
    return dataset_of(start_service(tmp_path_factory.mktemp("sealed"), "--read-only"), "brain")


def state(path: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a directory: names, types, modes, times and contents."""
    return {
        str(entry.relative_to(path)): (
            entry.stat().st_mode,
            entry.stat().st_mtime_ns,
            entry.stat().st_ino,
            entry.read_bytes() if entry.is_file() else b"",
        )
        for entry in path.rglob("*")
    }


@pytest.fixture
def unchanged(brain: Brain) -> Iterator[None]:
    """Hold that a test leaves every file as it was, and none beside them but a lock and a claim."""
    before = state(brain.path)
    yield
    after = state(brain.path)
    block = "annotations/x0y0z0"
    own = {f"{block}/{path.name}" for path in claims_in(brain.block)}
    assert len(own) <= 1
    own |= {f"{block}/.fibers.json.lock"}
    changed_times = {block} if own & after.keys() - before.keys() else set()
    for name in own:
        after.pop(name, None)
        before.pop(name, None)
    assert after.keys() == before.keys()
    for name in before.keys() - changed_times:
        assert after[name] == before[name], name


def error_of(answer: requests.Response, status: int) -> str:
    """Hold the one shape of every error; give its description."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"title", "description"}
    assert body["title"]
    assert body["description"]
    return str(body["description"])


def in_file(brain: Brain, leaf: str = "fibers.json") -> Any:
    return json.loads((brain.block / leaf).read_bytes())


def connect(brain: Brain) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", brain.service.port, timeout=30)


# --- GET ---


def test_get_gives_the_file_byte_for_byte_as_json(brain: Brain) -> None:
    answer = requests.get(brain.url())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.content == CONTENT


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        pytest.param(
            "p",
            b'{"id": "p", "type": "point", "point": [1e0, 2.0, 3], "description": "soma"}',
            id="first",
        ),
        pytest.param(
            "m",
            b'{"id": "m", "type": "polygon", "points": [{"0": 1, "1": 2, "2": 3}, [0, 0, 0]],'
            b' "x": null}',
            id="last",
        ),
    ],
)
def test_get_with_an_id_gives_that_annotation_byte_for_byte(
    brain: Brain, id_: str, text: bytes
) -> None:
    answer = requests.get(brain.url(), params={"id": id_})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.content == text


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("{name}/annotations/x0y0z0/absent.json", id="file"),
        pytest.param("{name}/annotations/x64y0z0/fibers.json", id="block"),
        pytest.param("{name}/annotations/x-41y22z13/fibers.json", id="negative-position"),
        pytest.param("{name}/annotations/elsewhere/fibers.json", id="block-of-another-name"),
        pytest.param("absent/annotations/x0y0z0/fibers.json", id="dataset"),
        pytest.param("{name}/tree.json", id="tree-json"),
        pytest.param("{name}/annotations/x0y0z0/fibers.json?id=absent", id="annotation"),
        pytest.param("{name}/annotations/x0y0z0/fibers.json?id=P", id="annotation-in-capitals"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_get_of_what_is_absent_is_404_in_json_that_pages_may_read(brain: Brain, path: str) -> None:
    url = f"{brain.service.url}/{path.format(name=brain.name)}"
    answer = requests.get(url, headers=PAGE)
    error_of(answer, 404)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_get_of_a_doubled_slash_is_the_same_file(brain: Brain) -> None:
    url = f"{brain.service.url}/{brain.name}//annotations/x0y0z0//fibers.json"
    assert requests.get(url).content == CONTENT


def test_reads_leave_no_trace_in_the_directory(brain: Brain) -> None:
    before = state(brain.path)
    for method in ("GET", "HEAD", "OPTIONS"):
        for params in ({}, {"id": "p"}, {"id": "absent"}):
            requests.request(method, brain.url(), params=params)
    assert state(brain.path) == before
    assert os.listdir(brain.block) == ["fibers.json"]


def test_head_gives_the_headers_of_get_and_no_body(brain: Brain) -> None:
    wait_until_settled(brain.file.parent)
    whole, head = requests.get(brain.url()), requests.head(brain.url())
    assert head.status_code == 200
    assert head.content == b""
    for name in ("Content-Type", "Content-Length", "ETag", "Last-Modified", "Cache-Control"):
        assert head.headers[name] == whole.headers[name]


def test_post_is_405_that_names_what_is_allowed(brain: Brain) -> None:
    answer = requests.post(brain.url(), data=b"[]")
    error_of(answer, 405)
    allowed = {method.strip() for method in answer.headers["Allow"].split(",")}
    assert allowed == {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}


# --- versions ---


def test_get_asks_caches_to_ask_again(brain: Brain) -> None:
    for params in ({}, {"id": "p"}):
        answer = requests.get(brain.url(), params=params)
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["ETag"].startswith('"')


def test_get_with_the_current_etag_is_304_without_a_body(brain: Brain) -> None:
    for params in ({}, {"id": "p"}):
        etag = requests.get(brain.url(), params=params).headers["ETag"]
        again = requests.get(brain.url(), params=params, headers={"If-None-Match": etag})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["ETag"] == etag
        assert again.headers["Cache-Control"] == "no-cache"


def test_get_with_an_old_etag_is_the_new_content(brain: Brain) -> None:
    etag = requests.get(brain.url()).headers["ETag"]
    requests.delete(brain.url(), params={"id": "m"})
    again = requests.get(brain.url(), headers={"If-None-Match": etag})
    assert again.status_code == 200
    assert again.headers["ETag"] != etag


def test_etag_tells_edits_within_one_second_apart(brain: Brain) -> None:
    url = brain.url("new.json")
    etags = set()
    for number in range(5):
        requests.put(url, json=[{**POINT, "point": [number, 0, 0]}])
        os.utime(brain.block / "new.json", (1e9, 1e9))
        etags.add(requests.get(url).headers["ETag"])
    assert len(etags) == 5


def test_etag_is_that_of_the_content_whenever_and_by_whom_it_was_written(brain: Brain) -> None:
    first = requests.get(brain.url()).headers["ETag"]
    requests.put(brain.url(), data=b"[]")
    brain.file.write_bytes(CONTENT)
    os.utime(brain.file, (1e9, 1e9))
    assert requests.get(brain.url()).headers["ETag"] == first
    other = requests.put(brain.url("other.json"), data=CONTENT)
    assert other.headers["ETag"] == first


def test_file_changed_on_disk_is_seen_at_once(brain: Brain) -> None:
    etag = requests.get(brain.url()).headers["ETag"]
    brain.file.write_bytes(b"[]")
    answer = requests.get(brain.url(), headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (200, b"[]")


# --- PUT ---


def test_put_replaces_the_file_with_the_very_bytes_sent(brain: Brain) -> None:
    body = b'[ {"id":"p" ,\t"type":"point","point":[1e0,2.50,-0]} ]\r\n'
    answer = requests.put(brain.url(), data=body)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"filename": f"{brain.name}/annotations/x0y0z0/fibers.json"}
    assert brain.file.read_bytes() == body
    assert answer.headers["ETag"] == requests.get(brain.url()).headers["ETag"]


def test_put_of_a_new_file_is_201(brain: Brain) -> None:
    answer = requests.put(brain.url("z-0001.json"), json=[POINT])
    assert answer.status_code == 201
    assert answer.json() == {"filename": f"{brain.name}/annotations/x0y0z0/z-0001.json"}
    assert in_file(brain, "z-0001.json") == [POINT]


def test_put_of_a_new_block_makes_its_directory(brain: Brain) -> None:
    answer = requests.put(brain.url(block="x1y2z3"), json=[POINT])
    assert answer.status_code == 201
    assert answer.json() == {"filename": f"{brain.name}/annotations/x1y2z3/fibers.json"}
    assert (brain.annotations / "x1y2z3" / "fibers.json").is_file()
    assert requests.get(brain.url(block="x64y128z200"), headers=PAGE).json() == [POINT]
    assert requests.get(brain.url(block="x1y2z3")).json() == [POINT]


def test_put_to_a_dataset_of_images_alone_makes_its_annotations(shared: Service) -> None:
    brain = Brain(shared, "images-alone")
    brain.path.mkdir()
    (brain.path / "info").write_text("{}")
    assert requests.get(brain.url()).status_code == 404
    assert requests.put(brain.url(), json=[POINT]).status_code == 201
    assert in_file(brain) == [POINT]


def test_put_to_a_nested_dataset_names_the_file_from_the_root(shared: Service) -> None:
    brain = dataset_of(shared, "lab/mouse-3")
    answer = requests.put(brain.url(), json=[POINT])
    assert answer.json() == {"filename": "lab/mouse-3/annotations/x0y0z0/fibers.json"}


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("application/json", id="json"),
        pytest.param("text/plain;charset=UTF-8", id="text-as-browsers-send-it"),
        pytest.param("text/plain; charset=latin-1", id="another-charset"),
        pytest.param("application/x-www-form-urlencoded", id="form-as-curl-sends-it"),
        pytest.param("multipart/form-data; boundary=x", id="multipart"),
        pytest.param("no type at all", id="nonsense"),
        pytest.param(None, id="none"),
    ],
)
def test_body_is_json_in_utf8_whatever_its_content_type(
    brain: Brain, content_type: str | None
) -> None:
    text = '{"id":"p","type":"point","point":[1,2,3],"description":"\u795e\u7d4c \N{BRAIN}"}'
    headers = {"Content-Type": content_type} if content_type else {}
    connection = connect(brain)
    for method, query, body in (("PUT", "", f"[{text}]"), ("PATCH", "?id=p", text)):
        connection.request(method, urlsplit(brain.url()).path + query, body.encode(), headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read()).get("warnings")) == (200, None)
        assert brain.file.read_bytes() == f"[{text}]".encode()
    connection.close()


def test_body_in_chunks_is_taken_as_one(brain: Brain) -> None:
    body = json.dumps([POINT, LINE]).encode()
    connection = connect(brain)
    path = urlsplit(brain.url()).path
    headers = {"Transfer-Encoding": "chunked"}
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    connection.request("PUT", path, pieces, headers, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, b"filename" in answer.read()) == (200, True)
    assert brain.file.read_bytes() == body
    new = [b'{"type":"point",', b'"point":[7,8,9]}']
    connection.request("PATCH", f"{path}?id=p", iter(new), headers, encode_chunked=True)
    assert connection.getresponse().status == 200
    assert in_file(brain)[0] == {"id": "p", "type": "point", "point": [7, 8, 9]}
    connection.close()


@pytest.mark.usefixtures("unchanged")
def test_body_that_breaks_off_on_the_way_changes_nothing(brain: Brain) -> None:
    path = urlsplit(brain.url()).path
    with socket.create_connection(("127.0.0.1", brain.service.port)) as raw:
        raw.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[]".encode()
        )
        raw.shutdown(socket.SHUT_WR)
        assert b"200" not in raw.recv(1024)
    with socket.create_connection(("127.0.0.1", brain.service.port)) as raw:
        head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode() + b"2\r\n[]\r\n")
        raw.shutdown(socket.SHUT_WR)
        assert b"200" not in raw.recv(1024)
    assert requests.get(brain.url()).content == CONTENT


def test_put_to_a_doubled_slash_is_the_same_file(brain: Brain) -> None:
    url = f"{brain.service.url}/{brain.name}//annotations//x0y0z0/fibers.json"
    assert requests.put(url, json=[POINT]).status_code == 200
    assert in_file(brain) == [POINT]


def test_put_of_a_file_name_that_needs_percent_encoding(brain: Brain) -> None:
    leaf = "tr\u00e4cts of #1 100%.json"
    answer = requests.put(brain.url(quote(leaf)), json=[POINT])
    assert answer.json() == {"filename": f"{brain.name}/annotations/x0y0z0/{leaf}"}
    assert in_file(brain, leaf) == [POINT]
    assert requests.get(brain.url(quote(leaf))).json() == [POINT]


# --- PATCH ---


@pytest.mark.parametrize("leaf", ["fibers.json", "centroids.json", "z-0012.json", "any name.json"])
def test_patch_of_a_known_id_replaces_that_annotation_and_no_other_byte(
    brain: Brain, leaf: str
) -> None:
    (brain.block / leaf).write_bytes(CONTENT)
    new = b'{"id": "l", "type": "line", "pointA": [0,0,0], "pointB": [1e3,0,0]}'
    answer = requests.patch(brain.url(leaf), params={"id": "l"}, data=new)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"id": "l"}
    lines = CONTENT.splitlines(keepends=True)
    lines[2] = b"   " + new + b",\n"
    assert (brain.block / leaf).read_bytes() == b"".join(lines)
    assert answer.headers["ETag"] == requests.get(brain.url(leaf)).headers["ETag"]


def test_patch_of_an_unknown_id_adds_the_annotation_behind_all_others(brain: Brain) -> None:
    new = b'{"id":"n","type":"point","point":[1,2,3]}'
    answer = requests.patch(brain.url(), params={"id": "n"}, data=new)
    assert (answer.status_code, answer.json()) == (201, {"id": "n"})
    assert brain.file.read_bytes() == CONTENT.removesuffix(b"\n]\n") + b",\n   " + new + b"\n]\n"


def test_patch_without_an_id_in_the_body_fills_it_in(brain: Brain) -> None:
    new: dict[str, Any] = {"type": "point", "point": [4, 5, 6]}
    answer = requests.patch(brain.url(), params={"id": "p"}, json=new)
    assert (answer.status_code, answer.json()) == (200, {"id": "p"})
    assert in_file(brain)[0] == {"id": "p", **new}


def test_patch_into_an_empty_array_adds_the_first_annotation(brain: Brain) -> None:
    brain.file.write_bytes(b"[\n]\n")
    assert requests.patch(brain.url(), params={"id": "p"}, json=POINT).status_code == 201
    assert in_file(brain) == [POINT]


def test_patch_with_unknown_type_and_keys_keeps_them_and_warns(brain: Brain) -> None:
    new: dict[str, Any] = {"id": "p", "type": "sphere", "colour": "red"}
    answer = requests.patch(brain.url(), params={"id": "p"}, json=new)
    assert answer.status_code == 200
    assert len(answer.json()["warnings"]) == 2
    assert in_file(brain)[0] == new
    for warning in answer.json()["warnings"]:
        assert f"patch {brain.name}/annotations/x0y0z0/fibers.json: {warning}" in (
            brain.service.log()
        )


def test_patch_through_a_position_changes_the_file_of_its_block(brain: Brain) -> None:
    url, params = brain.url(block="x5y6z7"), {"id": "n"}
    answer = requests.patch(url, params=params, json={"type": "x"}, headers=PAGE)
    assert answer.status_code == 201
    assert in_file(brain)[-1] == {"id": "n", "type": "x"}


@pytest.mark.parametrize(
    "id_",
    [
        pytest.param("4f2a9c01" * 5, id="forty-hex-digits"),
        pytest.param("8c6e1a52-3f1c-4a34-9a9e-0d6f0e6f7a10", id="uuid"),
        pytest.param("a/b?c=d&e#f;g", id="characters-of-urls"),
        pytest.param("100% + more", id="percent-plus-and-space"),
        pytest.param("a,b", id="comma"),
        pytest.param('say "hi" \\ there', id="quotes-and-backslash"),
        pytest.param("\u795e\u7d4c-\u00e9-\N{BRAIN}", id="unicode"),
        pytest.param("e\u0301", id="combining"),
        pytest.param("line\nbreak\x00", id="control-characters"),
        pytest.param("x" * 2000, id="long"),
    ],
)
def test_id_of_any_characters_is_added_read_replaced_and_removed(brain: Brain, id_: str) -> None:
    url = brain.url()
    params = {"id": id_}
    added = requests.patch(url, params=params, json={"type": "point", "point": [1, 2, 3]})
    assert (added.status_code, added.json()) == (201, {"id": id_})
    assert requests.get(url, params=params).json()["id"] == id_
    replaced = requests.patch(url, params=params, json={**POINT, "id": id_})
    assert (replaced.status_code, replaced.json()) == (200, {"id": id_})
    assert in_file(brain)[-1] == {**POINT, "id": id_}
    removed = requests.delete(url, params=params)
    assert (removed.status_code, removed.json()) == (200, {"id": id_})
    assert brain.file.read_bytes() == CONTENT


def test_id_cannot_forge_a_line_of_the_log(brain: Brain) -> None:
    requests.patch(
        brain.url(), params={"id": "x\nERROR forged: by id"}, json={"y\nERROR forged: by key": 1}
    )
    requests.delete(brain.url(), params={"id": "x\nERROR forged: by id"})
    assert not any(line.startswith("ERROR forged") for line in brain.service.log().splitlines())


# --- DELETE ---


def test_delete_removes_that_annotation_and_no_other_byte(brain: Brain) -> None:
    answer = requests.delete(brain.url(), params={"id": "l"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"id": "l"}
    lines = CONTENT.splitlines(keepends=True)
    assert brain.file.read_bytes() == b"".join((*lines[:2], *lines[3:]))
    assert answer.headers["ETag"] == requests.get(brain.url()).headers["ETag"]


def test_delete_of_every_annotation_leaves_an_empty_array_never_no_file(brain: Brain) -> None:
    for id_ in ("l", "p", "m"):
        assert requests.delete(brain.url(), params={"id": id_}).status_code == 200
    assert in_file(brain) == []
    error_of(requests.delete(brain.url(), params={"id": "m"}), 404)
    assert requests.get(brain.url()).json() == []


def test_changes_leave_the_file_its_journal_and_its_lock_in_the_directory(
    brain: Brain,
) -> None:
    requests.patch(brain.url(), params={"id": "n"}, json={"type": "x"})
    requests.delete(brain.url(), params={"id": "n"})
    requests.put(brain.url(), json=[])
    requests.put(brain.url(), json=5)
    beside = {f".fibers.json.{kind}" for kind in ("lock", "journal", "journal.base")}
    assert names_in(brain.block) == {"fibers.json", *beside}
    (claim,) = claims_in(brain.block)
    assert claim.name.startswith(".neurotrale.writer-flock-")


# --- what is refused leaves everything as it was ---

ONE = {"id": "p"}
REFUSED = [
    pytest.param("PUT", {}, b"", 400, "empty", id="put-empty"),
    pytest.param("PUT", {}, b" \n", 400, "empty", id="put-blank"),
    pytest.param("PUT", {}, BROKEN, 400, "not valid JSON", id="put-cut-short"),
    pytest.param("PUT", {}, b'[{"id":"a","n":NaN}]', 400, "not valid JSON", id="put-nan"),
    pytest.param("PUT", {}, b"\xef\xbb\xbf[]", 400, "not valid JSON", id="put-byte-order-mark"),
    pytest.param("PUT", {}, b'[{"id":"\xff"}]', 400, "not valid JSON", id="put-not-utf8"),
    pytest.param("PUT", {}, b"[" * 200_000, 400, "not valid JSON", id="put-deep"),
    pytest.param("PUT", {}, b"{}", 422, "the body: expected an array", id="put-object"),
    pytest.param("PUT", {}, b'{"a":[]}', 422, "the body", id="put-object-around-the-array"),
    pytest.param("PUT", {}, b"null", 422, "the body: expected an array", id="put-null"),
    pytest.param("PUT", {}, b"[{}]", 422, "[0].id: expected", id="put-no-id"),
    pytest.param(
        "PUT", {}, b'[{"id":"a"},{"id":"a"}]', 422, "[1].id: expected a unique id",
        id="put-id-twice",
    ),
    pytest.param(
        "PUT", {}, b'[{"id":"a","type":"polygon","points":[[1,2]]}]', 422,
        "[0].points[0]: expected 3 numbers", id="put-two-coordinates",
    ),
    pytest.param(
        "PUT", {}, b'[{"id":"a","type":"POINT"}]', 422, "[0].point: a point needs it",
        id="put-no-geometry",
    ),
    pytest.param(
        "PUT", {}, b'[{"id":"a","type":"point","point":[1e999,2,3]}]', 422, "[0]", id="put-1e999"
    ),
    pytest.param("PUT", {}, b'[{"id":"a","anntype":null}]', 422, "[0].anntype", id="put-null-key"),
    pytest.param("PUT", {}, b"[]" + b" " * MEBIBYTE, 413, "", id="put-too-large"),
    pytest.param("PATCH", {}, b"{}", 400, "id in the query", id="patch-without-id"),
    pytest.param("PATCH", {"id": ""}, b"{}", 400, "id is empty", id="patch-empty-id"),
    pytest.param("PATCH", {"id": ["p", "l"]}, b"{}", 400, "more than one id", id="patch-two-ids"),
    pytest.param("PATCH", {"id": ["p", "p"]}, b"{}", 400, "more than one id", id="patch-id-twice"),
    pytest.param("PATCH", ONE, b"", 400, "empty", id="patch-empty"),
    pytest.param("PATCH", ONE, b'{"id":"p"', 400, "not valid JSON", id="patch-cut-short"),
    pytest.param("PATCH", ONE, b'{"id":"l"}', 400, "not the id in the URL", id="patch-another-id"),
    pytest.param("PATCH", ONE, b'{"n":Infinity}', 400, "not valid JSON", id="patch-infinity"),
    pytest.param("PATCH", ONE, b"[]", 422, "the body: expected an annotation", id="patch-array"),
    pytest.param("PATCH", ONE, b'{"id":5}', 422, "id: expected", id="patch-number-as-id"),
    pytest.param("PATCH", ONE, b'{"id":""}', 422, "id: expected", id="patch-empty-id-in-body"),
    pytest.param(
        "PATCH", ONE, b'{"type":"point","point":[null,2,3]}', 422, "point: expected 3 numbers",
        id="patch-null-coordinate",
    ),
    pytest.param(
        "PATCH", ONE, b'{"n":' + b"[" * 500 + b"]" * 500 + b"}", 422, "n: nested", id="patch-deep"
    ),
    pytest.param("PATCH", ONE, b'{"n":1}' + b" " * MEBIBYTE, 413, "", id="patch-too-large"),
    pytest.param("DELETE", {}, b"", 400, "never deleted", id="delete-without-id"),
    pytest.param("DELETE", {}, b'{"id":"p"}', 400, "never deleted", id="delete-id-in-the-body"),
    pytest.param("DELETE", {"id": ""}, b"", 400, "id is empty", id="delete-empty-id"),
    pytest.param("DELETE", {"id": ["p", "p"]}, b"", 400, "'p' more than once", id="delete-twice"),
    pytest.param("DELETE", {"id": ["p", "l", ""]}, b"", 400, "id is empty", id="delete-empty-too"),
    pytest.param("DELETE", {"id": "absent"}, b"", 404, "'absent'", id="delete-unknown-id"),
    pytest.param("DELETE", {"ID": "p"}, b"", 400, "never deleted", id="delete-other-parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "params", "body", "status", "said"), REFUSED)
@pytest.mark.usefixtures("unchanged")
def test_request_that_is_refused_says_why_and_leaves_the_file_as_it_was(
    brain: Brain, method: str, params: Any, body: bytes, status: int, said: str
) -> None:
    answer = requests.request(method, brain.url(), params=params, data=body, headers=PAGE)
    assert said in error_of(answer, status)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" not in answer.headers


@pytest.mark.usefixtures("unchanged")
def test_get_with_a_wrong_id_parameter_is_400(brain: Brain) -> None:
    assert "id is empty" in error_of(requests.get(brain.url(), params={"id": ""}), 400)
    answer = requests.get(brain.url(), params={"id": ["p", "l"]})
    assert "more than one id" in error_of(answer, 400)


def test_body_in_chunks_that_is_too_large_is_413(brain: Brain) -> None:
    before = state(brain.path)
    pieces = (b" " * 4096 for _ in range(MEBIBYTE // 4096 + 1))
    try:
        answer = requests.put(brain.url(), data=pieces)
    except requests.ConnectionError:
        pass  # it hung up while the rest was still on its way
    else:
        error_of(answer, 413)
    assert state(brain.path) == before


def test_body_as_large_as_allowed_is_taken(brain: Brain) -> None:
    body = b"[]" + b" " * (MEBIBYTE - 2)
    assert requests.put(brain.url(), data=body).status_code == 200
    assert brain.file.stat().st_size == MEBIBYTE


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("annotations/x0y0z0/absent.json", id="file"),
        pytest.param("annotations/x64y0z0/fibers.json", id="block"),
        pytest.param("annotations/x-1y0z0/fibers.json", id="negative-position"),
        pytest.param("annotations/elsewhere/fibers.json", id="block-of-another-name"),
    ],
)
def test_change_of_a_file_that_is_absent_is_404_and_makes_nothing(
    brain: Brain, method: str, place: str
) -> None:
    before = state(brain.path)
    url = f"{brain.service.url}/{brain.name}/{place}"
    error_of(requests.request(method, url, params={"id": "p"}, json=POINT), 404)
    assert state(brain.path) == before


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("absent/annotations/x0y0z0/fibers.json", id="dataset"),
        pytest.param("absent/deeper/annotations/x0y0z0/fibers.json", id="nested-dataset"),
        pytest.param("folder/annotations/x0y0z0/fibers.json", id="directory-that-is-no-dataset"),
        pytest.param("annotations/x0y0z0/fibers.json", id="root-that-is-no-dataset"),
        pytest.param("brain/annotations/x-41y22z13/fibers.json", id="negative-position"),
        pytest.param("brain/annotations/elsewhere/fibers.json", id="block-of-another-name"),
        pytest.param("brain/annotations/x0y0/fibers.json", id="block-without-z"),
        pytest.param("brain/annotations/x3y3z3/fibers.json", id="block-that-is-a-file"),
    ],
)
def test_put_to_a_place_where_no_file_may_be_is_404_and_makes_nothing(
    shared: Service, path: str
) -> None:
    top = f"places-{len(list(shared.root.iterdir()))}"
    brain = dataset_of(shared, f"{top}/brain")
    (brain.annotations / "x3y3z3").write_text("not a directory")
    (shared.root / top / "folder").mkdir()
    before = state(shared.root / top)
    error_of(requests.put(f"{shared.url}/{top}/{path}", json=[POINT]), 404)
    assert state(shared.root / top) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_directory_where_the_file_is_expected_is_404_and_stays(brain: Brain, method: str) -> None:
    (brain.block / "odd.json").mkdir()
    before = state(brain.path)
    params = {} if method == "PUT" else {"id": "p"}
    body: Any = [POINT] if method == "PUT" else POINT
    answer = requests.request(method, brain.url("odd.json"), params=params, json=body)
    assert "is not a file" in error_of(answer, 404)
    assert state(brain.path) == before


def test_id_that_stands_twice_in_the_file_is_a_conflict_until_put_mends_it(brain: Brain) -> None:
    brain.file.write_bytes(b'[{"id":"p"},{"id":"l"},{"id":"p"}]')
    for method in ("PATCH", "DELETE"):
        answer = requests.request(method, brain.url(), params={"id": "p"}, json={})
        assert "[0], [2]" in error_of(answer, 409)
        assert brain.file.read_bytes() == b'[{"id":"p"},{"id":"l"},{"id":"p"}]'
    assert requests.delete(brain.url(), params={"id": "l"}).status_code == 200
    assert brain.file.read_bytes() == b'[{"id":"p"},{"id":"p"}]'
    assert requests.put(brain.url(), json=[POINT]).status_code == 200
    assert requests.delete(brain.url(), params={"id": "p"}).status_code == 200


# --- files that the original service left broken ---


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(BROKEN, id="cut-short"),
        pytest.param(b"\x00" * 512, id="zeros"),
        pytest.param(b'[{"id":"p","n":NaN}]', id="nan"),
        pytest.param(b'{"annotations":[]}', id="object"),
    ],
)
def test_broken_file_is_500_that_says_so_until_put_mends_it(brain: Brain, content: bytes) -> None:
    brain.file.write_bytes(content)
    mtime_ns = brain.file.stat().st_mtime_ns
    name = f"{brain.name}/annotations/x0y0z0/fibers.json"
    for method, params in (("GET", {}), ("GET", ONE), ("PATCH", ONE), ("DELETE", ONE)):
        answer = requests.request(
            method, brain.url(), params=params, data=b"{}" if method == "PATCH" else None
        )
        said = error_of(answer, 500)
        assert said.startswith(f"{name}: expected a JSON array of annotations")
        assert "PUT" in said
        assert f"Damaged file: {name}" in brain.service.log()
        assert brain.file.read_bytes() == content
        assert brain.file.stat().st_mtime_ns == mtime_ns
    assert requests.put(brain.url(), json=[POINT]).status_code == 200
    assert requests.get(brain.url()).json() == [POINT]


# --- blocks over HTTP ---


def test_position_is_answered_from_the_block_it_lies_in(brain: Brain) -> None:
    (brain.annotations / "x1y0z2").mkdir()
    (brain.annotations / "x1y0z2" / "fibers.json").write_text('[{"id":"there"}]')
    assert requests.get(brain.url(block="x63y63z63"), headers=PAGE).content == CONTENT
    assert requests.get(brain.url(block="x64y0z128"), headers=PAGE).json() == [{"id": "there"}]
    error_of(requests.get(brain.url(block="x64y64z128"), headers=PAGE), 404)


def test_position_in_a_dataset_with_legacy_names_is_read_and_written_there(brain: Brain) -> None:
    brain.block.rename(brain.annotations / "x0001_y0001")
    assert requests.get(brain.url(block="x5y5z5000"), headers=PAGE).content == CONTENT
    answer = requests.put(brain.url(block="x64y128z9"), json=[POINT], headers=PAGE)
    assert answer.status_code == 201
    assert answer.json() == {"filename": f"{brain.name}/annotations/x0002_y0003/fibers.json"}
    url, params = brain.url(block="x64y128z9"), {"id": "p"}
    answer = requests.patch(url, params=params, json={"type": "x"}, headers=PAGE)
    assert answer.status_code == 200
    assert requests.get(brain.url(block="x0002_y0003")).json() == [{"id": "p", "type": "x"}]
    assert sorted(os.listdir(brain.annotations)) == ["block_info.csv", "x0001_y0001", "x0002_y0003"]


def test_block_size_changed_on_disk_is_noticed_by_the_running_service(brain: Brain) -> None:
    url = brain.url(block="x100y0z0")
    assert requests.get(url, headers=PAGE).status_code == 404
    (brain.annotations / "block_info.csv").write_text("128,128,128\n")
    assert requests.get(url, headers=PAGE).status_code == 200
    (brain.annotations / "block_info.csv").unlink()
    assert requests.get(url, headers=PAGE).status_code == 404


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "missing", id="missing"),
        pytest.param("", "empty or malformed", id="empty"),
        pytest.param("64;64;64", "empty or malformed", id="malformed"),
    ],
)
def test_block_size_that_is_not_there_means_literal_names_and_a_warning_in_the_log(
    brain: Brain, content: str | None, said: str
) -> None:
    path = brain.annotations / "block_info.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    error_of(requests.get(brain.url(block="x5y0z0"), headers=PAGE), 404)
    assert requests.put(brain.url(block="x5y0z0"), json=[POINT], headers=PAGE).status_code == 201
    assert (brain.annotations / "x5y0z0" / "fibers.json").is_file()
    assert requests.get(brain.url()).content == CONTENT
    assert f"WARNING neurotrale.annotations.files.blocks: {path} is {said}" in brain.service.log()


# --- modes, owners ---


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666])
def test_mode_of_the_file_is_kept_by_every_change(brain: Brain, mode: int) -> None:
    brain.file.chmod(mode)
    requests.patch(brain.url(), params={"id": "n"}, json={"type": "x"})
    assert stat.S_IMODE(brain.file.stat().st_mode) == mode
    requests.delete(brain.url(), params={"id": "n"})
    assert stat.S_IMODE(brain.file.stat().st_mode) == mode
    requests.put(brain.url(), json=[POINT])
    assert stat.S_IMODE(brain.file.stat().st_mode) == mode


def another_group() -> int:
    """Give a group that is not the process's own and that it may give to files."""
    if os.geteuid() == 0:
        return 54321
    others = set(os.getgroups()) - {os.getegid()}
    if not others:
        pytest.skip("this user is in one group only")
    return others.pop()


def test_group_of_the_file_is_kept_by_every_change(brain: Brain) -> None:
    group = another_group()
    os.chown(brain.file, -1, group)
    requests.patch(brain.url(), params={"id": "n"}, json={"type": "x"})
    assert brain.file.stat().st_gid == group
    requests.put(brain.url(), json=[POINT])
    assert brain.file.stat().st_gid == group


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_owner_of_the_file_is_kept_where_the_service_may_do_so(brain: Brain) -> None:
    os.chown(brain.file, 54321, 54322)
    brain.file.chmod(0o640)
    requests.put(brain.url(), json=[POINT])
    status = brain.file.stat()
    assert (status.st_uid, status.st_gid) == (54321, 54322)
    assert stat.S_IMODE(status.st_mode) == 0o640


def test_new_files_and_blocks_follow_the_umask_and_the_group_of_their_directory(
    tmp_path: Path, start_service: StartService
) -> None:
    group = another_group() if os.geteuid() == 0 else os.getegid()
    before = os.umask(0o007)
    try:
        service = start_service(tmp_path)
        brain = dataset_of(service, "brain")
    finally:
        os.umask(before)
    os.chown(brain.annotations, -1, group)
    brain.annotations.chmod(0o2770)
    assert requests.put(brain.url(block="x1y0z0"), json=[POINT]).status_code == 201
    block = brain.annotations / "x1y0z0"
    assert stat.S_IMODE(block.stat().st_mode) == 0o2770
    for path in (block, block / "fibers.json", block / ".fibers.json.lock"):
        assert path.stat().st_gid == group
    for name in ("fibers.json", ".fibers.json.lock"):
        assert stat.S_IMODE((block / name).stat().st_mode) == 0o660
    service.stop()


# --- read-only ---


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        pytest.param("PUT", "x0y0z0/fibers.json", [POINT], id="put"),
        pytest.param("PUT", "x0y0z0/new.json", [POINT], id="put-new-file"),
        pytest.param("PUT", "x9y9z9/new.json", [POINT], id="put-new-block"),
        pytest.param("PUT", "x0y0z0/fibers.json", 5, id="put-of-what-would-be-refused-anyway"),
        pytest.param("PATCH", "x0y0z0/fibers.json?id=p", POINT, id="patch"),
        pytest.param("PATCH", "x0y0z0/fibers.json?id=new", {}, id="patch-new-annotation"),
        pytest.param(
            "PATCH", "x0y0z0/fibers.json?id=p", 5, id="patch-of-what-would-be-refused-anyway"
        ),
        pytest.param("DELETE", "x0y0z0/fibers.json?id=p", None, id="delete"),
    ],
)
def test_read_only_service_refuses_every_change_and_leaves_all_as_it_was(
    sealed: Brain, method: str, url: str, body: Any
) -> None:
    before = state(sealed.service.root)
    address = f"{sealed.service.url}/brain/annotations/{url}"
    answer = requests.request(method, address, json=body, headers={"Origin": "http://x.example"})
    assert "--read-only" in error_of(answer, 403)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert state(sealed.service.root) == before


def test_read_only_service_answers_reads(sealed: Brain) -> None:
    assert requests.get(sealed.url()).content == CONTENT
    assert requests.get(sealed.url(), params={"id": "p"}).json()["id"] == "p"


# --- the viewer ---

# What a page of the viewer sent: grouped by anntype, float32 printed as doubles, NaN as null.
VIEWER_BODY = (
    b'[{"type":"axis_aligned_bounding_box","id":"0c6b1d7a5b3e4f7c9d2e8a1b4c5d6e7f80912a3b",'
    b'"description":"","reviewed":true,"visited":true,"length":0,"segments":[],'
    b'"anntype":"box","pointA":[1024.0999755859375,12,13.5],"pointB":[1100.4000244140625,80,14.5]},'
    b'{"type":"ellipsoid","id":"1d7a5b3e4f7c9d2e8a1b4c5d6e7f80912a3b0c6b","description":"",'
    b'"reviewed":false,"anntype":"centroid","center":[10.5,20.5,30.5],"radii":[null,null,null]},'
    b'{"type":"polygon","id":"2e8a1b4c5d6e7f80912a3b0c6b1d7a5b3e4f7c9d","description":"neuron 7",'
    b'"reviewed":true,"visited":false,"length":128,"segments":[],"anntype":"neuron",'
    b'"points":[[null,null,null],[10,20,30],[11.100000381469727,21,30]]},'
    b'{"type":"polygon","id":"3b0c6b1d7a5b3e4f7c9d2e8a1b4c5d6e7f80912a","description":"",'
    b'"reviewed":false,"length":3,"segments":[],"anntype":"neuron",'
    b'"points":[{"0":1.5,"1":2.5,"2":30},{"0":4,"1":5,"2":30},{"0":7,"1":8,"2":30}]}]'
)


def preflight(brain: Brain, url: str, method: str) -> requests.Response:
    asked = {
        "Origin": PAGE["Origin"],
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Private-Network": "true",
    }
    return requests.options(url, headers=asked)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_preflight_of_a_page_allows_every_change(brain: Brain, method: str) -> None:
    answer = preflight(brain, brain.url(), method)
    assert answer.status_code in (200, 204)
    allowed = answer.headers["Access-Control-Allow-Methods"].split(",")
    assert method in {name.strip() for name in allowed}
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


def test_viewer_saves_a_new_file_after_a_preflight(brain: Brain) -> None:
    url = brain.url("z-0012.json")
    assert preflight(brain, url, "PUT").ok
    answer = requests.put(url, data=VIEWER_BODY, headers=PAGE)
    assert answer.status_code == 201
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert (brain.block / "z-0012.json").read_bytes() == VIEWER_BODY
    assert requests.get(url, headers=PAGE).content == VIEWER_BODY


def test_viewer_gets_the_nulls_it_sent_named_in_the_answer_and_the_log(brain: Brain) -> None:
    name = f"{brain.name}/annotations/x0y0z0/z-0012.json"
    answer = requests.put(brain.url("z-0012.json"), data=VIEWER_BODY, headers=PAGE)
    assert answer.json()["filename"] == name
    places = [warning.partition(": ")[0] for warning in answer.json()["warnings"]]
    assert places == ["[1].radii", "[2].points[0]"]
    for warning in answer.json()["warnings"]:
        assert "null" in warning
        assert f"{name}: {warning}" in brain.service.log()


def test_viewer_saving_the_same_annotations_in_another_order_changes_nothing(
    brain: Brain,
) -> None:
    values = json.loads(VIEWER_BODY)
    (brain.block / "z-0012.json").write_text(json.dumps(values[::-1], indent=3))
    before = (brain.block / "z-0012.json").read_bytes()
    answer = requests.put(brain.url("z-0012.json"), data=VIEWER_BODY, headers=PAGE)
    assert answer.status_code == 200
    assert (brain.block / "z-0012.json").read_bytes() == before


def test_viewer_saving_through_a_layer_with_a_final_slash_reaches_the_same_file(
    brain: Brain,
) -> None:
    url = f"{brain.service.url}/{brain.name}//annotations/x0y0z0/z-0012.json"
    assert preflight(brain, url, "PUT").ok
    assert requests.put(url, data=VIEWER_BODY, headers=PAGE).status_code == 201
    assert (brain.block / "z-0012.json").read_bytes() == VIEWER_BODY


@pytest.mark.parametrize("leaf", ["z-00-1.json", "z-0000.json", "fibers.json", "centroids.json"])
def test_viewer_reads_and_writes_all_the_names_it_makes(brain: Brain, leaf: str) -> None:
    brain.file.unlink()
    error_of(requests.get(brain.url(leaf), headers=PAGE), 404)
    assert requests.put(brain.url(leaf), data=VIEWER_BODY, headers=PAGE).status_code == 201
    assert requests.get(brain.url(leaf), headers=PAGE).content == VIEWER_BODY


def test_viewer_body_annotation_by_annotation_is_patched_but_for_those_with_nulls(
    brain: Brain,
) -> None:
    for value in json.loads(VIEWER_BODY):
        answer = requests.patch(brain.url(), params={"id": value["id"]}, json=value)
        assert answer.status_code == (422 if "null" in json.dumps(value) else 201)
    assert len(in_file(brain)) == 5
