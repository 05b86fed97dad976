"""Access control lists (ACLs) as the kernel passes them: POSIX ACLs, and those of NFSv4."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from typing import NamedTuple

# Tags of the entries of a POSIX ACL, in the order in which the kernel wants them; see acl(5).
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFF_FFFF  # of entries that name nobody, or somebody whom the user namespace lacks
MASKED = (USER, GROUP_OBJ, GROUP)
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")


class AclEntry(NamedTuple):
    """An entry of a POSIX ACL: its tag, the user or group that it names, and the rwx bits."""

    tag: int
    id: int
    rights: int


def decode_acl(value: bytes) -> tuple[AclEntry, ...]:
    """Decode a POSIX ACL from its extended attribute; empty if its format is not known."""
    body = value.removeprefix(_ACL_VERSION)
    if len(body) == len(value) or len(body) % _ACL_ENTRY.size:
        return ()
    return tuple(AclEntry(tag, id_, rights) for tag, rights, id_ in _ACL_ENTRY.iter_unpack(body))


def encode_acl(acl: Sequence[AclEntry]) -> bytes:
    """Encode a POSIX ACL for its extended attribute."""
    return _ACL_VERSION + b"".join(_ACL_ENTRY.pack(one.tag, one.rights, one.id) for one in acl)


def nfs4_group_rights(value: bytes) -> int:
    """Return the rwx bits that an NFSv4 ACL allows its owning group (XDR of RFC 8881, 6.2.1)."""
    rights, at = 0, 4
    with suppress(struct.error):
        for _ in range(*struct.unpack_from(">I", value)):
            kind, _, mask, length = struct.unpack_from(">4I", value, at)
            if kind == 0 and value[at + 16 : at + 16 + length] == b"GROUP@":
                rights |= (mask & 0x1) << 2 | mask & 0x2 | (mask & 0x20) >> 5
            at += 16 + length + -length % 4
    return rights


def named_entries(acl: Sequence[AclEntry]) -> list[AclEntry]:
    """Return the entries that a change of the mode leaves alone."""
    return [one for one in acl if one.tag in MASKED]


def with_former_owners(acl: Sequence[AclEntry], uid: int | None, gid: int | None) -> list[AclEntry]:
    """Return an ACL with entries for the owner and the group that a copy of the file lacks.

    Otherwise a colleague who saves a file would shut its owner out of it.

    Args:
        acl: The ACL of the file.
        uid: Owner of the file, if the copy has another one.
        gid: Group of the file, if the copy has another one.
    """
    rights = {one.tag: one.rights for one in acl}
    limit = rights.get(MASK, 0o7)  # a wider mask must not widen the other entries
    entries = {
        one[:2]: one._replace(rights=one.rights & limit) if one.tag in MASKED else one
        for one in acl
    }
    if uid is not None:
        entries[USER, uid] = AclEntry(USER, uid, rights[USER_OBJ])
    if gid is not None:
        entries[GROUP, gid] = AclEntry(GROUP, gid, rights[GROUP_OBJ] & limit)
    mask = reduce(or_, (one.rights for one in entries.values() if one.tag in MASKED))
    entries[MASK, NO_ID] = AclEntry(MASK, NO_ID, mask)
    return sorted(entries.values())
