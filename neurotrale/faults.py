"""Operating-system errors, told apart by what a client should do about them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from neurotrale.errors import (
    BusyError,
    DiskFullError,
    MissingError,
    NameTooLongError,
    ReadOnlyError,
)

# A network file system that changes under us or stalls: asking again is the cure.
_PASSING = {
    errno.ESTALE,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOLCK,
    errno.ENOMEM,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class reading:  # noqa: N801 - used like a function; every chunk passes here, so it is no generator
    """Translate the errors of a read.

    Args:
        what: The file or directory as its URL names it.

    Raises:
        MissingError: It is absent.
        ReadOnlyError: Its permissions forbid it.
        NameTooLongError: The file system refuses the name's length.
        BusyError: A passing fault of the file system.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            _raise_common(error, self._what, "read")


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Translate the errors of a write; beyond those of `reading`, also a full disk.

    Raises:
        DiskFullError: No space or quota is left.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"{what} was not changed: the disk is full or a quota or file-size limit is"
                f" reached ({error.strerror}). Free some space, then save again.",
            ) from error
        _raise_common(error, what, "written")


def _raise_common(error: OSError, what: str, verb: str) -> None:
    if isinstance(error, (BusyError, ReadOnlyError, DiskFullError)):
        raise error  # already told apart, deeper down
    if error.errno in _ABSENT:
        raise MissingError(f"There is nothing at {what!r}.") from error
    if error.errno in _FORBIDDEN:
        raise ReadOnlyError(
            f"{what} cannot be {verb} ({error.strerror}). Ask the owner of the data for the"
            " permission, or start the service as a user who has it.",
        ) from error
    if error.errno == errno.ENAMETOOLONG:
        raise NameTooLongError(f"The name of {what[:80]!r}... is too long.") from error
    if error.errno in _PASSING:
        raise BusyError(f"{what} cannot be {verb} right now ({error.strerror}).") from error
    raise error
