"""Atomic, durable file writes: readers and crashes see the old content or the new, never a mix."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from neurotrale.metrics import count_journal
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.directories import directory_at, directory_of
from neurotrale.storage.permissions import (
    Permissions,
    apply_permissions,
    follow,
    permissions_of,
    share_with_group,
)
from neurotrale.storage.ranges import Piece, blocks_of, write_all
from neurotrale.storage.regular import (
    create_regular,
    is_writable,
    open_companion_fd,
    remove_regular,
)

log = logging.getLogger(__name__)

# Freeing the space of a file of this size takes the file system tens of milliseconds.
LARGE_BYTES = 16 * 2**20


def temporary_path(path: Path) -> Path:
    """Return the path of a file's temporary sibling; one name, as there is one writer at a time."""
    return path.with_name(f".{path.name}.tmp")


def replace_file(
    path: Path,
    pieces: Iterable[Piece],
    before_rename: Callable[[], None] = lambda: None,
    temporary: Path | None = None,
    *,
    share: bool = False,
    examine: Callable[[int], None] | None = None,
) -> os.stat_result:
    """Write a temporary sibling, make it durable, and rename it over the file.

    Mode, owner, group, ACLs and user attributes of an existing file are preserved as far as the
    kernel permits, and nobody else can open the temporary file before. A new file follows the
    directory and the umask. Only one process at a time may write a file; a temporary file left by
    a process that died is overwritten.

    Args:
        path: The file to replace or create.
        pieces: The new content, in order.
        before_rename: Called when the new content is durable but not yet visible. If it raises,
            the file is unchanged.
        temporary: Path of the temporary sibling, for writers that no lock keeps apart.
        share: Whether the group may use a new file as it may use the directory; see
            `neurotrale.storage.permissions.shared_rights`.
        examine: Called with the descriptor of the new file, which can be read, while it becomes
            durable. If it raises, the file is unchanged.

    Returns:
        The stat result of the new file.

    Raises:
        IrregularFileError: The temporary path is a link, a directory or the like.
        OSError: Nothing was changed.
    """
    temporary = temporary or temporary_path(path)
    remove_regular(temporary)
    place, name = directory_of(path)
    # Opened first, so that missing permission is reported before anything is changed.
    directory = place.list_descriptor()
    try:
        old = _permissions(path)
        mode = 0o666 if old is None else 0o600
        with _closing(
            create_regular(temporary, os.O_RDWR if examine else os.O_WRONLY, mode)
        ) as file:
            write_all(file, pieces)
            if old is not None:  # read once more, as it may have changed meanwhile
                apply_permissions(file, _permissions(path) or old)
            elif share:
                share_with_group(file, directory)
            # Kernel timestamps tick in milliseconds; nanoseconds make two versions differ.
            now = time.time_ns()
            os.utime(file, ns=(now, now))
            _fsync_while(file, examine)
            status = os.fstat(file)
        before_rename()
        with _freed_in_background(place, name):
            place.rename(temporary.name, name)
        try:
            _fsync_directory(directory)
        except OSError:
            # The new content is visible to everyone; only a power cut could still undo it.
            log.exception("the directory %s could not be made durable", path.parent)
    except BaseException:
        with suppress(OSError):
            place.unlink(temporary.name)
        raise
    finally:
        os.close(directory)
    return status


def _fsync_while(file: int, examine: Callable[[int], None] | None) -> None:
    if examine is None:
        os.fsync(file)
        return
    with ThreadPoolExecutor(1, "fsync") as threads:
        durable = threads.submit(os.fsync, file)
        examine(file)
        durable.result()


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _freed_in_background(place: Directory, name: str) -> Iterator[None]:
    """Free the space of a large file in a thread after its replacement, so no writer waits."""
    try:
        old = place.open(name, os.O_PATH)
    except OSError:  # no such file
        yield
        return
    try:
        yield
    except BaseException:
        os.close(old)
        raise
    close_in_background(old)


def close_in_background(descriptor: int) -> None:
    """Close a file; a large one in a thread, as it takes long if that frees its space."""
    if os.fstat(descriptor).st_size >= LARGE_BYTES:
        Thread(target=os.close, args=(descriptor,), name="free-space", daemon=True).start()
    else:
        os.close(descriptor)


def _permissions(path: Path) -> Permissions | None:
    try:
        return permissions_of(path, attributes=True)
    except FileNotFoundError:
        return None


def append(path: Path, pieces: Iterable[bytes], file: Path, head: bytes) -> bool:
    """Append bytes to a companion and make them durable; on failure the companion is unchanged.

    The companion follows the permissions of its annotation file. One with several hard links, which
    may belong to a backup, is copied first, and only the copy grows. Another user's that this user
    may not write is replaced by a copy if this user may write the annotation file.

    Args:
        path: The companion; created if absent.
        pieces: The bytes to append.
        file: The annotation file; its temporary file stands in for one that is not yet visible.
        head: The first bytes of every such companion. The permissions of a file that begins
            otherwise are left alone: it may be another name of a confidential file.

    Returns:
        Whether the permissions of an existing companion were changed.

    Raises:
        IrregularFileError: The path is a link, a directory or the like, or somebody else's.
        OSError: Nothing was appended.
    """
    permissions = _permissions_like(file)
    try:
        descriptor, is_new = _open_to_append(path, file, head), False
    except FileNotFoundError:
        mode = 0o666 if permissions is None else 0o600
        descriptor, is_new = create_regular(path, os.O_WRONLY | os.O_APPEND, mode), True
    changed = False
    try:
        if os.fstat(descriptor).st_nlink > 1:
            copy = _replace_by_copy(path, descriptor)
            os.close(descriptor)
            descriptor = copy
        size = os.fstat(descriptor).st_size
        try:
            if permissions is not None and (is_new or _begins_with(descriptor, head)):
                changed = follow(descriptor, permissions)
            write_all(descriptor, pieces)
            os.fsync(descriptor)
            count_journal(os.fstat(descriptor).st_size - size)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
                if is_new:
                    remove_regular(path)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        fsync_directory(path.parent)
    return changed and not is_new


def _permissions_like(file: Path) -> Permissions | None:
    for path in (file, temporary_path(file)):
        with suppress(OSError):
            return permissions_of(path)
    return None


def _open_to_append(path: Path, file: Path, head: bytes) -> int:
    flags = os.O_RDWR | os.O_APPEND
    try:
        return open_companion_fd(path, file, flags)
    except PermissionError:
        if not is_writable(file):
            raise
        with _closing(open_companion_fd(path, file)) as old:
            if os.fstat(old).st_uid == os.geteuid() or not _begins_with(old, head):
                raise
            return _replace_by_copy(path, old)


def _begins_with(descriptor: int, head: bytes) -> bool:
    return head.startswith(os.pread(descriptor, len(head), 0))


def create_file(path: Path, pieces: Iterable[bytes], like: Path) -> None:
    """Create a file and make its content durable; its name needs `fsync_directory`.

    Args:
        path: The file; it must not exist.
        pieces: The content, in order.
        like: A file whose permissions it gets, as far as the kernel permits.

    Raises:
        OSError: The file was not created.
    """
    with _closing(create_regular(path, mode=0o600)) as file:
        try:
            permissions = _permissions_like(like)
            if permissions is not None:
                apply_permissions(file, permissions)
            write_all(file, pieces)
            os.fsync(file)
        except BaseException:
            with suppress(OSError):
                remove_regular(path)
            raise


def _replace_by_copy(path: Path, old: int) -> int:
    """Replace an open file with a copy of it; return the copy's descriptor, for appending."""
    temporary = temporary_path(path)
    place, name = directory_of(path)
    remove_regular(temporary)
    new = create_regular(temporary, os.O_RDWR | os.O_APPEND, 0o600)
    try:
        write_all(new, blocks_of(old, 0, os.fstat(old).st_size))
        apply_permissions(new, permissions_of(old, attributes=True))
        os.fsync(new)
        place.rename(temporary.name, name)
        fsync_directory(path.parent)
    except BaseException:
        os.close(new)
        with suppress(OSError):
            place.unlink(temporary.name)
        raise
    return new


def fsync_directory(directory: Path) -> None:
    """Make a rename in this directory durable."""
    descriptor = directory_at(directory).list_descriptor()
    try:
        _fsync_directory(descriptor)
    finally:
        os.close(descriptor)


def _fsync_directory(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems neither support nor need it
            raise
