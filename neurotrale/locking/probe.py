"""Two probes that test whether a lock excludes, and the claims of strict locks.

Several participants, each in its own process or on its own node, acquire the lock again and again.
While holding it, each reads a counter, waits a moment, and writes it back incremented. A
participant that overlaps with another one finds its mark; an overlap that nobody notices shows as
a counter that is too low. The longer probe changes and reads a file as writers of annotations do,
and records all that it sees; `linearizability` says whether that can be.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from neurotrale.errors import BusyError, DamagedError, MissingError
from neurotrale.locking.filesystems import LockKind
from neurotrale.locking.linearizability import Action
from neurotrale.locking.locks import make_lock
from neurotrale.locking.participants import ParticipantHistory, Row
from neurotrale.storage.regular import make_own_directory

WAIT_S = 0.002
POLL_S = 0.05

# Of the recorded probe: how long to wait for the lock, and what to do with which values.
LOCK_TIMEOUT_S = 5.0
ACTIONS: tuple[Action, ...] = ("write", "delete", "read")
KEYS = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class ParticipantReport:
    """The observations of one participant.

    Attributes:
        node: Its host name.
        acquisitions: How often it held the lock.
        overlaps: How often another participant held the lock at the same time.
    """

    node: str
    acquisitions: int
    overlaps: int


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The observations of all participants, and their shared counter.

    Attributes:
        reports: One report per participant.
        counted: Final value of the counter.
    """

    reports: list[ParticipantReport]
    counted: int

    @property
    def total(self) -> int:
        """How often the lock was held, by all participants together."""
        return sum(one.acquisitions for one in self.reports)

    @property
    def excludes(self) -> bool:
        """Whether there was no overlap and no count was lost."""
        return not any(one.overlaps for one in self.reports) and self.counted == self.total


def probe_lock(
    directory: Path, kind: LockKind, rank: int, participants: int, times: int, timeout_s: float
) -> ProbeResult:
    """Take part in a probe, and wait for the reports of the other participants.

    Args:
        directory: A directory that all participants share; it is created, and removed at the end.
        kind: The kind of lock; with ``none`` the participants are expected to overlap.
        rank: Number of this participant, from 0.
        participants: Number of participants.
        times: How often each acquires the lock.
        timeout_s: How long to wait for the others.

    Raises:
        BusyError: Another participant did not start or did not finish in time.
        DamagedError: Another participant uses another kind of lock, or other users can write in
            the directory.
    """
    make_own_directory(directory)
    until = time.monotonic() + timeout_s
    _write_report(directory, f"here-{rank}", {})
    _wait_for(directory, "here", participants, until)
    own_report = _acquire_repeatedly(directory, kind, rank, times, until)
    _write_report(directory, f"seen-{rank}", asdict(own_report))
    reports = [ParticipantReport(**it) for it in _wait_for(directory, "seen", participants, until)]
    counter = directory / "counter"
    result = ProbeResult(reports, int(counter.read_text() or 0))
    _leave(directory, rank, participants, until)
    return result


def prove_lock(
    directory: Path, kind: LockKind, rank: int, participants: int, seconds: float, timeout_s: float
) -> list[ParticipantHistory]:
    """Change and read a small file together with the other participants, for some seconds.

    The arguments and errors are those of `probe_lock`.

    Returns:
        What each participant recorded.
    """
    make_own_directory(directory)
    until = time.monotonic() + timeout_s
    file = directory / "edited.json"
    if rank == 0:
        _replace(file, json.dumps([0, {}]))
    _write_report(directory, f"here-{rank}", {})
    _wait_for(directory, "here", participants, until - seconds - LOCK_TIMEOUT_S)
    own_history = _edit_repeatedly(file, kind, rank, time.monotonic() + seconds)
    _write_report(directory, f"seen-{rank}", asdict(own_history))
    histories = _wait_for(directory, "seen", participants, until)
    _leave(directory, rank, participants, until)
    return [ParticipantHistory(**history) for history in histories]


def _leave(directory: Path, rank: int, participants: int, until: float) -> None:
    _write_report(directory, f"read-{rank}", {})
    if rank == 0:
        _wait_for(directory, "read", participants, until)
        shutil.rmtree(directory, ignore_errors=True)


def _acquire_repeatedly(
    directory: Path, kind: LockKind, rank: int, times: int, until: float
) -> ParticipantReport:
    guarded, counter, mark = directory / "guarded", directory / "counter", directory / "inside"
    overlaps = 0
    for _ in range(times):
        with _holding(kind, guarded, until):
            overlaps += mark.exists()
            mark.write_text(str(rank))
            count = int(counter.read_text()) if counter.exists() else 0
            time.sleep(WAIT_S)
            overlaps += not _contains(mark, str(rank))
            _replace(counter, str(count + 1))
            mark.unlink(missing_ok=True)
    return ParticipantReport(os.uname().nodename, times, overlaps)


def _edit_repeatedly(file: Path, kind: LockKind, rank: int, until: float) -> ParticipantHistory:
    chance, known, refused = random.Random(rank), 0, 0
    rows: list[Row] = []
    while time.monotonic() < until:
        key, written = chance.choice(KEYS), f"{rank}-{len(rows)}"
        action = chance.choices(ACTIONS, (3, 1, 2))[0]
        holding = _holding(kind, file, time.monotonic() + LOCK_TIMEOUT_S)
        try:
            with nullcontext() if action == "read" else holding:
                version, values = json.loads(file.read_text())
                before = values.get(key)
                if action != "read":
                    time.sleep(chance.uniform(0, WAIT_S))
                    version += 1
                    values[key] = written if action == "write" else None
                    _replace(file, json.dumps([version, values]))
        except BusyError:
            refused += 1
            continue
        returned = version + 0.5 if action == "read" else version
        rows.append((key, action, values.get(key), before, known + 0.5, returned))
        known = max(known, version)
        time.sleep(chance.uniform(0, WAIT_S))
    return ParticipantHistory(os.uname().nodename, rows, refused)


@contextmanager
def _holding(kind: LockKind, file: Path, until: float) -> Iterator[None]:
    if kind == "none":  # demonstrates a lock that does not exclude
        yield
        return
    lock = make_lock(kind, file)
    try:
        lock.acquire(timeout=max(0.0, until - time.monotonic()))
    except filelock.Timeout as error:
        raise BusyError(f"Another participant did not release the lock of {file}.") from error
    except filelock.SoftFileLockProtocolError as error:
        raise DamagedError(str(file), f"its lock is not valid: {error.reason}") from error
    try:
        yield
    finally:
        lock.release()


def _contains(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:  # the overlapping participant has removed it
        return False


def _write_report(directory: Path, name: str, report: dict[str, object]) -> None:
    _replace(directory / name, json.dumps(report))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _wait_for(directory: Path, kind: str, participants: int, until: float) -> list[dict[str, Any]]:
    while True:
        os.listdir(directory)  # makes network file systems refresh their caches
        reports = [directory / f"{kind}-{rank}" for rank in range(participants)]
        if all(path.exists() for path in reports):
            return [json.loads(path.read_text()) for path in reports]
        if time.monotonic() > until:
            missing = [path.name for path in reports if not path.exists()]
            raise BusyError(
                f"{', '.join(missing)} did not appear in {directory} in time: do all participants"
                " see this directory?"
            )
        time.sleep(POLL_S)


_CLAIMS_SUFFIX = ".lock.filelock"


def lock_claims(directory: Path) -> Iterator[tuple[Path, filelock.StrictSoftFileClaim]]:
    """Iterate over the files below a directory that have claims, and over these.

    Raises:
        DamagedError: The claims on a file cannot be read.
    """
    for file, lock in _strict_locks(directory):
        for claim in _claims(file, lock):
            yield file, claim


def break_stale_lock(directory: Path, name: str) -> tuple[Path, list[str]]:
    """Remove a claim together with the other claim of the same holder.

    Args:
        directory: The directory to search, with all directories below it.
        name: Name of the claim.

    Returns:
        The file, and the names of the claims that were removed.

    Raises:
        MissingError: There is no such claim.
    """
    for file, lock in _strict_locks(directory):
        claims = _claims(file, lock)
        if any(claim.name == name for claim in claims):
            # A holder has two claims, one per step; their names end in the same token.
            token = name.rpartition("-")[2]
            stale = [claim.name for claim in claims if claim.name.endswith(token)]
            for claim_name in stale:
                lock.force_break(claim_name)
            return file, stale
    raise MissingError(f"There is no claim {name!r} below {directory}.")


def _strict_locks(directory: Path) -> Iterator[tuple[Path, filelock.StrictSoftFileLock]]:
    for claims in sorted(directory.rglob(f".*{_CLAIMS_SUFFIX}")):
        file = claims.with_name(claims.name[1 : -len(_CLAIMS_SUFFIX)])
        lock = make_lock("strict", file)
        assert isinstance(lock, filelock.StrictSoftFileLock)
        yield file, lock


def _claims(
    file: Path, lock: filelock.StrictSoftFileLock
) -> tuple[filelock.StrictSoftFileClaim, ...]:
    try:
        return lock.claims
    except filelock.SoftFileLockProtocolError as error:
        raise DamagedError(str(file), f"its claims cannot be read: {error.reason}") from error
