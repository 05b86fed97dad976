"""The application is plain WSGI (PEP 3333): any server may run it, and every answer is bytes."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import falcon
import imagecodecs
import pytest

from neurotrale.errors import BusyError
from neurotrale.storage.descriptors import FilePart
from neurotrale.web.app import create_app
from neurotrale.web.app_settings import AppSettings
from neurotrale.web.responses import send_stream
from tests.datasets import ANNOTATIONS, gradient, info_of, wait_until_settled, write_chunks
from tests.wsgi_servers import SERVERS, Application, Ask, Asked, Given

SIDE = 16
VOXELS = gradient((SIDE, SIDE, SIDE))
RAW = VOXELS.tobytes()
LABELS = (gradient((SIDE, SIDE, SIDE), "uint32") // 9000).astype("uint64") + 2**40
CHUNK = f"1_1_1/0-{SIDE}_0-{SIDE}_0-{SIDE}"
SINGLE: dict[str, Any] = {"tile": (SIDE,) * 3, "volumetric": True}
# More than what one write of any of the servers takes.
PLAIN = os.urandom(3 * 2**20)
TEXT = b"".join(b"line %d\n" % number for number in range(500))
BLOCK = "/gzip/annotations/x0y0z0"
FILE = f"{BLOCK}/fibers.json"
LAYERS = "/gzip/annotations/layers"
ORIGIN = {"Origin": "http://localhost:8080"}
RANGE = {"Range": "bytes=10-99"}
SECRET = "a-token-that-may-look.0123456789abc"


def accepting(coding: str) -> dict[str, str]:
    return {"Accept-Encoding": coding}


CODED = accepting("gzip, zstd")

# Every kind of answer to a GET, and its status.
KINDS: dict[str, tuple[Asked, int]] = {
    "chunk passed through as gzip": (Asked(f"/gzip/{CHUNK}", headers=accepting("gzip")), 200),
    "chunk passed through as zstd": (Asked(f"/zstd/{CHUNK}", headers=accepting("zstd")), 200),
    "chunk of one segment, decoded": (Asked(f"/gzip/{CHUNK}"), 200),
    "chunk of pages": (Asked(f"/pages/{CHUNK}", headers=CODED), 200),
    "chunk of pages, big-endian": (Asked(f"/foreign/{CHUNK}"), 200),
    "chunk through tifffile": (Asked(f"/lzw/{CHUNK}"), 200),
    "chunk of labels, packed as zstd": (Asked(f"/labels/{CHUNK}", headers=CODED), 200),
    "chunk of labels, packed as gzip": (Asked(f"/labels/{CHUNK}", headers=accepting("gzip")), 200),
    "chunk, uncompressed": (Asked(f"/plain/{CHUNK}"), 200),
    "chunk, range": (Asked(f"/plain/{CHUNK}", headers=RANGE), 206),
    "chunk, damaged": (Asked(f"/damaged/{CHUNK}"), 500),
    "chunk, absent": (Asked("/gzip/1_1_1/16-32_0-16_0-16"), 404),
    "chunk as TIFF": (Asked(f"/gzip/{CHUNK}.tiff"), 200),
    "chunk as TIFF, range": (Asked(f"/gzip/{CHUNK}.tiff", headers=RANGE), 206),
    "file": (Asked("/plain.bin"), 200),
    "file, range": (Asked("/plain.bin", headers=RANGE), 206),
    "file, large range": (Asked("/plain.bin", headers={"Range": "bytes=7-2500000"}), 206),
    "file, range to the end": (Asked("/plain.bin", headers={"Range": "bytes=-5"}), 206),
    "file, range behind the end": (Asked("/plain.bin", headers={"Range": "bytes=99999999-"}), 416),
    "file, several ranges": (Asked("/plain.bin", headers={"Range": "bytes=0-1,5-6"}), 200),
    "file, empty": (Asked("/empty.bin"), 200),
    "file, absent": (Asked("/nothing"), 404),
    "twin": (Asked("/zipped.txt", headers=accepting("gzip")), 200),
    "twin, unpacked": (Asked("/zipped.txt"), 200),
    "twin, damaged": (Asked("/broken.txt"), 500),
    "name that is too long": (Asked(f"/{'x' * 300}"), 414),
    "listing": (Asked("/gzip/"), 200),
    "redirect to a directory": (Asked("/gzip"), 302),
    "index": (Asked("/"), 200),
    "annotations": (Asked(FILE), 200),
    "annotations, packed": (Asked(f"{BLOCK}/many.json", headers=CODED), 200),
    "annotations, range": (Asked(FILE, headers=RANGE), 206),
    "annotations, one": (Asked(f"{FILE}?id={'a' * 40}"), 200),
    "annotations, absent id": (Asked(f"{FILE}?id=nothing"), 404),
    "annotations, bad query": (Asked(f"{FILE}?bbox=1"), 400),
    "annotations, chosen": (Asked(f"{FILE}?anntype=axon"), 200),
    "annotations as CSV": (Asked(f"{FILE}?format=csv"), 200),
    "annotations as SWC": (Asked(f"{FILE}?format=swc"), 200),
    "annotations, history": (Asked(f"{FILE}/history"), 200),
    "annotations, history page": (Asked(f"{FILE}/history/"), 200),
    "annotations, held": (Asked(f"{FILE}/held"), 200),
    "corrections": (Asked("/gzip/annotations/corrections"), 200),
    "search": (Asked("/gzip/annotations/search"), 200),
    "search as JSON": (Asked("/gzip/annotations/search?format=json"), 200),
    "search as CSV": (Asked("/gzip/annotations/search?format=csv"), 200),
    "search as SWC": (Asked("/gzip/annotations/search?format=swc"), 200),
    "search for nothing": (Asked("/gzip/annotations/search?anntype=none"), 200),
    "layers": (Asked(LAYERS), 200),
    "layer, info": (Asked(f"{LAYERS}/points/info", headers=CODED), 200),
    "layer, cell": (Asked(f"{LAYERS}/points/spatial0/0_0_0"), 200),
    "layer, absent number": (Asked(f"{LAYERS}/points/by_id/1"), 404),
    "health": (Asked("/api/health"), 200),
    "API document": (Asked("/api/openapi.json"), 200),
    "API page": (Asked("/api/"), 200),
    "API redirect": (Asked("/api"), 302),
    "API asset": (Asked("/api/pages.css", headers=accepting("gzip")), 200),
    "dataset page": (Asked("/api/datasets/gzip"), 200),
    "dataset picture": (Asked("/api/datasets/gzip/preview.png"), 200),
    "dataset opened": (Asked("/api/datasets/gzip/open"), 200),
    "dataset's histories": (Asked("/api/datasets/gzip/history"), 200),
    "viewer": (Asked("/viewer/"), 200),
    "viewer redirect": (Asked("/viewer"), 302),
    "viewer asset": (Asked("/viewer/main.0123456789ab.js"), 200),
    "viewer asset, packed": (Asked("/viewer/main.0123456789ab.js", headers=CODED), 200),
    "viewer asset, range": (Asked("/viewer/main.0123456789ab.js", headers=RANGE), 206),
    "method that there is not": (Asked(FILE, "POST", body=b"x"), 405),
    "preflight": (
        Asked(FILE, "OPTIONS", {**ORIGIN, "Access-Control-Request-Method": "PUT"}),
        200,
    ),
    "options": (Asked(FILE, "OPTIONS"), 200),
    "answer to another origin": (Asked(FILE, headers=ORIGIN), 200),
}  # fmt: skip
kinds = pytest.mark.parametrize(("asked", "status"), KINDS.values(), ids=KINDS)
READ = {name: asked for name, (asked, _) in KINDS.items() if asked.method == "GET"}


def write_volume(dataset: Path, voxels: Any, kind: str = "image", **tiff: Any) -> None:
    write_chunks(dataset / "1_1_1", voxels, SIDE, **tiff)
    (dataset / "info").write_text(json.dumps(info_of(voxels, SIDE) | {"type": kind}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wsgi") / "data"
    for name, tiff in {
        "gzip": {"compression": "zlib", **SINGLE},
        "zstd": {"compression": "zstd", **SINGLE},
        "plain": {"compression": None},
        "pages": {},
        "foreign": {"byteorder": ">"},
        "lzw": {"compression": "lzw"},
        "damaged": {},
    }.items():
        write_volume(place / name, VOXELS, **tiff)
    write_volume(place / "labels", LABELS, "segmentation", compression="zlib")
    os.truncate(place / "damaged" / f"{CHUNK}.tiff", 700)
    (place / "plain.bin").write_bytes(PLAIN)
    (place / "empty.bin").touch()
    (place / "zipped.txt.gz").write_bytes(gzip.compress(TEXT))
    (place / "broken.txt.gz").write_bytes(b"no gzip")
    block = place / BLOCK[1:]
    block.mkdir(parents=True)
    (block / "fibers.json").write_text(json.dumps(ANNOTATIONS))
    many = [{**ANNOTATIONS[0], "id": f"{number:040x}"} for number in range(2000)]
    (block / "many.json").write_text(json.dumps(many))
    return place


@pytest.fixture(scope="module")
def app(root: Path) -> Application:
    viewer = root.parent / "viewer"
    viewer.mkdir()
    (viewer / "index.html").write_text("<!doctype html><html><head></head></html>")
    (viewer / "main.0123456789ab.js").write_bytes(TEXT)
    wait_until_settled(root)  # dates are told from then on
    return create_app(AppSettings(root, viewer=viewer))


@pytest.fixture(scope="module")
def servers(app: Application) -> Iterator[dict[str, Ask]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(start(app)) for name, start in SERVERS.items()}


@pytest.fixture(scope="module", params=SERVERS)
def ask(servers: dict[str, Ask], request: pytest.FixtureRequest) -> Ask:
    return servers[request.param]


def decoded(given: Given) -> bytes:
    coding = given.headers.get("content-encoding")
    if coding == "gzip":
        return gzip.decompress(given.body)
    return bytes(imagecodecs.zstd_decode(given.body)) if coding == "zstd" else given.body


def without_session(answer: Given) -> Given:
    """Take the session away that each page which opens a viewer has, and no other."""
    body = re.sub(rb"as/s-[A-Za-z0-9_-]{16}/", b"as/SESSION/", answer.body)
    return replace(answer, body=body)


@kinds
def test_every_kind_of_answer_is_the_same_on_every_server(
    servers: dict[str, Ask], asked: Asked, status: int
) -> None:
    answers = [without_session(ask(asked)) for ask in servers.values()]
    assert [answer.status for answer in answers] == [status] * len(SERVERS)
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].headers["content-type"]


@pytest.mark.parametrize("asked", READ.values(), ids=READ)
def test_head_of_every_kind_has_no_body(ask: Ask, asked: Asked) -> None:
    head = ask(Asked(asked.path, "HEAD", asked.headers))
    assert head.body == b""
    assert head.headers["content-type"]


@pytest.mark.parametrize("asked", READ.values(), ids=READ)
def test_answer_that_has_not_changed_is_304_without_content_type(ask: Ask, asked: Asked) -> None:
    first = ask(asked)
    if "etag" not in first.headers:  # then there is nothing to ask by
        assert "last-modified" not in first.headers
        return
    again = ask(Asked(asked.path, headers={**asked.headers, "If-None-Match": "*"}))
    assert (again.status, again.body) == (304, b"")
    assert "content-type" not in again.headers
    assert again.headers["etag"]


@pytest.mark.parametrize(
    ("path", "accept", "coding", "content"),
    [
        pytest.param(f"/gzip/{CHUNK}", "gzip", "gzip", RAW, id="gzip"),
        pytest.param(f"/gzip/{CHUNK}", "identity", None, RAW, id="gzip-unpacked"),
        pytest.param(f"/zstd/{CHUNK}", "zstd", "zstd", RAW, id="zstd"),
        pytest.param(f"/pages/{CHUNK}", "gzip", None, RAW, id="pages"),
        pytest.param(f"/foreign/{CHUNK}", "gzip", None, RAW, id="big-endian"),
        pytest.param(f"/lzw/{CHUNK}", "gzip", None, RAW, id="lzw"),
        pytest.param(f"/plain/{CHUNK}", "gzip", None, RAW, id="uncompressed"),
        pytest.param(f"/labels/{CHUNK}", "zstd", "zstd", LABELS.tobytes(), id="labels-zstd"),
        pytest.param(f"/labels/{CHUNK}", "gzip", "gzip", LABELS.tobytes(), id="labels-gzip"),
        pytest.param("/plain.bin", "gzip", None, PLAIN, id="file"),
        pytest.param("/zipped.txt", "gzip", "gzip", TEXT, id="twin"),
        pytest.param("/zipped.txt", "identity", None, TEXT, id="twin-unpacked"),
    ],
)
def test_content_arrives_whole(
    ask: Ask, path: str, accept: str, coding: str | None, content: bytes
) -> None:
    answer = ask(Asked(path, headers=accepting(accept)))
    assert answer.headers.get("content-encoding") == coding
    assert decoded(answer) == content


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        pytest.param("bytes=10-99", 10, 100, id="first"),
        pytest.param("bytes=7-2500000", 7, 2_500_001, id="large"),
        pytest.param("bytes=-5", len(PLAIN) - 5, len(PLAIN), id="last"),
        pytest.param("bytes=3000000-", 3_000_000, len(PLAIN), id="to-the-end"),
    ],
)
def test_range_ends_where_it_was_asked_to(ask: Ask, asked: str, start: int, stop: int) -> None:
    assert ask(Asked("/plain.bin", headers={"Range": asked})).body == PLAIN[start:stop]


def test_writing_is_the_same_on_every_server(servers: dict[str, Ask]) -> None:
    new = json.dumps({"id": "new", "type": "point", "point": [1, 2, 3]}).encode()
    everything = json.dumps(ANNOTATIONS).encode()
    viewer = {**ORIGIN, "Content-Type": "text/plain"}

    def statuses(name: str, ask: Ask) -> list[int]:
        path = f"{BLOCK}/{name}.json"
        return [
            ask(asked).status
            for asked in (
                Asked(path, "PUT", body=everything),
                Asked(path, "PUT", body=everything),
                Asked(path, "PUT", viewer, b"[]"),
                Asked(path, "PUT", body=b"["),
                Asked(path, "PUT", {"If-Match": '"another"'}, everything),
                Asked(path, "PUT", body=b'[{"id": 1}]'),
                Asked(path, "PUT"),
                Asked(f"{path}?id=new", "PATCH", body=new),
                Asked(f"{path}?id=new", "PATCH", body=new),
                Asked(f"{path}?id=old", "PATCH", body=new),
                Asked(f"{path}?id=new", "DELETE"),
                Asked(f"{path}?id=new", "DELETE"),
                Asked(path, "DELETE"),
                Asked(f"{path}/history?limit=3"),
                Asked(f"{path}/history/1"),
                Asked(f"{path}/held"),
                Asked(f"{path}/held", "DELETE"),
                Asked(f"{path}/restore?revision=1", "POST", {"Content-Type": "application/json"}),
            )
        ]

    found = {name: statuses(name, ask) for name, ask in servers.items()}
    first = found["falcon-client"]
    assert first[:3] == [201, 200, 200]
    assert {*first} >= {200, 201, 400, 404, 412, 422}
    assert all(status < 500 for status in first)
    assert found == dict.fromkeys(SERVERS, first)


@pytest.mark.parametrize("start", SERVERS.values(), ids=SERVERS)
def test_answers_with_tokens_are_plain_too(root: Path, tmp_path: Path, start: Any) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"bob:ro:{SECRET}\n")
    bearer = {"Authorization": f"Bearer {SECRET}"}
    with start(create_app(AppSettings(root, token_file=tokens))) as ask:
        assert ask(Asked("/plain.bin")).status == 401
        assert ask(Asked("/plain.bin", headers=bearer)).body == PLAIN
        assert ask(Asked(f"/token/{SECRET}/gzip/{CHUNK}", headers=CODED)).status == 200
        assert ask(Asked(FILE, "PUT", bearer, b"[]")).status == 403
        assert ask(Asked(f"/token/{SECRET}")).status == 302
        accept = {"Accept": "application/xhtml+xml"}
        assert ask(Asked(f"/?token={SECRET}", headers=accept)).status == 302


def test_server_is_told_the_truth_about_its_environment(app: Application) -> None:
    seen: dict[str, Any] = {}

    def noting(environ: dict[str, Any], start_response: Any) -> Any:
        seen.update(environ)
        return app(environ, start_response)

    with SERVERS["our-own"](noting) as ask:
        assert ask(Asked("/api/health")).status == 200
    assert seen["SERVER_SOFTWARE"] == "neurotrale"
    assert seen["wsgi.multiprocess"] is True


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="one-that-is-empty"),
        pytest.param([b"a", b"", b"b"], id="small"),
        pytest.param([b"head", b"x" * 2**20, b"tail"], id="large-in-the-middle"),
        pytest.param([b"x" * 9_000_000] * 3, id="more-than-a-connection-takes"),
        pytest.param([b"x" * 100] * 5000, id="more-than-the-kernel-takes-at-once"),
    ],
)
@pytest.mark.parametrize("announced", [True, False], ids=["with-length", "without-length"])
@pytest.mark.parametrize("kind", [list, iter, tuple], ids=["list", "iterator", "tuple"])
def test_our_server_sends_any_pieces_in_order(
    pieces: list[bytes], announced: bool, kind: Any
) -> None:
    whole = b"".join(pieces)
    headers = [("content-type", "application/octet-stream")]
    if announced:
        headers.append(("content-length", str(len(whole))))

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", headers)
        return kind(pieces)

    with SERVERS["our-own"](application) as ask:
        assert ask(Asked("/")).body == whole


# --- parts of files ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_bytes(TEXT)
    return found


def test_part_reads_what_is_in_it_and_no_more(path: Path) -> None:
    part = FilePart(path.open("rb"), 10, 110)
    assert [part.read(60), part.read(60), part.read(60)] == [TEXT[10:70], TEXT[70:110], b""]
    assert part.seek(0, os.SEEK_END) == part.tell() == 100
    assert part.seek(-10, os.SEEK_CUR) == 90
    assert part.read() == TEXT[100:110]
    assert part.seek(5) == 5
    assert part.read(None) == TEXT[15:110]
    part.close()


def test_part_of_a_file_that_grows_ends_where_it_did(path: Path) -> None:
    part = FilePart(path.open("rb"), 0, len(TEXT))
    with path.open("ab") as file:
        file.write(b"more")
    assert part.read(2**20) + part.read(2**20) == TEXT
    part.close()


def test_error_before_the_first_piece_of_a_stream_is_still_an_answer() -> None:
    def pieces() -> Iterator[bytes]:
        yield from ()
        raise BusyError("somebody else reads it")

    with pytest.raises(BusyError):
        send_stream(falcon.Response(), pieces())


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"a", b"b"], [b"", b"b"]])
def test_stream_has_every_piece(pieces: list[bytes]) -> None:
    resp = falcon.Response()
    send_stream(resp, iter(pieces))
    assert resp.stream is not None
    assert b"".join(iter(resp.stream)) == b"".join(pieces)  # type: ignore[arg-type]


def test_part_of_a_file_that_shrinks_is_an_error_and_no_end(path: Path) -> None:
    part = FilePart(path.open("rb"), 0, len(TEXT))
    assert part.read(100) == TEXT[:100]
    os.truncate(path, 100)
    with pytest.raises(OSError, match="became shorter"):
        part.read(100)
    part.close()


def test_part_closes_its_file(path: Path) -> None:
    file = path.open("rb")
    FilePart(file, 0, 10).close()
    assert file.closed


def test_the_checks_themselves_refuse_what_is_not_plain() -> None:
    def asked(body: Any, length: int) -> Any:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response(
                "200 OK", [("content-type", "text/plain"), ("content-length", str(length))]
            )
            return body

        with SERVERS["falcon-client"](application) as ask:
            return ask(Asked("/"))

    assert asked([b"ab"], 2).body == b"ab"
    for body, length in (([bytearray(b"ab")], 2), ([memoryview(b"ab")], 2), ([b"ab"], 1)):
        with pytest.raises(AssertionError):
            asked(body, length)
