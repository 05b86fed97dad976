"""Open the service's own files only if they are regular files.

In a directory shared by a group, any member can create a link, a pipe or a socket with the name of
a journal or a lock. The functions here open a regular file of exactly that name or fail: they
never follow a link or wait for a pipe. A *companion* is such a file beside an annotation file; it
must belong to somebody who may be trusted with it.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from neurotrale.errors import DamagedError, IrregularFileError
from neurotrale.storage.descriptors import PATH_FLAGS, SAFE_FLAGS, Directory
from neurotrale.storage.directories import directory_at, directory_of, status_of

_CREATE_FLAGS = os.O_CREAT | os.O_EXCL

BLOCK_BYTES = 2**16
END_BYTES = 256  # of a line of which not all is read

_TYPE_NAMES = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular_fd(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open an existing regular file.

    Args:
        path: The file. Below a data root, its directory is reached by
            `neurotrale.storage.directories`.
        flags: Flags of `os.open`.

    Returns:
        A descriptor; the caller closes it.

    Raises:
        IrregularFileError: The path is not a regular file.
        OSError: The file does not exist or cannot be opened.
    """
    directory, name = directory_of(path)
    # First, because merely opening a device can have effects.
    _check(path, directory.status(name).st_mode, stat.S_IFREG)
    try:
        descriptor = directory.open(name, flags)
    except OSError:
        _check(path, directory.status(name).st_mode, stat.S_IFREG)  # it was replaced in between
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _irregular(path, mode, stat.S_IFREG)
    return descriptor


def create_regular(path: Path, flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
    """Create a new file, with a mode less the umask, and return its descriptor.

    Raises:
        FileExistsError: The path exists, whatever it is.
        OSError: The file cannot be created.
    """
    directory, name = directory_of(path)
    return directory.open(name, flags | _CREATE_FLAGS, mode)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; see `open_regular_fd`."""
    return os.fdopen(open_regular_fd(path), "rb")


def lines_backwards(file: BinaryIO, most_bytes: int = sys.maxsize) -> Iterator[bytes]:
    """Iterate over the lines of a file from its end, reading no more of it than necessary.

    Empty lines are left out. Of a line of more than `most_bytes`, at least so many from its
    beginning are there, and a few from its end, but perhaps not all in between.
    """
    at = file.seek(0, os.SEEK_END)
    parts: list[bytes] = []  # of a line whose start is not yet found, last part first
    while at > 0:
        while sum(map(len, parts[2:])) > most_bytes:
            parts[:2] = [(parts[1][-END_BYTES:] + parts[0])[-END_BYTES:]]
        size = min(max(BLOCK_BYTES, sum(map(len, parts))), at)
        at -= size
        file.seek(at)
        block = file.read(size)
        lines = block.split(b"\n")
        if len(lines) > 1:
            yield from filter(None, [lines[-1] + b"".join(reversed(parts))])
            yield from filter(None, lines[-2:0:-1])
            parts = [lines[0]]
        else:
            parts.append(block)
    yield from filter(None, [b"".join(reversed(parts))])


def remove_regular(path: Path) -> None:
    """Remove a regular file if it exists.

    Raises:
        IrregularFileError: The path is not a regular file; it is left in place.
        OSError: The file cannot be removed.
    """
    if is_regular(path):
        directory, name = directory_of(path)
        directory.unlink(name, missing_ok=True)


def is_regular(path: Path) -> bool:
    """Return whether a regular file exists; False if nothing does.

    Raises:
        IrregularFileError: The path is something else.
        OSError: The path cannot be examined.
    """
    try:
        check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def check_regular(path: Path) -> None:
    """Check that a path is a regular file.

    Raises:
        IrregularFileError: The path is something else.
        OSError: The path does not exist or cannot be examined.
    """
    _check(path, status_of(path).st_mode, stat.S_IFREG)


def is_writable(path: Path) -> bool:
    """Return whether this user may write a file."""
    try:
        directory, name = directory_of(path)
        return os.access(name, os.W_OK, dir_fd=directory.descriptor)
    except OSError:
        return False


def open_directory(name: str, parent: int, path: Path) -> int:
    """Open a directory, but not through a link, and return its descriptor.

    Args:
        name: Name of the directory.
        parent: Descriptor of its parent directory.
        path: Its path, for errors.

    Raises:
        IrregularFileError: The path is not a directory.
        OSError: The directory does not exist or cannot be opened.
    """
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | SAFE_FLAGS, dir_fd=parent)
    except OSError as error:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        _check(path, mode, stat.S_IFDIR)
        error.filename = str(path)  # instead of the name alone
        raise


def _check(path: Path, mode: int, expected: int) -> None:
    if stat.S_IFMT(mode) != expected:
        raise _irregular(path, mode, expected)


def _irregular(path: Path, mode: int, expected: int) -> IrregularFileError:
    found = _TYPE_NAMES.get(stat.S_IFMT(mode), "something else")
    return IrregularFileError(str(path), _TYPE_NAMES[expected], found)


# --- companions ---


def open_companion_fd(path: Path, file: Path, flags: int = os.O_RDONLY) -> int:
    """Open an existing companion of an annotation file, such as its journal.

    It must belong to this user, root, the owner of the directory, or the owner of the annotation
    file. Where the directory is writable for its group, anybody may own it: every member of the
    group may rename files there.

    Args:
        path: The companion.
        file: The annotation file, which need not exist.
        flags: Flags of `os.open`.

    Returns:
        A descriptor; the caller closes it.

    Raises:
        IrregularFileError: The path is not a regular file, or belongs to another user.
        OSError: The file does not exist or cannot be opened.
    """
    descriptor = open_regular_fd(path, flags)
    try:
        check_owner(path, os.fstat(descriptor).st_uid, file)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_companion(path: Path, file: Path) -> BinaryIO:
    """Open a companion of an annotation file for reading; see `open_companion_fd`."""
    return os.fdopen(open_companion_fd(path, file), "rb")


def check_owner(path: Path, owner: int, file: Path) -> None:
    """Check the owner of a companion of an annotation file; see `open_companion_fd`.

    Raises:
        IrregularFileError: It belongs to a user whose files are not used here.
        OSError: The directory cannot be examined.
    """
    if owner in (0, os.geteuid()):
        return
    place, name = directory_of(file)
    directory = os.fstat(place.descriptor)
    if directory.st_mode & stat.S_IWGRP:  # with an ACL, this bit is its mask
        return
    if is_mapped("uid", owner):
        with suppress(FileNotFoundError):
            if owner == directory.st_uid or owner == place.status(name).st_uid:
                return
    elif directory.st_uid == os.geteuid() or not is_mapped("uid", directory.st_uid):
        return  # such as the journals that a container run by root has left behind
    raise IrregularFileError(
        str(path),
        "a file of this user, of root, or of the owner of its directory or of the annotation file",
        f"a file of {user_name(owner)}",
    )


def user_name(uid: int) -> str:
    """Return a user's name and number, for errors."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


# --- user namespaces ---


def is_mapped(kind: str, id_: int) -> bool:
    """Return whether a reported user (``uid``) or group (``gid``) is surely the one of this number.

    In a user namespace, the kernel reports every id that the namespace lacks as the overflow id.
    """
    try:
        overflow = int(Path(f"/proc/sys/kernel/overflow{kind}").read_text())
        ranges = Path(f"/proc/self/{kind}_map").read_text().split()
    except (OSError, ValueError):  # a kernel without namespaces
        return True
    return id_ != overflow or ranges == ["0", "0", str(2**32 - 1)]


def make_own_directory(directory: Path, place: Directory | None = None) -> Directory:
    """Open a directory in which other users cannot create links; create it if necessary.

    Args:
        directory: The directory.
        place: The open directory above it, wherever its name leads to now.

    Raises:
        DamagedError: The path exists, but is not such a directory.
        OSError: The directory cannot be created.
    """
    place = place or directory_at(directory.parent)
    with suppress(FileExistsError):
        place.make_directory(directory.name, 0o700)
    status = place.status(directory.name)
    if stat.S_ISDIR(status.st_mode):
        flags = PATH_FLAGS | os.O_NOFOLLOW
        opened = Directory(place.open(directory.name, flags), str(directory))
        status = os.fstat(opened.descriptor)
        is_closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_closed and status.st_uid == os.geteuid():
            return opened
    raise DamagedError(
        str(directory),
        "expected a directory that only this user can write in, found something else. Move it"
        " aside, and try again.",
    )
