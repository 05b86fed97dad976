"""Locks: one writer at a time per annotation file, among threads, processes and nodes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from neurotrale.errors import (
    BusyError,
    DamagedError,
    ReadOnlyError,
    StartError,
    raise_write_error,
)
from neurotrale.locking.filesystems import (
    MOUNTINFO,
    NO_FLOCK,
    FileSystem,
    LockChoice,
    LockKind,
    LockSetting,
    choose,
    fault_of,
    file_system_of,
    file_systems_below,
    mounts,
)
from neurotrale.locking.held import POLL_S, HeldLock, content_lock
from neurotrale.locking.lock_files import (
    PlacedLock,
    PlacedStrictLock,
    follow_sentinel,
    is_shared_with_unnamed_user,
    prepare,
    prepared_mode,
)
from neurotrale.locking.writers import WriterClaims
from neurotrale.metrics import count_lock_wait
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.directories import directory_at

log = logging.getLogger(__name__)


def lock_path(file: Path) -> Path:
    """Return the path of a file's lock: a hidden file beside it."""
    return file.with_name(f".{file.name}.lock")


def make_lock(kind: LockKind, file: Path, place: Directory | None = None) -> filelock.BaseFileLock:
    """Create a lock object for a file.

    A new one is created for each use, because lock objects do not survive a fork. The fallback to
    soft locks on file systems without real ones is off: it would go unnoticed.

    Args:
        kind: The kind of lock; not ``none``.
        file: The file.
        place: The file's directory, for a lock that is taken there wherever it is moved to. The
            caller refers to it until the lock is released.
    """
    path = lock_path(file)
    mode = prepared_mode(kind, path)
    if kind == "strict":
        if place is None:
            return filelock.StrictSoftFileLock(path, poll_interval=POLL_S, mode=mode)
        lock = PlacedStrictLock(place.through(path.name), poll_interval=POLL_S, mode=mode)
        lock.place = place
        return lock
    if place is None:
        return filelock.FileLock(path, poll_interval=POLL_S, mode=mode, fallback_to_soft=False)
    placed = place.through(path.name)
    return PlacedLock(placed, poll_interval=POLL_S, mode=mode, fallback_to_soft=False)


class Locks:
    """The locks of annotation files.

    Args:
        setting: ``auto``, or the kind of lock to use everywhere.
        timeout_s: How long a writer waits while another process holds a lock.
        mount_table: The mount table, in the format of ``/proc/self/mountinfo``.
        share: Whether the group of a shared directory may use the locks of new files.
        claims: The claims of this service; None to make none.
    """

    def __init__(
        self,
        setting: LockSetting = "auto",
        timeout_s: float = 10.0,
        mount_table: Path = MOUNTINFO,
        *,
        share: bool = True,
        claims: WriterClaims | None = None,
    ) -> None:
        self.setting: LockSetting = setting
        self.timeout_s = timeout_s
        self.mount_table = mount_table
        self.share = share
        self._claims = claims
        self._queues: dict[Path, threading.Lock] = {}
        self._users: dict[Path, int] = {}
        self._choices: dict[int, tuple[FileSystem, LockChoice]] = {}
        self._guard = threading.Lock()

    def check(self, root: Path) -> list[str]:
        """Choose locks for the data root and all file systems mounted below it, at start-up.

        Returns:
            A sentence per file system: its type, the lock, and the reason. They are also logged.

        Raises:
            StartError: No kind of lock is known to exclude other writers on one of them.
        """
        sentences: list[str] = []
        for system in file_systems_below(root, mounts(self.mount_table)):
            choice = choose(self.setting, system)
            if choice.kind == "strict" and not sentences and os.access(root, os.W_OK):
                choice = self._tried(choice, system, root)
            if choice.kind is None and "ro" not in system.options:
                raise StartError(
                    f"Writing below {system.mounted_at} would not be safe: {choice.reason}. Start"
                    " with --read-only, or, if no other service writes there, with --lock none."
                )
            sentences.append(f"{system.mounted_at} ({system.kind}): {choice.kind}, {choice.reason}")
            log.info("locks on %s", sentences[-1])
        return sentences

    def choice(self, directory: Path) -> tuple[FileSystem, LockChoice]:
        """Return the file system of a directory and the kind of lock used on it."""
        place = directory_at(directory)
        device = os.fstat(place.descriptor).st_dev
        with self._guard:
            known = self._choices.get(device)
        if known is None:
            system = file_system_of(directory, mounts(self.mount_table))
            known = (
                system,
                self._tried(choose(self.setting, system), system, Path(place.through("."))),
            )
            if known[1].kind is not None:  # a lock that fails may work again later
                with self._guard:
                    self._choices[device] = known
        return known

    def _tried(self, choice: LockChoice, system: FileSystem, directory: Path) -> LockChoice:
        """Return a choice if its lock works in a directory, else another kind, or none."""
        fault = None if choice.kind is None else fault_of(choice.kind, directory, make_lock)
        if fault is None:
            return choice
        log.error("%s (%s): the %s lock %s", system.mounted_at, system.kind, choice.kind, fault)
        if choice.kind == "strict":
            advice = "start with --lock flock if all that writes there runs on this machine"
            return LockChoice(None, f"the strict lock {fault}; {advice}")
        is_other_better = self.setting == "auto" and not fault_of("strict", directory, make_lock)
        return LockChoice("strict" if is_other_better else None, f"flock {fault}")

    @contextmanager
    def hold(self, file: Path, display_path: str) -> Iterator[HeldLock]:
        """Hold the lock of a file.

        Threads of this process queue first, without a limit of time, so that only one of them polls
        the file lock.

        Args:
            file: The file to be written; its lock is the hidden file ``.{name}.lock`` beside it.
            display_path: Its path for errors.

        Raises:
            BusyError: Another process held the lock for longer than the time-out.
            ConflictError: Another service writes in the directory, with another kind of lock.
            ReadOnlyError: No kind of lock excludes other writers on its file system.
        """
        with self._queue(file) as queue, queue:
            began = time.monotonic()
            with self._file_lock(file, display_path, began + self.timeout_s) as lock:
                count_lock_wait(time.monotonic() - began)
                yield lock

    @contextmanager
    def try_hold(self, file: Path) -> Iterator[HeldLock | None]:
        """Hold the lock of a file if it is free right now; yield None if it is not."""
        with self._queue(file) as queue:
            if not queue.acquire(blocking=False):
                yield None
                return
            try:
                with self._file_lock(file, file.name, time.monotonic()) as lock:
                    yield lock
            except BusyError:
                yield None
            finally:
                queue.release()

    @contextmanager
    def _file_lock(self, file: Path, display_path: str, until: float) -> Iterator[HeldLock]:
        with ExitStack() as held:
            try:
                place = directory_at(file.parent)  # stays open until the lock is released
                lock = self._acquire(file, place, display_path, until)
                if lock is not None:
                    held.callback(lock.release)
                    # On NFS before version 4, an flock can wait for minutes for a lock server.
                    if self.choice(file.parent)[0].kind != "nfs":
                        held.enter_context(content_lock(file, until))
            except OSError as error:
                raise_write_error(error, display_path)
            yield HeldLock(file.parent, self._claims, lock, lock_path(file))

    def _acquire(
        self, file: Path, place: Directory, display_path: str, until: float
    ) -> filelock.BaseFileLock | None:
        while True:
            try:
                return self._acquired(file, place, display_path, until)
            except FileNotFoundError as error:  # a clean-up job has removed the lock meanwhile
                if not file.parent.is_dir():
                    raise
                if time.monotonic() > until:
                    raise _busy(display_path) from error
            except DamagedError:
                if not is_shared_with_unnamed_user(lock_path(file)) or time.monotonic() > until:
                    raise
                time.sleep(POLL_S)

    def _acquired(
        self, file: Path, place: Directory, display_path: str, until: float
    ) -> filelock.BaseFileLock | None:
        """Acquire the lock of a file; return None where no lock is used."""
        system, choice = self.choice(file.parent)
        if choice.kind is None:
            raise ReadOnlyError(
                f"{display_path} was not changed: it lies on {system.kind}, and {choice.reason}."
            )
        if self._claims is not None:
            self._claims.keep(file.parent, choice.kind, display_path)
        if choice.kind == "none":
            return None
        prepare(choice.kind, lock_path(file), file, share=self.share)
        lock = make_lock(choice.kind, file, place)
        try:
            lock.acquire(timeout=max(0.0, until - time.monotonic()))
        except filelock.Timeout as error:
            raise _busy(display_path) from error
        except filelock.SoftFileLockProtocolError as error:
            raise DamagedError(display_path, _unclear(lock, error)) from error
        except NotImplementedError as error:  # it had them when the lock was chosen
            raise ReadOnlyError(
                f"{display_path} was not changed: it lies on {system.kind}, and the {choice.kind}"
                f" lock {NO_FLOCK}. Mount it with locks, or start with --lock strict."
            ) from error
        try:
            if choice.kind == "strict":
                follow_sentinel(lock_path(file), file, share=self.share)
        except BaseException:
            lock.release()
            raise
        return lock

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


def _unclear(lock: filelock.BaseFileLock, error: filelock.SoftFileLockProtocolError) -> str:
    path = Path(lock.lock_file)
    return (
        f"nothing was changed, as it is unclear whether its lock is free ({error.reason}). Once no"
        f" other service writes it, move {path.name} and {path.name}.filelock beside it aside."
        " All services that write here must use the same kind of lock."
    )


def _busy(display_path: str) -> BusyError:
    return BusyError(
        f"{display_path} is being written by another client right now. Save again in a moment.", 2
    )
