"""Which file system a path lies on, and which lock excludes writers there.

Sources: the mount table of Linux (proc(5), mountinfo); filelock's documentation on network file
systems; flock(2).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LockKind = Literal["flock", "strict", "none"]
LockSetting = Literal["auto", "flock", "strict", "none"]

MOUNTINFO = Path("/proc/self/mountinfo")

# fmt: off
_LOCAL = frozenset([
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "aufs", "f2fs",
    "jfs", "reiserfs", "bcachefs", "nilfs2", "ntfs3", "exfat", "vfat", "hfsplus", "squashfs",
    "erofs", "iso9660", "fuseblk",
])
# Every client of these sees the others' flock.
_SHARED_FLOCK = frozenset(["ceph", "gfs2", "ocfs2"])
# flock holds on one node only, or that depends on settings that cannot be seen from here.
_NODE_LOCAL_FLOCK = frozenset([
    "nfs", "nfs4", "gpfs", "beegfs", "fhgfs", "cifs", "smb3", "smbfs", "panfs", "pvfs2", "afs",
    "9p", "virtiofs", "glusterfs", "wekafs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.ceph",
    "fuse.beegfs", "fuse.sshfs",
])
# Neither locks nor exclusive creation mean anything on these.
_NO_LOCKS = frozenset([
    "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.mount-s3", "fuse.geesefs",
    "fuse.blobfuse", "fuse.blobfuse2", "fuse.davfs", "davfs",
])
# fmt: on


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One line of the mount table.

    Attributes:
        kind: Type as the kernel names it, such as ``ext4`` or ``lustre``.
        mounted_at: Its mount point.
        options: Mount and super-block options.
    """

    kind: str
    mounted_at: Path
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind of lock for a file system, and the reason in words.

    Attributes:
        kind: None when no kind is known to exclude there.
        reason: A sentence for the log.
    """

    kind: LockKind | None
    reason: str


def mounts(table: Path = MOUNTINFO) -> list[FileSystem]:
    """Read the mount table, in the order of mounting."""
    found = []
    # Only what is ASCII white space is escaped there; names may hold any other.
    for line in filter(None, table.read_text(errors="surrogateescape").split("\n")):
        fields, _, rest = line.partition(" - ")
        point, options = fields.split(" ")[4:6]
        kind, _, super_options = [*rest.split(" ", 2), "", ""][:3]
        words = frozenset([*options.split(","), *super_options.split(",")])
        found.append(FileSystem(kind, Path(_unescaped(point)), words))
    return found


def file_system_of(path: Path, table: list[FileSystem]) -> FileSystem:
    """Find the file system of a path: the last mount over its nearest parent."""
    real = Path(os.path.realpath(path))
    best = FileSystem("unknown", Path("/"), frozenset())
    for mount in table:
        if (mount.mounted_at == real or mount.mounted_at in real.parents) and len(
            mount.mounted_at.parts
        ) >= len(best.mounted_at.parts):
            best = mount
    return best


def file_systems_below(root: Path, table: list[FileSystem]) -> list[FileSystem]:
    """List the root's own file system and those that are mounted somewhere below it."""
    real = Path(os.path.realpath(root))
    below = [mount for mount in table if real in mount.mounted_at.parents]
    return [file_system_of(real, table), *below]


def choose(setting: LockSetting, system: FileSystem) -> Choice:
    """Choose the kind of lock for a file system.

    ``auto`` takes only what excludes for certain; another setting is the administrator's word.
    """
    if setting == "none":
        return Choice("none", "as set: only one writer at a time may run, nothing makes sure of it")
    automatic = _automatic(system)
    if setting == "auto":
        return automatic
    if setting == "flock" and automatic.kind != "flock":
        return Choice(
            "flock", f"as set, but beware: {automatic.reason}; flock may not exclude other nodes"
        )
    if automatic.kind is None:
        return Choice(setting, f"as set, but beware: {automatic.reason}")
    return Choice(setting, "as set")


def _automatic(system: FileSystem) -> Choice:
    kind = system.kind
    if kind in _NO_LOCKS:
        return Choice(None, f"{kind} has neither locks nor exclusive creation of files")
    if kind in _LOCAL:
        return Choice("flock", f"{kind} is local to this machine")
    if kind in _SHARED_FLOCK:
        return Choice("flock", f"on {kind} flock excludes all nodes")
    if kind == "lustre":
        if "flock" in system.options and "localflock" not in system.options:
            return Choice("flock", "lustre is mounted with -o flock, which excludes all nodes")
        return Choice("strict", "lustre is mounted without -o flock")
    if kind in _NODE_LOCAL_FLOCK:
        return Choice("strict", f"on {kind} flock is not certain to exclude other nodes")
    return Choice("strict", f"{kind} is not known here, and claims on files exclude everywhere")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
