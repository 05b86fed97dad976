"""Disks that are full or read-only, permissions that lack, directories that vanish: real ones."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.errors import DiskFullError
from tests.disks import disk_of, fill
from tests.processes import names_in
from tests.stores import ORDINARY, annotation, array, open_stores

A, B, C = (annotation(id_) for id_ in "abc")
BIG = annotation("big", description="x" * 200_000)
LEFT = {".fibers.json.lock", ".fibers.json.journal", ".fibers.json.journal.base", "fibers.json"}
BLOCK = "brain/annotations/x0y0z0"


class Faulty:
    """A running service whose data root is about to be in trouble."""

    def __init__(self, root: Path, wrapper: Sequence[str], place: Path, *options: str) -> None:
        ready, self._log = place / "ready.json", place / "log.txt"
        command = [*wrapper, sys.executable, "-m", "neurotrale", "serve", str(root)]
        command += ["--port", "0", "--workers", "1", "--no-access-log", *options]
        command += ["--ready-file", str(ready)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                pytest.fail(f"the service did not start:\n{self._log.read_text()}")
            time.sleep(0.02)
        self.root = root
        self.directory = root / BLOCK
        self.file = self.directory / "fibers.json"
        self.base = json.loads(ready.read_text())["url"].rstrip("/")
        self.url = f"{self.base}/{BLOCK}/fibers.json"

    def get(self) -> requests.Response:
        return requests.get(self.url, timeout=30)

    def put(self, *annotations: bytes) -> requests.Response:
        return requests.put(self.url, array(*annotations), timeout=30)

    def patch(self, content: bytes) -> requests.Response:
        id_ = json.loads(content)["id"]
        return requests.patch(self.url, content, params={"id": id_}, timeout=30)

    def delete(self, id_: str) -> requests.Response:
        return requests.delete(self.url, params={"id": id_}, timeout=30)

    def restore(self, **params: Any) -> requests.Response:
        return requests.post(f"{self.url}/restore", json={}, params=params, timeout=30)

    def history(self) -> list[tuple[int, str, bool]]:
        answer = requests.get(f"{self.url}/history", timeout=30)
        assert answer.status_code == 200
        found = answer.json()["changes"]
        return [(one["revision"], one["operation"], one["applied"]) for one in found]

    def revision(self, number: int) -> bytes:
        return requests.get(f"{self.url}/history/{number}", timeout=30).content

    def state(self) -> dict[str, bytes]:
        """Every file of the block's directory, but the lock and the claim of the service."""
        return {
            name: (self.directory / name).read_bytes()
            for name in names_in(self.directory)
            if not name.endswith(".lock")
        }

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


StartFaulty = Callable[..., Faulty]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartFaulty]:
    """Start a service on a data root with one file, as a child of a command of one's own."""
    running: list[Faulty] = []

    def run(root: Path, wrapper: Sequence[str] = (), *options: str) -> Faulty:
        place = tmp_path / f"service-{len(running)}"
        place.mkdir()
        running.append(Faulty(root, wrapper, place, *options))
        return running[-1]

    yield run
    for service in running:
        service.stop()


def filled(root: Path) -> Path:
    """Make the dataset with one file."""
    stores = open_stores(root)
    stores.file.write_bytes(array(A, B))
    (stores.file.parent.parent / "block_info.csv").write_text("64,64,64\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return filled(tmp_path / "data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    with disk_of(tmp_path / "disk", "256k") as disk:
        yield disk


def check_refused(answer: requests.Response, status: int, *words: str) -> None:
    """An error in the one JSON shape that says what is wrong with what, and what to do."""
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem.keys() == {"title", "description"}
    for word in words:
        assert word in problem["description"]
    assert answer.headers["Content-Type"] == "application/json"


# --- a full disk ---


WRITES: dict[str, Callable[[Faulty], requests.Response]] = {
    "put": lambda service: service.put(B, C),
    "patch": lambda service: service.patch(annotation("a", reviewed=True)),
    "patch that adds": lambda service: service.patch(C),
    "delete": lambda service: service.delete("a"),
    "restore": lambda service: service.restore(revision=1),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write_on_a_full_disk_is_507_changes_nothing_and_succeeds_once_there_is_space(
    small_disk: Path, start: StartFaulty, write: Callable[[Faulty], requests.Response]
) -> None:
    service = start(filled(small_disk))
    assert service.patch(annotation("b", length=1)).status_code == 200
    assert service.patch(annotation("b", length=2)).status_code == 200
    before = service.state()
    filler = fill(small_disk)
    for _ in range(2):
        check_refused(
            write(service), 507, f"{BLOCK}/fibers.json was not changed", "Free some space"
        )
        assert service.state() == before
        assert service.get().content == before["fibers.json"]
        assert service.history() == [(2, "patch", True), (1, "patch", True)]
    filler.unlink()
    assert write(service).status_code in (200, 201)
    assert service.get().content == service.file.read_bytes() != before["fibers.json"]
    assert [applied for _, _, applied in service.history()] == [True] * 3
    assert service.revision(2) == before["fibers.json"]
    assert names_in(service.directory) == LEFT
    assert "Disk full" in service.log()


def test_put_of_a_new_file_on_a_full_disk_is_507_and_leaves_no_file(
    small_disk: Path, start: StartFaulty
) -> None:
    service = start(filled(small_disk))
    url = service.url.replace("fibers", "centroids")
    filler = fill(small_disk)
    check_refused(requests.put(url, array(A), timeout=30), 507, "Free some space")
    assert requests.get(url, timeout=30).status_code == 404
    assert requests.get(f"{url}/history", timeout=30).status_code == 404
    assert service.get().status_code == 200
    filler.unlink()
    assert requests.put(url, array(A), timeout=30).status_code == 201
    assert requests.get(url, timeout=30).content == array(A)


def test_put_that_is_larger_than_what_is_left_is_507_and_smaller_ones_go_on(
    small_disk: Path, start: StartFaulty
) -> None:
    service = start(filled(small_disk))
    check_refused(service.put(BIG), 507, "Free some space")
    assert service.get().content == array(A, B)
    assert service.history() == []
    assert service.patch(C).status_code == 201
    assert service.get().content == array(A, B, C)


def test_write_with_any_space_left_is_made_and_recorded_or_neither(small_disk: Path) -> None:
    outcomes = []
    old = array(annotation("a", description="o" * 30_000), B)
    new = array(annotation("a", description="n" * 30_000), C)
    for pages in range(40):
        root = small_disk / "data"
        stores = open_stores(root)
        stores.file.write_bytes(old)
        filler = fill(small_disk, leave=pages * 4096)
        try:
            stores.put(new)
            made = True
        except DiskFullError:
            made = False
        outcomes.append(made)
        filler.unlink()
        assert stores.file.read_bytes() == (new if made else old), pages
        check_history(stores, [(1, "put", True)] if made else [], {0: old, 1: new})
        stores.patch("d")
        after = stores.file.read_bytes()
        n = stores.past.page(stores.place, ChangeFilter(), 1).changes[0][0].n
        expected = [(n, "patch", True), *([(1, "put", True)] if made else [])]
        check_history(stores, expected, {0: old, 1: new, n: after})
        assert set(os.listdir(stores.file.parent)) == LEFT, pages
        shutil.rmtree(root)
    # With no space it fails, with enough it succeeds, and it changes over once.
    assert outcomes == sorted(outcomes)
    assert {True, False} == set(outcomes)


def check_history(
    stores: Any, expected: list[tuple[int, str, bool]], contents: dict[int, bytes]
) -> None:
    changes = stores.past.page(stores.place, ChangeFilter(), 100).changes
    applied = [(entry.n, entry.op, True) for entry, is_applied in changes if is_applied]
    assert applied == expected
    for n, _, _ in expected:
        assert content_at(stores.journal, n, None) == contents[n]
    if expected:
        assert content_at(stores.journal, 0, None) == contents[0]


# --- a limit of the process ---


def limited(bytes_: int) -> list[str]:
    """A shell that limits the size of files, and becomes the service."""
    return ["sh", "-c", f'ulimit -f {bytes_ // 512}; exec "$@"', "sh"]


def test_put_beyond_the_file_size_limit_is_507_and_the_service_goes_on(
    root: Path, start: StartFaulty
) -> None:
    service = start(root, limited(64 * 1024))
    check_refused(service.put(BIG), 507, "file-size limit", "was not changed")
    assert service.get().content == array(A, B)
    assert service.history() == []
    assert service.patch(C).status_code == 201
    assert service.get().content == array(A, B, C)
    assert names_in(service.directory) == LEFT


def test_journal_at_the_file_size_limit_refuses_changes_and_stays_whole(
    root: Path, start: StartFaulty
) -> None:
    service = start(root, limited(64 * 1024))
    acknowledged = [array(A, B)]
    answer = service.patch(C)
    while answer.status_code in (200, 201):
        acknowledged.append(service.file.read_bytes())
        before = service.state()
        answer = service.patch(annotation("c", description=f"{len(acknowledged)} " + "x" * 3000))
    check_refused(answer, 507, "file-size limit", "was not changed")
    assert len(acknowledged) > 5
    assert service.state() == before
    assert service.get().content == acknowledged[-1]
    assert service.history() == [(n, "patch", True) for n in range(len(acknowledged) - 1, 0, -1)]
    assert [service.revision(n) for n in range(len(acknowledged))] == acknowledged
    url = service.url.replace("fibers", "centroids")
    assert requests.put(url, array(A), timeout=30).status_code == 201
    unlimited = start(root)
    assert unlimited.patch(C).status_code == 200
    assert unlimited.history()[0] == (len(acknowledged), "patch", True)


def test_file_size_limit_of_this_process_is_none(root: Path) -> None:
    # Else the tests above would prove nothing about the limit that they set.
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# --- a read-only file system ---


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.mark.quick(1)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write_on_a_read_only_file_system_is_403_and_reads_go_on(
    small_disk: Path, start: StartFaulty, write: Callable[[Faulty], requests.Response]
) -> None:
    service = start(filled(small_disk))
    assert service.patch(annotation("b", length=1)).status_code == 200
    assert service.patch(annotation("b", length=2)).status_code == 200
    before = service.state()
    remount(small_disk, "ro")
    check_refused(write(service), 403, "Read-only file system", f"{BLOCK}/fibers.json")
    assert service.state() == before
    assert service.get().content == before["fibers.json"]
    assert service.history() == [(2, "patch", True), (1, "patch", True)]
    assert service.revision(0) == array(A, B)
    remount(small_disk, "rw")
    assert write(service).status_code in (200, 201)


def test_service_starts_on_a_read_only_file_system_and_refuses_to_write(
    small_disk: Path, start: StartFaulty
) -> None:
    filled(small_disk)
    remount(small_disk, "ro")
    service = start(small_disk)
    assert service.get().content == array(A, B)
    check_refused(service.put(A), 403, "Read-only file system")
    url = service.url.replace("x0y0z0", "x7y7z7")
    check_refused(requests.put(url, array(A), timeout=30), 403, "Read-only file system")


# --- permissions ---


@pytest.mark.quick(2)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(
    "restarted",
    [
        pytest.param(False, id="meanwhile"),
        pytest.param(True, id="from the start", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("mode", [0o555, 0o300], ids=["may not be written", "may not be read"])
def test_write_into_a_directory_that_lacks_a_permission_is_403_and_changes_nothing(
    root: Path,
    start: StartFaulty,
    mode: int,
    restarted: bool,
    write: Callable[[Faulty], requests.Response],
) -> None:
    service = start(root, ORDINARY)
    assert service.patch(annotation("b", length=1)).status_code == 200
    assert service.patch(annotation("b", length=2)).status_code == 200
    if restarted:  # it has not looked into the directory yet
        service.stop()
        service = start(root, ORDINARY)
    before = service.state()
    service.directory.chmod(mode)
    try:
        for _ in range(3):
            check_refused(write(service), 403, "Permission denied", "Ask the owner")
            assert service.get().content == before["fibers.json"]
    finally:
        service.directory.chmod(0o755)
    assert service.state() == before
    assert service.history() == [(2, "patch", True), (1, "patch", True)]
    assert write(service).status_code in (200, 201)
    assert [op for _, op, _ in service.history()][1:] == ["patch", "patch"]


def test_put_of_a_new_block_where_none_may_be_made_is_403(root: Path, start: StartFaulty) -> None:
    service = start(root, ORDINARY)
    annotations = service.directory.parent
    url = service.url.replace("x0y0z0", "x70y7z7")
    annotations.chmod(0o555)
    try:
        check_refused(requests.put(url, array(A), timeout=30), 403, "Permission denied")
    finally:
        annotations.chmod(0o755)
    assert sorted(os.listdir(annotations)) == ["block_info.csv", "x0y0z0"]
    assert requests.put(url, array(A), timeout=30).status_code == 201


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", [".fibers.json.journal", ".fibers.json.lock"])
def test_write_whose_journal_or_lock_may_not_be_written_is_403_and_changes_nothing(
    root: Path, start: StartFaulty, name: str
) -> None:
    service = start(root, ORDINARY)
    assert service.patch(C).status_code == 201
    before = service.state()
    (service.directory / name).chmod(0o444)
    check_refused(service.patch(annotation("c", length=1)), 403, "Permission denied")
    assert service.state() == before
    (service.directory / name).chmod(0o644)
    assert service.patch(annotation("c", length=1)).status_code == 200
    assert [n for n, _, _ in service.history()] == [2, 1]


def test_read_of_a_file_that_may_not_be_read_is_403_and_the_next_one_succeeds(
    root: Path, start: StartFaulty
) -> None:
    service = start(root, ORDINARY)
    service.file.chmod(0)
    check_refused(service.get(), 403, "Permission denied", "Ask the owner")
    check_refused(service.patch(C), 403, "Permission denied")
    service.file.chmod(0o644)
    assert service.get().content == array(A, B)


def test_leftover_of_another_file_that_may_not_be_locked_does_not_refuse_a_write(
    root: Path, start: StartFaulty
) -> None:
    service = start(root, ORDINARY)
    (service.directory / "theirs.json").write_bytes(array(A))
    (service.directory / ".theirs.json.tmp").write_bytes(b"[")
    lock = service.directory / ".theirs.json.lock"
    lock.touch()
    lock.chmod(0o444)
    assert service.patch(C).status_code == 201
    assert (service.directory / ".theirs.json.tmp").exists()
    left = f"cannot remove the stale temporary file of {service.directory / 'theirs.json'}: "
    assert left in service.log()


def test_leftovers_of_dead_writers_go_with_the_first_write_into_their_directory(
    root: Path, start: StartFaulty
) -> None:
    service = start(root)
    for name in ("fibers", "centroids", "z-0001"):
        (service.directory / f".{name}.json.tmp").write_bytes(b'[{"id": "cut o')
    (service.directory / "mine.tmp").write_bytes(b"not ours")
    assert service.patch(C).status_code == 201
    left = {name for name in os.listdir(service.directory) if name.endswith(".tmp")}
    assert left == {"mine.tmp"}


# --- what vanishes ---


def test_block_directory_that_vanishes_is_404_until_a_put_makes_it_again(
    root: Path, start: StartFaulty
) -> None:
    service = start(root)
    assert service.patch(C).status_code == 201
    shutil.rmtree(service.directory)
    for answer in (
        service.get(),
        service.patch(C),
        service.delete("a"),
        service.restore(revision=1),
    ):
        check_refused(answer, 404, "There is no block 'x0y0z0'")
    assert not service.directory.exists()
    assert service.put(A).status_code == 201
    assert service.get().content == array(A)
    assert service.history() == [(1, "put", True)]


def test_dataset_that_vanishes_is_404_for_writes_too_and_is_served_once_it_is_back(
    root: Path, start: StartFaulty
) -> None:
    service = start(root)
    away = root.with_name("away")
    (root / "brain").rename(away)
    for answer in (service.get(), service.patch(C), service.put(A)):
        check_refused(answer, 404)
    assert os.listdir(root) == []
    away.rename(root / "brain")
    assert service.patch(C).status_code == 201
    assert service.get().content == array(A, B, C)


def test_data_root_that_vanishes_is_unhealthy_and_404_and_is_served_once_it_is_back(
    root: Path, start: StartFaulty
) -> None:
    service = start(root)
    health = f"{service.base}/api/health"
    assert requests.get(health, timeout=30).status_code == 200
    away = root.with_name("away")
    root.rename(away)
    check_refused(requests.get(health, timeout=30), 503, "data root")
    for answer in (service.get(), service.patch(C), service.put(A)):
        check_refused(answer, 404)
    assert not root.exists()
    away.rename(root)
    assert requests.get(health, timeout=30).status_code == 200
    assert service.patch(C).status_code == 201


def test_lock_and_journal_that_vanish_are_made_again(root: Path, start: StartFaulty) -> None:
    service = start(root)
    assert service.patch(C).status_code == 201
    for path in service.directory.glob(".*"):
        path.unlink()
    assert service.delete("a").status_code == 200
    assert service.history() == [(1, "delete", True)]
    assert service.revision(0) == array(A, B, C)
