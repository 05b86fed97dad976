"""Services that write the same files: other kinds of lock, swept lock files, odd file systems."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.documents.document import Document
from neurotrale.annotations.journals.changes import AppliedChange, Author, Before, Change
from neurotrale.annotations.journals.journal_records import KeyedOperation
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.transaction import FileChanges
from neurotrale.errors import ConflictError, ReadOnlyError
from neurotrale.locking.filesystems import LockSetting
from neurotrale.locking.locks import Locks, lock_path
from neurotrale.locking.writers import LAPSE_S, PREFIX, WriterClaims
from tests.brains import Brain, cli, error_of, new_brain, point
from tests.conftest import StartService
from tests.processes import PATIENCE_S, REPOSITORY, claims_in, names_in, run
from tests.stores import Stores, annotation, array, open_stores

A, B = annotation("a"), annotation("b")
DIFFERENT = [
    pytest.param("strict", "flock", id="strict-then-flock"),
    pytest.param("flock", "strict", id="flock-then-strict"),
    pytest.param("none", "flock", id="none-then-flock"),
    pytest.param("strict", "none", id="strict-then-none"),
    pytest.param("none", "none", id="none-then-none"),
]


def at_another_node(claim: Path, **facts: object) -> None:
    """Write the claim of a process that this machine cannot know anything about."""
    known = {"host": "node7", "pid": 4711, "start": 1, "machine": "another"}
    claim.write_text(json.dumps(known | facts))


def claim_name(kind: str, number: int = 0) -> str:
    return f"{PREFIX}{kind}-{number:032x}"


def seconds_ago(path: Path, seconds: float) -> Path:
    """Set a time of the past, as the file system has it."""
    path.touch()
    at = path.stat().st_mtime - seconds
    os.utime(path, (at, at))
    return path


# --- two services with different kinds of lock ---


@pytest.mark.quick(2)
@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_service_does_not_write_where_one_with_another_kind_of_lock_does(
    tmp_path: Path, start_service: StartService, first: str, second: str
) -> None:
    one = start_service(tmp_path, "--lock", first, "--workers", "2")
    other = start_service(tmp_path, "--lock", second)
    brain = new_brain(one, b"[]")
    brain.patch(point("a"))
    theirs = Brain(other, brain.name)
    for method, data in (("PUT", b"[]"), ("PATCH", json.dumps(point("b"))), ("DELETE", None)):
        refused = requests.request(method, theirs.url, params={"id": "b"}, data=data)
        description = error_of(refused, 409)
        assert f"--lock {first}, this one with --lock {second}" in description
        assert f"process {one.process.pid} on {socket.gethostname()}" in description
        assert description in other.log()
    assert brain.ids() == {"a"}
    brain.patch(point("c"))
    assert brain.ids() == {"a", "c"}
    assert len(claims_in(brain.file.parent)) == 1
    for service in (one, other):
        assert service.stop() == 0
    assert claims_in(brain.file.parent) == []


@pytest.mark.quick(1)
@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_services_with_different_kinds_of_lock_lose_no_acknowledged_edit(
    tmp_path: Path, start_service: StartService, first: str, second: str
) -> None:
    services = [start_service(tmp_path, "--lock", kind) for kind in (first, second)]
    brain = new_brain(services[0], b"[]")
    acknowledged: list[str] = []

    def edit(number: int) -> None:
        url = Brain(services[number % 2], brain.name).url
        for step in range(25):
            id_ = f"{number}-{step}"
            answer = requests.patch(url, params={"id": id_}, json=point(id_), timeout=PATIENCE_S)
            # 500: strict locks do not start where lock files of flock are left.
            assert answer.status_code in (201, 409, 500), answer.text
            if answer.status_code == 201:
                acknowledged.append(id_)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(edit, range(4)))
    assert len(acknowledged) >= 25
    assert brain.ids() == set(acknowledged)
    assert [change["applied"] for change in brain.history(limit=1000)] == [True] * len(acknowledged)
    for service in services:
        service.stop()


def test_claim_of_a_service_that_was_killed_counts_no_more(
    tmp_path: Path, start_service: StartService
) -> None:
    one = start_service(tmp_path, "--lock", "strict", "--workers", "2")
    brain = new_brain(one, b"[]")
    brain.patch(point("a"))
    (claim,) = claims_in(brain.file.parent)
    left = json.loads(claim.read_bytes())
    one.stop(signal.SIGKILL)
    claim.write_text(json.dumps(left))  # its writer may have got to its end and removed it
    other = Brain(start_service(tmp_path, "--lock", "flock"), brain.name)
    other.patch(point("b"))
    assert not claim.exists()
    assert brain.ids() == {"a", "b"}
    other.service.stop()


def test_workers_of_a_service_share_one_claim_that_names_the_service(
    tmp_path: Path, start_service: StartService
) -> None:
    service = start_service(tmp_path, "--workers", "4")
    brain = new_brain(service, b"[]")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: brain.patch(point(f"{number}")), range(40)))
    (claim,) = claims_in(brain.file.parent)
    assert json.loads(claim.read_bytes())["pid"] == service.process.pid
    assert claim.stat().st_mode & 0o777 == 0o644
    answer = requests.get(f"{service.url}/{brain.filename}/../{claim.name}")
    assert answer.status_code == 404
    listing = requests.get(f"{service.url}/{brain.name}/annotations/x0y0z0/")
    assert PREFIX not in listing.text
    assert service.stop() == 0
    assert claims_in(brain.file.parent) == []


def test_claims_left_behind_are_no_finding_of_check(tmp_path: Path) -> None:
    stores = open_stores(tmp_path)
    stores.put(array(A))
    (tmp_path / "brain" / "annotations" / "block_info.csv").write_text("64,64,64\n")
    before = cli("check", tmp_path / "brain")
    assert before.returncode == 0
    for kind in ("flock", "strict"):
        at_another_node(stores.file.with_name(claim_name(kind)))
    assert cli("check", tmp_path / "brain").stdout == before.stdout


def test_restore_with_another_kind_of_lock_is_refused_and_leaves_no_claim(
    tmp_path: Path, start_service: StartService
) -> None:
    service = start_service(tmp_path, "--lock", "strict")
    brain = new_brain(service, b"[]")
    brain.patch(point("a"))
    brain.delete("a")
    command = [sys.executable, "-m", "neurotrale", "restore", str(brain.file), "--removed"]
    refused = run([*command, "--lock", "flock"])
    assert refused.returncode == 1
    assert f"process {service.process.pid}" in refused.stderr
    assert brain.ids() == set()
    assert run([*command, "--lock", "strict"]).returncode == 0
    assert brain.ids() == {"a"}
    assert len(claims_in(brain.file.parent)) == 1
    service.stop()


# --- whose claims count ---


def keep(directory: Path, kind: str = "flock") -> WriterClaims:
    claims = WriterClaims()
    claims.keep(directory, kind, "f.json")
    return claims


def test_claim_of_another_machine_counts_while_it_is_renewed(tmp_path: Path) -> None:
    other = tmp_path / claim_name("strict")
    at_another_node(other)
    with pytest.raises(ConflictError, match="process 4711 on node7"):
        keep(tmp_path)
    assert claims_in(tmp_path) == [other]
    seconds_ago(other, LAPSE_S - 10)
    with pytest.raises(ConflictError):
        keep(tmp_path)
    seconds_ago(other, LAPSE_S + 1)
    claims = keep(tmp_path)
    assert not other.exists()
    claims.remove()
    assert claims_in(tmp_path) == []


def test_claims_of_the_same_kind_do_not_exclude_each_other(tmp_path: Path) -> None:
    other = tmp_path / claim_name("flock")
    at_another_node(other)
    claims = keep(tmp_path)
    assert len(claims_in(tmp_path)) == 2
    claims.remove()
    assert claims_in(tmp_path) == [other]


def test_one_service_does_not_use_two_kinds_in_one_directory(tmp_path: Path) -> None:
    claims = keep(tmp_path, "flock")
    with pytest.raises(ConflictError):
        claims.keep(tmp_path, "strict", "f.json")
    claims.keep(tmp_path, "flock", "f.json")
    assert [path.name[: len(PREFIX) + 5] for path in claims_in(tmp_path)] == [f"{PREFIX}flock"]
    claims.remove()


CLAIMS_OF_NOBODY = {
    "ended": lambda now: {"pid": 2**22 + 1},
    "another-start": lambda now: {"start": now["start"] + 1},
}


@pytest.mark.parametrize("change", CLAIMS_OF_NOBODY.values(), ids=CLAIMS_OF_NOBODY)
def test_claim_of_a_process_of_this_machine_that_ended_counts_no_more(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    claims = keep(tmp_path, "strict")
    (own,) = claims_in(tmp_path)
    now = json.loads(own.read_bytes())
    claims.remove()
    other = tmp_path / claim_name("strict")
    other.write_text(json.dumps(now | change(now)))
    keep(tmp_path).remove()
    assert not other.exists()


def test_claim_of_a_process_that_lives_counts(tmp_path: Path) -> None:
    claims = keep(tmp_path, "strict")
    (own,) = claims_in(tmp_path)
    with child(lambda: time.sleep(PATIENCE_S)) as pid:
        start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        own.write_text(json.dumps(json.loads(own.read_bytes()) | {"pid": pid, "start": start}))
        with pytest.raises(ConflictError, match=f"process {pid} "):
            keep(tmp_path)
    keep(tmp_path).remove()  # it has ended
    claims.remove()


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A process that works until it is killed."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            work()
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_claim_of_another_namespace_of_processes_counts_while_it_is_renewed(
    tmp_path: Path,
) -> None:
    program = (
        "import sys, time; from pathlib import Path;"
        "from neurotrale.locking.writers import WriterClaims;"
        "WriterClaims().keep(Path(sys.argv[1]), 'strict', 'f');"
        "print('kept', flush=True); time.sleep(60)"
    )
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    command = [*unshare, "--mount-proc", sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "kept\n":
            pytest.skip("this user may not create namespaces")
        with pytest.raises(ConflictError, match="process 1 on"):
            keep(tmp_path)
        process.kill()
    with pytest.raises(ConflictError):  # nobody here can know that it has ended
        keep(tmp_path)
    (other,) = claims_in(tmp_path)
    seconds_ago(other, LAPSE_S + 1)
    keep(tmp_path).remove()


def test_worker_that_outlives_its_service_makes_a_claim_of_its_own(tmp_path: Path) -> None:
    program = """
import json, os, sys
from pathlib import Path
from neurotrale.locking.writers import WriterClaims
claims, parent = WriterClaims(), os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    pass
claims.keep(Path(sys.argv[1]), "flock", "f")
(claim,) = Path(sys.argv[1]).iterdir()
print(os.getpid(), json.loads(claim.read_bytes())["pid"])
"""
    done = run([sys.executable, "-c", program, str(tmp_path)])
    own, claimed = done.stdout.split()
    assert own == claimed
    assert claims_in(tmp_path) == []  # removed at its end


def test_claim_is_renewed_by_one_process_of_the_service_only(tmp_path: Path) -> None:
    claims = keep(tmp_path)
    (own,) = claims_in(tmp_path)
    before = own.stat().st_mtime_ns
    claims.renew()
    renewed = own.stat().st_mtime_ns
    assert renewed > before
    os.utime(own)  # by another process
    by_another = own.stat().st_mtime_ns
    claims.renew()
    assert own.stat().st_mtime_ns == by_another
    claims.renew()
    assert own.stat().st_mtime_ns > by_another
    claims.remove()


def test_claim_in_a_backup_of_hard_links_lapses(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    claims = keep(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "backup", copy_function=os.link)
    (copy,) = claims_in(tmp_path / "backup")
    claims.renew()
    claims.keep(tmp_path / "data", "flock", "f")
    (own,) = claims_in(tmp_path / "data")
    assert not os.path.samestat(own.stat(), copy.stat())
    before = copy.stat().st_mtime_ns
    claims.renew()
    assert copy.stat().st_mtime_ns == before
    claims.remove()


def test_claims_of_a_service_that_writes_everywhere_are_not_without_number(tmp_path: Path) -> None:
    claims = WriterClaims()
    directories = [tmp_path / f"{number}" for number in range(300)]
    for directory in directories:
        directory.mkdir()
        claims.keep(directory, "flock", "f")
        assert claims.holds(directory)
    assert sum(len(claims_in(directory)) for directory in directories) == 256
    claims.remove()


# --- claims that somebody plants ---

PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, victim: path.symlink_to(victim),
    "dangling-link": lambda path, victim: path.symlink_to("nowhere"),
    "directory": lambda path, victim: path.mkdir(),
    "pipe": lambda path, victim: os.mkfifo(path),
    "time-of-the-future": lambda path, victim: seconds_ago(path, -9e9),
    "another-name": lambda path, victim: path.with_name(f"{path.name}x").write_text("x"),
    "old-garbage": lambda path, victim: path.write_text("{" * 9999) and seconds_ago(path, 99),
}


def untouched(path: Path) -> tuple[object, ...]:
    """Everything about a file that a write, a new mode or a new time would change."""
    status = path.stat()
    return path.read_text(), status.st_mode, status.st_mtime_ns, status.st_ctime_ns


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_planted_claim_harms_nobody(tmp_path: Path, plant: Callable[[Path, Path], object]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("secret")
    (tmp_path / "block").mkdir()
    for kind in ("strict", "flock"):
        plant(tmp_path / "block" / claim_name(kind), victim)
    before = untouched(victim)
    claims = keep(tmp_path / "block")
    claims.renew()
    claims.remove()
    assert untouched(victim) == before


@pytest.mark.parametrize(
    "content", ["", "{", '{"pid": "x"}', json.dumps({"host": "\x1b[2J", "pid": -1} | {
        "start": 10**30, "machine": "m"})],
)  # fmt: skip
def test_claim_that_cannot_be_read_counts_until_it_lapses(tmp_path: Path, content: str) -> None:
    other = tmp_path / claim_name("strict")
    other.write_text(content)
    with pytest.raises(ConflictError) as caught:
        keep(tmp_path)
    assert str(caught.value).isprintable()
    assert other.name in str(caught.value)
    seconds_ago(other, LAPSE_S + 1)
    keep(tmp_path).remove()


@pytest.mark.parametrize("plant", ["link", "directory", "pipe"])
def test_own_claim_that_somebody_replaced_is_made_anew(tmp_path: Path, plant: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("secret")
    (tmp_path / "block").mkdir()
    claims = keep(tmp_path / "block")
    (own,) = claims_in(tmp_path / "block")
    own.unlink()
    PLANTED[plant](own, victim)
    before, planted = untouched(victim), own.lstat()
    claims.renew()
    assert not claims.holds(tmp_path / "block")
    claims.keep(tmp_path / "block", "flock", "f")
    assert claims.holds(tmp_path / "block")
    claims.remove()
    assert claims_in(tmp_path / "block") == [own]
    assert own.lstat() == planted
    assert untouched(victim) == before


# --- lock files that are swept away ---


def swept(directory: Path, patterns: tuple[str, ...], pause_s: float, stop: threading.Event) -> int:
    """Remove lock files again and again, as a clean-up job does; count the times."""
    names = [
        "-name",
        patterns[0],
        *(word for more in patterns[1:] for word in ("-o", "-name", more)),
    ]
    times = 0
    while not stop.wait(pause_s):
        subprocess.run(["find", directory, "(", *names, ")", "-delete"], stderr=subprocess.DEVNULL)
        times += 1
    return times


FEW = 20

SWEEPS = [
    pytest.param("flock", (".*.lock",), id="flock"),
    pytest.param("strict", (".*.lock",), id="strict"),
    pytest.param("strict", (".*.lock", "*.claim"), id="strict-with-claims"),
    pytest.param("flock", (".*.lock", f"{PREFIX}*"), id="flock-with-claims-of-services"),
]


def edits_under_sweeps(
    tmp_path: Path,
    start_service: StartService,
    kind: str,
    patterns: tuple[str, ...],
    seconds: float,
) -> None:
    services = [start_service(tmp_path, "--lock", kind, "--workers", "2") for _ in range(2)]
    brain = new_brain(services[0], b"[]")
    until, stop = time.monotonic() + seconds, threading.Event()
    acknowledged: list[str] = []

    def is_over() -> bool:
        """Whether the time is up; a machine that is slow gets more of it for a few edits."""
        late_s = time.monotonic() - until
        return late_s > (0 if len(acknowledged) > FEW else PATIENCE_S)

    def edit(number: int) -> None:
        mine = Brain(services[number % 2], brain.name)
        for step in count():
            if is_over():
                return
            id_ = f"{number}-{step}"
            answer = requests.patch(
                mine.url, params={"id": id_}, json=point(id_), timeout=PATIENCE_S
            )
            assert answer.status_code in (201, 500, 503), answer.text
            if answer.status_code == 201:
                acknowledged.append(id_)

    with ThreadPoolExecutor(9) as pool:
        # Each sweep of claims sends a writer back to the start: some time is needed in between.
        pause_s = 0.2 if "*.claim" in patterns else 0.02
        sweeping = pool.submit(swept, brain.file.parent, patterns, pause_s, stop)
        try:
            list(pool.map(edit, range(8)))
        finally:
            stop.set()
        assert sweeping.result() > 5
    assert len(acknowledged) > FEW
    assert brain.ids() >= set(acknowledged)
    revisions = [change["revision"] for change in brain.history(limit=1000)]
    assert len(revisions) == len(set(revisions))
    for service in services:
        assert service.stop() == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize(("kind", "patterns"), SWEEPS)
def test_lock_files_swept_under_load_cost_no_acknowledged_edit(
    tmp_path: Path, start_service: StartService, kind: str, patterns: tuple[str, ...]
) -> None:
    edits_under_sweeps(tmp_path, start_service, kind, patterns, 3)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "patterns"), SWEEPS)
def test_lock_files_swept_for_long_cost_no_acknowledged_edit(
    tmp_path: Path, start_service: StartService, kind: str, patterns: tuple[str, ...]
) -> None:
    edits_under_sweeps(tmp_path, start_service, kind, patterns, 30)


@dataclass
class Addition:
    """Adds an annotation; something happens between the reading and the writing of the file."""

    raw: bytes
    meanwhile: Callable[[], None]
    author: Author = field(default_factory=lambda: Author("ann"))
    intent: str = ""
    is_repeated: bool = False
    key: str = ""

    def check_same(self, earlier: KeyedOperation) -> None:
        raise AssertionError("it has no operation id")

    def operation(self, applied: AppliedChange, change: Change) -> KeyedOperation:
        raise AssertionError("it has no operation id")

    def decide(self, before: Before) -> Change:
        self.meanwhile()
        assert before.content is not None
        id_ = json.loads(self.raw)["id"]
        hunk, index = Document.parse(before.content.body).upsert(id_, self.raw)
        return Change("patch", [hunk], index)


def add(stores: Stores, kind: LockSetting, raw: bytes, meanwhile: Callable[[], None]) -> None:
    changes = FileChanges(Locks(kind), Contents())
    (applied,) = changes.change_together(stores.file, "fibers.json", [Addition(raw, meanwhile)])
    assert isinstance(applied, AppliedChange)


def once(work: Callable[[], object]) -> Callable[[], None]:
    """Something that happens only at the first call."""
    left = [work]

    def run_once() -> None:
        if left:
            left.pop()()

    return run_once


def sweep(stores: Stores, kind: str) -> None:
    if kind == "flock":
        lock_path(stores.file).unlink()
    else:
        for claim in stores.file.parent.rglob("*.claim"):
            claim.unlink()


def history_of(stores: Stores) -> list[tuple[int, str, bool]]:
    changes = stores.past.page(stores.place, ChangeFilter(), 100).changes
    return [(entry.n, entry.op, applied) for entry, applied in changes]


@pytest.mark.parametrize("kind", ["flock", "strict"])
def test_lock_swept_before_the_record_is_acquired_anew_and_nothing_is_recorded_twice(
    tmp_path: Path, kind: LockSetting
) -> None:
    stores = open_stores(tmp_path, kind)
    stores.put(array())
    add(stores, kind, A, once(lambda: sweep(stores, kind)))
    assert json.loads(stores.file.read_bytes()) == [json.loads(A)]
    assert history_of(stores) == [(2, "patch", True), (1, "put", True)]
    assert ".fibers.json.tmp" not in names_in(stores.file.parent)


def test_strict_lock_swept_where_nothing_else_excludes_is_acquired_anew(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 98:0 / {tmp_path} rw - nfs server rw\n")
    stores, other = (open_stores(tmp_path, "strict") for _ in range(2))
    stores.put(array())
    written = []

    def meanwhile() -> None:
        sweep(stores, "strict")
        changes = FileChanges(Locks("strict", mount_table=table), Contents())
        written.extend(
            changes.change_together(stores.file, "fibers.json", [Addition(B, lambda: None)])
        )

    changes = FileChanges(Locks("strict", mount_table=table), Contents())
    changes.change_together(stores.file, "fibers.json", [Addition(A, once(meanwhile))])
    assert len(written) == 1
    assert json.loads(stores.file.read_bytes()) == [json.loads(B), json.loads(A)]
    assert history_of(other) == [(3, "patch", True), (2, "patch", True), (1, "put", True)]


@pytest.mark.parametrize("kind", ["flock", "strict"])
def test_lock_swept_after_the_record_makes_it_a_change_that_never_took_effect(
    tmp_path: Path, kind: LockSetting
) -> None:
    stores = open_stores(tmp_path, kind)
    stores.put(array())
    sweeping = once(lambda: sweep(stores, kind))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        is_open = active and event == "open" and str(arguments[0]).endswith(".journal")
        if is_open and arguments[2] & os.O_APPEND:
            sweeping()

    active = True
    sys.addaudithook(audit)
    add(stores, kind, A, lambda: None)
    active = False
    assert json.loads(stores.file.read_bytes()) == [json.loads(A)]
    changes = [(4, "patch", True), (2, "patch", False), (1, "put", True)]
    assert history_of(stores) == changes


@pytest.mark.parametrize("kind", ["flock", "strict"])
def test_lock_that_is_swept_still_excludes(tmp_path: Path, kind: LockSetting) -> None:
    stores, other = (open_stores(tmp_path, kind) for _ in range(2))
    stores.put(array())
    with ThreadPoolExecutor(1) as pool:
        jobs = []

        def meanwhile() -> None:
            sweep(stores, kind)
            jobs.append(pool.submit(other.patch, "b"))
            with pytest.raises(TimeoutError):
                jobs[0].result(0.3)

        add(stores, kind, A, once(meanwhile))
        jobs[0].result(PATIENCE_S)
    assert {one["id"] for one in json.loads(stores.file.read_bytes())} == {"a", "b"}
    assert len([applied for _, _, applied in history_of(stores) if applied]) == 3


# --- locks that do not work on a file system ---

# What os.link does on sshfs: the new name is another file, as far as numbers of inodes tell.
SSHFS = """
import os
def link(source, target, *, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=True):
    with open(os.open(source, os.O_RDONLY, dir_fd=src_dir_fd), "rb") as old:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(target, flags, dir_fd=dst_dir_fd), "wb") as new:
            new.write(old.read())
os.link = link
"""
NO_FLOCK = """
import errno, fcntl, os
def flock(descriptor, operation):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
fcntl.flock = flock
"""
NOT_EVEN_KNOWN = NO_FLOCK.replace("EOPNOTSUPP", "ENOSYS")
FLOCK_FOR_NOTHING = "import fcntl; fcntl.flock = lambda descriptor, operation: None"


def patched(place: Path, code: str) -> dict[str, str]:
    """The environment of a Python whose system calls are those of an odd file system."""
    place.mkdir()
    (place / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{place}:{REPOSITORY}"}


def test_service_does_not_start_where_strict_locks_cannot_be_taken_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    env = patched(tmp_path / "odd", SSHFS)
    done = cli("serve", tmp_path / "data", "--lock", "strict", "--port", "0", **env)
    assert done.returncode == 1
    assert "cannot be taken although nobody holds it" in done.stderr
    assert "--lock flock if all that writes there runs on this machine" in done.stderr
    assert names_in(tmp_path / "data") == set()


HOLD_ON_SSHFS = """
import sys, time
from pathlib import Path
from neurotrale.errors import ReadOnlyError
from neurotrale.locking.locks import Locks
locks = Locks("auto", 10, Path(sys.argv[2]))
started = time.monotonic()
try:
    with locks.hold(Path(sys.argv[1]), "fibers.json"):
        print("held")
except ReadOnlyError as error:
    print(time.monotonic() - started < 8, error)
"""


def test_auto_on_sshfs_refuses_with_a_sentence_instead_of_waiting_for_nobody(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 98:0 / {tmp_path} rw - fuse.sshfs server rw\n")
    command = [sys.executable, "-c", HOLD_ON_SSHFS, str(tmp_path / "data" / "f.json"), str(table)]
    done = run(command, env=patched(tmp_path / "odd", SSHFS))
    assert done.stdout.startswith(
        "True fibers.json was not changed: it lies on fuse.sshfs, and the strict lock cannot be"
        " taken although nobody holds it; start with --lock flock"
    ), done.stderr


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "code",
    [NO_FLOCK, NOT_EVEN_KNOWN, FLOCK_FOR_NOTHING],
    ids=["unsupported", "unknown", "for-nothing"],
)
def test_auto_takes_the_other_kind_where_flock_does_not_exclude(
    tmp_path: Path, start_service: StartService, code: str
) -> None:
    (tmp_path / "data").mkdir()
    service = start_service(tmp_path / "data", env=patched(tmp_path / "odd", code))
    brain = new_brain(service, b"[]")
    brain.patch(point("a"))
    assert brain.ids() == {"a"}
    (claim,) = claims_in(brain.file.parent)
    assert claim.name.startswith(f"{PREFIX}strict-")
    assert "the flock lock" in service.log()
    names = {"fibers.json", *(f".fibers.json.{end}" for end in ("journal", "journal.base"))}
    assert names_in(brain.file.parent) == names | {
        ".fibers.json.lock",
        ".fibers.json.lock.filelock",
    }
    service.stop()


@pytest.mark.parametrize(
    "code",
    [NO_FLOCK, NOT_EVEN_KNOWN, FLOCK_FOR_NOTHING],
    ids=["unsupported", "unknown", "for-nothing"],
)
def test_flock_that_does_not_exclude_is_refused_with_a_sentence(
    tmp_path: Path, start_service: StartService, code: str
) -> None:
    (tmp_path / "data").mkdir()
    service = start_service(
        tmp_path / "data", "--lock", "flock", env=patched(tmp_path / "odd", code)
    )
    brain = new_brain(service, b"[]")
    description = error_of(requests.put(brain.url, json=[point("a")]), 403)
    assert "was not changed" in description
    assert "flock" in description
    assert names_in(brain.file.parent) == {"fibers.json"}
    service.stop()


def test_trial_leaves_nothing_and_is_not_repeated(tmp_path: Path) -> None:
    locks = Locks("strict")
    for _ in range(2):
        with locks.hold(tmp_path / "f.json", "f.json"):
            assert not list(tmp_path.glob(".probe-*"))
    assert locks.choice(tmp_path)[1].kind == "strict"


def test_lock_where_nothing_can_be_written_is_refused_as_before() -> None:
    with pytest.raises(ReadOnlyError), Locks("flock").hold(Path("/sys/f.json"), "f.json"):
        pytest.fail("held")
