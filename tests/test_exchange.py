"""Directories and files that are swapped for links all the time, while they are read and written.

Whatever a name leads to at the moment, nothing outside the data root is read or changed.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import requests
from requests.exceptions import ChunkedEncodingError, ConnectionError

from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.refusals import Refusals
from neurotrale.errors import MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.descriptors import PATH_FLAGS, Directory
from neurotrale.storage.directories import (
    LIFETIME_S,
    MOST_DIRECTORIES,
    OpenDirectories,
    directory_of,
)
from neurotrale.storage.files import Files, StoredFile
from neurotrale.storage.state import STATE, ServiceId
from tests.conftest import Service, StartService
from tests.processes import children, eventually, writer_of
from tests.stores import annotation, array
from tests.test_paths import snapshot

pytestmark = pytest.mark.proof

SECRET = "canary-91be"
CHUNK = "0-8_0-8_0-8"
TIMEOUT_S = 60
# Never 500: whatever is swapped, the service knows what it is.
EXPECTED = {200, 201, 404, 503}

# Swaps pairs of names until it is killed; one call of the kernel each.
_SWAP = """
import ctypes, itertools, os, sys
swap = ctypes.CDLL(None, use_errno=True).renameat2
pairs = list(zip(sys.argv[1::2], sys.argv[2::2]))
for one, other in itertools.cycle(pairs):
    if swap(-100, one.encode(), -100, other.encode(), 2):
        sys.exit(os.strerror(ctypes.get_errno()))
"""


def can_exchange(place: Path) -> bool:
    one, other = place / "one", place / "other"
    for path in (one, other):
        path.write_bytes(b"")
    swap = ctypes.CDLL(None).renameat2
    done = swap(-100, bytes(one), -100, bytes(other), 2) == 0
    for path in (one, other):
        path.unlink()
    return done


def write_brain(brain: Path, text: str) -> None:
    block = brain / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (block / "fibers.json").write_bytes(array(*(annotation(i, anntype=text) for i in "ab")))
    (block / ".fibers.json.journal").write_bytes(b"")
    level = {"key": "1_1_1", "size": [8] * 3, "chunk_sizes": [[8] * 3], "resolution": [1] * 3}
    info = {"data_type": "uint8", "num_channels": 1, "scales": [{**level, "encoding": "raw"}]}
    (brain / "info").write_text(json.dumps({**info, "type": text}))
    chunk = text.encode().ljust(8 * 8 * 8)
    for scale in ("1_1_1", "2_2_2"):
        (brain / scale).mkdir()
        (brain / scale / CHUNK).write_bytes(chunk)
        (brain / scale / f"{CHUNK}.gz").write_bytes(gzip.compress(chunk))


@contextmanager
def swapping(*names: Path) -> Iterator[None]:
    """Swap pairs of names all the time."""
    process = subprocess.Popen([sys.executable, "-c", _SWAP, *map(str, names)])
    yield
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.fixture
def swapped(tmp_path: Path) -> Iterator[Path]:
    """A data root, parts of which are swapped for links to the same names outside of it."""
    if not can_exchange(tmp_path):
        pytest.skip("names cannot be exchanged on this file system")
    root, outside = tmp_path / "data", tmp_path / "outside"
    write_brain(outside, SECRET)
    for name in ("brain", "whole"):
        write_brain(root / name, "inside")
    brain = root / "brain"
    pairs = [
        (root / "whole", root / "to-whole", outside),
        (brain / "1_1_1", brain / "to-scale", outside / "1_1_1"),
        (brain / "2_2_2" / CHUNK, brain / "2_2_2" / "to-chunk", outside / "1_1_1" / CHUNK),
        (
            brain / "annotations" / "x0y0z0",
            brain / "annotations" / "to-block",
            outside / "annotations" / "x0y0z0",
        ),
    ]
    names = []
    for inside, link, target in pairs:
        link.symlink_to(target)
        names += [inside, link]
    with swapping(*names):
        yield root


READS = (
    f"whole/1_1_1/{CHUNK}",
    f"brain/1_1_1/{CHUNK}",
    f"brain/2_2_2/{CHUNK}",
    "whole/info",
    "brain/annotations/x0y0z0/fibers.json",
    "brain/annotations/x0y0z0/fibers.json?id=a",
    "whole/annotations/x0y0z0/fibers.json/history",
    "whole/annotations/x0y0z0/fibers.json",
    "brain/annotations/x0y0z0/",
    "brain/annotations/layers",
    "api/datasets/whole",
    "whole/annotations/corrections",
    "brain/annotations/search?type=point",
    "brain/annotations/x0y0z0/fibers.json/layers/points/info",
    "whole/annotations/layers/points/spatial0/0_0_0",
)
BLOCKS = ("brain/annotations/x0y0z0", "whole/annotations/x0y0z0")


class Clients:
    """Readers and writers, each a thread, until they are stopped.

    Attributes:
        statuses: How often each status was the answer.
        leaks: Answers that have something from outside the root in them.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.leaks: list[str] = []
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, readers: int, writers: int) -> None:
        for number in range(readers):
            self._begin(self._read, number)
        for number in range(writers):
            self._begin(self._write, number)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _begin(self, work: object, number: int) -> None:
        thread = threading.Thread(target=work, args=(number,))  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _read(self, number: int) -> None:
        with requests.Session() as client:
            turn = number
            while not self._stopped.is_set():
                turn += 1
                self._send(client, "GET", READS[turn % len(READS)], b"")

    def _write(self, number: int) -> None:
        with requests.Session() as client:
            turn = number
            while not self._stopped.is_set():
                turn += 1
                block = BLOCKS[turn % 2]
                body = annotation("a", anntype="inside", description=str(turn))
                self._send(client, "PATCH", f"{block}/fibers.json?id=a", body)
                self._send(client, "PUT", f"{block}/new-{number}.json", array(body))
                self._send(client, "PUT", f"whole/annotations/x{turn}y1z1/new.json", array(body))

    def _send(self, client: requests.Session, method: str, path: str, body: bytes) -> None:
        url = f"{self.service.url}/{path}"
        try:
            answer = client.request(method, url, data=body or None, timeout=TIMEOUT_S)
        except (ChunkedEncodingError, ConnectionError):  # what is streamed can only be cut off
            return
        self.statuses[method, answer.status_code] += 1
        if SECRET in answer.text or SECRET in str(answer.headers):
            self.leaks.append(f"{method} {path}: {answer.text[:200]}")


@pytest.mark.parametrize("lock", ["flock", "strict"])
@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.long)])
def test_nothing_outside_is_read_or_changed_while_directories_are_swapped_for_links(
    swapped: Path, start_service: StartService, seconds: int, lock: str
) -> None:
    outside = swapped.parent / "outside"
    before = snapshot(outside)
    service = start_service(swapped, "--lock", lock, "--workers", "2")
    clients = Clients(service)
    clients.start(readers=4, writers=2)
    time.sleep(seconds)
    clients.stop()
    assert clients.leaks == []
    after = snapshot(outside)
    assert [path for path in before | after if before.get(path) != after.get(path)] == []
    # Both sides of the swap were met, by all of them.
    counted = clients.statuses
    assert {status for _, status in counted} <= EXPECTED, counted
    for method, good in (("GET", 200), ("PATCH", 200), ("PUT", 201)):
        assert counted[method, good], counted
        assert counted[method, 404], counted
    assert SECRET not in service.log()
    service.stop()


@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_state_of_the_service_is_neither_written_nor_cleaned_up_behind_a_link(
    tmp_path: Path, follow_symlinks: bool
) -> None:
    if not can_exchange(tmp_path):
        pytest.skip("names cannot be exchanged on this file system")
    root, outside = tmp_path / "data", tmp_path / "outside"
    for state in (root / STATE, outside):
        for directory in (state, state / "refused", state / "views"):
            directory.mkdir(0o700, parents=True)
            (directory / "old").write_text(SECRET)
            os.utime(directory / "old", (1, 1))
    (root / "link").symlink_to(outside)
    before, until = snapshot(outside), time.monotonic() + 1.5
    DataRoot(root, follow_symlinks=follow_symlinks)
    file = "brain/annotations/x0y0z0/fibers.json"
    with swapping(root / STATE, root / "link"):
        for number in count():
            Refusals(root).add(f"{number:010x}", file, 400, "reason")
            ServiceId(root).keep()
            views = Views(root)
            views.saw(Viewer.of(str(number)), file, "etag", number)
            views.close()
            if time.monotonic() > until:
                break
    assert snapshot(outside) == before


# --- how long a directory is remembered ---


@pytest.fixture
def files(tmp_path: Path) -> Files:
    root = tmp_path / "data"
    (root / "brain" / "1_1_1").mkdir(parents=True)
    (root / "brain" / "1_1_1" / CHUNK).write_text("inside")
    return Files(DataRoot(root))


def read(files: Files, *parts: str) -> str:
    found = files.find(parts)
    assert isinstance(found, StoredFile)
    with files.open(found) as file:
        return file.read().decode()


def test_directory_that_was_moved_out_is_read_for_a_second_at_most(files: Files) -> None:
    root = files.data_root.root
    assert read(files, "brain", "1_1_1", CHUNK) == "inside"
    (root / "brain").rename(root.parent / "out")
    until = time.monotonic() + LIFETIME_S
    (root.parent / "out" / "1_1_1" / CHUNK).write_text(SECRET)
    time.sleep(max(0.0, until - time.monotonic()))
    with pytest.raises(MissingError):
        files.find(("brain", "1_1_1", CHUNK))
    with pytest.raises(OSError, match="brain"):
        directory_of(root / "brain" / "1_1_1" / CHUNK)


def test_directory_that_was_replaced_is_found_at_once(files: Files) -> None:
    root = files.data_root.root
    assert read(files, "brain", "1_1_1", CHUNK) == "inside"
    (root / "brain").rename(root / "old")
    with pytest.raises(MissingError):
        files.find(("brain", "1_1_1", "other"))
    (root / "brain" / "1_1_1").mkdir(parents=True)
    (root / "brain" / "1_1_1" / "other").write_text("new")
    assert read(files, "brain", "1_1_1", "other") == "new"


def test_open_directories_are_few_and_closed_when_idle(files: Files) -> None:
    root = files.data_root.root
    before = held(root)
    for number in range(3 * MOST_DIRECTORIES):
        (root / f"d{number}").mkdir()
        (root / f"d{number}" / "a").write_text(str(number))
        assert read(files, f"d{number}", "a") == str(number)
    assert len(held(root)) <= MOST_DIRECTORIES
    eventually(lambda: held(root) == before, "directories stay open though nobody needs them")


def test_directory_that_is_used_stays_open_while_others_make_place(tmp_path: Path) -> None:
    opened, later = OpenDirectories(), time.monotonic() + 600
    for number in range(3 * MOST_DIRECTORIES):
        place = Directory(os.open(tmp_path, PATH_FLAGS), str(tmp_path))
        opened.keep((str(number),), (later, place))
        assert opened.find(("0",)) is not None
    still_open = {n for n in range(3 * MOST_DIRECTORIES) if opened.find((str(n),)) is not None}
    assert still_open == {0, *range(2 * MOST_DIRECTORIES + 1, 3 * MOST_DIRECTORIES)}


def test_directories_are_closed_on_time_though_others_are_opened_all_the_time(files: Files) -> None:
    root = files.data_root.root
    (root / "other").mkdir()
    (root / "other" / "a").write_text("a")
    assert read(files, "brain", "1_1_1", CHUNK) == "inside"

    def is_closed() -> bool:
        assert read(files, "other", "a") == "a"
        return str(root / "brain" / "1_1_1") not in held(root)

    eventually(is_closed, "a directory stays open though nobody needs it")


@pytest.mark.long
@pytest.mark.parametrize("lock", ["flock", "strict"])
def test_service_that_is_idle_holds_nothing_open_that_would_keep_a_disk_mounted(
    tmp_path: Path, start_service: StartService, lock: str
) -> None:
    write_brain(tmp_path / "data" / "brain", "inside")
    service = start_service(tmp_path / "data", "--lock", lock, "--workers", "2")
    url = f"{service.url}/brain/annotations/x0y0z0"
    for path in READS:
        requests.get(f"{service.url}/{path.replace('whole', 'brain')}", timeout=TIMEOUT_S)
    body = annotation("a", anntype="inside", description="new")
    assert requests.patch(f"{url}/fibers.json?id=a", body, timeout=TIMEOUT_S).status_code == 200
    assert requests.put(f"{url}/new.json", array(body), timeout=TIMEOUT_S).status_code == 201
    # What ends with an error holds nothing longer than the others.
    for path in (f"{url}/none.json", f"{service.url}/brain/1_1_1/9-10_9-10_9-10"):
        assert requests.get(path, timeout=TIMEOUT_S).status_code == 404
    assert requests.put(f"{url}/new.json", b"[", timeout=TIMEOUT_S).status_code == 400
    supervisor = service.process.pid
    pids = [supervisor, *children(supervisor), writer_of(supervisor)]
    assert len(set(pids)) == 4
    assert None not in pids
    brain = tmp_path / "data" / "brain"

    def is_free() -> bool:
        return not [name for pid in pids for name in held(brain, pid)]

    eventually(is_free, "directories or files stay open though nobody needs them")
    service.stop()


def held(root: Path, process: int | str | None = "self") -> list[str]:
    """Return what a process has open below a directory."""
    names = []
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        try:
            name = os.readlink(f"/proc/{process}/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if name.startswith(str(root)):
            names.append(name)
    return names
