"""Permissions of files: mode, owner, group, access control lists (ACLs) and user attributes.

`permissions_of` reads them from one file and `apply_permissions` sets them on another, as far as
the kernel allows: a save never fails because an owner or an ACL cannot be kept. In an unprivileged
container (a user namespace) most users and groups have no number: the kernel reports them all as
one *overflow* id, and refuses to set them.

Only the POSIX and NFSv4 ACLs and ``user.*`` are copied. Other extended attributes belong to the
system or to the file system (``security.*``, ``trusted.*``, ``lustre.*``, ``ceph.*``, ``btrfs.*``).

The group bits of a mode are not the rights of the group if the file has a POSIX ACL: they are its
mask, the upper limit for everybody named in the ACL.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from neurotrale.storage.acl import (
    GROUP,
    GROUP_OBJ,
    NO_ID,
    USER,
    AclEntry,
    decode_acl,
    encode_acl,
    named_entries,
    nfs4_group_rights,
    with_former_owners,
)
from neurotrale.storage.directories import directory_of
from neurotrale.storage.regular import is_mapped

POSIX_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
NFS4_ACL = "system.nfs4_acl"
NFS4_ACLS = (NFS4_ACL, "system.nfs4_acl_xdr")  # of NFS, of ZFS


@dataclass(frozen=True, slots=True)
class Permissions:
    """Permissions of a file.

    Attributes:
        uid: The owner.
        gid: The owning group.
        mode: Permission bits, without set-user-id and set-group-id.
        acl: The POSIX ACL; empty if there is none beside the mode.
        nfs4_acls: NFSv4 ACLs, by the names of their extended attributes.
        attributes: The extended attributes ``user.*``.
    """

    uid: int
    gid: int
    mode: int
    acl: tuple[AclEntry, ...] = ()
    nfs4_acls: Mapping[str, bytes] = field(default_factory=dict)
    attributes: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def mode_without_acl(self) -> int:
        """The mode for a file that cannot have the ACL: the group gets its own entry's rights."""
        group = 0o7
        if self.acl:
            group = next((one.rights for one in self.acl if one.tag == GROUP_OBJ), 0)
        elif NFS4_ACL in self.nfs4_acls:
            group = nfs4_group_rights(self.nfs4_acls[NFS4_ACL])
        elif self.nfs4_acls:  # in a format that is not read here
            group = self.mode & 0o7
        return self.mode & (~0o070 | group << 3)

    def for_directory(self) -> Permissions:
        """Return the permissions of a directory whose entries the file's readers may read."""
        acl = tuple(one._replace(rights=_with_search(one.rights)) for one in self.acl)
        mode = self.mode_without_acl if self.nfs4_acls else self.mode
        bits = [_with_search(mode >> shift & 0o7) << shift for shift in (0, 3, 6)]
        return replace(self, mode=sum(bits), acl=acl, nfs4_acls={}, attributes={})


def _with_search(rights: int) -> int:
    return rights | (rights & 0o4) >> 2


def permissions_of(target: int | str | Path, *, attributes: bool = False) -> Permissions:
    """Return the permissions of a file, given by a descriptor or by its path.

    Of a file behind a symbolic link, only owner, group and mode are returned.

    Args:
        target: The file; a descriptor, a path, or as text one that is not to be resolved.
        attributes: Whether to read its user attributes, too.

    Raises:
        OSError: The file does not exist or cannot be examined.
    """
    if isinstance(target, Path):
        place, name = directory_of(target)
        return permissions_of(place.through(name), attributes=attributes)
    status = os.stat(target)
    names = _attribute_names(target)
    acl = read_attribute(target, POSIX_ACL) if POSIX_ACL in names else None
    nfs4_acls = {name: read_attribute(target, name) for name in NFS4_ACLS if name in names}
    return Permissions(
        status.st_uid,
        status.st_gid,
        _without_set_id(stat.S_IMODE(status.st_mode)),
        decode_acl(acl) if acl else (),
        {name: value for name, value in nfs4_acls.items() if value is not None},
        _user_attributes(target, names) if attributes else {},
    )


def read_attribute(target: int | str | Path, name: str) -> bytes | None:
    """Return an extended attribute of a file; None if it has none or it cannot be read."""
    try:
        return os.getxattr(target, name, follow_symlinks=isinstance(target, int))
    except OSError:
        return None


def _attribute_names(target: int | str) -> list[str]:
    try:
        return os.listxattr(target, follow_symlinks=isinstance(target, int))
    except OSError:
        return []


def _user_attributes(target: int | str, names: Sequence[str]) -> dict[str, bytes]:
    values = {name: read_attribute(target, name) for name in names if name.startswith("user.")}
    return {name: value for name, value in values.items() if value is not None}


def _without_set_id(mode: int) -> int:
    """Clear set-user-id and set-group-id: a file written by us must not run as us."""
    # Without group execution, set-group-id is a locking flag.
    runs_as_group = mode & stat.S_ISGID and mode & stat.S_IXGRP
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if runs_as_group else 0))


# --- setting permissions ---


def apply_permissions(
    descriptor: int, permissions: Permissions, adjust: Callable[[int], int] = lambda mode: mode
) -> None:
    """Set these permissions on an open file, as far as the kernel allows.

    The file must have been created by this process with mode 0600, or be known to be a file of the
    service: otherwise it could be another name of somebody's confidential file. Until the last
    step, the file is open to nobody to whom it is not meant to be open.

    Args:
        descriptor: The file.
        permissions: The permissions.
        adjust: Returns the mode to set instead of another one.
    """
    _set_owner(descriptor, permissions)
    for name, value in permissions.attributes.items():
        with suppress(OSError):
            os.setxattr(descriptor, name, value)
    mode = adjust(_set_acl(descriptor, permissions))
    with suppress(OSError):
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)


def follow(
    descriptor: int, permissions: Permissions, adjust: Callable[[int], int] = lambda mode: mode
) -> bool:
    """Bring the permissions of an open companion in line with those of its annotation file.

    A file with several hard links is left alone, as is one that belongs to another user.

    Returns:
        Whether they were changed.
    """
    status = os.fstat(descriptor)
    is_linked = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
    if is_linked or os.geteuid() not in (0, status.st_uid):
        return False
    before = permissions_of(descriptor)
    if before == replace(permissions, mode=adjust(permissions.mode), attributes={}):
        return False
    apply_permissions(descriptor, replace(permissions, attributes={}), adjust)
    return permissions_of(descriptor) != before


def _set_owner(descriptor: int, permissions: Permissions) -> None:
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) == (permissions.uid, permissions.gid):
        return
    # The overflow id may be somebody's within the namespace: never give the file to them.
    uid = permissions.uid if is_mapped("uid", permissions.uid) else -1
    gid = permissions.gid if is_mapped("gid", permissions.gid) else -1
    # Only root may change owners; the group must be one of ours.
    for owner in ((uid, gid), (-1, gid), (uid, -1)):
        with suppress(OSError):
            os.fchown(descriptor, *owner)
            return


def _set_acl(descriptor: int, permissions: Permissions) -> int:
    """Set the ACLs as far as possible; return the mode that the file should have then."""
    special = permissions.mode & 0o7000
    for name, value in permissions.nfs4_acls.items():
        with suppress(OSError):
            os.setxattr(descriptor, name, value)
            return stat.S_IMODE(os.fstat(descriptor).st_mode)
    inherited = None
    if POSIX_ACL in _attribute_names(descriptor):
        inherited = read_attribute(descriptor, POSIX_ACL)
    if permissions.acl:
        acl = _acl_for(permissions, os.fstat(descriptor))
        if _set_posix_acl(descriptor, acl):
            return stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777 | special
        # In a user namespace, an ACL may name users that cannot be set. If the directory's default
        # ACL grants the same, the kernel has already set it, and the mode sets the mask only.
        if named_entries(decode_acl(inherited or b"")) == named_entries(acl):
            return permissions.mode
        settable = [one for one in acl if one.tag not in (USER, GROUP) or one.id != NO_ID]
        if any(one.tag in (USER, GROUP) for one in settable) and _set_posix_acl(
            descriptor, settable
        ):
            return stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777 | special
    if inherited is not None:  # from the directory; the file that is replaced had none
        with suppress(OSError):
            os.removexattr(descriptor, POSIX_ACL)
    return permissions.mode_without_acl


def _acl_for(permissions: Permissions, status: os.stat_result) -> list[AclEntry]:
    uid = permissions.uid if permissions.uid != status.st_uid else None
    gid = permissions.gid if permissions.gid != status.st_gid else None
    uid = uid if uid is not None and is_mapped("uid", uid) else None
    gid = gid if gid is not None and is_mapped("gid", gid) else None
    if uid is None and gid is None:
        return list(permissions.acl)
    return with_former_owners(permissions.acl, uid, gid)


def _set_posix_acl(descriptor: int, acl: Sequence[AclEntry]) -> bool:
    try:
        os.setxattr(descriptor, POSIX_ACL, encode_acl(acl))
    except OSError:
        return False
    return True


# --- what new files get from their directory ---


def shared_rights(directory: int | str | Path) -> int:
    """Return the mode bits that a directory's new files get for its group, whatever the umask.

    They are none unless the directory has set-group-id and its group may write there. A default
    ACL already decides what new files permit.

    Raises:
        OSError: The directory cannot be examined.
    """
    rights = permissions_of(directory).mode_without_acl & stat.S_IRWXG
    is_set_gid = os.stat(directory).st_mode & stat.S_ISGID
    if not is_set_gid or not rights & stat.S_IWGRP or read_attribute(directory, DEFAULT_ACL):
        return 0
    return rights


def share_with_group(descriptor: int, directory: int | str) -> None:
    """Let the group of a directory use a file or directory that was just created there."""
    with suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        rights = shared_rights(directory)
        shared = mode | (rights if stat.S_ISDIR(mode) else rights & 0o060)
        if shared != mode:
            os.fchmod(descriptor, stat.S_IMODE(shared))


def share_directory(path: Path) -> None:
    """Let the group of a directory use a directory that was just created in it."""
    with suppress(OSError):
        place, name = directory_of(path)
        descriptor = place.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            share_with_group(descriptor, place.through("."))
        finally:
            os.close(descriptor)


def set_default_acl(directory: int, permissions: Permissions) -> None:
    """Let new files of an open directory have a file's POSIX ACL, as far as the kernel allows."""
    with suppress(OSError):
        if permissions.acl:
            os.setxattr(directory, DEFAULT_ACL, encode_acl(permissions.acl))
        elif read_attribute(directory, DEFAULT_ACL) is not None:
            os.removexattr(directory, DEFAULT_ACL)
