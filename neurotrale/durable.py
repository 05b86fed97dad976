"""Replace a file's content so that a reader, or a crash, sees the old or the new, never a mix."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

log = logging.getLogger(__name__)

# The file system takes tens of milliseconds to give back the space of a file of this size.
LARGE_BYTES = 16 * 2**20


def temporary_of(path: Path) -> Path:
    """Name the temporary sibling of a file; there is one writer at a time, so one name."""
    return path.with_name(f".{path.name}.tmp")


def replace_file(
    path: Path,
    pieces: Iterable[bytes | memoryview],
    before_rename: Callable[[], None] = lambda: None,
    temporary: Path | None = None,
) -> os.stat_result:
    """Write a temporary sibling, make it durable, and rename it over the file.

    The mode and, as far as permitted, owner and group of an existing file are kept; a new file
    follows the directory and the umask. Only one process at a time may write a file; what a
    process that died left behind is overwritten.

    Args:
        path: The file to replace or create.
        pieces: All of its new content.
        before_rename: Called when the new content is on disk and not yet visible; an error that
            it raises leaves the file as it was.
        temporary: A sibling's name of one's own, for writers that nothing keeps apart.

    Returns:
        What stat says of the new file.

    Raises:
        OSError: Nothing was changed.
    """
    temporary = temporary or temporary_of(path)
    with suppress(FileNotFoundError):
        temporary.unlink()
    # Opened before anything is changed: who may not do that is told so in time.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with temporary.open("xb", buffering=0) as file:
            _write_all(file.fileno(), pieces)
            keep_owner(path, file.fileno())
            # The clock of the kernel ticks in milliseconds; with nanoseconds two versions differ.
            now = time.time_ns()
            os.utime(file.fileno(), ns=(now, now))
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
        before_rename()
        with _let_go_later(path):
            temporary.replace(path)
        try:
            _fsync_directory(directory)
        except OSError:
            # The new content is there for everybody; only a power cut could still undo that.
            log.exception("the directory %s could not be made durable", path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(directory)
    return status


@contextmanager
def _let_go_later(path: Path) -> Iterator[None]:
    """Keep the space of a large file until after it was replaced: no writer waits for that."""
    try:
        old = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # there is none
        yield
        return
    try:
        is_large = os.fstat(old).st_size >= LARGE_BYTES
        yield
    except BaseException:
        os.close(old)
        raise
    if is_large:
        Thread(target=os.close, args=(old,), name="let-go", daemon=True).start()
    else:
        os.close(old)


def keep_owner(path: Path, descriptor: int) -> None:
    """Give an open file the mode and, as far as permitted, owner and group of another one."""
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


def append(path: Path, line: bytes, like: Path) -> None:
    """Append bytes to a file and make them durable; on failure the file is as it was.

    Args:
        path: The file; created when absent, with the mode and group of ``like``.
        line: What to append.
        like: A file whose mode and group a new file gets.

    Raises:
        OSError: Nothing was appended.
    """
    existed = path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if not existed:
                keep_owner(like, descriptor)
            _write_all(descriptor, [line])
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
                if not existed:
                    path.unlink()
            raise
    finally:
        os.close(descriptor)
    if not existed:
        fsync_directory(path.parent)


def fsync_directory(directory: Path) -> None:
    """Make a rename in this directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _fsync_directory(descriptor)
    finally:
        os.close(descriptor)


def _fsync_directory(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot, and need not
            raise


def _write_all(descriptor: int, pieces: Iterable[bytes | memoryview]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
