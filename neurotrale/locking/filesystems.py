"""File systems: which one a path is on, and which kind of lock excludes other writers there.

Sources: the mount table of Linux (proc(5), mountinfo); filelock's documentation on network file
systems; flock(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock

from neurotrale.errors import BusyError, writing
from neurotrale.settings.shared import LockSetting as LockSetting
from neurotrale.storage.descriptors import PATH_FLAGS, Directory
from neurotrale.storage.regular import create_regular, open_regular_fd

LockKind = Literal["flock", "strict", "none"]

MOUNTINFO = Path("/proc/self/mountinfo")

# fmt: off
_LOCAL = frozenset([
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "aufs", "f2fs",
    "jfs", "reiserfs", "bcachefs", "nilfs2", "ntfs3", "exfat", "vfat", "hfsplus", "squashfs",
    "erofs", "iso9660", "fuseblk",
])
# Every client of these sees the others' flock.
_SHARED_FLOCK = frozenset(["ceph", "gfs2", "ocfs2"])
# flock excludes on one node only, or that depends on settings that cannot be determined here.
_NODE_LOCAL_FLOCK = frozenset([
    "nfs", "nfs4", "gpfs", "beegfs", "fhgfs", "cifs", "smb3", "smbfs", "panfs", "pvfs2", "afs",
    "9p", "virtiofs", "glusterfs", "wekafs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.ceph",
    "fuse.beegfs", "fuse.sshfs",
])
# Neither locks nor exclusive creation of files work on these.
_NO_LOCKS = frozenset([
    "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.mount-s3", "fuse.geesefs",
    "fuse.blobfuse", "fuse.blobfuse2", "fuse.davfs", "davfs",
])
# fmt: on


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A line of the mount table.

    Attributes:
        kind: Type as named by the kernel, such as ``ext4`` or ``lustre``.
        mounted_at: The mount point.
        options: Mount and super-block options.
    """

    kind: str
    mounted_at: Path
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class LockChoice:
    """The kind of lock for a file system, and the reason for it.

    Attributes:
        kind: The kind of lock; None if no kind is known to exclude other writers.
        reason: The reason, for the log.
    """

    kind: LockKind | None
    reason: str


def mounts(table: Path = MOUNTINFO) -> list[FileSystem]:
    """Read the mount table, in mount order."""
    systems = []
    # The table escapes only ASCII white space; names may contain any other, so no splitlines().
    for line in filter(None, table.read_text(errors="surrogateescape").split("\n")):
        fields, _, rest = line.partition(" - ")
        point, options = fields.split(" ")[4:6]
        kind, _, super_options = [*rest.split(" ", 2), "", ""][:3]
        words = frozenset([*options.split(","), *super_options.split(",")])
        systems.append(FileSystem(kind, Path(_unescaped(point)), words))
    return systems


def file_system_of(path: Path, table: list[FileSystem]) -> FileSystem:
    """Return the file system of a path: the last mount on its nearest parent."""
    real = Path(os.path.realpath(path))
    best = FileSystem("unknown", Path("/"), frozenset())
    for mount in table:
        if (mount.mounted_at == real or mount.mounted_at in real.parents) and len(
            mount.mounted_at.parts
        ) >= len(best.mounted_at.parts):
            best = mount
    return best


def file_systems_below(root: Path, table: list[FileSystem]) -> list[FileSystem]:
    """Return the root's own file system and those mounted anywhere below it."""
    real = Path(os.path.realpath(root))
    below = [mount for mount in table if real in mount.mounted_at.parents]
    return [file_system_of(real, table), *below]


def choose(setting: LockSetting, system: FileSystem) -> LockChoice:
    """Choose the kind of lock for a file system.

    ``auto`` chooses only kinds that are certain to exclude other writers; any other setting is the
    administrator's decision.
    """
    if setting == "none":
        return LockChoice(
            "none", "as set: only one writer may run at a time, and nothing ensures that"
        )
    automatic = _automatic(system)
    if setting == "auto":
        return automatic
    if setting == "flock" and automatic.kind != "flock":
        return LockChoice(
            "flock", f"as set, but beware: {automatic.reason}; flock may not exclude other nodes"
        )
    if automatic.kind is None:
        return LockChoice(setting, f"as set, but beware: {automatic.reason}")
    return LockChoice(setting, "as set")


def _automatic(system: FileSystem) -> LockChoice:
    kind = system.kind
    if kind in _NO_LOCKS:
        return LockChoice(None, f"{kind} has neither locks nor exclusive creation of files")
    if kind in _LOCAL:
        return LockChoice("flock", f"{kind} is local to this machine")
    if kind in _SHARED_FLOCK:
        return LockChoice("flock", f"on {kind} flock excludes all nodes")
    if kind == "lustre":
        if "flock" in system.options and "localflock" not in system.options:
            return LockChoice("flock", "lustre is mounted with -o flock, which excludes all nodes")
        return LockChoice("strict", "lustre is mounted without -o flock")
    if kind in _NODE_LOCAL_FLOCK:
        return LockChoice("strict", f"on {kind} flock is not certain to exclude other nodes")
    return LockChoice("strict", f"{kind} is not known here, and claims on files exclude everywhere")


# --- a trial of the chosen lock ---

TRIAL_S = 1.0
_NOT_EXCLUSIVE = "does not exclude: two writers held it at once"
_TRIED: set[tuple[int, LockKind]] = set()  # devices and kinds of lock whose trial succeeded


MakeLock = Callable[[LockKind, Path, Directory], filelock.BaseFileLock]


NO_FLOCK = "cannot be taken (the file system has no such locks)"


def fault_of(kind: LockKind, directory: Path, make_lock: MakeLock) -> str | None:
    """Take the lock of a scratch file twice, unless that succeeded on the same device before.

    Args:
        kind: The kind of lock.
        directory: A directory where this user may create files.
        make_lock: Creates the lock of a file.

    Returns:
        What is wrong with this kind of lock there; None if it excludes, as far as one machine can
        tell.
    """
    device = os.stat(directory).st_dev
    if kind == "none" or (device, kind) in _TRIED:
        return None
    scratch = directory / f".probe-{secrets.token_hex(16)}"
    scratch.mkdir(0o700)
    try:
        place = Directory(os.open(scratch, PATH_FLAGS | os.O_NOFOLLOW), str(scratch))
        for _ in range(3):  # a clean-up job may remove the first lock before the second is taken
            fault = _fault(*(make_lock(kind, scratch / "guarded", place) for _ in range(2)))
            if fault != _NOT_EXCLUSIVE:
                break
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if fault is None:
        _TRIED.add((device, kind))
    return fault


def _fault(lock: filelock.BaseFileLock, other: filelock.BaseFileLock) -> str | None:
    try:
        lock.acquire(timeout=TRIAL_S)
    except filelock.Timeout:
        return "cannot be taken although nobody holds it"
    except filelock.SoftFileLockProtocolError as error:
        return f"cannot be taken ({error.reason})"
    except OSError as error:
        if error.errno in _UNSUPPORTED | {errno.EPERM}:  # the latter without hard links
            return f"cannot be taken ({error.strerror})"
        raise
    except NotImplementedError:
        return NO_FLOCK
    try:
        with other.acquire(timeout=0):
            return _NOT_EXCLUSIVE
    except filelock.Timeout:
        return None
    finally:
        lock.release()


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


# --- a lock that excludes a second run of the same part of an ingest ---

# Errors of file systems without such locks; there, nothing excludes a second run.
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, if the file system supports locks.

    Args:
        path: The lock file. It is created if necessary and never removed: a process that had
            opened a removed file would lock something that the next run cannot see.

    Raises:
        BusyError: Another process holds the lock.
        ReadOnlyError: The file cannot be opened.
        DamagedError: The path is a link, a pipe or the like.
    """
    with writing(str(path)):
        descriptor = _locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Lock the file that has the name now; older versions of this program may remove it."""
    while True:
        descriptor = _opened(path)
        try:
            _lock(descriptor)
            if _has_name(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    while True:
        try:
            return create_regular(path, os.O_RDWR)
        except FileExistsError:
            pass
        try:
            return _opened_for_lock(path)
        except FileNotFoundError:
            continue  # it was removed or renamed in between


def _opened_for_lock(path: Path) -> int:
    try:
        return open_regular_fd(path, os.O_RDWR)
    except PermissionError:  # another user's file; on local file systems, reading suffices
        return open_regular_fd(path, os.O_RDONLY)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError("Another ingest is running on the same part of this dataset.") from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
