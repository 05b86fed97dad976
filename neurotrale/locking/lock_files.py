"""The files and directories of locks, where they are made, and who may use them.

Users who may write an annotation file must be able to lock it: its lock gets the same owner, group
and ACL, and follows them at each write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock

from neurotrale.errors import IrregularFileError
from neurotrale.locking.filesystems import LockKind
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.directories import directory_at, directory_of, status_of
from neurotrale.storage.permissions import (
    Permissions,
    follow,
    permissions_of,
    set_default_acl,
    share_with_group,
)
from neurotrale.storage.regular import (
    check_owner,
    create_regular,
    is_mapped,
    is_regular,
    is_writable,
    open_companion_fd,
    open_directory,
    remove_regular,
)


class PlacedLock(filelock.FileLock):
    """A lock whose path leads through an open directory, and is not to be resolved to a name."""

    def _resolve_lock_path(self) -> str:
        return self.lock_file


class PlacedStrictLock(filelock.StrictSoftFileLock):
    """A strict lock that is made in an open directory, wherever its name leads to meanwhile.

    Attributes:
        place: The directory, which stays open as long as the lock exists. To be set before use.
    """

    place: Directory

    def _resolve_lock_path(self) -> str:
        return self.lock_file

    def _acquire(self) -> None:
        name = os.path.basename(self.lock_file)
        # filelock makes this file in a directory that it opens by its last name, which here is a
        # link of the kernel: it refuses that, so the file must be there before.
        _publish_sentinel(self.place, name, self._open_mode())
        try:
            super()._acquire()
        except filelock.SoftFileLockProtocolError as error:
            above = os.path.dirname(self.lock_file)
            reason = error.reason.replace(above, self.place.path)
            raise filelock.SoftFileLockProtocolError(
                f"{self.place.path}/{name}", error.claim_name, reason
            ) from error
        except OSError as error:
            above = os.path.dirname(self.lock_file)
            if error.errno not in (errno.ELOOP, errno.ENOTDIR) or error.filename != above:
                raise
            # A clean-up job has removed it meanwhile; filelock calls this again.


def _publish_sentinel(place: Directory, name: str, mode: int) -> None:
    """Create the file that all holders of a strict lock find at its path, unless it exists."""
    with suppress(FileNotFoundError):
        place.status(name)
        return
    # The form of filelock's own, which removes it if this process dies here.
    private = f".{name}.private-{secrets.token_hex(16)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = place.open(private, flags, mode & ~(stat.S_IWGRP | stat.S_IWOTH))
    try:
        os.write(descriptor, _sentinel())
        with suppress(FileExistsError):
            place.link(private, name)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV):
            raise filelock.SoftFileLockProtocolError(name, None, "no hard links here") from error
        raise
    finally:
        os.close(descriptor)
        place.unlink(private, missing_ok=True)


@cache
def _sentinel() -> bytes:
    """Return what filelock writes at the path of a strict lock, from trying it in memory."""
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        path = Path(scratch, "lock")
        # It is there even if such a lock cannot be taken in that directory.
        with suppress(filelock.Timeout), filelock.StrictSoftFileLock(path).acquire(timeout=0):
            pass
        return path.read_bytes()


def prepared_mode(kind: LockKind, lock: Path) -> int:
    """Return the mode for what filelock creates: that of the lock or the claims prepared for it."""
    try:
        prepared = claims_path(lock) if kind == "strict" else lock
        return _lock_mode(status_of(prepared).st_mode)
    except OSError:
        return -1  # use the umask


def _lock_mode(mode: int) -> int:
    """Return the mode of a lock for that of a file: users who may write it may also lock it."""
    return (mode | 0o600) & 0o666


def claims_path(lock: Path) -> Path:
    """Return the directory of a strict lock; its claims are in ``claims`` in there."""
    return lock.with_name(f"{lock.name}.filelock")


def prepare(kind: LockKind, lock: Path, file: Path, *, share: bool) -> None:
    """Create the lock, or bring its permissions in line, so that the file's writers may lock it.

    filelock itself takes the group from the directory, and the mode of a claim's directories from
    the umask. If something cannot be created here, filelock fails on it as well and reports why.
    filelock never follows links or waits for pipes, either; they are checked for here only to
    report them clearly.

    Args:
        kind: The kind of the lock; not ``none``.
        lock: Path of the lock.
        file: The annotation file, which need not exist.
        share: Whether the group of a shared directory may use the lock of a new file.

    Raises:
        IrregularFileError: The lock is a link, a pipe or the like, or belongs to another user.
        PermissionError: This user may not use the lock.
    """
    exists = is_regular(lock)
    if exists:
        check_owner(lock, status_of(lock).st_uid, file)
    permissions = None
    with suppress(FileNotFoundError):
        permissions = permissions_of(file)
    try:
        if kind == "strict":
            _prepare_claims(lock, file, permissions, share=share)
        elif exists:
            _follow(_open_lock(lock, file, permissions), permissions)
        else:
            descriptor = create_regular(lock)
            if permissions is None and share:
                _share(descriptor, file)
            _follow(descriptor, permissions)
    except (IrregularFileError, PermissionError):
        raise
    except OSError:
        return  # filelock fails on the same, and reports why


def _follow(descriptor: int, permissions: Permissions | None) -> None:
    """Bring the permissions of an open lock in line with those of its file, and close it."""
    try:
        # The lock is empty; anything else could be another name of a confidential file.
        if permissions is not None and os.fstat(descriptor).st_size == 0:
            follow(descriptor, permissions, _lock_mode)
    finally:
        os.close(descriptor)


def follow_sentinel(lock: Path, file: Path, *, share: bool) -> None:
    """Bring the permissions of a strict lock that is held in line with those of its file."""
    _share_claims(lock)
    with suppress(OSError):
        descriptor = open_companion_fd(lock, file)
        try:
            follow(descriptor, permissions_of(file), _lock_mode)
        except FileNotFoundError:
            if share:
                _share(descriptor, file)
        finally:
            os.close(descriptor)


def _share_claims(lock: Path) -> None:
    """Take the sticky bit, which filelock adds at each use, from claims that a group shares.

    In a sticky directory, filelock accepts only the claims directory of a user whom it can name:
    a colleague's has no number in a container, so a second member of the group could never save.
    """
    for directory in (claims_path(lock), claims_path(lock) / "claims"):
        with suppress(OSError):
            place, name = directory_of(directory)
            descriptor = place.open(name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                status = os.fstat(descriptor)
                is_own = status.st_uid == os.geteuid()
                if is_own and status.st_mode & stat.S_ISVTX and status.st_mode & stat.S_IWGRP:
                    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~stat.S_ISVTX)
            finally:
                os.close(descriptor)


def is_shared_with_unnamed_user(lock: Path) -> bool:
    """Return whether the claims on this strict lock belong to a user who has no number here.

    While such a user acquires it, the claims are sticky for a moment, and filelock refuses them.
    """
    try:
        return not is_mapped("uid", status_of(claims_path(lock)).st_uid)
    except OSError:
        return False


def _open_lock(lock: Path, file: Path, permissions: Permissions | None) -> int:
    """Open a lock; first replace another user's that is closed to this one, who may write the file.

    It is replaced while it is locked. Whoever waits for the old one notices that it is gone.
    """
    try:
        return open_companion_fd(lock, file, os.O_RDWR)
    except PermissionError:
        if permissions is None or not is_writable(file):
            raise
    old = open_companion_fd(lock, file)
    try:
        status = os.fstat(old)
        if status.st_uid == os.geteuid() or status.st_size:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(lock))
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory, name = directory_of(lock)
        if os.path.samestat(status, directory.status(name)):
            temporary = temporary_path(lock)
            remove_regular(temporary)
            _follow(create_regular(temporary), permissions)
            directory.rename(temporary.name, name)
    finally:
        os.close(old)
    return open_companion_fd(lock, file, os.O_RDWR)


def _prepare_claims(
    lock: Path, file: Path, permissions: Permissions | None, *, share: bool
) -> None:
    """Create or check the directories of claims, each by the descriptor of its parent."""
    opened = [directory_at(file.parent).list_descriptor()]
    path = claims_path(lock)
    try:
        for directory in (path, path / "claims"):
            is_new = _make_directory(directory.name, opened[-1])
            opened.append(open_directory(directory.name, opened[-1], directory))
            status = os.fstat(opened[-1])
            check_owner(directory, status.st_uid, file)
            if permissions is not None:
                _follow_claims(opened[-1], permissions, stat.S_IMODE(status.st_mode))
            elif is_new and share:
                share_with_group(opened[-1], opened[-2])
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _follow_claims(descriptor: int, permissions: Permissions, mode: int) -> None:
    # Set-group-id: new claims get the directory's group. filelock adds the sticky bit.
    special = mode & stat.S_ISVTX | stat.S_ISGID
    allowed = replace(permissions, mode=_lock_mode(permissions.mode)).for_directory()
    if follow(descriptor, allowed, lambda mode: mode & 0o777 | 0o700 | special):
        set_default_acl(descriptor, permissions)  # of new claims, which all must be able to read


def _share(descriptor: int, file: Path) -> None:
    place = directory_at(file.parent)
    share_with_group(descriptor, place.through("."))


def _make_directory(name: str, parent: int) -> bool:
    """Create a directory in an open one; return False if it already exists."""
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return False
    return True
