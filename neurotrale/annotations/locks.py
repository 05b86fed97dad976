"""One writer at a time for each annotation file, among threads, processes and nodes."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import filelock

from neurotrale.annotations.filesystems import (
    Choice,
    FileSystem,
    LockKind,
    LockSetting,
    choose,
    file_system_of,
    file_systems_below,
    mounts,
)
from neurotrale.errors import BusyError, ReadOnlyError, StartError
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
    """

    def __init__(self, setting: LockSetting = "auto", timeout_s: float = 10.0) -> None:
        self.setting: LockSetting = setting
        self.timeout_s = timeout_s
        self._queues: dict[Path, threading.Lock] = {}
        self._users: dict[Path, int] = {}
        self._choices: dict[int, tuple[FileSystem, Choice]] = {}
        self._guard = threading.Lock()

    def check(self, root: Path) -> None:
        """Choose for the data root and everything mounted below it, before the service starts.

        The log tells each file system, the lock that is used there, and why.

        Raises:
            StartError: On one of them no lock is known to exclude.
        """
        for system in file_systems_below(root, mounts()):
            choice = choose(self.setting, system)
            if choice.kind is None and "ro" not in system.options:
                raise StartError(
                    f"Writing below {system.mounted_at} would not be safe: {choice.reason}. Start"
                    " with --read-only, or, if no other service writes there, with --lock none."
                )
            log.info(
                "locks on %s (%s): %s, %s",
                system.mounted_at,
                system.kind,
                choice.kind,
                choice.reason,
            )

    def choice(self, directory: Path) -> tuple[FileSystem, Choice]:
        """Tell the file system of a directory and the lock that is used on it."""
        device = directory.stat().st_dev
        with self._guard:
            known = self._choices.get(device)
        if known is None:
            system = file_system_of(directory, mounts())
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


def _busy(what: str) -> BusyError:
    return BusyError(f"{what} is being written by others right now. Save again in a moment.", 2)
