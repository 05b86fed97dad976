"""The wall around the data root: whatever a client sends, nothing outside is read or changed.

Every attack goes through a raw socket, just as it is written here: no client library gets to
clean it up first.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from itertools import product
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from neurotrale.storage.state import STATE
from tests.conftest import Service, StartService
from tests.datasets import ANNOTATIONS, write_dataset
from tests.test_http import ORIGIN, Answer, Connections, ask, assert_problem, compose

SECRET = "canary-7f3a"
ID = ANNOTATIONS[0]["id"]
CHUNK = "0-64_0-64_0-64"

# A whole-file PUT and a PATCH that would be taken anywhere inside the wall.
PUT_BODY = json.dumps(ANNOTATIONS[1:]).encode()
PATCH_BODY = json.dumps({**ANNOTATIONS[0], "anntype": "changed"}).encode()
WRITES = {"PUT": ("", PUT_BODY), "PATCH": (f"?id={ID}", PATCH_BODY), "DELETE": (f"?id={ID}", b"")}

# So that every request gets as far as its path; whose pages may write is tested elsewhere.
ANY_ORIGIN = ("--cors-origins", "*")

# Path -> size, mode, time of change in ns, inode, content (of a link: its target).
Snapshot = dict[str, tuple[int, int, int, int, bytes]]


@dataclass(frozen=True)
class Yard:
    """A data root, and the canary files around it."""

    base: Path
    root: Path

    def canaries(self) -> Snapshot:
        """Take down everything around the root."""
        return snapshot(self.base, without=self.root)

    def data(self) -> Snapshot:
        """Take down everything below the root but what the service remembers of viewers."""
        return snapshot(self.root, without=self.root / STATE)


def snapshot(top: Path, without: Path | None = None) -> Snapshot:
    taken: Snapshot = {}
    for directory, subdirectories, files in os.walk(top):
        if without is not None and without.name in subdirectories and Path(directory) == top:
            subdirectories.remove(without.name)
        for name in (*subdirectories, *files):
            path = Path(directory, name)
            status = path.lstat()
            if path.is_symlink():
                content = os.fsencode(path.readlink())
            else:
                content = path.read_bytes() if path.is_file() else b""
            size = 0 if path.is_dir() else status.st_size
            taken[str(path)] = (size, status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return taken


def make_yard(base: Path) -> Yard:
    """Put whole datasets, with the secret in all their files, all around the root.

    ``base`` and ``base/data-of-others``, whose name begins like the root's, are datasets too, so
    that an attack that climbs out finds something to take or break wherever it lands.
    """
    root = base / "data"
    write_dataset(root / "brain", (8, 8, 8))
    for place in (base, base / "data-of-others"):
        block = place / "annotations" / "x0y0z0"
        block.mkdir(parents=True)
        annotations = [{**annotation, "anntype": SECRET} for annotation in ANNOTATIONS]
        for path in (block / "fibers.json", place / "canary.json", place / "fibers.json"):
            path.write_text(json.dumps(annotations))
        (place / "info").write_text(json.dumps({"secret": SECRET}))
        (place / "1_1_1").mkdir()
        (place / "1_1_1" / CHUNK).write_text(SECRET)
    return Yard(base, root)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return make_yard(tmp_path_factory.mktemp("paths"))


@pytest.fixture(scope="module")
def service(yard: Yard, start_service: StartService) -> Service:
    return start_service(yard.root, *ANY_ORIGIN)


@pytest.fixture
def untouched(yard: Yard) -> Iterator[None]:
    """Hold a test to it: whatever it sent, nothing was changed, inside or outside."""
    canaries, data = yard.canaries(), yard.data()
    yield
    assert yard.canaries() == canaries
    assert yard.data() == data


def assert_refused(answer: Answer) -> None:
    assert SECRET.encode() not in answer.body
    assert b"root:" not in answer.body
    assert SECRET not in str(answer.headers)
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    assert_problem(answer, answer.status)


Attack = tuple[str, str | bytes]
"""A method and a target."""


def sent(method: str, target: str | bytes) -> bytes:
    """Give the request of an attack; one that writes has a query and a body that would do."""
    query, body = WRITES.get(method, ("", b""))
    raw_target = target if isinstance(target, bytes) else target.encode()
    return compose(raw_target + query.encode(), {"Origin": ORIGIN}, method=method, body=body)


def attack(service: Service, method: str, target: str | bytes) -> None:
    attack_all(service, [(method, target)])


def attack_all(service: Service, attacks: Iterable[Attack]) -> None:
    """Check that each of these is refused; all are tried, however many were not."""
    faults = {}
    with closing(Connections(service.port)) as connections:
        for method, target in attacks:
            try:
                assert_refused(connections.exchange(sent(method, target)))
            except (AssertionError, OSError, HTTPException) as error:
                faults[f"{method} {target[:200]!r}"] = f"{type(error).__name__}: {error}"[:1000]
    assert faults == {}


# --- Climbing: every spelling of `..` with every spelling of `/` ---

UPS = [
    "..",
    "%2e%2e",
    "%2E%2E",
    ".%2e",
    "%2e.",
    "%252e%252e",
    "%25252e%25252e",
    "%c0%ae%c0%ae",
    "%c0%2e%c0%2e",
    "%e0%80%ae%e0%80%ae",
    "%uff0e%uff0e",
    "%ef%bc%8e%ef%bc%8e",
    "%e2%80%a5",
    "..%00",
    "%00..",
    ".%00.",
    "..%20",
    "..%09",
    "..%0a",
    "..%ff",
    "..;",
    "..;x=y",
    "...",
    "....",
    "./..",
    "brain/..",
]
SLASHES = [
    "/",
    "//",
    "/./",
    "%2f",
    "%2F",
    "/%2f",
    "%2f/",
    "\\",
    "%5c",
    "%5C",
    "/%5c",
    "%252f",
    "%252F",
    "%255c",
    "%c0%af",
    "%e0%80%af",
    "%ef%bc%8f",
    "%e2%88%95",
    "%e2%81%84",
]
# Where a climb starts -> how many steps it is from there to the directory around the root.
STARTS = {"/": 1, "/brain/": 2, "/brain/1_1_1/": 3, "/brain/annotations/x0y0z0/": 4}


def reads(climb: str) -> Iterator[Attack]:
    for start, steps in STARTS.items():
        yield "GET", f"{start}{climb * steps}canary.json"
    yield "GET", f"/{climb}data-of-others/info"
    yield "GET", f"/brain/{climb * 2}1_1_1/{CHUNK}"
    yield "GET", f"/{climb}annotations/x0y0z0/fibers.json"


def writes(climb: str) -> Iterator[Attack]:
    targets = [
        f"/{climb}annotations/x0y0z0/fibers.json",
        f"/{climb}data-of-others/annotations/x0y0z0/fibers.json",
        f"/brain/annotations/{climb * 3}annotations/x0y0z0/fibers.json",
        f"/brain/annotations/{climb * 3}data-of-others/fibers.json",
    ]
    if "/" in unquote(climb):  # otherwise the whole leaf is one odd name: see below
        targets.append(f"/brain/annotations/x0y0z0/{climb * 4}canary.json")
    yield from product(WRITES, targets)


@pytest.mark.quick(26)
@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("attacks", [reads, writes])
@pytest.mark.usefixtures("untouched")
def test_climbing_out_is_refused(
    service: Service, attacks: Callable[[str], Iterator[Attack]], up: str
) -> None:
    attack_all(service, (one for slash in SLASHES for one in attacks(up + slash)))


ODD_NAMES = {
    "double-encoded": "%252e%252e%252fcanary",
    "triple-encoded": "%25252e%25252e%25252fcanary",
    "overlong-utf-8": "%c0%ae%c0%ae%c0%afcanary",
    "fullwidth": "%ef%bc%8e%ef%bc%8e%ef%bc%8fcanary",
    "division-slash": "%e2%88%95canary",
    "percent-u": "%uff0e%uff0ecanary",
    "dots-inside": "canary..%252fcanary",
}


@pytest.mark.parametrize("name", [pytest.param(name, id=id_) for id_, name in ODD_NAMES.items()])
def test_odd_name_that_is_one_name_is_a_file_of_its_block(
    service: Service, yard: Yard, name: str
) -> None:
    canaries = yard.canaries()
    block = yard.root / "brain" / "annotations" / "x0y0z0"
    path = block / f"{unquote(name)}.json"
    answer = ask(service, f"/brain/annotations/x0y0z0/{name}.json", method="PUT", body=PUT_BODY)
    assert answer.status == 201
    assert path.parent == block
    assert path.read_bytes() == PUT_BODY
    path.unlink()
    path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
    assert yard.canaries() == canaries


# --- Everything else that was ever tried ---

LONG = 20_000
ATTACKS: dict[str, str | bytes] = {
    # absolute paths
    "absolute": "//etc/passwd",
    "absolute-encoded": "/%2fetc%2fpasswd",
    "absolute-below": "/brain//etc/passwd",
    "absolute-chunk": f"/brain/1_1_1//{CHUNK}/etc/passwd",
    "absolute-proc": "/proc/self/environ",
    "absolute-form": "file:///etc/passwd",
    "absolute-form-http": "http://127.0.0.1/../etc/passwd",
    "absolute-form-inside": "/file:///etc/passwd",
    "home": "/~root/.bashrc",
    "drive": "/C:/Windows/win.ini",
    "drive-backslash": "/C:\\Windows\\win.ini",
    "share": "/\\\\server\\share",
    "share-encoded": "/%5c%5cserver%5cshare",
    "device-path": "/%5c%5c.%5cC:",
    # climbing without a slash in front, or behind something that exists
    "no-slash": "../canary.json",
    "no-slash-encoded": "%2e%2e/canary.json",
    "dots-only": "/..",
    "dots-slash": "/../",
    "dots-encoded-only": "/%2e%2e",
    "dots-slash-encoded": "/%2e%2e%2f",
    "dot": "/.",
    "dot-slash": "/./",
    "dot-before": "/./brain/info",
    "dot-inside": "/brain/./info",
    "dot-after": "/brain/info/.",
    "dots-after": "/brain/info/..",
    "dots-that-stay-inside": "/brain/../brain/info",
    "dots-that-stay-inside-encoded": "/brain/%2e%2e/brain/info",
    "below-a-file": "/brain/info/../../../canary.json",
    "below-annotations": "/brain/annotations/x0y0z0/fibers.json/../../../../../canary.json",
    "slash-after-annotations": "/brain/annotations/x0y0z0/fibers.json/",
    "below-the-docs": "/api/../../canary.json",
    "below-the-docs-encoded": "/api/%2e%2e%2f%2e%2e%2fcanary.json",
    "docs-package": "/api/../__init__.py",
    "docs-package-encoded": "/api/..%2f__init__.py",
    "docs-absolute": "/api//etc/passwd",
    "parameters": "/brain;/../../canary.json",
    "before-a-query": "/../canary.json?x=y",
    "before-an-encoded-query": "/../canary.json%3fx=y",
    "before-a-fragment": "/../canary.json#x",
    "fragment-encoded": "/brain/info%23/../../../canary.json",
    "root-by-its-name": "/../data/brain/info",
    "sibling-by-its-name": "/../data-of-others/info",
    "prefix-of-the-sibling": "/-of-others/info",
    "many-ups": "/" + "../" * 1000 + "etc/passwd",
    # NUL and other control characters
    "nul": "/%00",
    "nul-after": "/brain/info%00",
    "nul-and-extension": "/brain/info%00.json",
    "nul-before": "/%00brain/info",
    "nul-inside": "/bra%00in/info",
    "nul-raw": b"/brain/info\x00.json",
    "nul-double-encoded": "/brain/info%2500.json",
    "nul-in-annotations": "/brain/annotations/x0y0z0/fibers.json%00.json",
    "nul-in-the-block": "/brain/annotations/x0y0z0%00/fibers.json",
    "nul-in-the-dataset": "/brain%00/annotations/x0y0z0/fibers.json",
    "newline": "/brain/info%0a",
    "newline-in-the-leaf": "/brain/annotations/x0y0z0/new%0a.json",
    "newline-after-the-leaf": "/brain/annotations/x0y0z0/fibers.json%0a",
    "header-injection": "/brain%0d%0aSet-Cookie:%20a=b",
    "header-injection-directory": "/brain/%0d%0aSet-Cookie:%20a=b/",
    "escape": "/%1b%5b2J",
    "delete": "/brain/info%7f",
    "tab": "/brain/info%09",
    # hidden files
    "hidden-file": "/.hidden",
    "hidden-in-a-dataset": "/brain/.hidden/secret.json",
    "hidden-encoded": "/%2ehidden",
    "hidden-git": "/.git/config",
    "hidden-lock": "/brain/annotations/x0y0z0/.fibers.json.lock",
    "hidden-annotations": "/brain/annotations/x0y0z0/.fibers.json",
    "hidden-block": "/brain/annotations/.x0y0z0/fibers.json",
    "hidden-dataset": "/.brain/annotations/x0y0z0/fibers.json",
    "hidden-chunk": f"/brain/.1_1_1/{CHUNK}",
    "hidden-temporary": "/brain/annotations/x0y0z0/.tmp-1-0-fibers.json",
    # backslashes
    "backslash": "/brain\\info",
    "backslash-encoded": "/brain%5cinfo",
    "backslash-climb": "\\..\\canary.json",
    "backslash-in-annotations": "/brain/annotations/x0y0z0/..%5c..%5ccanary.json",
    "backslash-in-the-block": "/brain/annotations/..%5c..%5c..%5c/fibers.json",
    # names that are too long
    "name-of-256": "/" + "n" * 256,
    "name-of-256-in-a-dataset": "/brain/" + "n" * 256 + "/info",
    "name-of-256-bytes": "/" + "%c3%bc" * 128,
    "leaf-of-256": "/brain/annotations/x0y0z0/" + "n" * 251 + ".json",
    "leaf-of-255-without-room-for-its-lock": "/brain/annotations/x9y9z9/" + "n" * 250 + ".json",
    "block-of-256": "/brain/annotations/" + "x" * 256 + "/fibers.json",
    "block-of-a-long-number": "/brain/annotations/x" + "9" * 200 + "y0z0/fibers.json",
    "dataset-of-256": "/" + "n" * 256 + "/annotations/x0y0z0/fibers.json",
    "scale-of-256": "/brain/" + "1" * 252 + f"_1_1/{CHUNK}",
    "path-of-20000-letters": "/" + "n" * LONG,
    "path-of-20000-letters-encoded": "/" + "%6e" * LONG,
    "path-of-20000-dots": "/" + "." * LONG,
    "path-of-20000-digits": "/brain/" + "1" * LONG,
    "path-of-20000-underscores": "/brain/" + "1_" * (LONG // 2) + "/x",
    "path-of-20000-boxes": "/brain/" + "0-1_" * (LONG // 4),
    "path-of-20000-dashes": "/brain/1_1_1/" + "-" * LONG,
    "path-of-20000-percents": "/" + "%25" * LONG,
    "path-of-20000-ups": "/" + "../" * (LONG // 3) + "canary.json",
    "path-of-20000-ups-encoded": "/" + "%2e%2e%2f" * (LONG // 9) + "canary.json",
    "path-of-20000-names": "/" + "n/" * (LONG // 2) + "canary.json",
    "path-of-20000-scales": "/1_1_1" * (LONG // 6) + "/n",
    "path-of-20000-annotations": "/annotations" * (LONG // 12) + "/x0y0z0/fibers.json",
    "path-of-20000-blocks": "/annotations/x0y0z0" * (LONG // 19) + "/fibers.json",
    "path-of-20000-in-the-leaf": "/brain/annotations/x0y0z0/" + "n" * LONG + ".json",
    "path-of-20000-in-the-block": "/brain/annotations/" + "x" * LONG + "/fibers.json",
    # encodings that are none
    "percent": "/%",
    "percents": "/%%%%",
    "percent-cut-short": "/brain/inf%6",
    "percent-letters": "/%zz%2",
    "percent-u": "/%u002e%u002e/canary.json",
    "percent-unicode-dots": "/%u002e%u002e%u002fcanary.json",
    "latin-1": "/%e9%ff",
    "lone-surrogate": "/%ed%a0%80",
    "overlong-slash": "/..%c0%afcanary.json",
    "overlong-dots": "/%c0%ae%c0%ae/canary.json",
    "utf-7": "/+AC4ALg-/canary.json",
    "html-entity": "/&#46;&#46;/canary.json",
    "raw-latin-1": b"/\xe9\xff",
    "raw-utf-8": "/\u2025/canary.json",
    "raw-overlong": b"/\xc0\xae\xc0\xae/canary.json",
    "right-to-left": "/%e2%80%ae../canary.json",
    "zero-width": "/.%e2%80%8b./canary.json",
    "combining": "/.%cc%81./canary.json",
    "byte-order-mark": "/%ef%bb%bf../canary.json",
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("method", ["GET", *WRITES])
@pytest.mark.parametrize("links", ["refused", "followed"])
@pytest.mark.usefixtures("untouched")
def test_attack_is_refused(service: Service, following: Service, links: str, method: str) -> None:
    attacked = service if links == "refused" else following
    attack_all(attacked, ((method, target) for target in ATTACKS.values()))


@pytest.fixture(scope="module")
def following(yard: Yard, start_service: StartService) -> Service:
    return start_service(yard.root, *ANY_ORIGIN, "--follow-symlinks")


def test_service_came_through_it_all(service: Service, yard: Yard) -> None:
    assert ask(service, "/brain/info").body == (yard.root / "brain/info").read_bytes()
    assert "Traceback" not in service.log()
    assert SECRET not in service.log()


# --- Symbolic links ---

# A link below the root -> where it points to.
LINKS_OUT = {
    "dataset": "../data-of-others",
    "parent": "..",
    "brain/file.json": "../../canary.json",
    "brain/new.json": "../../new.json",
    "brain/absolute": "{base}/canary.json",
    "brain/chained": "absolute",
    "brain/chained-twice": "chained",
    "brain/directory": "../../data-of-others",
    "brain/by-the-root": "../../data/../canary.json",
    "brain/2_2_2": "../../1_1_1",
    "brain/3_3_3/0-64_0-64_0-64.tiff": "../../../1_1_1/0-64_0-64_0-64",
    "brain/packed.gz": "../../canary.json",
    "annotated/annotations": "../../annotations",
    "brain/annotations/x1y0z0": "../../../annotations/x0y0z0",
    "brain/annotations/x0y0z0/linked.json": "../../../../canary.json",
    "brain/annotations/x0y0z0/chained.json": "linked.json",
    "brain/annotations/x0y0z0/absent.json": "../../../../absent.json",
    "described/info": "../../info",
    "described/annotations/block_info.csv": "../../../info",
}

# What is asked for -> the link in its way.
READ_THROUGH = {
    "/dataset": "dataset",
    "/dataset/": "dataset",
    "/dataset/info": "dataset",
    f"/dataset/1_1_1/{CHUNK}": "dataset",
    "/dataset/annotations/x0y0z0/fibers.json": "dataset",
    "/dataset/none": "dataset",
    "/parent/canary.json": "parent",
    "/parent/data-of-others/info": "parent",
    "/brain/file.json": "brain/file.json",
    "/brain/new.json": "brain/new.json",
    "/brain/absolute": "brain/absolute",
    "/brain/chained": "brain/chained",
    "/brain/chained-twice": "brain/chained-twice",
    "/brain/directory/": "brain/directory",
    "/brain/directory/canary.json": "brain/directory",
    "/brain/directory/annotations/x0y0z0/fibers.json": "brain/directory",
    "/brain/by-the-root": "brain/by-the-root",
    f"/brain/2_2_2/{CHUNK}": "brain/2_2_2",
    f"/brain/2_2_2/{CHUNK}.tiff": "brain/2_2_2",
    f"/brain/3_3_3/{CHUNK}": "brain/3_3_3/0-64_0-64_0-64.tiff",
    f"/brain/3_3_3/{CHUNK}.tiff": "brain/3_3_3/0-64_0-64_0-64.tiff",
    "/brain/packed": "brain/packed.gz",
    "/brain/packed.gz": "brain/packed.gz",
    "/annotated/annotations/": "annotated/annotations",
    "/annotated/annotations/x0y0z0/fibers.json": "annotated/annotations",
    "/brain/annotations/x1y0z0/": "brain/annotations/x1y0z0",
    "/brain/annotations/x1y0z0/fibers.json": "brain/annotations/x1y0z0",
    "/brain/annotations/x0y0z0/linked.json": "brain/annotations/x0y0z0/linked.json",
    "/brain/annotations/x0y0z0/chained.json": "brain/annotations/x0y0z0/chained.json",
    "/brain/annotations/x0y0z0/absent.json": "brain/annotations/x0y0z0/absent.json",
    "/described/info": "described/info",
    "/described/annotations/block_info.csv": "described/annotations/block_info.csv",
}
WRITE_THROUGH = {target: link for target, link in READ_THROUGH.items() if target.endswith(".json")}


@pytest.fixture(scope="module")
def linked_yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    yard = make_yard(tmp_path_factory.mktemp("links"))
    for link, target in LINKS_OUT.items():
        path = yard.root / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target.format(base=yard.base))
    return yard


@pytest.fixture(scope="module")
def walled(linked_yard: Yard, start_service: StartService) -> Service:
    return start_service(linked_yard.root, *ANY_ORIGIN)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("target", "link"), READ_THROUGH.items(), ids=READ_THROUGH)
def test_link_out_of_the_root_is_404_and_the_log_names_it_and_the_option(
    walled: Service, linked_yard: Yard, target: str, link: str, method: str
) -> None:
    logged = len(walled.log())
    answer = ask(walled, target, {"Origin": ORIGIN}, method=method)
    assert_problem(answer, 404, has_body=method == "GET")
    assert SECRET.encode() not in answer.body
    lines = [line for line in walled.log()[logged:].splitlines() if "--follow-symlinks" in line]
    assert any(str(linked_yard.root / link) in line for line in lines)
    assert any("out of the data root" in line and ", to /" in line for line in lines)
    assert str(linked_yard.base) not in answer.body.decode()


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize(("target", "link"), WRITE_THROUGH.items(), ids=WRITE_THROUGH)
def test_link_out_of_the_root_is_not_written_through(
    walled: Service, linked_yard: Yard, target: str, link: str, method: str
) -> None:
    canaries, data = linked_yard.canaries(), linked_yard.data()
    attack(walled, method, target)
    assert linked_yard.canaries() == canaries
    assert linked_yard.data() == data


def test_new_block_is_not_made_through_a_link(walled: Service, linked_yard: Yard) -> None:
    canaries = linked_yard.canaries()
    for target in (
        "/annotated/annotations/x8y8z8/new.json",
        "/dataset/annotations/x8y8z8/new.json",
        "/brain/directory/annotations/x8y8z8/new.json",
    ):
        attack(walled, "PUT", target)
    assert linked_yard.canaries() == canaries


def test_dataset_whose_info_leaves_the_root_is_none(walled: Service, linked_yard: Yard) -> None:
    directory = linked_yard.root / "half"
    directory.mkdir()
    (directory / "info").symlink_to("../../info")
    attack(walled, "PUT", "/half/annotations/x0y0z0/new.json")
    assert {path.name for path in directory.iterdir()} == {"info"}


@pytest.mark.parametrize("method", WRITES)
def test_lock_that_is_a_link_is_not_written_through(
    walled: Service, linked_yard: Yard, method: str
) -> None:
    block = linked_yard.root / "brain" / "annotations" / "x0y0z0"
    lock = block / ".fibers.json.lock"
    lock.symlink_to("../../../../canary.json")
    canaries, before = linked_yard.canaries(), (block / "fibers.json").read_bytes()
    query, body = WRITES[method]
    answer = ask(
        walled,
        f"/brain/annotations/x0y0z0/fibers.json{query}",
        {"Origin": ORIGIN},
        method=method,
        body=body,
    )
    assert json.loads(answer.body)
    assert linked_yard.canaries() == canaries
    if answer.status >= 400:
        assert_problem(answer, answer.status)
        assert (block / "fibers.json").read_bytes() == before
    lock.unlink(missing_ok=True)
    (block / "fibers.json").write_bytes(before)


LINKS_IN = {
    "relative": "fibers.json",
    "up-and-down": "../../annotations/x0y0z0/fibers.json",
    "absolute": "{root}/brain/annotations/x0y0z0/fibers.json",
    "out-and-in": "../../../../data/brain/annotations/x0y0z0/fibers.json",
    "two-steps": "relative.json",
}
# Links to what is never served under its own name.
LINKS_TO_HIDDEN = {
    "hidden-file": "../../.tokens",
    "below-a-hidden-directory": "../../.store/object",
    "absolute-hidden": "{root}/brain/.tokens",
    "out-and-in-hidden": "../../../../data/brain/.tokens",
    "hidden-in-two-steps": "hidden-file.json",
    "journal": ".fibers.json.journal",
}


def test_links_that_stay_inside_work(walled: Service, linked_yard: Yard) -> None:
    block = linked_yard.root / "brain" / "annotations" / "x0y0z0"
    for name, target in LINKS_IN.items():
        (block / f"{name}.json").symlink_to(target.format(root=linked_yard.root))
        answer = ask(walled, f"/brain/annotations/x0y0z0/{name}.json")
        assert (answer.status, answer.body) == (200, (block / "fibers.json").read_bytes()), name
    (linked_yard.root / "alias").symlink_to("brain")
    assert ask(walled, "/alias/info").body == (linked_yard.root / "brain/info").read_bytes()
    assert ask(walled, "/alias/1_1_1/0-8_0-8_0-8").status == 200
    assert ask(walled, "/alias/").status == 200


def test_links_to_hidden_names_are_404_and_the_log_names_them(
    tmp_path: Path, start_service: StartService
) -> None:
    yard = make_yard(tmp_path)
    brain = yard.root / "brain"
    block = brain / "annotations" / "x0y0z0"
    (brain / ".store").mkdir()
    for hidden in (brain / ".tokens", brain / ".store" / "object", block / ".fibers.json.journal"):
        hidden.write_text(json.dumps([{**ANNOTATIONS[0], "anntype": SECRET}]))
    (brain / "store").symlink_to(".store")
    service = start_service(yard.root, *ANY_ORIGIN)
    for name, target in LINKS_TO_HIDDEN.items():
        (block / f"{name}.json").symlink_to(target.format(root=yard.root))
        (block / f"{name}.txt").symlink_to(target.format(root=yard.root))
    data = yard.data()
    links = [f"/brain/annotations/x0y0z0/{name}" for name in LINKS_TO_HIDDEN]
    attacks = [(method, f"{link}.json") for link in links for method in ("GET", *WRITES)]
    attacks += [("GET", f"{link}.txt") for link in links]
    attack_all(service, [*attacks, ("GET", "/brain/store/object"), ("GET", "/brain/store/")])
    page = ask(service, "/brain/annotations/x0y0z0/").body.decode()
    assert not [name for name in LINKS_TO_HIDDEN if name in page]
    assert yard.data() == data
    log = service.log()
    assert all(
        f"{block / name}.txt: a symbolic link leads to a hidden" in log for name in LINKS_TO_HIDDEN
    )
    service.stop()


@pytest.mark.parametrize("target", ["/circle", "/circle/", "/circle/info", "/one/info"])
def test_links_in_circles_are_404(walled: Service, linked_yard: Yard, target: str) -> None:
    for name, to in (("circle", "circle"), ("one", "two"), ("two", "one")):
        if not (linked_yard.root / name).is_symlink():
            (linked_yard.root / name).symlink_to(to)
    attack(walled, "GET", target)


def test_links_are_followed_on_request(tmp_path: Path, start_service: StartService) -> None:
    yard = make_yard(tmp_path)
    (yard.root / "dataset").symlink_to("../data-of-others")
    block = yard.root / "brain" / "annotations" / "x0y0z0"
    (block / "linked.json").symlink_to("../../../../canary.json")
    service = start_service(yard.root, *ANY_ORIGIN, "--follow-symlinks")
    assert SECRET in ask(service, "/dataset/info").body.decode()
    assert SECRET in ask(service, "/brain/annotations/x0y0z0/linked.json").body.decode()
    assert ask(service, f"/dataset/1_1_1/{CHUNK}").body == SECRET.encode()
    target = "/dataset/annotations/x0y0z0/fibers.json"
    assert ask(service, target, method="PUT", body=PUT_BODY).status == 200
    written = yard.base / "data-of-others" / "annotations" / "x0y0z0" / "fibers.json"
    assert written.read_bytes() == PUT_BODY
    service.stop()


# --- Pipes, sockets and devices ---

SPECIAL = {
    "/special/file": "special/file",
    "/special/info": "special/info",
    "/special/packed": "special/packed.gz",
    "/special/packed.gz": "special/packed.gz",
    "/special/file/": "special/file",
    f"/special/1_1_1/{CHUNK}": f"special/1_1_1/{CHUNK}.tiff",
    f"/special/1_1_1/{CHUNK}.tiff": f"special/1_1_1/{CHUNK}.tiff",
    "/special/2_2_2/0-64_0-64_64-128": "special/2_2_2/0-64_0-64_64-128",
    "/special/annotations/x0y0z0/fibers.json": "special/annotations/x0y0z0/fibers.json",
    "/special/annotations/x70y70z70/fibers.json": "special/annotations/block_info.csv",
}


@pytest.fixture(scope="module", params=["pipe", "socket", "device", "link-to-a-pipe"])
def special(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    start_service: StartService,
) -> Iterator[Service]:
    """A service whose files are all of a kind that must never be opened."""
    root = tmp_path_factory.mktemp("special") / "data"
    sockets: list[socket.socket] = []
    for path in {root / name for name in SPECIAL.values()}:
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")  # followed, as making a device takes more than root
        elif request.param == "link-to-a-pipe":
            pipe = path.with_name(f"{path.name}-behind")
            os.mkfifo(pipe)
            path.symlink_to(pipe.name)
        else:
            sockets.append(socket.socket(socket.AF_UNIX))
            descriptor = os.open(path.parent, os.O_PATH)  # for names longer than sockets take
            sockets[-1].bind(f"/proc/self/fd/{descriptor}/{path.name}")
            os.close(descriptor)
    service = start_service(root, *ANY_ORIGIN, "--follow-symlinks")
    yield service
    service.stop()
    for listening in sockets:
        listening.close()


@pytest.mark.quick(40)
@pytest.mark.parametrize("method", ["GET", "HEAD", *WRITES])
@pytest.mark.parametrize(("target", "name"), SPECIAL.items(), ids=SPECIAL)
def test_what_is_no_plain_file_is_never_opened(
    special: Service, target: str, name: str, method: str
) -> None:
    if "block_info" in name and method == "PUT":
        return  # makes the block, and does so without looking into the pipe: see below
    answer = ask(
        special,
        target + WRITES.get(method, ("", b""))[0],
        {"Origin": ORIGIN},
        method=method,
        body=WRITES.get(method, ("", b""))[1],
    )
    assert_problem(answer, 404, 405, has_body=method != "HEAD")
    assert_has_no_reader(special.root / name)


def test_block_size_that_is_no_plain_file_counts_as_missing(special: Service) -> None:
    target = "/special/annotations/x71y71z71/new.json"
    answer = ask(special, target, {"Origin": ORIGIN}, method="PUT", body=PUT_BODY)
    assert json.loads(answer.body)["filename"] == target[1:]
    assert_has_no_reader(special.root / "special/annotations/block_info.csv")


def test_listing_does_not_show_what_is_no_plain_file(special: Service) -> None:
    page = ask(special, "/special/").body.decode()
    for name in ("file", "info", "packed"):
        assert f'href="{quote(name)}' not in page
    assert 'href="1_1_1/"' in page


def assert_has_no_reader(path: Path) -> None:
    """Check that nobody waits for the writer of a pipe: opening it to write would succeed."""
    if not path.is_fifo():
        return
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
