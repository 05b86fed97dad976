"""Files by URL: plain ones, twins, the rules of chunk names, and which fault is which status."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import socket
import struct
from pathlib import Path

import imagecodecs
import pytest
import tifffile

from neurotrale.errors import (
    BusyError,
    DiskFullError,
    MissingError,
    NameTooLongError,
    ReadOnlyError,
    reading,
    writing,
)
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files, StoredFile
from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, gradient, write_dataset
from tests.processes import children
from tests.test_data_root import without_root_powers
from tests.test_http import ORIGIN, ask, assert_problem

CHUNK = "64-100_64-90_64-70"
VOXELS = gradient((70, 90, 100))[64:70, 64:90, 64:100]
RAW = VOXELS.tobytes()
OCTETS = "application/octet-stream"
PUT_BODY = json.dumps(ANNOTATIONS).encode()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files") / "data"
    write_dataset(root / "brain")
    write_dataset(root / "lab" / "mouse-3", (8, 8, 8))
    return root


@pytest.fixture(scope="module")
def service(root: Path, start_service: StartService) -> Service:
    return start_service(root)


@pytest.fixture(scope="module")
def read_only(root: Path, start_service: StartService) -> Service:
    return start_service(root, "--read-only")


@pytest.fixture(scope="module")
def scale(root: Path) -> Path:
    """A directory named like a resolution, in a dataset without `info`."""
    path = root / "bare" / "2_2_2"
    path.mkdir(parents=True)
    return path


def packed(text: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(text)
    return bytes(imagecodecs.brotli_encode(text))


# --- Plain files ---


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("brain/info", "application/json", id="info"),
        pytest.param("types/tree.json", "application/json", id="json"),
        pytest.param("types/zarr.JSON", "application/json", id="capitals"),
        pytest.param("types/block_info.csv", "text/csv; charset=utf-8", id="csv"),
        pytest.param("types/notes.txt", "text/plain; charset=utf-8", id="text"),
        pytest.param("types/page.html", "text/html; charset=utf-8", id="html"),
        pytest.param("types/axon.swc", "text/plain; charset=utf-8", id="swc"),
        pytest.param("types/photo.png", "image/png", id="png"),
        pytest.param("types/slice.tif", "image/tiff", id="tif"),
        pytest.param("types/slice.TIFF", "image/tiff", id="tiff-capitals"),
        pytest.param("types/volume.nii", OCTETS, id="nifti"),
        pytest.param("types/data", OCTETS, id="no-extension"),
        pytest.param("types/data.unheard-of", OCTETS, id="unknown-extension"),
        pytest.param("types/information", OCTETS, id="begins-like-info"),
        pytest.param("data:text,x", OCTETS, id="looks-like-a-url"),
        pytest.param("data:a/脑,x", OCTETS, id="looks-like-a-url-with-a-type"),
    ],
)
def test_file_is_sent_with_its_bytes_and_type(
    service: Service, root: Path, name: str, kind: str
) -> None:
    path = root / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x00\xff content of " + name.encode())
    answer = ask(service, f"/{name.replace('脑', '%E8%84%91')}")
    assert answer.status == 200
    assert answer.body == path.read_bytes()
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Content-Length"] == str(path.stat().st_size)
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("size", [0, 1, 2**16, 3 * 2**20 + 1], ids=["0", "1", "64K", "3M"])
def test_file_of_any_size_is_sent_whole(service: Service, root: Path, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    (root / "sized.bin").write_bytes(body)
    assert ask(service, "/sized.bin").body == body
    if size:
        answer = ask(service, "/sized.bin", {"Range": f"bytes={size // 2}-"})
        assert answer.body == body[size // 2 :]


def test_sparse_file_larger_than_memory_buffers_is_read_in_its_middle(
    service: Service, root: Path
) -> None:
    with (root / "sparse.bin").open("wb") as file:
        file.truncate(2**36)
        file.seek(2**35)
        file.write(b"middle")
    answer = ask(service, "/sparse.bin", {"Range": f"bytes={2**35}-{2**35 + 5}"})
    assert (answer.status, answer.body) == (206, b"middle")
    assert answer.headers["Content-Range"] == f"bytes {2**35}-{2**35 + 5}/{2**36}"
    head = ask(service, "/sparse.bin", method="HEAD")
    assert head.headers["Content-Length"] == str(2**36)


def test_file_written_or_removed_is_noticed_at_once(service: Service, root: Path) -> None:
    path = root / "coming-and-going"
    for text in (b"one", b"two, longer"):
        path.write_bytes(text)
        assert ask(service, "/coming-and-going").body == text
        path.unlink()
        assert ask(service, "/coming-and-going").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/brain/zarr.json",
        "/brain/.zarray",
        "/brain/.zattrs",
        "/brain/attributes.json",
        "/brain/tree.json",
        "/brain/info.gz",
        "/brain/1_1_1/info",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_source_detection_gets_404_for_what_is_absent(
    service: Service, path: str, method: str
) -> None:
    asked = {"Accept-Encoding": "identity", "Range": "bytes=0-0", "Origin": ORIGIN}
    assert_problem(ask(service, path, asked, method=method), 404, has_body=method == "GET")


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/brain/info?token=a/b&x=%2e%2e", id="query"),
        pytest.param("/brain/info?", id="empty-query"),
        pytest.param("/brain/info?/../../x", id="query-that-climbs"),
        pytest.param("/%62rain/%69nfo", id="letters-encoded"),
        pytest.param("/brain%2Finfo", id="slash-encoded"),
        pytest.param("/brain%2finfo", id="slash-encoded-small"),
        pytest.param("//brain/info", id="doubled-first"),
        pytest.param("/brain//info", id="doubled-inside"),
        pytest.param("////brain////info", id="many-slashes"),
        pytest.param("/brain/%2Finfo", id="doubled-encoded"),
    ],
)
def test_spelling_of_the_url_does_not_matter(service: Service, root: Path, target: str) -> None:
    assert ask(service, target).body == (root / "brain/info").read_bytes()


# --- Doubled slashes ---

DOUBLED = {
    "index": ("//", "/"),
    "directory": ("//brain//", "/brain/"),
    "nested-directory": ("/lab//mouse-3//", "/lab/mouse-3/"),
    "file": ("//brain///info", "/brain/info"),
    "chunk": (f"/brain//1_1_1//{CHUNK}", f"/brain/1_1_1/{CHUNK}"),
    "tiff": (f"//brain//1_1_1/{CHUNK}.tiff", f"/brain/1_1_1/{CHUNK}.tiff"),
    "annotations": (
        "//brain//annotations//x0y0z0//fibers.json",
        "/brain/annotations/x0y0z0/fibers.json",
    ),
    "health": ("//api//health", "/api/health"),
    "docs": ("//api//", "/api/"),
}


@pytest.mark.parametrize(
    ("doubled", "single"), [pytest.param(*paths, id=id_) for id_, paths in DOUBLED.items()]
)
def test_doubled_slashes_collapse_when_reading(service: Service, doubled: str, single: str) -> None:
    one, two = ask(service, single), ask(service, doubled)
    assert one.status == 200
    assert two.status == one.status
    # From a URL with doubled slashes the way up to the pages' style is longer.
    assert re.sub(rb"(\.\./)+", b"", two.body) == re.sub(rb"(\.\./)+", b"", one.body)
    assert two.headers["Content-Type"] == one.headers["Content-Type"]
    assert two.headers.get("ETag") == one.headers.get("ETag")


@pytest.mark.parametrize(
    "target",
    [
        "/brain//annotations/x0y0z0/put-{}.json",
        "//brain/annotations/x0y0z0/put-{}.json",
        "/brain/annotations//x0y0z0//put-{}.json",
        "////brain////annotations////x0y0z0////put-{}.json",
    ],
    ids=["source-with-slash", "first", "inside", "everywhere"],
)
def test_doubled_slashes_collapse_when_writing(
    service: Service, root: Path, target: str, request: pytest.FixtureRequest
) -> None:
    leaf = request.node.callspec.id
    path = root / f"brain/annotations/x0y0z0/put-{leaf}.json"
    target = target.format(leaf)
    put = ask(service, target, method="PUT", body=PUT_BODY)
    assert put.status == 201
    assert json.loads(put.body)["filename"] == path.relative_to(root).as_posix()
    assert path.read_bytes() == PUT_BODY
    id_ = ANNOTATIONS[0]["id"]
    patch = ask(
        service, f"{target}?id={id_}", method="PATCH", body=PUT_BODY[1 : PUT_BODY.index(b"}") + 1]
    )
    assert patch.status == 200
    assert ask(service, f"{target}?id={id_}", method="DELETE").status == 200
    assert id_.encode() not in path.read_bytes()


# --- Chunks: what a name means ---


def write_tiff(path: Path) -> None:
    tifffile.imwrite(path, VOXELS, photometric="minisblack", compression="zlib")


@pytest.mark.parametrize("suffix", [".tiff", ".tif"])
def test_chunk_is_decoded_from_its_tiff(service: Service, scale: Path, suffix: str) -> None:
    name = f"64-100_64-90_{64 + len(suffix)}-{70 + len(suffix)}"
    write_tiff(scale / f"{name}{suffix}")
    answer = ask(service, f"/bare/2_2_2/{name}")
    assert (answer.status, answer.body) == (200, RAW)
    assert answer.headers["Content-Type"] == OCTETS


@pytest.mark.parametrize(
    ("there", "served"),
    [
        pytest.param(["", ".tiff", ".tif", ".gz", ".br"], "", id="exact-file-first"),
        pytest.param([".tiff", ".gz", ".br"], ".tiff", id="tiff-before-twins"),
        pytest.param([".tif", ".gz", ".br"], ".tif", id="tif-before-twins"),
        pytest.param([".gz"], ".gz", id="gz-when-alone"),
        pytest.param([".br"], ".br", id="br-when-alone"),
        pytest.param([], None, id="absent"),
    ],
)
def test_chunk_is_looked_for_in_order(
    service: Service,
    root: Path,
    there: list[str],
    served: str | None,
    request: pytest.FixtureRequest,
) -> None:
    directory = root / "order" / request.node.callspec.id / "1_1_1"
    directory.mkdir(parents=True)
    for suffix in there:
        if suffix.startswith(".tif"):
            write_tiff(directory / (CHUNK + suffix))
        elif suffix:
            (directory / (CHUNK + suffix)).write_bytes(packed(b"twin " + suffix.encode(), suffix))
        else:
            (directory / CHUNK).write_bytes(b"exact")
    answer = ask(service, f"/{directory.relative_to(root).as_posix()}/{CHUNK}", {"Origin": ORIGIN})
    if served is None:
        assert_problem(answer, 404)
        return
    bodies = {"": b"exact", ".tiff": RAW, ".tif": RAW, ".gz": b"twin .gz", ".br": b"twin .br"}
    assert (answer.status, answer.body) == (200, bodies[served])


def test_chunk_with_both_spellings_is_the_longer_one(service: Service, scale: Path) -> None:
    write_tiff(scale / "both.tiff")
    (scale / "both.tif").write_bytes(b"not a TIFF")
    assert ask(service, "/bare/2_2_2/both").body == RAW


@pytest.mark.parametrize(("suffix", "coding"), [(".gz", "gzip"), (".br", "br")], ids=["gz", "br"])
def test_chunk_in_a_twin_is_sent_as_it_is_to_who_accepts_it(
    service: Service, scale: Path, suffix: str, coding: str
) -> None:
    name = {".gz": "0-1_0-1_0-1", ".br": "0-1_0-1_1-2"}[suffix]
    (scale / (name + suffix)).write_bytes(packed(RAW, suffix))
    answer = ask(service, f"/bare/2_2_2/{name}", {"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert answer.headers["Content-Encoding"] == coding
    assert answer.headers["Content-Type"] == OCTETS
    assert answer.body == (scale / (name + suffix)).read_bytes()


@pytest.mark.parametrize("directory", ["1_1_1", "64_64_100", "0.5_0.5_2.0", "s0/8_8_8"])
def test_leaf_without_extension_means_its_tiff_in_a_directory_named_like_a_resolution(
    service: Service, root: Path, directory: str
) -> None:
    path = root / "leaves" / directory
    path.mkdir(parents=True, exist_ok=True)
    write_tiff(path / "tile-7.tiff")
    assert ask(service, f"/leaves/{directory}/tile-7").body == RAW


@pytest.mark.parametrize("directory", ["images", "1_1", "a_b_c", "1_1_1x"])
def test_leaf_without_extension_means_just_itself_elsewhere(
    service: Service, root: Path, directory: str
) -> None:
    path = root / "leaves" / directory
    path.mkdir(parents=True)
    write_tiff(path / "tile-7.tiff")
    assert ask(service, f"/leaves/{directory}/tile-7").status == 404
    assert ask(service, f"/leaves/{directory}/tile-7.tiff").status == 200


def test_name_of_a_box_means_its_tiff_in_any_directory(service: Service, root: Path) -> None:
    path = root / "keys" / "full resolution"
    path.mkdir(parents=True)
    write_tiff(path / f"{CHUNK}.tiff")
    assert ask(service, f"/keys/full%20resolution/{CHUNK}").body == RAW


def test_directory_named_like_a_chunk_redirects(service: Service, scale: Path) -> None:
    (scale / "5-6_5-6_5-6").mkdir()
    answer = ask(service, "/bare/2_2_2/5-6_5-6_5-6")
    assert answer.headers["Location"] == "./5-6_5-6_5-6/"


@pytest.mark.parametrize("suffix", [".tiff", ".tif"])
@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "image/tiff", "image/*", f"image/tiff, {OCTETS}", f"{OCTETS};q=0.5, image/tiff"],
    ids=["none", "any", "tiff", "images", "both", "both-weighed"],
)
def test_tiff_by_its_name_is_the_file(
    service: Service, scale: Path, suffix: str, accept: str | None
) -> None:
    path = scale / f"tile{suffix}"
    write_tiff(path)
    answer = ask(service, f"/bare/2_2_2/tile{suffix}", {"Accept": accept} if accept else None)
    assert answer.body == path.read_bytes()
    assert answer.headers["Content-Type"] == "image/tiff"
    assert "accept" in answer.listed("Vary")


@pytest.mark.parametrize("suffix", [".tiff", ".tif"])
@pytest.mark.parametrize(
    "accept",
    [OCTETS, OCTETS.upper(), f"{OCTETS}, */*;q=0.1"],
    ids=["octets", "capitals", "octets-first"],
)
def test_tiff_by_its_name_is_decoded_for_who_wants_octets(
    service: Service, scale: Path, suffix: str, accept: str
) -> None:
    write_tiff(scale / f"tile{suffix}")
    answer = ask(service, f"/bare/2_2_2/tile{suffix}", {"Accept": accept})
    assert answer.body == RAW
    assert answer.headers["Content-Type"] == OCTETS
    assert "accept" in answer.listed("Vary")


def test_tiff_and_its_voxels_have_different_etags(service: Service) -> None:
    path = f"/brain/1_1_1/{CHUNK}"
    file = ask(service, f"{path}.tiff").headers["ETag"]
    decoded = ask(service, f"{path}.tiff", {"Accept": OCTETS}).headers["ETag"]
    assert file != decoded
    assert decoded == ask(service, path).headers["ETag"]


def test_tiff_elsewhere_is_never_decoded(service: Service, root: Path) -> None:
    write_tiff(root / "overview.tiff")
    answer = ask(service, "/overview.tiff", {"Accept": OCTETS})
    assert answer.body == (root / "overview.tiff").read_bytes()


# --- Which fault is which status ---


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/none/none",
        "/brain/info/none",
        "/brain/1_1_1/128-192_0-64_0-64",
        "/brain/1_1_1/128-192_0-64_0-64.tiff",
        "/brain/1_1_1/none",
        "/brain/4_4_4/0-64_0-64_0-64",
        "/none/1_1_1/0-64_0-64_0-64",
        "/brain/annotations/x0y0z0/none.json",
    ],
)
def test_what_is_absent_is_404(service: Service, path: str) -> None:
    assert_problem(ask(service, path, {"Origin": ORIGIN}), 404)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        pytest.param(".gz", b"not gzip at all", id="gz-nonsense"),
        pytest.param(".gz", gzip.compress(b"text" * 100)[:-20], id="gz-cut-short"),
        pytest.param(".gz", gzip.compress(b"text")[:-8] + b"\0" * 8, id="gz-wrong-sum"),
        pytest.param(".gz", gzip.compress(b"text") + b"rubbish", id="gz-with-rubbish-behind"),
        pytest.param(".gz", b"", id="gz-empty"),
        pytest.param(".br", b"not brotli at all", id="br-nonsense"),
        pytest.param(".br", packed(b"text" * 100, ".br")[:-5], id="br-cut-short"),
        pytest.param(".br", b"", id="br-empty"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_twin_that_is_damaged_is_500_and_named(
    service: Service, scale: Path, suffix: str, content: bytes, method: str
) -> None:
    path = scale / f"9-10_9-10_9-10{suffix}"
    path.write_bytes(content)
    answer = ask(service, "/bare/2_2_2/9-10_9-10_9-10", {"Origin": ORIGIN}, method=method)
    path.unlink()
    assert_problem(answer, 500, has_body=method == "GET")
    assert method == "HEAD" or path.name in json.loads(answer.body)["description"]


@pytest.mark.quick(1)
@pytest.mark.parametrize("suffix", [".br", ".gz"])
def test_twin_of_few_bytes_that_holds_gigabytes_takes_little_memory(
    scale: Path, start_service: StartService, suffix: str
) -> None:
    path = scale / f"9-10_9-10_9-10{suffix}"
    zeros = bytes(2**29)
    path.write_bytes(gzip.compress(zeros, 1) if suffix == ".gz" else packed(zeros, suffix))
    bomb = start_service(scale.parent.parent)
    answer = ask(bomb, "/bare/2_2_2/9-10_9-10_9-10", {"Origin": ORIGIN})
    path.unlink()
    assert_problem(answer, 406)
    (worker,) = children(bomb.process.pid)
    status = Path(f"/proc/{worker}/status").read_text()
    peak_kb = int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]
    assert peak_kb < 400_000
    bomb.stop()


@pytest.mark.parametrize(
    "content",
    [b"", b"II*\0", b"not a TIFF", b"\0" * 1000],
    ids=["empty", "header-only", "text", "zeros"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_chunk_that_is_damaged_is_500_and_named(
    service: Service, scale: Path, content: bytes, method: str
) -> None:
    path = scale / "9-10_9-10_9-10.tiff"
    path.write_bytes(content)
    answer = ask(service, "/bare/2_2_2/9-10_9-10_9-10", {"Origin": ORIGIN}, method=method)
    path.unlink()
    assert_problem(answer, 500, has_body=method == "GET")
    assert method == "HEAD" or path.name in json.loads(answer.body)["description"]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service whose data lies on a file system that fails: EIO, read from the kernel itself."""
    root = tmp_path_factory.mktemp("faulty") / "data"
    write_dataset(root / "brain")
    write_dataset(root / "no-info")
    memory = Path("/proc/self/mem")  # there is nothing at its beginning: reading it is EIO
    (root / "brain/annotations/x0y0z0/failing.json").symlink_to(memory)
    (root / "no-info/info").unlink()
    (root / "no-info/info").symlink_to(memory)
    (root / "packed.gz").symlink_to(memory)
    return start_service(root, "--follow-symlinks")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/brain/annotations/x0y0z0/failing.json", id="annotations"),
        pytest.param(f"/no-info/1_1_1/{CHUNK}", id="info-of-a-chunk"),
        pytest.param("/packed", id="twin"),
    ],
)
def test_passing_fault_of_the_file_system_is_503_with_retry_after(
    faulty: Service, path: str
) -> None:
    answer = ask(faulty, path, {"Origin": ORIGIN})
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert "Traceback" not in faulty.log()


KINDS_OF_FAULT = {
    MissingError: ["ENOENT", "ENOTDIR", "ELOOP"],
    ReadOnlyError: ["EACCES", "EPERM", "EROFS"],
    NameTooLongError: ["ENAMETOOLONG"],
    BusyError: ["ESTALE", "EIO", "ETIMEDOUT", "EAGAIN", "EBUSY", "EMFILE", "ENFILE", "EHOSTDOWN"],
    DiskFullError: ["ENOSPC", "EDQUOT"],
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(kind, name, id=name) for kind, names in KINDS_OF_FAULT.items() for name in names],
)
def test_error_of_the_system_is_told_apart_by_what_to_do_about_it(
    kind: type[Exception], name: str
) -> None:
    number = getattr(errno, name)
    with pytest.raises(kind, match="brain/info") as caught, writing("brain/info"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)
    if kind is not DiskFullError:
        with pytest.raises(kind, match="brain/info"), reading("brain/info"):
            raise OSError(number, os.strerror(number))


def test_unknown_error_of_the_system_is_not_hidden() -> None:
    with pytest.raises(OSError, match="odd"), reading("brain/info"):
        raise OSError(errno.EPROTO, "odd")


def test_file_that_is_replaced_once_it_was_found_is_sent_as_it_was(root: Path) -> None:
    """Its size and ETag were told already: to send other bytes under them would be a mix."""
    files = Files(DataRoot(root))
    path = root / "replaced.bin"
    path.write_bytes(b"old")
    found = files.find(("replaced.bin",))
    again = files.find(("replaced.bin",))
    assert isinstance(found, StoredFile)
    assert isinstance(again, StoredFile)
    other = root / "other.bin"
    other.write_bytes(b"new and longer")
    other.replace(path)
    with files.open(found) as file:
        assert file.read() == b"old"
    assert again.opened is not None
    again.opened.close()
    with pytest.raises(BusyError):  # it has to be opened again, and is another one now
        files.open(again)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    """A service that obeys permissions, and data that it may not read."""
    root = tmp_path_factory.mktemp("locked") / "data"
    for name in ("brain", "closed", "no-info", "unlisted"):
        write_dataset(root / name)
    closed: list[tuple[Path, int]] = [
        (root / "file.txt", 0o000),
        (root / "packed.gz", 0o000),
        (root / "brain/1_1_1/0-64_0-64_0-64.tiff", 0o000),
        (root / "brain/annotations/x0y0z0/locked.json", 0o000),
        (root / "no-info/info", 0o000),
        (root / "directory", 0o000),
        (root / "closed", 0o000),
        (root / "unlisted", 0o111),
        (root / "brain/annotations/x1y0z0", 0o555),
        (root / "unsearchable", 0o444),
    ]
    for path, _ in closed:
        if not path.exists():
            if path.suffix:
                path.write_bytes(packed(b"secret", ".gz") if path.suffix == ".gz" else b"[]")
            else:
                path.mkdir()
                (path / "inside.json").write_text("[]")
    for path, mode in closed:
        path.chmod(mode)
    return without_root_powers(lambda: start_service(root))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/file.txt", id="file"),
        pytest.param("/packed", id="twin"),
        pytest.param("/brain/1_1_1/0-64_0-64_0-64", id="chunk"),
        pytest.param("/brain/1_1_1/0-64_0-64_0-64.tiff", id="tiff"),
        pytest.param("/brain/annotations/x0y0z0/locked.json", id="annotations"),
        pytest.param(f"/no-info/1_1_1/{CHUNK}", id="info-of-a-chunk"),
        pytest.param("/directory/", id="directory"),
        pytest.param("/directory/inside.json", id="file-in-a-directory"),
        pytest.param("/unlisted/", id="directory-that-may-not-be-listed"),
        pytest.param("/unsearchable/inside.json", id="file-in-an-unsearchable-directory"),
        pytest.param("/closed/annotations/x0y0z0/fibers.json", id="closed-annotations"),
        pytest.param(f"/closed/1_1_1/{CHUNK}", id="closed-chunk"),
    ],
)
def test_what_may_not_be_read_is_403(locked: Service, path: str, method: str) -> None:
    answer = ask(locked, path, {"Origin": ORIGIN}, method=method)
    assert_problem(answer, 403, has_body=method == "GET")
    assert b"secret" not in answer.body
    assert "Traceback" not in locked.log()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("PUT", "/brain/annotations/x1y0z0/new.json", id="new-in-a-closed-block"),
        pytest.param(
            "PUT", "/brain/annotations/x1y0z0/inside.json", id="replace-in-a-closed-block"
        ),
        pytest.param(
            "PATCH", "/brain/annotations/x1y0z0/inside.json", id="patch-in-a-closed-block"
        ),
        pytest.param("PATCH", "/brain/annotations/x0y0z0/locked.json", id="patch-a-locked-file"),
        pytest.param(
            "DELETE", "/brain/annotations/x0y0z0/locked.json", id="delete-in-a-locked-file"
        ),
        pytest.param("PUT", "/closed/annotations/x0y0z0/new.json", id="new-in-a-closed-dataset"),
        pytest.param(
            "PUT", "/directory/annotations/x0y0z0/new.json", id="new-in-a-closed-directory"
        ),
        pytest.param(
            "PATCH", "/closed/annotations/x0y0z0/fibers.json", id="patch-a-closed-dataset"
        ),
    ],
)
def test_what_may_not_be_written_is_403(locked: Service, method: str, path: str) -> None:
    query = "" if method == "PUT" else f"?id={ANNOTATIONS[0]['id']}"
    body = {"PUT": PUT_BODY, "PATCH": json.dumps(ANNOTATIONS[0]).encode(), "DELETE": b""}[method]
    assert_problem(ask(locked, path + query, {"Origin": ORIGIN}, method=method, body=body), 403)
    assert "Traceback" not in locked.log()


def test_directory_with_unreadable_entries_is_listed(locked: Service) -> None:
    answer = ask(locked, "/")
    assert answer.status == 200
    assert b'href="file.txt"' in answer.body
    assert b'href="closed/"' in answer.body


def test_dataset_that_may_not_be_listed_is_served_all_the_same(locked: Service) -> None:
    assert ask(locked, "/unlisted/info").status == 200
    assert ask(locked, f"/unlisted/1_1_1/{CHUNK}").body == RAW


def test_data_root_that_is_gone_is_unhealthy(tmp_path: Path, start_service: StartService) -> None:
    root = tmp_path / "data"
    root.mkdir()
    service = start_service(root)
    assert ask(service, "/api/health").status == 200
    root.rename(tmp_path / "unmounted")
    answer = ask(service, "/api/health", {"Origin": ORIGIN})
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    (tmp_path / "unmounted").rename(root)
    assert ask(service, "/api/health").status == 200
    service.stop()


@pytest.mark.parametrize("path", ["/sparse.bin", f"/brain/1_1_1/{CHUNK}", "/"])
def test_client_that_goes_away_is_not_worth_a_line_in_the_log(
    service: Service, root: Path, path: str
) -> None:
    with (root / "sparse.bin").open("wb") as file:
        file.truncate(2**36)
    before = len(service.log())
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(100)
    assert ask(service, "/brain/info").status == 200
    lines = service.log()[before:].splitlines()
    assert [line for line in lines if " neurotrale.access: " not in line] == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/brain/annotations/x0y0z0/fibers.json",
        "/brain/annotations/x0y0z0/new.json",
        "/brain/annotations/x99y99z99/new.json",
        "/none/annotations/x0y0z0/new.json",
    ],
    ids=["there", "new", "new-block", "no-dataset"],
)
def test_read_only_service_refuses_every_write(
    read_only: Service, root: Path, path: str, method: str
) -> None:
    before = _times(root)
    query = "" if method == "PUT" else f"?id={ANNOTATIONS[0]['id']}"
    body = {"PUT": PUT_BODY, "PATCH": json.dumps(ANNOTATIONS[0]).encode(), "DELETE": b""}[method]
    answer = ask(read_only, path + query, {"Origin": ORIGIN}, method=method, body=body)
    assert_problem(answer, 403)
    assert "--read-only" in json.loads(answer.body)["description"]
    assert _times(root) == before


def _times(root: Path) -> dict[Path, int]:
    """When everything was changed, but for what the other service here renews as it writes."""
    return {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if not path.name.startswith(".neurotrale.writer-")
    }


def test_read_only_service_is_read_as_ever(read_only: Service, root: Path) -> None:
    path = "brain/annotations/x0y0z0/fibers.json"
    assert ask(read_only, f"/{path}").body == (root / path).read_bytes()
    assert ask(read_only, f"/brain/1_1_1/{CHUNK}").body == RAW
    assert json.loads(ask(read_only, "/api/health").body)["read_only"] is True
