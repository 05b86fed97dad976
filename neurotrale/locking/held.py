"""A lock that is held, and what to do about lock files that are removed in the meantime.

Clean-up jobs remove lock files. Whoever comes next creates another one, and both writers hold "the
lock". So a writer also holds an flock on the annotation file itself, which nobody sweeps away, and
checks before the rename that its own lock still exists.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from neurotrale.errors import IrregularFileError
from neurotrale.locking.lock_files import claims_path
from neurotrale.locking.writers import WriterClaims
from neurotrale.storage.atomic import close_in_background
from neurotrale.storage.directories import status_of
from neurotrale.storage.regular import open_regular_fd

POLL_S = 0.005
# Errors of file systems without such locks. On NFS, a file must be open for writing (EBADF).
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EBADF}


class LockLostError(Exception):
    """A lock was removed while it was held: another writer may be writing the same file."""


@dataclass(frozen=True, slots=True)
class HeldLock:
    """The lock of a file, while it is held.

    Attributes:
        directory: The directory of the file.
        claims: The claims of this service; None if it makes none.
        lock: The lock; None for the kind ``none``.
        lock_path: Path of the lock.
    """

    directory: Path
    claims: WriterClaims | None
    lock: filelock.BaseFileLock | None
    lock_path: Path

    def check(self) -> None:
        """Check that no other writer can have acquired the lock since.

        Raises:
            LockLostError: The lock or the claim of the service was removed.
        """
        if self.claims is not None and not self.claims.holds(self.directory):
            raise LockLostError("the claim of this service was removed")
        if self.lock is not None and not _exists(self.lock, self.lock_path):
            raise LockLostError("the lock was removed while it was held")


def _exists(lock: filelock.BaseFileLock, path: Path) -> bool:
    """Return whether the files of a held lock still exist."""
    # filelock has no public name for these two; without them, its own files could not be told
    # from those of the next holder.
    state = lock._context
    try:
        if isinstance(lock, filelock.StrictSoftFileLock):
            # Where the lock's path leads now, not where the lock was made.
            claims = claims_path(path) / "claims"
            for claim in state.owner_claim_paths:
                os.close(open_regular_fd(claims / os.path.basename(claim)))
            return bool(state.owner_claim_paths)
        assert state.lock_file_fd is not None
        return os.path.samestat(os.fstat(state.lock_file_fd), status_of(path))
    except OSError:
        return False


@contextmanager
def content_lock(file: Path, until: float) -> Iterator[None]:
    """Hold an flock on a file itself.

    It has no effect if the file does not exist, or cannot be locked here.

    Args:
        file: The file.
        until: When to stop waiting, by `time.monotonic`.

    Raises:
        TimeoutError: Another process holds it.
    """
    descriptor = _locked(file, until)
    try:
        yield
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            close_in_background(descriptor)


def _locked(file: Path, until: float) -> int | None:
    while True:
        try:
            descriptor = open_regular_fd(file)
        except (FileNotFoundError, PermissionError, IrregularFileError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(descriptor, file):
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "another program has locked it") from None
            time.sleep(POLL_S)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                return None
            raise


def _is_current(descriptor: int, file: Path) -> bool:
    """Return whether an open file has not been replaced or removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), status_of(file))
    except FileNotFoundError:
        return False
