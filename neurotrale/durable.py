"""Replace a file's content so that a reader, or a crash, sees the old or the new, never a mix."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


def replace_file(path: Path, content: bytes) -> None:
    """Write a temporary sibling, make it durable, and rename it over the file.

    The mode and, as far as permitted, the group of an existing file are kept; a new file follows
    the directory and the umask.

    Args:
        path: The file to replace or create.
        content: All of its new content.

    Raises:
        OSError: Nothing was changed.
    """
    temporary = path.with_name(
        f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    )
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            _keep_owner(path, file.fileno())
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def _keep_owner(path: Path, descriptor: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        for owner in ((old.st_uid, old.st_gid), (-1, old.st_gid)):
            try:
                os.fchown(descriptor, *owner)
                break
            except PermissionError:  # only root gives files away; a group must be one of ours
                continue
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def fsync_directory(directory: Path) -> None:
    """Make a rename in this directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)
