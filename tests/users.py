"""Other Unix users, who share a directory as the members of a lab do; only root can become them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

ALICE, BOB, EVE, LAB, OWN = 54401, 54402, 54403, 54410, 54411


def enter_namespace() -> None:
    """Enter a user namespace in which nobody exists but this user and its first group."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE: else root owns /proc/self
    if libc.unshare(0x1000_0000) != 0:  # CLONE_NEWUSER
        os._exit(77)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def as_user(uid: int, action: Callable[[], object], *, namespace: bool = False) -> str:
    """Do something as a member of the lab, with umask 022; return what it returned or raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([LAB])
            os.setgid(OWN)
            os.setuid(uid)
            os.umask(0o022)
            if namespace:
                enter_namespace()
            said = str(action())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 77:
        pytest.skip("this system has no user namespaces for ordinary users")
    assert code == 0
    return said
