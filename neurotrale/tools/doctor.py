"""Examines whether a data directory and this machine can do what the service promises.

Each examination returns facts, not log lines: `Diagnosis`. Everything that is created for a trial
is in a hidden directory of its own, which is removed at the end.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from neurotrale.locking.filesystems import FileSystem, LockChoice, file_system_of
from neurotrale.storage.acl import GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, AclEntry, encode_acl
from neurotrale.storage.cache import COARSE_NS, FINE_NS, has_fine_times
from neurotrale.storage.permissions import (
    NFS4_ACLS,
    POSIX_ACL,
    permissions_of,
    read_attribute,
    shared_rights,
)
from neurotrale.storage.regular import is_mapped, user_name

State = Literal["ok", "note", "problem"]

MIB = 2**20
# A file system of fewer free bytes has no room for a copy of a large annotation file.
FEW_BYTES = 1024 * MIB
FEW_INODES = 10_000
# Times further apart than this make "since" queries and clean-up by age wrong.
SKEW_S = 2.0
MOST_DIRECTORIES = 2000

_OPENAT2 = 437  # the number of the system call, on every architecture
_AT_FDCWD = -100


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one examination.

    Attributes:
        topic: What was examined, in a word or two.
        state: Whether it needs attention: a problem breaks a promise of the service, a note is
            something to know.
        fact: What was found.
        advice: What to do; empty if nothing.
    """

    topic: str
    state: State
    fact: str
    advice: str = ""


def examine(
    root: Path, table: Sequence[FileSystem], body_bytes: int, spool: Path | None = None
) -> list[Diagnosis]:
    """Examine everything but the lock.

    Args:
        root: The data root.
        table: The mount table.
        body_bytes: Largest accepted annotation file.
        spool: Where large uploads wait; None for the temporary directory.
    """
    found = [mount_of(root, table), automount(root, table)]
    with scratch_in(root) as scratch:
        if scratch is not None:
            found += [access_lists(scratch), times(scratch)]
    found += [users(root), openat2(root), *space(root, body_bytes, spool)]
    return found + who_may_write(root)


@contextmanager
def scratch_in(root: Path) -> Iterator[Path | None]:
    """Make a hidden directory, removed at the end; None if that is not permitted."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".doctor-", dir=root))
    except OSError:
        yield None
        return
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def mount_of(root: Path, table: Sequence[FileSystem]) -> Diagnosis:
    """Say which file system the directory is on, and whether it can be written."""
    system = file_system_of(root, list(table))
    fact = f"{system.kind}, mounted at {system.mounted_at}"
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        return Diagnosis("file system", "note", f"{fact}, read-only", "Start with --read-only.")
    return Diagnosis("file system", "ok", fact)


def automount(root: Path, table: Sequence[FileSystem]) -> Diagnosis:
    """Say whether the directory, or one above it, is mounted on demand."""
    real = Path(os.path.realpath(root))
    points = [one.mounted_at for one in table if one.kind == "autofs"]
    above = [point for point in points if point == real or point in real.parents]
    if not above:
        return Diagnosis("automount", "ok", "not mounted on demand")
    advice = (
        "Before a container binds it, list it once (ls), and bind the mounted directory itself,"
        f" not {above[-1]}."
    )
    return Diagnosis("automount", "note", f"{above[-1]} is mounted on demand", advice)


def lock(choice: LockChoice, trial: str | None, excludes: bool | None) -> Diagnosis:
    """Say which lock writers use, and what a trial of it showed.

    Args:
        choice: The kind of lock, and the reason.
        trial: What the trial showed; None if there was none.
        excludes: Whether it excluded the other process; None if there was no trial.
    """
    if choice.kind is None:
        advice = "Start the service with --read-only, or keep annotations on another file system."
        return Diagnosis("lock", "problem", f"none is safe: {choice.reason}", advice)
    fact = f"{choice.kind}: {choice.reason}" + (f"; {trial}" if trial else "")
    if excludes is False:
        advice = "Do not write here with it; try the other kind (neurotrale locks --lock KIND)."
        return Diagnosis("lock", "problem", fact, advice)
    if excludes is None:
        advice = "Not tried: that needs a directory in which you may write."
        return Diagnosis("lock", "note", fact, advice)
    advice = "Before several nodes write: srun -N2 neurotrale locks --prove DIRECTORY"
    return Diagnosis("lock", "ok", fact, advice)


def access_lists(scratch: Path) -> Diagnosis:
    """Say which access control lists and attributes files can have there."""
    file = scratch / "access"
    file.touch(0o600)
    entries = [
        AclEntry(USER_OBJ, 0xFFFF_FFFF, 6),
        AclEntry(USER, os.getuid(), 4),
        AclEntry(GROUP_OBJ, 0xFFFF_FFFF, 0),
        AclEntry(MASK, 0xFFFF_FFFF, 4),
        AclEntry(OTHER, 0xFFFF_FFFF, 0),
    ]
    kinds = []
    if any(read_attribute(scratch, name) for name in NFS4_ACLS):
        kinds.append("NFSv4 ACLs")
    if _can_set(file, POSIX_ACL, encode_acl(entries)):
        kinds.append("POSIX ACLs")
    if _can_set(file, "user.neurotrale", b"1"):
        kinds.append("user attributes")
    file.chmod(0o640)
    if stat.S_IMODE(file.stat().st_mode) != 0o640:
        fact = "files cannot have modes of their own"
        advice = "Who may read and write is decided by the options of the mount."
        return Diagnosis("permissions", "note", fact, advice)
    if any("ACL" in kind for kind in kinds):
        return Diagnosis("permissions", "ok", f"modes, {', '.join(kinds)}; kept by each save")
    advice = "Share directories by group: chgrp LAB and chmod g+rwxs on each."
    return Diagnosis("permissions", "note", ", ".join(["modes", *kinds, "no ACLs"]), advice)


def _can_set(file: Path, name: str, value: bytes) -> bool:
    try:
        os.setxattr(file, name, value)
    except OSError:
        return False
    return True


def times(scratch: Path) -> Diagnosis:
    """Say how finely the file system tells times, and how far its clock is from this one's."""
    file = scratch / "times"
    seen, before, until = [], time.time_ns(), time.monotonic() + 0.1
    while time.monotonic() < until:
        file.write_bytes(b"")
        seen.append(file.stat().st_mtime_ns)
    skew_s = abs(seen[0] - before) / 1e9
    if skew_s > SKEW_S:
        fact = f"{skew_s:.0f} s from the clock of this machine"
        advice = "Set the clocks of this machine and the file server by one source (NTP)."
        return Diagnosis("times", "note", fact, advice)
    if all(moment % 10**9 == 0 for moment in seen):
        advice = "Nothing: versions are told apart by content where times are too coarse."
        return Diagnosis("times", "note", "told in whole seconds or more", advice)
    step = min(later - earlier for earlier, later in pairwise(sorted(set(seen))))
    now = file.stat()
    wait = FINE_NS if has_fine_times(now.st_dev, now.st_ctime_ns) else COARSE_NS
    fact = f"told in steps of {step / 1e6:.3g} ms; a version is settled after {wait / 1e9:g} s"
    return Diagnosis("times", "ok", fact)


def users(root: Path) -> Diagnosis:
    """Say whether users and groups of the data have numbers in this process's namespace."""
    ranges = Path("/proc/self/uid_map").read_text().split()
    me = f"runs as {user_name(os.geteuid())}"
    if ranges == ["0", "0", str(2**32 - 1)]:
        return Diagnosis("user", "ok", f"{me}, all users and groups are known")
    status = root.stat()
    ids = (("owner", "uid", status.st_uid), ("group", "gid", status.st_gid))
    lacking = [name for name, kind, id_ in ids if not is_mapped(kind, id_)]
    fact = f"{me} in a user namespace of {ranges[2]} users"
    if lacking:
        advice = (
            "Saves keep a file's owner and group only as far as the kernel permits: set-group-id on"
            " directories gives new files to the lab's group."
        )
        fact += f"; the data's {' and '.join(lacking)} has no number in it"
        return Diagnosis("user", "note", fact, advice)
    return Diagnosis("user", "ok", f"{fact}; the data's owner and group are known")


def openat2(root: Path) -> Diagnosis:
    """Say whether the kernel lets this process open files with ``openat2``."""
    libc = ctypes.CDLL(None, use_errno=True)
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    opened = libc.syscall(_OPENAT2, _AT_FDCWD, os.fsencode(root), ctypes.byref(how), size)
    if opened >= 0:
        os.close(opened)
        return Diagnosis("openat2", "ok", "available")
    name = errno.errorcode.get(ctypes.get_errno(), "an error")
    return Diagnosis("openat2", "ok", f"refused ({name}); paths are walked without it")


def space(root: Path, body_bytes: int, spool: Path | None) -> list[Diagnosis]:
    """Say how much room there is for uploads and for the data."""
    spool = spool or Path(tempfile.gettempdir())
    free = shutil.disk_usage(spool).free
    fact = f"{_mib(free)} free in {spool}, where large uploads wait"
    most = f"Uploads of up to {_mib(body_bytes)} are accepted (--max-body-mb)"
    advice = f"{most}, and larger ones wait in the data: make room with --spool or TMPDIR."
    is_small = free < body_bytes
    found = [Diagnosis("spool", "note" if is_small else "ok", fact, advice if is_small else "")]
    status = os.statvfs(root)
    free = status.f_bavail * status.f_frsize
    fact = f"{_mib(free)} free in the data root"
    few_inodes = status.f_files > 0 and status.f_favail < FEW_INODES
    fact += f", and only {status.f_favail} more files" if few_inodes else ""
    if free < FEW_BYTES or few_inodes:
        advice = "Saves get 507 when it is full: make room, or have the quota raised."
        return [*found, Diagnosis("space", "note", fact, advice)]
    return [*found, Diagnosis("space", "ok", fact)]


def _mib(size: int) -> str:
    return f"{size // MIB:,} MiB"


def who_may_write(root: Path) -> list[Diagnosis]:
    """Say who may change annotations: this user, the group, everybody."""
    directories = list(islice(_annotated(root), MOST_DIRECTORIES))
    closed = [one for one in directories if not os.access(one, os.W_OK | os.X_OK)]
    found = []
    if closed:
        advice = "Start with --read-only, or let this user write there (chmod, chgrp, setfacl)."
        fact = f"this user may not write in {len(closed)} of {len(directories)} directories"
        found.append(Diagnosis("writing", "note", f"{fact}, such as {closed[0]}", advice))
    else:
        fact = f"this user may write in all {len(directories)} directories that were looked at"
        found.append(Diagnosis("writing", "ok", fact))
    with suppress(OSError):
        found.append(_others(root, directories))
    return found


def _others(root: Path, directories: Sequence[Path]) -> Diagnosis:
    open_to_all = [one for one in directories if one.stat().st_mode & stat.S_IWOTH]
    if open_to_all:
        advice = "Take that right away: chmod o-w on it."
        fact = f"every user of this machine may write in {open_to_all[0]}"
        return Diagnosis("group", "problem", fact, advice)
    if not permissions_of(root).mode_without_acl & stat.S_IWGRP:
        return Diagnosis("group", "ok", "only the owner may write in the data root")
    if shared_rights(root):
        return Diagnosis("group", "ok", "the group may write, also what the service creates")
    fact = "the group may write in the data root, but not what is created there by a usual umask"
    advice = "If the group works together: chmod g+s on each directory."
    return Diagnosis("group", "note", fact, advice)


def _annotated(root: Path) -> Iterator[Path]:
    """Iterate over the root and the annotation directories two levels down, with their blocks."""
    yield root
    for pattern in ("annotations", "*/annotations", "*/*/annotations"):
        for directory in root.glob(pattern):
            if directory.is_dir():
                yield directory
                yield from (one for one in directory.iterdir() if one.is_dir())
