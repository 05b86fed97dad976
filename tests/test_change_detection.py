"""New bytes in a file whose size and times tell nothing: of a copy, or of whole-second clocks.

What was learnt of the old bytes must not be used on the new ones. Used by a writer it would destroy
the file; a reader would be told that its copy is current.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.layers.tables import Tables
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.cache import COARSE_NS, FINE_NS, Stamp
from tests.conftest import StartService
from tests.examples import examples
from tests.processes import unmount
from tests.stores import IN_MEMORY, NAME, annotation, array, open_stores

TIMEOUT_S = 60
SHORT = annotation("b", description="")
# Of one size, with the annotations at other places.
ONE = array(annotation("a", description="x" * 40), annotation("b", description=""))
OTHER = array(annotation("a", description=""), annotation("b", description="x" * 40))
URL = "brain/annotations/x0y0z0/fibers.json"


def rewrite(path: Path, content: bytes) -> None:
    """Write other bytes of the same size into a file, and set its time back, as tools do."""
    before = path.stat()
    assert len(content) == before.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def copy_over(path: Path, content: bytes, place: Path) -> None:
    """Copy a file of the same size and time over another, as ``cp -p`` does."""
    source = place / "source.json"
    source.write_bytes(content)
    status = path.stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    subprocess.run(["cp", "-p", source, path], check=True)
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def age(path: Path) -> None:
    """Make a file look old, so that its times are no reason to look at it again."""
    os.utime(path, (1_500_000_000, 1_500_000_000))


WAYS = pytest.mark.parametrize("way", ["utime", "cp"])


def replace(way: str, path: Path, content: bytes, place: Path) -> None:
    if way == "utime":
        rewrite(path, content)
    else:
        copy_over(path, content, place)


@WAYS
@pytest.mark.parametrize("known", ["read", "written"])
def test_patch_of_new_bytes_of_the_same_size_and_time_changes_that_annotation_alone(
    tmp_path: Path, way: str, known: str
) -> None:
    stores = open_stores(tmp_path)
    stores.file.write_bytes(ONE)
    if known == "written":
        stores.put(ONE)
    age(stores.file)
    assert stores.store.read(NAME).body == ONE
    replace(way, stores.file, OTHER, tmp_path)
    stores.patch("b", description="new")
    assert stores.file.read_bytes() == array(
        annotation("a", description=""), annotation("b", description="new")
    )
    stores.delete("a")
    assert json.loads(stores.file.read_bytes()) == [json.loads(annotation("b", description="new"))]


@pytest.mark.quick(1)
@WAYS
def test_get_of_new_bytes_of_the_same_size_and_time_gives_them_with_another_etag(
    tmp_path: Path, start_service: StartService, way: str
) -> None:
    stores = open_stores(tmp_path)
    stores.file.write_bytes(ONE)
    age(stores.file)
    service = start_service(tmp_path)
    url = f"{service.url}/{URL}"
    first = requests.get(url, timeout=TIMEOUT_S)
    known = {"If-None-Match": first.headers["ETag"]}
    assert requests.get(url, headers=known, timeout=TIMEOUT_S).status_code == 304
    replace(way, stores.file, OTHER, tmp_path)
    second = requests.get(url, headers=known, timeout=TIMEOUT_S)
    assert (second.status_code, second.content) == (200, OTHER)
    for id_, description in (("a", ""), ("b", "x" * 40)):
        one = requests.get(url, params={"id": id_}, timeout=TIMEOUT_S)
        assert one.content == annotation(id_, description=description)
    stale = {"If-Match": first.headers["ETag"]}
    refused = requests.patch(url, SHORT, params={"id": "b"}, headers=stale, timeout=TIMEOUT_S)
    assert refused.status_code == 412
    assert requests.patch(url, SHORT, params={"id": "b"}, timeout=TIMEOUT_S).status_code == 200
    assert stores.file.read_bytes() == array(annotation("a", description=""), SHORT)
    service.stop()


# --- while a change is made ---


def test_file_that_another_program_replaces_while_it_is_written_is_read_again(
    tmp_path: Path,
) -> None:
    stores = open_stores(tmp_path)
    text = "x" * (16 * 2**20)  # it takes a while to write this
    stores.file.write_bytes(array(annotation("a", description=text), annotation("b")))
    stores.patch("b", note="first")
    temporary = temporary_path(stores.file)
    other = tmp_path / "other.json"
    other.write_bytes(array(annotation("a"), annotation("b"), annotation("c")))
    with ThreadPoolExecutor(1) as pool:
        patched = pool.submit(stores.patch, "b", note="second")
        while not temporary.exists():
            assert not patched.done()
        other.replace(stores.file)
        patched.result(TIMEOUT_S)
    expected = array(annotation("a"), annotation("b", note="second"), annotation("c"))
    assert stores.file.read_bytes() == expected
    changes = list(stores.past.changes(stores.place, ChangeFilter()))
    assert [(change.op, applied) for change, applied in changes[:2]] == [
        ("patch", True),
        ("outside", True),
    ]
    assert all(applied == (change.op != "patch") for change, applied in changes[2:-1])
    assert b'"first"' in stores.past.revision(stores.place, 1)


@pytest.mark.parametrize("edited", ["original", "copy"])
def test_edit_of_a_copy_of_hard_links_is_in_its_own_history_alone(
    tmp_path: Path, edited: str
) -> None:
    original = open_stores(tmp_path / "original")
    original.put(ONE)
    original.patch("b", description="before")
    subprocess.run(["cp", "-al", tmp_path / "original", tmp_path / "copy"], check=True)
    copy = open_stores(tmp_path / "copy", make=False)
    assert copy.journal.path.samefile(original.journal.path)
    one, other = (original, copy) if edited == "original" else (copy, original)
    before = other.file.read_bytes(), other.journal.path.read_bytes()
    for number in range(3):
        one.patch("a", description=str(number))
    assert (other.file.read_bytes(), other.journal.path.read_bytes()) == before
    for stores, count in ((one, 5), (other, 2)):
        changes = list(stores.past.changes(stores.place, ChangeFilter()))
        assert [applied for _, applied in changes] == [True] * count
    other.patch("b", description="after")
    assert [applied for _, applied in other.past.changes(other.place, ChangeFilter())] == [True] * 3
    assert one.past.revision(one.place, 2) == other.past.revision(other.place, 2) == before[0]


# --- any order of writers ---

IDS = ("a", "b", "c")
ROOM = 30
rewrites = st.tuples(
    st.just("rewrite"),
    st.permutations(IDS),
    st.lists(st.integers(0, ROOM // 3), min_size=2, max_size=2),
)
patches = st.tuples(st.just("patch"), st.sampled_from(IDS), st.integers(0, ROOM))
deletes = st.tuples(st.just("delete"), st.sampled_from(IDS), st.none())
reads = st.tuples(st.just("read"), st.sampled_from(IDS), st.none())


def same_size(order: list[str], lengths: list[int], size: int) -> tuple[dict[str, bytes], bytes]:
    """Make a file of all ids that has just this size."""
    lengths = [*lengths, 0]
    empty = array(*(annotation(i, description="") for i in order))
    lengths[2] = size - len(empty) - sum(lengths)
    model = {
        id_: annotation(id_, description="x" * length)
        for id_, length in zip(order, lengths, strict=True)
    }
    return model, array(*model.values())


@settings(max_examples=examples(60))
@given(steps=st.lists(st.one_of(rewrites, patches, deletes, reads), max_size=25))
def test_file_is_always_just_what_its_writers_made_it(
    steps: list[tuple[str, object, object]],
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as place:
        # Two services, each with what it knows of the file.
        services = [open_stores(Path(place)), open_stores(Path(place))]
        file = services[0].file
        model = {id_: annotation(id_, description="x" * ROOM) for id_ in IDS}
        file.write_bytes(array(*model.values()))
        for number, (step, what, value) in enumerate(steps):
            stores = services[number % 2]
            if step == "rewrite":
                size = file.stat().st_size
                smallest = len(array(*(annotation(i, description="") for i in IDS))) + ROOM
                if size < smallest:
                    continue
                model, content = same_size(list(what), list(value), size)  # type: ignore[call-overload]
                rewrite(file, content)
            elif step == "patch":
                assert isinstance(what, str)
                assert isinstance(value, int)
                model[what] = annotation(what, description="x" * value)
                stores.patch(what, description="x" * value)
            elif step == "delete" and what in model:
                assert isinstance(what, str)
                del model[what]
                stores.delete(what)
            read = stores.store.read(NAME)
            assert read.body == file.read_bytes()
            assert [json.loads(one) for one in model.values()] == json.loads(read.body)
            for id_, one in model.items():
                assert stores.store.read_one(NAME, id_).body == one


# --- file systems of whole seconds ---


@pytest.fixture
def coarse(tmp_path: Path) -> Iterator[Path]:
    """An ext4 with inodes of 128 bytes, which have no room for parts of a second."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("only root can mount a file system")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", str(image)], check=True, capture_output=True)
    mount = ["mount", "-o", "loop", str(image), str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        assert disk.stat().st_ctime_ns % 10**9 == 0
        yield disk / "data"
    finally:
        unmount(disk)


@pytest.mark.long
def test_four_clients_that_patch_on_whole_seconds_lose_nothing(
    coarse: Path, start_service: StartService
) -> None:
    stores = open_stores(coarse)
    width = 200
    stores.file.write_bytes(
        array(*(annotation(f"{n:02}", description=" " * width) for n in range(8)))
    )
    # Each remembers the file as it saw it.
    services = [start_service(coarse, "--lock", "flock") for _ in range(2)]

    def client(number: int) -> dict[str, str]:
        last = {}
        for step in range(25):
            id_ = f"{(number * 2 + step % 2):02}"
            # All files are of one size, with the annotations at other places.
            text = "x" * (step * 7 % width)
            body = annotation(id_, description=text, note=" " * (width - len(text)))
            url = f"{services[(number + step) % 2].url}/{URL}"
            answer = requests.patch(url, body, params={"id": id_}, timeout=TIMEOUT_S)
            assert answer.status_code == 200, answer.text
            got = requests.get(url, params={"id": id_}, timeout=TIMEOUT_S)
            assert got.content == body
            last[id_] = text
        return last

    with ThreadPoolExecutor(4) as pool:
        expected = {id_: text for last in pool.map(client, range(4)) for id_, text in last.items()}
    found = {one["id"]: one["description"] for one in json.loads(stores.file.read_bytes())}
    assert found == expected
    answer = requests.get(
        f"{services[0].url}/{URL}/history", params={"limit": 1}, timeout=TIMEOUT_S
    )
    assert answer.json()["changes"][0]["revision"] == 100
    for service in services:
        service.stop()


def test_writes_of_two_services_within_one_second_do_not_mix(coarse: Path) -> None:
    """An inode that is free again is taken again: same number, same size, same second."""
    one, two = open_stores(coarse), open_stores(coarse)
    one.file.write_bytes(ONE)
    one.patch("b")
    for number in range(60):
        stores, length = (one, two)[number % 2], number % 40
        for id_, text in (("a", "x" * length), ("b", "x" * (40 - length))):
            stores.patch(id_, description=text)
        found = {each["id"]: each["description"] for each in json.loads(one.file.read_bytes())}
        assert found == {"a": "x" * length, "b": "x" * (40 - length)}


def test_plain_file_written_again_within_one_second_has_another_etag(
    coarse: Path, start_service: StartService
) -> None:
    coarse.mkdir()
    (coarse / "notes.txt").write_bytes(b"old")
    service = start_service(coarse)
    url = f"{service.url}/notes.txt"
    for number in range(20):
        first = requests.get(url, timeout=TIMEOUT_S)
        with (coarse / "notes.txt").open("r+b") as file:
            file.write(f"{number:03}".encode())
        again = {"If-None-Match": first.headers["ETag"]}
        second = requests.get(url, headers=again, timeout=TIMEOUT_S)
        assert (second.status_code, second.text) == (200, f"{number:03}")
    service.stop()


# --- what else is kept by the version of a file ---


def test_stamp_tells_new_bytes_of_the_same_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    age(path)
    before = Stamp.of(path.stat())
    rewrite(path, b"new")
    after = Stamp.of(path.stat())
    assert after != before
    assert after.etag != before.etag
    assert after.recorded == before.recorded


SECOND_NS = 10**9
OWN_CLOCK = os.stat("/dev/shm").st_dev


@dataclass(frozen=True)
class Times:
    """How a file system tells times.

    Attributes:
        device: Its number.
        step_ns: The steps in which times are stored.
        behind_ns: How far its clock may be behind that of this machine.
    """

    device: int
    step_ns: int
    behind_ns: int = 10_000_000  # a tick of the kernel's clock

    def stamp(self, changed_ns: int, behind: float) -> Stamp:
        stored_ns = int(changed_ns - behind * self.behind_ns) // self.step_ns * self.step_ns
        return Stamp(1, 2, stored_ns, stored_ns, self.device)


KINDS_OF_TIMES = [
    pytest.param(Times(OWN_CLOCK, 1), id="fine"),
    pytest.param(Times(OWN_CLOCK, 10_000_000), id="10 ms, exFAT"),
    pytest.param(Times(OWN_CLOCK, SECOND_NS), id="whole seconds"),
    pytest.param(Times(OWN_CLOCK, 2 * SECOND_NS), id="every other second, FAT"),
    pytest.param(Times(0, 1, int(1.9 * SECOND_NS)), id="clock of a server"),
    pytest.param(Times(0, SECOND_NS, SECOND_NS), id="whole seconds of a server"),
]
PARTS = st.floats(0, 1)


@pytest.mark.parametrize("times", KINDS_OF_TIMES)
@settings(max_examples=examples(300))
@given(
    changed_ns=st.integers(0, 4 * SECOND_NS),
    seen_ns=st.integers(0, 4 * SECOND_NS),
    then_ns=st.integers(1, SECOND_NS),
    behind=st.tuples(PARTS, PARTS),
)
def test_version_that_is_settled_is_followed_by_one_with_another_stamp_date_and_etag(
    times: Times, changed_ns: int, seen_ns: int, then_ns: int, behind: tuple[float, float]
) -> None:
    changed_ns += 1_700_000_000 * SECOND_NS
    if times.device == 0:  # a server's clock runs as fast as ours
        behind = (behind[0], behind[0])
    version = times.stamp(changed_ns, behind[0])
    following = times.stamp(changed_ns + seen_ns + then_ns, behind[1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: changed_ns + seen_ns)
        is_settled, date_s, etag = version.is_settled, version.date_s, version.etag
        patched.setattr(time, "time_ns", lambda: changed_ns + seen_ns + then_ns)
        assert following.etag != etag
    assert not is_settled or following != version
    assert date_s is None or following.ctime_ns // SECOND_NS > date_s


@pytest.mark.parametrize(
    ("device", "ctime_ns", "after_ns"),
    [
        pytest.param(OWN_CLOCK, 123_456_789, FINE_NS, id="fine times were seen"),
        pytest.param(OWN_CLOCK, 0, COARSE_NS, id="whole second"),
        pytest.param(OWN_CLOCK, 120_000_000, COARSE_NS, id="steps of 10 ms"),
        pytest.param(0, 123_456_789, COARSE_NS, id="unknown device"),
    ],
)
def test_granularity_is_the_coarsest_until_finer_times_are_seen_on_a_device_of_this_machine(
    device: int, ctime_ns: int, after_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_ns = 1_700_000_000 * SECOND_NS + ctime_ns
    stamp = Stamp(1, 2, changed_ns - SECOND_NS, changed_ns, device)
    for age_ns in (0, FINE_NS, FINE_NS + 1, COARSE_NS, COARSE_NS + 1):
        monkeypatch.setattr(time, "time_ns", lambda age_ns=age_ns: changed_ns + age_ns)
        assert stamp.is_settled == (age_ns > after_ns)


def test_stamp_is_settled_only_when_both_times_are_past() -> None:
    assert Stamp(1, 2, 10**18, 10**18).is_settled
    assert not Stamp(1, 2, 10**18, 2**62).is_settled
    assert not Stamp(1, 2, 2**62, 10**18).is_settled


@pytest.mark.quick(1)
@WAYS
def test_everything_served_is_that_of_the_new_bytes(
    tmp_path: Path, start_service: StartService, way: str
) -> None:
    stores = open_stores(tmp_path)
    many = array(*(annotation(id_, anntype="neuron") for id_ in ("a", "b")))
    none = array(*(annotation(id_, anntype="axon  ") for id_ in ("a", "b")))
    stores.file.write_bytes(many)
    size = stores.file.parents[1] / "block_info.csv"
    size.write_bytes(b"10,10,10\n")
    for path in (stores.file, size):
        age(path)
    service = start_service(tmp_path)
    urls = {
        "tally": f"{service.url}/api/datasets/brain",
        "export": f"{service.url}/{URL}?format=csv",
        "file": f"{service.url}/brain/annotations/block_info.csv",
    }
    first = {key: requests.get(url, timeout=TIMEOUT_S) for key, url in urls.items()}
    assert "neuron" in first["tally"].text
    replace(way, stores.file, none, tmp_path)
    replace(way, size, b"20,20,20\n", tmp_path)
    for key, url in urls.items():
        tag = first[key].headers.get("ETag")
        known = {"If-None-Match": tag} if tag else {}
        answer = requests.get(url, headers=known, timeout=TIMEOUT_S)
        assert answer.status_code == 200, key
        assert "neuron" not in answer.text
        assert "10,10,10" not in answer.text
    service.stop()


@WAYS
def test_table_is_that_of_the_new_bytes(tmp_path: Path, way: str) -> None:
    stores = open_stores(tmp_path)
    stores.file.write_bytes(ONE)
    age(stores.file)
    tables = Tables()
    before = tables.read(stores.place).etag, tables.identify(stores.place).etag
    replace(way, stores.file, OTHER, tmp_path)
    after = tables.read(stores.place).etag, tables.identify(stores.place).etag
    assert set(before).isdisjoint(after)
