"""What goes over the wire: which coding a client gets, and the headers that tell of it."""

from __future__ import annotations

import gzip
import http.client
import json
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tensorstore

from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, Voxels, gradient, info_of, wait_until_settled, write_chunks
from tests.processes import PATIENCE_S

with warnings.catch_warnings():
    # It and what it brings use what newer versions of their own libraries retire.
    warnings.simplefilter("ignore")
    from cloudvolume import CloudVolume

SIDE = 16
CHROMIUM = "gzip, deflate, br, zstd"
VOLUME: dict[str, Any] = {"tile": (SIDE,) * 3, "volumetric": True}
# Odd at its end in x: the tiles of those chunks are padded.
VOXELS = gradient((SIDE, 2 * SIDE, 2 * SIDE + 5))
LABELS: Voxels = (gradient((SIDE, SIDE, SIDE), "uint32") // 9000).astype("uint64") + 2**40
SMALL = ANNOTATIONS[:1]
LARGE = [{**ANNOTATIONS[0], "id": f"{number:040x}"} for number in range(200)]
CHUNK = f"0-{SIDE}_0-{SIDE}_0-{SIDE}"
FIRST = VOXELS[:, :SIDE, :SIDE].tobytes()
DEFLATE, ZSTD = f"/deflate/1_1_1/{CHUNK}", f"/zstd/1_1_1/{CHUNK}"
BLOCK = "/deflate/annotations/x0y0z0"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def coding(self) -> str:
        return self.headers.get("Content-Encoding", "")

    @property
    def etag(self) -> str:
        tag = self.headers["ETag"]
        assert tag.startswith('"')
        assert tag.endswith('"')
        return tag

    @property
    def decoded(self) -> bytes:
        if self.coding == "gzip":
            return gzip.decompress(self.body)
        if self.coding == "zstd":
            return bytes(imagecodecs.zstd_decode(self.body))
        assert not self.coding
        return self.body


def ask(
    service: Service,
    path: str,
    accept: str | None = None,
    method: str = "GET",
    body: bytes | None = None,
    **headers: str,
) -> Answer:
    """Send a request with just these headers; the body of the answer stays coded."""
    if accept is not None:
        headers["Accept-Encoding"] = accept
    with closing(
        http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_S)
    ) as connection:
        connection.putrequest(method, path, skip_accept_encoding=True)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
    if method != "HEAD" and answer.status != 304:
        assert int(answer.headers["Content-Length"]) == len(answer.body)
    return answer


def write_volume(dataset: Path, voxels: Voxels, kind: str = "image", **tiff: Any) -> None:
    write_chunks(dataset / "1_1_1", voxels, SIDE, **tiff)
    info = {**info_of(voxels, SIDE), "type": kind, "@type": "neuroglancer_multiscale_volume"}
    (dataset / "info").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wire")
    write_volume(place / "deflate", VOXELS, compression="zlib", **VOLUME)
    write_volume(place / "zstd", VOXELS, compression="zstd", **VOLUME)
    write_volume(place / "pages", VOXELS, compression="zlib")
    write_volume(place / "plain", VOXELS, compression=None)
    write_volume(place / "labels", LABELS, kind="segmentation", compression="zlib")
    block = place / "deflate" / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (block / "small.json").write_text(json.dumps(SMALL))
    (block / "large.json").write_text(json.dumps(LARGE))
    return place


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Iterator[Service]:
    running = start_service(root)
    wait_until_settled(root)
    yield running
    running.stop()


# --- chunks that are passed through ---


@pytest.mark.parametrize(
    ("accept", "deflate", "zstd"),
    [
        pytest.param(CHROMIUM, "gzip", "zstd", id="chromium"),
        pytest.param("gzip, deflate", "gzip", "", id="cloud-volume"),
        pytest.param("gzip", "gzip", "", id="gzip"),
        pytest.param("GZIP;q=0.5", "gzip", "", id="gzip-in-capitals-with-a-weight"),
        pytest.param("zstd", "", "zstd", id="zstd"),
        pytest.param("*", "gzip", "zstd", id="anything"),
        pytest.param("gzip;q=0, zstd;q=0", "", "", id="weight-of-zero"),
        pytest.param("*, gzip;q=0", "", "zstd", id="anything-but-gzip"),
        pytest.param("deflate", "", "", id="deflate"),
        pytest.param("br", "", "", id="br"),
        pytest.param("identity", "", "", id="identity"),
        pytest.param("", "", "", id="empty"),
        pytest.param(None, "", "", id="no-header"),
    ],
)
def test_stored_segment_is_sent_as_it_is_to_who_accepts_its_coding(
    service: Service, accept: str | None, deflate: str, zstd: str
) -> None:
    for path, coding in ((DEFLATE, deflate), (ZSTD, zstd)):
        answer = ask(service, path, accept)
        assert (answer.status, answer.coding) == (200, coding)
        assert answer.decoded == FIRST
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("dataset", ["pages", "plain", "deflate", "zstd"])
def test_chunk_that_must_be_decoded_is_sent_without_a_coding(
    service: Service, dataset: str
) -> None:
    # Of the last two, the clipped chunks are padded in the file.
    box = f"{2 * SIDE}-{2 * SIDE + 5}_{SIDE}-{2 * SIDE}_0-{SIDE}"
    answer = ask(service, f"/{dataset}/1_1_1/{box}", CHROMIUM)
    assert (answer.status, answer.coding) == (200, "")
    assert answer.body == VOXELS[:, SIDE:, 2 * SIDE :].tobytes()


@pytest.mark.parametrize("path", [DEFLATE, ZSTD])
def test_range_of_a_stored_segment_is_of_the_voxels(service: Service, path: str) -> None:
    answer = ask(service, path, CHROMIUM, Range="bytes=100-299")
    assert (answer.status, answer.coding) == (206, "")
    assert answer.body == FIRST[100:300]
    assert answer.headers["Content-Range"] == f"bytes 100-299/{len(FIRST)}"
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert ask(service, path, CHROMIUM, Range=f"bytes={len(FIRST)}-").status == 416


@pytest.mark.parametrize("path", [DEFLATE, ZSTD])
def test_if_range_with_the_tag_of_a_coding_gives_the_whole(service: Service, path: str) -> None:
    coded = ask(service, path, CHROMIUM)
    answer = ask(service, path, CHROMIUM, Range="bytes=0-9", If_Range=coded.etag)
    assert (answer.status, answer.coding, answer.body) == (200, "", FIRST)


@pytest.mark.parametrize("path", [DEFLATE, ZSTD, f"{BLOCK}/large.json"])
def test_head_tells_of_the_body_without_a_coding(service: Service, path: str) -> None:
    head, plain = ask(service, path, CHROMIUM, "HEAD"), ask(service, path)
    assert (head.status, head.coding, head.body) == (200, "", b"")
    for name in ("Content-Length", "ETag", "Content-Type", "Last-Modified"):
        assert head.headers[name] == plain.headers[name], name
    assert "Accept-Encoding" in head.headers["Vary"]


@pytest.mark.parametrize("path", [DEFLATE, ZSTD, f"{BLOCK}/large.json"])
def test_etag_of_each_coding_differs_and_any_of_them_gives_304(service: Service, path: str) -> None:
    coded, plain = ask(service, path, CHROMIUM), ask(service, path)
    assert coded.coding
    assert coded.etag != plain.etag
    for tag in (coded.etag, plain.etag, f'W/{coded.etag}, "other"'):
        for accept in (CHROMIUM, "gzip", None):
            answer = ask(service, path, accept, If_None_Match=tag)
            assert (answer.status, answer.body, answer.coding) == (304, b"", "")
            assert answer.etag in tag
            assert "Accept-Encoding" in answer.headers["Vary"]
            assert answer.headers["Cache-Control"] == coded.headers["Cache-Control"]
    assert ask(service, path, CHROMIUM, If_None_Match='"other"').status == 200


def test_stored_segment_that_is_replaced_is_sent_anew(service: Service, root: Path) -> None:
    dataset = root / "replaced"
    tags = set()
    for number in range(3):
        write_volume(dataset, VOXELS + number, compression="zlib", **VOLUME)
        answer = ask(service, f"/replaced/1_1_1/{CHUNK}", CHROMIUM)
        assert answer.coding == "gzip"
        assert answer.decoded == (VOXELS + number)[:, :SIDE, :SIDE].tobytes()
        tags.add(answer.etag)
    assert len(tags) == 3


# --- compression ---

MODES = {"none": ("", ""), "gzip": ("gzip", "gzip"), "zstd": ("zstd", "zstd"), "auto": ("", "zstd")}


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def compressing(root: Path, start_service: StartService, mode: str) -> Iterator[Service]:
    running = start_service(root, "--compress", mode)
    yield running
    running.stop()


@pytest.mark.quick(2)
def test_compress_decides_what_is_packed_for_a_browser(compressing: Service, mode: str) -> None:
    images, rest = MODES[mode]
    labels = LABELS.tobytes()
    for path, coding, content in (
        (f"/pages/1_1_1/{CHUNK}", images, FIRST),
        (f"/plain/1_1_1/{CHUNK}", images, FIRST),
        (f"/labels/1_1_1/{CHUNK}", rest, labels),
        (DEFLATE, "gzip", FIRST),  # stored that way: whatever the option says, it costs nothing
        (ZSTD, "zstd", FIRST),
    ):
        answer = ask(compressing, path, CHROMIUM)
        assert (path, answer.status, answer.coding) == (path, 200, coding)
        assert answer.decoded == content
        assert "Accept-Encoding" in answer.headers["Vary"]


def test_compress_packs_annotations_if_they_are_not_small(compressing: Service, mode: str) -> None:
    large, small = (ask(compressing, f"{BLOCK}/{n}.json", CHROMIUM) for n in ("large", "small"))
    assert (large.coding, small.coding) == (MODES[mode][1], "")
    assert json.loads(large.decoded) == LARGE
    assert json.loads(small.body) == SMALL
    for answer in (large, small):
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert answer.headers["Content-Type"].startswith("application/json")


def test_compress_falls_back_to_what_the_client_accepts(compressing: Service, mode: str) -> None:
    for path in (f"/labels/1_1_1/{CHUNK}", f"{BLOCK}/large.json"):
        only_gzip = ask(compressing, path, "gzip")
        assert only_gzip.coding == ("gzip" if mode in ("auto", "gzip") else "")
        plain = ask(compressing, path)
        assert (plain.coding, plain.body) == ("", only_gzip.decoded)


def test_compress_leaves_ranges_and_heads_alone(compressing: Service) -> None:
    for path in (f"/labels/1_1_1/{CHUNK}", f"{BLOCK}/large.json"):
        plain = ask(compressing, path)
        part = ask(compressing, path, CHROMIUM, Range="bytes=5-14")
        assert (part.status, part.coding, part.body) == (206, "", plain.body[5:15])
        head = ask(compressing, path, CHROMIUM, "HEAD")
        assert (head.coding, head.headers["Content-Length"]) == ("", str(len(plain.body)))


@pytest.mark.parametrize("accept", [CHROMIUM, "gzip", None], ids=["chromium", "gzip", "none"])
def test_if_match_with_the_tag_of_any_coding_permits_the_edit(
    service: Service, root: Path, accept: str | None
) -> None:
    path, file = f"{BLOCK}/edited.json", root / f"{BLOCK[1:]}/edited.json"
    file.write_text(json.dumps(LARGE))
    seen = ask(service, path, accept)
    assert bool(seen.coding) == (accept is not None)
    change = json.dumps({**LARGE[7], "reviewed": True}).encode()
    edit = f"{path}?id={LARGE[7]['id']}"
    assert ask(service, edit, None, "PATCH", change, If_Match=seen.etag).status == 200
    assert json.loads(file.read_text())[7]["reviewed"] is True
    assert ask(service, edit, None, "PATCH", change, If_Match=seen.etag).status == 412


# --- caching ---


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param("0", "no-cache", id="always-ask"),
        pytest.param("3600", "private, max-age=3600", id="an-hour"),
    ],
)
def test_chunk_cache_tells_browsers_how_long_a_chunk_is_fresh(
    root: Path, start_service: StartService, seconds: str, expected: str
) -> None:
    service = start_service(root, "--chunk-cache", seconds)
    chunk = ask(service, DEFLATE, CHROMIUM)
    assert chunk.headers["Cache-Control"] == expected
    assert ask(service, f"/pages/1_1_1/{CHUNK}").headers["Cache-Control"] == expected
    copy = ask(service, DEFLATE, CHROMIUM, If_None_Match=chunk.etag)
    assert (copy.status, copy.headers["Cache-Control"]) == (304, expected)
    # What people edit, and what tells of the data, is never taken from a copy unasked.
    for path in (f"{BLOCK}/large.json", "/deflate/info"):
        assert ask(service, path).headers["Cache-Control"] == "no-cache"
    service.stop()


# --- other people's programs ---


@pytest.mark.clients
@pytest.mark.parametrize("dataset", ["deflate", "zstd"])
def test_tensorstore_reads_every_voxel_that_is_passed_through(
    service: Service, dataset: str
) -> None:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"{service.url}/{dataset}/"}
    opened = tensorstore.open(spec, open=True, read=True).result()
    assert np.array_equal(np.asarray(opened.read().result()).T[0], VOXELS)


@pytest.mark.clients
@pytest.mark.parametrize("dataset", ["deflate", "zstd"])
def test_cloud_volume_reads_every_voxel_that_is_passed_through(
    service: Service, dataset: str
) -> None:
    volume = CloudVolume(f"precomputed://{service.url}/{dataset}", cache=False, progress=False)
    assert np.array_equal(np.asarray(volume[:, :, :]).T[0], VOXELS)
