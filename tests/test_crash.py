"""A writer that is killed at every single step of a write, and what the next one finds.

The writer is a child of a warm process (this module as a program), so that hundreds of deaths
take seconds. It kills itself before every line of the modules that write, and before every
operation on files that Python audits, wherever that is made (in filelock, for example).
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from types import FrameType
from typing import Any

import filelock
import pytest

import neurotrale
from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.journals.changes import Author, WriteContext
from neurotrale.annotations.journals.earlier_contents import content_at
from neurotrale.annotations.journals.revisions import ChangeFilter
from neurotrale.annotations.journals.viewers import Viewer
from neurotrale.errors import BusyError, MissingError
from neurotrale.locking.filesystems import LockKind
from neurotrale.locking.locks import make_lock
from neurotrale.storage.atomic import temporary_path
from tests.stores import ANN, IN_MEMORY, NAME, Stores, annotation, array, open_stores

A, B, C = (annotation(id_) for id_ in "abc")
A2 = annotation("a", reviewed=True)
C2 = annotation("c2")

pytestmark = pytest.mark.proof

PACKAGE = Path(neurotrale.__file__).parent
WATCHED = {
    str(PACKAGE / name)
    for name in (
        "annotations/journals/journal.py",
        "annotations/files/paths.py",
        "annotations/batch.py",
        "annotations/journals/compaction.py",
        "annotations/journals/discarding.py",
        "annotations/journals/burst_records.py",
        "annotations/journals/bursts.py",
        "annotations/documents/contents.py",
        "annotations/journals/first_content.py",
        "annotations/transaction.py",
        "locking/locks.py",
        "storage/atomic.py",
        "storage/ranges.py",
        "storage/regular.py",
    )
}
assert all(map(os.path.isfile, WATCHED))
AUDITED = ("open", "os.", "fcntl.", "shutil.")
ATONCE = 8


# --- the writes ---


@dataclass(frozen=True)
class Write:
    """One write, with the directory that it finds.

    Attributes:
        prepare: Makes the directory.
        write: The write.
        contents: Of every revision that is there before; the last one is the file.
        after: The file when it is done.
        operation: How the journal calls it.
        held: What is held back when it is done.
        never_made: Numbers of changes that a dead writer left recorded.
        outside: Whether the last revision is another program's, still to be noticed.
    """

    prepare: Callable[[Stores], None]
    write: Callable[[Stores], object]
    contents: dict[int, bytes]
    after: bytes
    operation: str
    held: tuple[bytes, ...] = ()
    never_made: tuple[int, ...] = ()
    outside: bool = False

    @property
    def before(self) -> bytes | None:
        return self.contents[max(self.contents)] if self.contents else None

    @property
    def made(self) -> list[int]:
        return [n for n in sorted(self.contents, reverse=True) if n]


def nothing(stores: Stores) -> None:
    pass


def no_block(stores: Stores) -> None:
    stores.file.parent.rmdir()


def a_file(stores: Stores) -> None:
    stores.file.write_bytes(array(A, B))


def two_changes(stores: Stores) -> None:
    stores.put(array(A))
    stores.put(array(A, B))


def another_program(stores: Stores) -> None:
    two_changes(stores)
    stores.file.write_bytes(array(A, C))


def a_dead_writer(stores: Stores) -> None:
    two_changes(stores)
    old = stores.file.with_name("old")
    os.link(stores.file, old)
    stores.delete("a")
    shutil.copyfile(stores.file, temporary_path(stores.file))
    old.replace(stores.file)


def a_dead_writer_of_a_new_file(stores: Stores) -> None:
    stores.put(array(A))
    stores.file.rename(temporary_path(stores.file))


def in_parts(stores: Stores) -> Stores:
    """Let the stores change files of any size as if they were too large to be held in memory."""
    stores.store.contents.large_bytes = 1
    return stores


VIEWER = WriteContext(Author("bob", "10.0.0.7"), viewer=Viewer("bob", "v"), guarded=True)
TWO = {1: array(A), 2: array(A, B)}

WRITES = {
    "put a new file": Write(nothing, lambda s: s.put(array(A)), {}, array(A), "put"),
    "put in a new block": Write(no_block, lambda s: s.put(array(A)), {}, array(A), "put"),
    "put over a file without history": Write(
        a_file, lambda s: s.put(array(B, C)), {0: array(A, B)}, array(B, C), "put"
    ),
    "put": Write(two_changes, lambda s: s.put(array(B, C)), TWO, array(B, C), "put"),
    "guarded put": Write(
        two_changes, lambda s: s.put(array(C), VIEWER), TWO, array(A, B, C), "put", held=(A,)
    ),
    "patch": Write(two_changes, lambda s: s.patch("a", reviewed=True), TWO, array(A2, B), "patch"),
    "patch of a file in parts": Write(
        two_changes,
        lambda s: in_parts(s).patch("a", reviewed=True),
        TWO,
        array(A2, B),
        "patch",
    ),
    "delete in a file in parts after another program": Write(
        another_program,
        lambda s: in_parts(s).delete("a"),
        TWO | {3: array(A, C)},
        array(C),
        "delete",
        outside=True,
    ),
    "delete": Write(two_changes, lambda s: s.delete("a"), TWO, array(B), "delete"),
    "restore": Write(
        two_changes, lambda s: s.past.restore(s.place, 1, ANN), TWO, array(A), "restore"
    ),
    "patch after another program": Write(
        another_program,
        lambda s: s.patch("a", reviewed=True),
        TWO | {3: array(A, C)},
        array(A2, C),
        "patch",
        outside=True,
    ),
    "patch after a dead writer": Write(
        a_dead_writer,
        lambda s: s.patch("a", reviewed=True),
        TWO,
        array(A2, B),
        "patch",
        never_made=(3,),
    ),
    "put after a dead writer of a new file": Write(
        a_dead_writer_of_a_new_file,
        lambda s: s.put(array(A, B)),
        {},
        array(A, B),
        "put",
        never_made=(1,),
    ),
}
STRICT = ("put a new file", "put", "patch", "delete", "restore")
CASES: list[tuple[str, LockKind]] = [
    *((name, "flock") for name in WRITES),
    *((name, "strict") for name in STRICT),
]


# --- the warm process ---


def main() -> None:
    """Fork the writers that a line of JSON on standard input orders; answer how they ended."""
    # On the device where the writers will write: they try out its locks only once.
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as warm:
        for name, lock in CASES:
            stores = open_stores(Path(warm) / lock / name.replace(" ", "-"), lock)
            WRITES[name].prepare(stores)
            WRITES[name].write(stores)
    logging.disable()
    gc.freeze()  # what children share with this process stays shared
    for line in sys.stdin:
        pids = [_fork(**order) for order in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


def _fork(name: str, lock: LockKind, root: str, step: int, steps_to: str = "") -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        stores = open_stores(Path(root), lock)
        WRITES[name].prepare(stores)
        stores = open_stores(Path(root), lock, make=False)
        watch = Recorder() if steps_to else Killer(step)
        watch.start()
        WRITES[name].write(stores)
        watch.stop()
        if isinstance(watch, Recorder):
            Path(steps_to).write_text(json.dumps(watch.steps))
        code = 0
    finally:
        os._exit(code)


class Killer:
    """Kills this process at a step: a line of the watched modules, or an operation on files."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.on = False
        sys.addaudithook(self.audit)

    def start(self) -> None:
        self.on = True
        sys.settrace(self.enter)

    def stop(self) -> None:
        sys.settrace(None)
        self.on = False

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:
        return self.line if frame.f_code.co_filename in WATCHED else None

    def line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.step()
        return self.line

    def audit(self, event: str, args: object) -> None:
        if self.on and event.startswith(AUDITED):
            self.step()

    def step(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


class Recorder:
    """Notes which file is written, synced and renamed, in order."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.on = False
        sys.addaudithook(self.audit)

    def start(self) -> None:
        self.on = True
        sys.setprofile(self.call)

    def stop(self) -> None:
        sys.setprofile(None)
        self.on = False

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event in ("os.rename", "os.link"):
            self.steps.append((event, Path(args[1]).name))

    def call(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and arg in (os.write, os.fsync):
            self.steps.append((arg.__name__, self._open_name()))

    def _open_name(self) -> str:
        """What this process has open in the data root now, besides the lock."""
        self.on, on = False, self.on
        found = set()
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            except FileNotFoundError:
                continue
            if NAME.block.text in path.parts and not path.name.endswith(".lock"):
                found.add(path.name)
        self.on = on
        # Open all the time: the file, as a lock, and the directory, to be synced at the end.
        found -= {NAME.leaf, f"{NAME.leaf} (deleted)"}
        if len(found) > 1:
            found.remove(NAME.block.text)
        return " ".join(sorted(found))


# --- the tests ---


class Writers:
    """The warm process, and directories for its children to write into."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.count = 0

    def write(self, orders: list[dict[str, Any]]) -> list[int]:
        """Let writers write, all at once, each in its own directory; give their exit codes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(orders), file=self.process.stdin, flush=True)
        codes: list[int] = json.loads(self.process.stdout.readline())
        return codes

    def deaths(
        self, name: str, lock: LockKind, first_step: int, every: int
    ) -> Iterator[tuple[int, Path]]:
        """Let a writer die at one step after the other; give the directories, the last one whole.

        The step that goes with a writer that did not have to die is 0.
        """
        for first in count(first_step, ATONCE * every):
            orders: list[dict[str, Any]] = [
                {"name": name, "lock": lock, "root": str(self._root()), "step": step}
                for step in range(first, first + ATONCE * every, every)
            ]
            for order, code in zip(orders, self.write(orders), strict=True):
                assert code in (0, -signal.SIGKILL)
                yield order["step"] if code else 0, Path(order["root"])
                shutil.rmtree(order["root"])
                if not code:
                    return

    def _root(self) -> Path:
        self.count += 1
        return self.directory / str(self.count)


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    directory = Path(tempfile.mkdtemp(prefix="neurotrale-crash-", dir=IN_MEMORY))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.test_crash"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PACKAGE.parent,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    ) as process:
        yield Writers(process, directory)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    shutil.rmtree(directory)


@pytest.mark.quick(5)
@pytest.mark.thorough
@pytest.mark.parametrize(("name", "lock"), CASES, ids=[f"{name}, {lock}" for name, lock in CASES])
def test_write_killed_at_any_step_is_whole_or_not_at_all_and_the_next_one_succeeds(
    pytestconfig: pytest.Config, seed: int, writers: Writers, name: str, lock: LockKind
) -> None:
    every = pytestconfig.option.crash_every
    first = random.Random(f"{seed} {name} {lock}").randint(1, every)
    write = WRITES[name]
    outcomes = []
    seen = None
    for step, root in writers.deaths(name, lock, first, every):
        found = left_behind(root)
        if found != seen or not step:  # else it is just as the death a step before left it
            made = check_after_death(write, lock, root, f"killed at step {step}")
            seen = found
        outcomes.append(made)
    # The file was the old one up to a certain step, and the new one from there on.
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) * every > 50
    assert outcomes.count(True) * every > 5


def left_behind(root: Path) -> dict[str, object]:
    """Tell what can be seen of a directory, but for what is random or a time."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.stat()
        content = None if path.is_dir() or ".journal" in path.name else path.read_bytes()
        size = 0 if path.is_dir() else status.st_size
        name = re.sub("[0-9a-f]{32}", "random", str(path.relative_to(root)))
        found[name] = status.st_mode, status.st_nlink, size, content
    return found


def check_after_death(write: Write, lock: LockKind, root: Path, when: str) -> bool:
    """Check a directory in which a writer died; tell whether its change is there."""
    stores = open_stores(root, lock)
    now = stores.file.read_bytes() if stores.file.exists() else None
    assert now in (write.before, write.after), when
    made = now == write.after
    if now is None:
        with pytest.raises(MissingError):
            stores.store.read(NAME)
    else:
        assert stores.store.read(NAME).body == now
        assert tuple(stores.past.held_removals(stores.place)) == (write.held if made else ()), when

    check_history(write, stores, made, when)
    break_claims(stores, lock)

    expected = array(A) if now is None else now.replace(b"\n]\n", b",\n   " + C2 + b"\n]\n")
    if now is None:
        stores.put(expected)
    else:
        stores.patch("c2")
    assert stores.file.read_bytes() == expected, when
    newest, *_ = check_history(write, stores, made, when, more=1)
    check_revision(stores, newest, expected)
    names = {"fibers.json", *(f".fibers.json{end}" for end in (".lock", ".journal"))}
    optional = {".fibers.json.journal.base"}
    optional |= {".fibers.json.lock.filelock"} if lock == "strict" else set()
    found = {name for name in os.listdir(stores.file.parent) if not OF_FILELOCK.match(name)}
    assert names <= found <= names | optional, when
    return made


# What filelock leaves of a strict lock's very first holder, when that dies while it makes the lock.
OF_FILELOCK = re.compile(r"\.\.fibers\.json\.lock\.private-")


def check_history(write: Write, stores: Stores, made: bool, when: str, more: int = 0) -> list[int]:
    """Check the list of changes and every past revision; give the numbers, newest first."""
    changes = stores.past.page(stores.place, ChangeFilter(), 100).changes
    told = [(entry.n, entry.op) for entry, applied in changes if applied][more:]
    if made:
        newest, *told = told
        assert newest[1] == write.operation, when
        check_revision(stores, newest[0], write.after)
    numbers = [n for n, _ in told]
    unnoticed = write.made[1:] if write.outside and not more else write.made
    assert numbers in (write.made, unnoticed), when
    for n in numbers + [0] * (0 in write.contents and bool(changes)):
        check_revision(stores, n, write.contents[n])
    not_applied = {entry.n: entry.op for entry, applied in changes if not applied}
    assert set(write.never_made) <= not_applied.keys(), when
    dead = [op for n, op in not_applied.items() if n not in write.never_made]
    assert dead in ([], [] if made else [write.operation]), when
    return [entry.n for entry, _ in changes]


def check_revision(stores: Stores, revision: int, expected: bytes) -> None:
    assert content_at(stores.journal, revision, None) == expected
    if stores.file.exists():
        assert content_at(stores.journal, revision, Contents().read(stores.file)) == expected


def break_claims(stores: Stores, lock: LockKind) -> None:
    """Do what the operator is told to do about the claims of a dead holder of a strict lock."""
    if lock != "strict":
        return
    strict = make_lock("strict", stores.file)
    assert isinstance(strict, filelock.StrictSoftFileLock)
    if strict.claims:
        with pytest.raises(BusyError):
            open_stores(stores.root, lock, timeout_s=0).put(array(C))
    for claim in strict.claims:
        strict.force_break(claim.name)


@pytest.mark.parametrize(
    "name",
    [
        "put a new file",
        "put over a file without history",
        "patch",
        "patch after another program",
    ],
)
def test_write_syncs_the_content_then_the_record_then_renames_then_syncs_the_directory(
    writers: Writers, tmp_path: Path, name: str
) -> None:
    steps_to = tmp_path / "steps"
    root = str(tmp_path / "data")
    order = {"name": name, "lock": "flock", "root": root, "step": 0, "steps_to": str(steps_to)}
    assert writers.write([order]) == [0]
    steps = [tuple(step) for step in json.loads(steps_to.read_text())]
    once = [step for step, _ in groupby(steps)]  # a long content takes several writes
    assert once == EXPECTED_STEPS[name]


TEMPORARY, RECORD, BASE = ".fibers.json.tmp", ".fibers.json.journal", ".fibers.json.journal.base"
CONTENT = [("write", TEMPORARY), ("fsync", TEMPORARY)]
RECORDED = [("write", RECORD), ("fsync", RECORD)]
DIRECTORY = ("fsync", "x0y0z0")
REPLACED = [("os.rename", "fibers.json"), DIRECTORY]

EXPECTED_STEPS = {
    "put a new file": [*CONTENT, *RECORDED, DIRECTORY, *REPLACED],
    "put over a file without history": [
        *CONTENT, ("os.link", BASE), DIRECTORY, *RECORDED, DIRECTORY, *REPLACED,
    ],
    "patch": [*CONTENT, *RECORDED, *REPLACED],
    "patch after another program": [*RECORDED, *CONTENT, *RECORDED, *REPLACED],
}  # fmt: skip


if __name__ == "__main__":
    main()
