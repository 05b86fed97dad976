"""One writer at a time for each annotation file, among threads, processes and nodes."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import filelock

from neurotrale.annotations.filesystems import (
    MOUNTINFO,
    Choice,
    FileSystem,
    LockKind,
    LockSetting,
    choose,
    file_system_of,
    file_systems_below,
    mounts,
)
from neurotrale.durable import keep_owner
from neurotrale.errors import BusyError, DamagedError, ReadOnlyError, StartError
from neurotrale.faults import writing

log = logging.getLogger(__name__)

POLL_S = 0.005


def lock_path(file: Path) -> Path:
    """Name the lock of a file: hidden, beside it."""
    return file.with_name(f".{file.name}.lock")


def make_lock(kind: LockKind, file: Path) -> filelock.BaseFileLock:
    """Make a lock object for a file.

    Made anew for each use: lock objects do not survive a fork. A soft lock in place of a real
    one, on a file system without them, would go unnoticed; that fallback is off.
    """
    path, mode = lock_path(file), _mode_like(file)
    if kind == "strict":
        return filelock.StrictSoftFileLock(path, poll_interval=POLL_S, mode=mode)
    return filelock.FileLock(path, poll_interval=POLL_S, mode=mode, fallback_to_soft=False)


class Locks:
    """Gives out locks, each named after the file that it guards.

    Args:
        setting: ``auto``, or the kind of lock to use everywhere.
        timeout_s: How long a writer waits for its turn.
        mount_table: Tells the file systems, in the format of ``/proc/self/mountinfo``.
    """

    def __init__(
        self,
        setting: LockSetting = "auto",
        timeout_s: float = 10.0,
        mount_table: Path = MOUNTINFO,
    ) -> None:
        self.setting: LockSetting = setting
        self.timeout_s = timeout_s
        self.mount_table = mount_table
        self._queues: dict[Path, threading.Lock] = {}
        self._users: dict[Path, int] = {}
        self._choices: dict[int, tuple[FileSystem, Choice]] = {}
        self._guard = threading.Lock()

    def check(self, root: Path) -> list[str]:
        """Choose for the data root and everything mounted below it, before the service starts.

        Returns:
            A sentence for each file system: what it is, which lock, why. The log has them, too.

        Raises:
            StartError: On one of them no lock is known to exclude.
        """
        sentences = []
        for system in file_systems_below(root, mounts(self.mount_table)):
            choice = choose(self.setting, system)
            if choice.kind is None and "ro" not in system.options:
                raise StartError(
                    f"Writing below {system.mounted_at} would not be safe: {choice.reason}. Start"
                    " with --read-only, or, if no other service writes there, with --lock none."
                )
            sentences.append(f"{system.mounted_at} ({system.kind}): {choice.kind}, {choice.reason}")
            log.info("locks on %s", sentences[-1])
        return sentences

    def choice(self, directory: Path) -> tuple[FileSystem, Choice]:
        """Tell the file system of a directory and the lock that is used on it."""
        device = directory.stat().st_dev
        with self._guard:
            known = self._choices.get(device)
        if known is None:
            system = file_system_of(directory, mounts(self.mount_table))
            known = system, choose(self.setting, system)
            with self._guard:
                self._choices[device] = known
        return known

    @contextmanager
    def hold(self, file: Path, what: str) -> Iterator[None]:
        """Hold the lock of a file.

        Threads of this process queue up first, so that the file lock is polled by one only.

        Args:
            file: The file to be written; its lock is the hidden file ``.{name}.lock`` beside it.
            what: What to call it in errors.

        Raises:
            BusyError: Another writer kept it for longer than the time-out.
            ReadOnlyError: No lock is known to exclude on its file system.
        """
        until = time.monotonic() + self.timeout_s
        with self._queue(file) as queue:
            if not queue.acquire(timeout=self.timeout_s):
                raise _busy(what)
            try:
                with self._file_lock(file, what, until):
                    yield
            finally:
                queue.release()

    @contextmanager
    def if_free(self, file: Path) -> Iterator[bool]:
        """Hold the lock of a file if nobody has it right now; tell whether that is so."""
        with self._queue(file) as queue:
            if not queue.acquire(blocking=False):
                yield False
                return
            try:
                with self._file_lock(file, file.name, time.monotonic()):
                    yield True
            except BusyError:
                yield False
            finally:
                queue.release()

    @contextmanager
    def _file_lock(self, file: Path, what: str, until: float) -> Iterator[None]:
        with writing(what):
            system, choice = self.choice(file.parent)
        if choice.kind is None:
            raise ReadOnlyError(
                f"{what} was not changed: it lies on {system.kind}, and {choice.reason}."
            )
        lock: AbstractContextManager[object] = nullcontext()
        if choice.kind != "none":
            _share(choice.kind, file)
            lock = self._acquired(make_lock(choice.kind, file), what, until)
        with lock:
            yield

    @contextmanager
    def _acquired(self, lock: filelock.BaseFileLock, what: str, until: float) -> Iterator[None]:
        try:
            with writing(what):
                lock.acquire(timeout=max(0.0, until - time.monotonic()))
        except filelock.Timeout as error:
            raise _busy(what) from error
        except filelock.SoftFileLockProtocolError as error:
            raise DamagedError(what, _unclear(lock, error)) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _queue(self, file: Path) -> Iterator[threading.Lock]:
        with self._guard:
            queue = self._queues.setdefault(file, threading.Lock())
            self._users[file] = self._users.get(file, 0) + 1
        try:
            yield queue
        finally:
            with self._guard:
                self._users[file] -= 1
                if not self._users[file]:
                    del self._users[file], self._queues[file]


def _mode_like(file: Path) -> int:
    """Let those who may write the file also lock it."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return -1  # as the umask says
    return (mode | 0o600) & 0o666


def _share(kind: LockKind, file: Path) -> None:
    """Let those who may write the file also lock it: make the lock with its mode and group.

    filelock itself leaves the group to the directory, and a claim's directories to the umask. What
    cannot be made here, it cannot make either, and says why.
    """
    mode = _mode_like(file)
    if mode < 0:
        return
    lock = lock_path(file)
    if kind == "flock":
        with suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            _give(descriptor, file, mode)
        return
    coordination = lock.with_name(f"{lock.name}.filelock")
    for directory in (coordination, coordination / "claims"):
        with suppress(OSError):
            directory.mkdir()
            # New claims get the directory's group.
            searched = mode | (mode & 0o444) >> 2 | stat.S_ISGID
            _give(os.open(directory, os.O_RDONLY | os.O_DIRECTORY), file, searched)


def _give(descriptor: int, file: Path, mode: int) -> None:
    try:
        keep_owner(file, descriptor)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _unclear(lock: filelock.BaseFileLock, error: filelock.SoftFileLockProtocolError) -> str:
    path = Path(lock.lock_file)
    return (
        f"nothing was changed, as nobody can tell whether its lock is free ({error.reason}). Once"
        f" no other service writes it, remove {path.name} and {path.name}.filelock beside it. All"
        " services that write here must use the same kind of lock."
    )


def _busy(what: str) -> BusyError:
    return BusyError(f"{what} is being written by others right now. Save again in a moment.", 2)
