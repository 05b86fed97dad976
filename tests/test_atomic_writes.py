"""Writing: an old or a new file, never a mix; no edit lost; nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
import requests

from neurotrale.errors import BusyError
from neurotrale.locking.locks import Locks
from neurotrale.storage.atomic import replace_file, temporary_path
from tests.conftest import Service, StartService
from tests.processes import names_in as names

LOCK = ".fibers.json.lock"
JOURNAL = ".fibers.json.journal"
BASE = ".fibers.json.journal.base"
OLD = b'[{"id": "old", "n": 1e3}]'
NOBODY = 65534


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, where it may limit, lower or kill itself."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    top = Path(__file__).parents[1]
    return subprocess.run(command, cwd=top, capture_output=True, text=True, timeout=60, check=False)


# --- one file, replaced ---


def test_replace_gives_an_existing_file_its_new_content_and_leaves_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    replace_file(path, [b"[]"])
    assert path.read_bytes() == b"[]"
    assert names(tmp_path) == {"fibers.json"}


def test_replace_creates_a_file_that_is_new(tmp_path: Path) -> None:
    replace_file(tmp_path / "fibers.json", [OLD])
    assert (tmp_path / "fibers.json").read_bytes() == OLD
    assert names(tmp_path) == {"fibers.json"}


def test_replace_leaves_the_old_content_to_those_who_read_it(tmp_path: Path) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    with path.open("rb") as reader:
        assert reader.read(5) == OLD[:5]
        replace_file(path, [b"[", b" " * 100_000, b"]"])
        assert reader.read() == OLD[5:]


def test_replace_makes_content_then_name_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    calls: list[tuple[str, object]] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            calls.append(("fsync directory", os.path.samestat(status, tmp_path.stat())))
        else:
            calls.append(("fsync file", status.st_size))
        fsync(descriptor)

    def record_replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        within = all(
            os.path.samestat(os.fstat(directory), tmp_path.stat())
            for directory in (src_dir_fd, dst_dir_fd)
        )
        calls.append(("replace", within and target == path.name))
        replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    replace_file(path, [b"12345"])
    assert calls == [("fsync file", 5), ("replace", True), ("fsync directory", True)]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o664, 0o666, 0o2660])
def test_replace_keeps_the_mode_of_the_old_file(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    path.chmod(mode)
    replace_file(path, [b"[]"])
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_replace_creates_a_new_file_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "fibers.json", [OLD])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fibers.json").stat().st_mode) == 0o666 & ~umask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_replace_keeps_owner_and_group_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    os.chown(path, 54321, 54322)
    replace_file(path, [b"[]"])
    assert (path.stat().st_uid, path.stat().st_gid) == (54321, 54322)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_replace_keeps_the_mode_where_it_may_not_keep_the_owner(reachable: Path) -> None:
    path = reachable / "fibers.json"
    path.write_bytes(OLD)
    path.chmod(0o664)
    reachable.chmod(0o777)
    result = run_python(AS_NOBODY + "replace_file(Path(sys.argv[1]), [b'[]'])", path)
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == b"[]"
    assert path.stat().st_uid == NOBODY
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


# --- what goes wrong leaves everything as it was ---


def test_replace_beyond_the_limit_of_file_sizes_leaves_everything_as_it_was(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from neurotrale.storage.atomic import replace_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: replace_file(Path(sys.argv[1]), [b'x' * 100_000])\n"
        "except OSError as error: print(error.errno)\n"
    )
    assert run_python(code, path).stdout.strip() == str(errno.EFBIG)
    assert run_python(code, tmp_path / "new.json").stdout.strip() == str(errno.EFBIG)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == {"fibers.json"}


def test_replace_that_is_killed_half_way_leaves_the_old_file_and_does_not_hinder_the_next(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from neurotrale.storage.atomic import replace_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "replace_file(Path(sys.argv[1]), [b'x' * 100_000])\n"
    )
    assert run_python(code, path).returncode < 0
    assert path.read_bytes() == OLD
    (left,) = names(tmp_path) - {"fibers.json"}
    assert left == temporary_path(path).name
    assert left.startswith(".")
    replace_file(path, [b"[]"])
    assert path.read_bytes() == b"[]"


def test_replace_on_a_disk_that_fails_to_sync_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fibers.json"
    path.write_bytes(OLD)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        replace_file(path, [b"[]"])
    assert path.read_bytes() == OLD
    assert names(tmp_path) == {"fibers.json"}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param("directory", IsADirectoryError, id="a-directory-is-in-its-place"),
        pytest.param("absent/fibers.json", FileNotFoundError, id="no-directory"),
        pytest.param("file/fibers.json", NotADirectoryError, id="a-file-for-a-directory"),
        pytest.param("x" * 251, OSError, id="name-too-long"),
    ],
)
def test_replace_that_cannot_be_done_leaves_everything_as_it_was(
    tmp_path: Path, name: str, error: type[OSError]
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(error):
        replace_file(tmp_path / name, [b"[]"])
    assert names(tmp_path) == {"directory", "file"}
    assert names(tmp_path / "directory") == set()
    assert (tmp_path / "file").read_bytes() == OLD


# Everything is imported before the privileges go: the interpreter may live where only root reads.
AS_NOBODY = f"""
import logging, os, sys
from pathlib import Path
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.writes import FileWriter
from neurotrale.annotations.documents.contents import Contents
from neurotrale.locking.locks import Locks
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.annotations.store import AnnotationStore
from neurotrale.annotations.journals.changes import (WriteContext)
from neurotrale.storage.atomic import replace_file
from neurotrale.errors import ReadOnlyError
from neurotrale.late import load_all
from neurotrale.storage.names import AnnotationName, BlockName
from neurotrale.storage.data_root import DataRoot
load_all()  # that user may not be able to read what Python is installed in
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user of the machine can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def test_replace_in_a_directory_that_is_read_only_leaves_everything_as_it_was(
    reachable: Path,
) -> None:
    path = reachable / "fibers.json"
    path.write_bytes(OLD)
    path.chmod(0o666)
    reachable.chmod(0o555)
    code = (
        "try: replace_file(Path(sys.argv[1]), [b'[]'])\n"
        "except PermissionError: print('not allowed')\n"
    )
    assert run_python(AS_NOBODY + code, path).stdout == "not allowed\n"
    assert path.read_bytes() == OLD
    assert names(reachable) == {"fibers.json"}
    reachable.chmod(0o755)


def test_store_in_a_directory_that_is_read_only_refuses_every_change_and_gives_the_file(
    reachable: Path,
) -> None:
    block = reachable / "brain" / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (block / "fibers.json").write_bytes(OLD)
    for directory in (block, block.parent):
        directory.chmod(0o555)
    code = """
contents, wish = Contents(), WriteContext()
places = AnnotationFiles(DataRoot(Path(sys.argv[1])))
store = AnnotationStore(places, contents, FileWriter(FileChanges(Locks(), contents)))
file = AnnotationName(("brain",), BlockName.parse("x0y0z0"), "fibers.json")
new_file = AnnotationName(("brain",), BlockName.parse("x0y0z0"), "new.json")
new_block = AnnotationName(("brain",), BlockName.parse("x7y7z7"), "fibers.json")
for change in (
    lambda: store.put(file, b"[]", wish),
    lambda: store.put(new_file, b"[]", wish),
    lambda: store.put(new_block, b"[]", wish),
    lambda: store.patch(file, "old", b"{}", wish),
    lambda: store.delete(file, "old", wish),
):
    try:
        print(change())
    except ReadOnlyError as error:
        print("refused" if "cannot be written" in str(error) else error)
print(store.read(file).body == Path(sys.argv[2]).read_bytes())
"""
    result = run_python(AS_NOBODY + code, reachable, block / "fibers.json")
    assert result.stdout.split() == ["refused"] * 5 + ["True"], result.stderr
    assert (block / "fibers.json").read_bytes() == OLD
    assert names(block) == {"fibers.json"}
    assert names(block.parent) == {"x0y0z0"}
    for directory in (block.parent, block):
        directory.chmod(0o755)


# --- one writer at a time ---


def in_another_thread(work: Callable[[], object]) -> object:
    """Give what `work` returns or raises in a thread; one that never ends hangs no test."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:  # noqa: BLE001
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(timeout=30)


def test_lock_of_a_file_is_a_hidden_file_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "fibers.json"
    with Locks().hold(path, "fibers.json"), pytest.raises(filelock.Timeout):
        filelock.FileLock(tmp_path / LOCK).acquire(timeout=0)
    assert names(tmp_path) <= {LOCK}
    with filelock.FileLock(tmp_path / LOCK).acquire(timeout=0):
        pass


def test_lock_that_is_held_by_another_writer_is_busy_when_the_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "fibers.json"
    first, second = Locks(timeout_s=0.05), Locks(timeout_s=0.05)

    def write() -> None:
        with second.hold(path, "fibers.json"):
            raise AssertionError("two writers at once")

    with first.hold(path, "fibers.json"), pytest.raises(BusyError) as caught:
        in_another_thread(write)
    assert caught.value.retry_after_s >= 1
    assert "fibers.json" in str(caught.value)


def test_lock_of_one_file_does_not_hold_up_writers_of_another(tmp_path: Path) -> None:
    locks = Locks(timeout_s=0.05)

    def write() -> str:
        with locks.hold(tmp_path / "z-0001.json", "z-0001.json"):
            return "written"

    with locks.hold(tmp_path / "fibers.json", "fibers.json"):
        assert in_another_thread(write) == "written"


def test_lock_is_free_again_after_a_writer_that_failed(tmp_path: Path) -> None:
    locks, path = Locks(timeout_s=0.05), tmp_path / "fibers.json"
    with pytest.raises(ZeroDivisionError), locks.hold(path, "fibers.json"):
        raise ZeroDivisionError
    with locks.hold(path, "fibers.json"), Locks(timeout_s=0.05).hold(tmp_path / "b.json", "b.json"):
        pass


# --- many writers over HTTP ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def services(data: Path, start_service: StartService) -> list[Service]:
    """Two services, three processes, that serve the same directory."""
    return [start_service(data, "--workers", "2"), start_service(data)]


@pytest.fixture(scope="module")
def hasty(data: Path, start_service: StartService) -> Service:
    """A service whose writers wait for a moment only."""
    return start_service(data, "--lock-timeout", "0.1")


@pytest.fixture
def block(data: Path) -> Path:
    """A block of a dataset of its own, with a file of one annotation."""
    directory = data / f"brain-{len(names(data))}" / "annotations" / "x0y0z0"
    directory.mkdir(parents=True)
    (directory / "fibers.json").write_bytes(OLD)
    return directory


def url(service: Service, block: Path, leaf: str = "fibers.json") -> str:
    return f"{service.url}/{block.relative_to(service.root)}/{leaf}"


def at_once(writers: int, work: Callable[[int, requests.Session], Any]) -> list[Any]:
    """Have many clients do their work at the same time; give what each of them returns."""
    start = threading.Barrier(writers)

    def run(number: int) -> Any:
        with requests.Session() as session:
            start.wait()
            return work(number, session)

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(run, range(writers)))


WRITERS, EDITS = 8, 10


def test_patches_of_many_writers_at_once_are_all_in_the_file(
    services: list[Service], block: Path
) -> None:
    def work(writer: int, session: requests.Session) -> dict[str, int]:
        acknowledged = {}
        address = url(services[writer % 2], block)
        for edit in range(EDITS):
            id_ = f"{writer}-{edit % 4}"  # most are edited again
            answer = session.patch(address, params={"id": id_}, json={"edit": edit})
            assert answer.status_code in (200, 201), answer.text
            acknowledged[id_] = edit
        return acknowledged

    expected = {id_: edit for done in at_once(WRITERS, work) for id_, edit in done.items()}
    content = (block / "fibers.json").read_bytes()
    first, *others = json.loads(content)
    assert content.startswith(OLD[:-1])
    assert first == {"id": "old", "n": 1000.0}
    assert {item["id"]: item["edit"] for item in others} == expected
    assert len(others) == len(expected)
    assert names(block) == {"fibers.json", LOCK, JOURNAL, BASE}


def test_patches_of_one_annotation_at_once_leave_it_once_as_one_of_them_wrote_it(
    services: list[Service], block: Path
) -> None:
    def work(writer: int, session: requests.Session) -> list[int]:
        address = url(services[writer % 2], block)
        return [
            session.patch(address, params={"id": "one"}, json={"by": [writer, edit]}).status_code
            for edit in range(5)
        ]

    statuses = [status for done in at_once(WRITERS, work) for status in done]
    assert sorted(set(statuses)) == [200, 201]
    assert statuses.count(201) == 1
    _, annotation = json.loads((block / "fibers.json").read_bytes())
    assert annotation["id"] == "one"
    assert annotation["by"][1] == 4


def test_additions_and_removals_at_once_leave_the_other_annotations_byte_for_byte(
    services: list[Service], block: Path
) -> None:
    def work(writer: int, session: requests.Session) -> None:
        address = url(services[writer % 2], block)
        for edit in range(5):
            params = {"id": f"{writer}-{edit}"}
            assert session.patch(address, params=params, json={}).status_code == 201
            assert session.delete(address, params=params).status_code == 200

    at_once(WRITERS, work)
    assert (block / "fibers.json").read_bytes() == OLD
    assert names(block) == {"fibers.json", LOCK, JOURNAL, BASE}


def test_removals_of_one_annotation_at_once_succeed_once(
    services: list[Service], block: Path
) -> None:
    statuses = at_once(
        WRITERS,
        lambda writer, session: (
            session.delete(url(services[writer % 2], block), params={"id": "old"}).status_code
        ),
    )
    assert sorted(statuses) == [200] + [404] * (WRITERS - 1)
    assert json.loads((block / "fibers.json").read_bytes()) == []


def test_puts_of_a_new_block_at_once_create_it_once_with_one_whole_body(
    services: list[Service], block: Path
) -> None:
    new = block.parent / "x1y1z1"
    bodies = [json.dumps([{"id": str(n)} for n in range(writer)]) for writer in range(WRITERS)]
    statuses = at_once(
        WRITERS,
        lambda writer, session: (
            session.put(url(services[writer % 2], new), data=bodies[writer]).status_code
        ),
    )
    assert sorted(statuses) == [200] * (WRITERS - 1) + [201]
    assert (new / "fibers.json").read_text() in bodies
    assert names(new) == {"fibers.json", LOCK, JOURNAL}


def test_readers_while_others_write_see_one_whole_file_or_another(
    services: list[Service], block: Path
) -> None:
    path = block / "fibers.json"
    versions = {OLD} | {
        json.dumps([{"id": str(n), "version": version} for n in range(version * 300)]).encode()
        for version in range(8)
    }
    bodies, written = sorted(versions), threading.Event()

    def write(writer: int, session: requests.Session) -> None:
        for turn in range(12):
            body = bodies[(turn * 5 + writer) % len(bodies)]
            assert session.put(url(services[writer], block), data=body).status_code == 200

    def read_over_http(writer: int, session: requests.Session) -> int:
        etags: dict[str, bytes] = {}
        while not written.is_set():
            answer = session.get(url(services[writer % 2], block))
            assert answer.status_code == 200
            assert answer.content in versions
            assert etags.setdefault(answer.headers["ETag"], answer.content) == answer.content
        return len(etags)

    def read_from_disk() -> None:
        while not written.is_set():
            assert path.read_bytes() in versions

    with ThreadPoolExecutor(2) as readers:
        over_http = readers.submit(at_once, 2, read_over_http)
        from_disk = readers.submit(read_from_disk)
        try:
            at_once(2, write)
        finally:
            written.set()
        assert min(over_http.result()) >= 1
        from_disk.result()


# --- a lock that is held for too long ---


@pytest.mark.parametrize(
    ("method", "params", "body"),
    [
        pytest.param("PUT", {}, [], id="put"),
        pytest.param("PATCH", {"id": "old"}, {}, id="patch"),
        pytest.param("DELETE", {"id": "old"}, None, id="delete"),
    ],
)
def test_change_while_another_process_holds_the_lock_is_503_that_says_when_to_come_again(
    hasty: Service, block: Path, method: str, params: dict[str, str], body: Any
) -> None:
    address = url(hasty, block)
    with filelock.FileLock(block / LOCK):
        answer = requests.request(method, address, params=params, json=body)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Content-Type"] == "application/json"
        assert "being written by another client" in answer.json()["description"]
        assert (block / "fibers.json").read_bytes() == OLD
    assert requests.request(method, address, params=params, json=body).status_code == 200
    assert names(block) == {"fibers.json", LOCK, JOURNAL, BASE}


def test_reads_and_changes_of_other_files_go_on_while_another_process_holds_the_lock(
    hasty: Service, block: Path
) -> None:
    with filelock.FileLock(block / LOCK):
        assert requests.get(url(hasty, block)).content == OLD
        assert requests.get(url(hasty, block), params={"id": "old"}).status_code == 200
        assert requests.put(url(hasty, block, "z-0001.json"), json=[]).status_code == 201


def test_change_that_waits_for_the_lock_gets_its_turn(services: list[Service], block: Path) -> None:
    address = url(services[0], block)
    with ThreadPoolExecutor(1) as pool:
        with filelock.FileLock(block / LOCK):
            answer = pool.submit(requests.patch, address, params={"id": "new"}, json={})
            (block / "fibers.json").write_bytes(b'[{"id":"by the holder"}]')
        assert answer.result().status_code == 201
    ids = [item["id"] for item in json.loads((block / "fibers.json").read_bytes())]
    assert ids == ["by the holder", "new"]


def test_lock_of_a_process_that_was_killed_is_free(hasty: Service, block: Path) -> None:
    code = (
        "import filelock, sys\n"
        "lock = filelock.FileLock(sys.argv[1])\n"
        "lock.acquire()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(block / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert requests.put(url(hasty, block), json=[]).status_code == 503
        holder.kill()
    assert (block / LOCK).exists()
    assert requests.put(url(hasty, block), json=[]).status_code == 200


# --- a disk that is full ---


def test_change_that_does_not_fit_is_507_and_leaves_the_file_as_it_was(
    tmp_path: Path, start_service: StartService
) -> None:
    block = tmp_path / "brain" / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (block / "fibers.json").write_bytes(OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    try:
        service = start_service(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    mtime_ns = (block / "fibers.json").stat().st_mtime_ns
    big = {"id": "big", "text": "x" * 2**18}
    for answer in (
        requests.put(url(service, block), json=[big]),
        requests.put(url(service, block, "new.json"), json=[big]),
        requests.patch(url(service, block), params={"id": "big"}, json=big),
    ):
        assert answer.status_code == 507
        assert "disk is full" in answer.json()["description"]
    assert (block / "fibers.json").read_bytes() == OLD
    assert (block / "fibers.json").stat().st_mtime_ns == mtime_ns
    assert names(block) <= {"fibers.json", LOCK, ".new.json.lock"}
    assert requests.delete(url(service, block), params={"id": "old"}).status_code == 200
    service.stop()
