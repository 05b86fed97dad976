"""The errors of the service, and the translation of operating-system errors into them.

Every class is also a built-in exception; `neurotrale.web.error_handlers` maps each to an HTTP
status. Messages are written for the person who has to fix the problem. `printable` makes text
from files safe for terminals and logs.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn


class BadInputError(ValueError):
    """The request cannot be understood: malformed JSON, a missing id, a bad name."""


class SourceError(BadInputError):
    """A dataset cannot be made from these planes.

    The message has one line per problem, with unprintable characters escaped.
    """


class RuleBrokenError(ValueError):
    """The body is well-formed but breaks rules.

    Args:
        problems: One sentence per broken rule, each starting with its location, for example
            ``[17].points[3]: expected 3 numbers``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class MissingError(LookupError):
    """Nothing exists under this name, or nothing that may be shown."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NameTooLongError(ValueError):
    """A name is longer than file systems allow."""


class ConflictError(ValueError):
    """The state on disk does not allow this change, for example because an id appears twice."""


class ChangedError(ValueError):
    """The file is not the version that If-Match names, or exists although it must not."""


class OtherRequestError(ValueError):
    """An operation id (Idempotency-Key) names another request that was answered before."""


class TooLargeError(ValueError):
    """The body or the file is larger than the configured limit."""


class NotAcceptableError(ValueError):
    """The file exists only in a content coding that the client does not accept."""


class NoTokenError(PermissionError):
    """The request has no valid token. The message never contains any part of a token."""


class TokensUnusableError(RuntimeError):
    """The valid tokens cannot be determined, so every request is refused for now."""

    retry_after_s = 5  # for clients


class ReadOnlyError(PermissionError):
    """The service, the file system or the permissions do not allow this access."""


class DamagedError(ValueError):
    """A file exists, but its content or type is not what it should be.

    Args:
        display_path: Path of the file relative to the data root.
        reason: What was expected and what was found.
    """

    def __init__(self, display_path: str, reason: str) -> None:
        super().__init__(f"{display_path}: {reason}")
        self.display_path = display_path
        self.reason = reason


class BusyError(TimeoutError):
    """The operation may succeed later: a lock is held, or the file system has a transient fault.

    Args:
        retry_after_s: Seconds after which a client should retry.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFullError(OSError):
    """No disk space or quota is left for a write."""


class StartError(ValueError):
    """The service cannot start with these settings; the message says what to change."""


class IncompleteError(ValueError):
    """The last step of a job needs parts that are not done yet.

    Args:
        message: Which parts are missing, and how to produce them.
        shards: Numbers of the missing shards, starting at 1.
    """

    def __init__(self, message: str, shards: Sequence[int]) -> None:
        super().__init__(message)
        self.shards = tuple(shards)


# --- operating-system errors, grouped by what a client should do about them ---

# A network file system changed underneath us or stalls: the client should retry.
_TRANSIENT = {
    *(errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY),
    *(errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.ENOMEM),
    *(errno.EREMOTEIO, errno.EHOSTDOWN, errno.ENOTCONN, errno.ESHUTDOWN),
}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class IrregularFileError(OSError):
    """A file of the service's own has the wrong type, for example a link in place of a journal.

    Args:
        path: Its path.
        expected: The expected type, for example ``a regular file``.
        found: The actual type, for example ``a symbolic link``.
    """

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")
        self.path = path
        self.expected = expected
        self.found = found


@contextmanager
def reading(display_path: str) -> Iterator[None]:
    """Translate the operating-system errors of a read; see `raise_read_error`."""
    try:
        yield
    except OSError as error:
        raise_read_error(error, display_path)


@contextmanager
def writing(display_path: str) -> Iterator[None]:
    """Translate the operating-system errors of a write; see `raise_write_error`."""
    try:
        yield
    except OSError as error:
        raise_write_error(error, display_path)


def raise_read_error(error: OSError, display_path: str) -> NoReturn:
    """Translate an operating-system error of a read, and raise the result.

    Args:
        error: The error; one that is already translated is raised unchanged.
        display_path: Path of the file or directory as the URL names it.

    Raises:
        MissingError: The file or directory does not exist.
        ReadOnlyError: Its permissions forbid the read.
        NameTooLongError: The file system does not allow a name of this length.
        BusyError: The file system has a transient fault.
        DamagedError: One of the service's own files beside it is a link, a pipe or the like.
    """
    _raise_translated(error, display_path, "read")


def raise_write_error(error: OSError, display_path: str) -> NoReturn:
    """Translate an operating-system error of a write, and raise the result.

    Raises:
        DiskFullError: No space or quota is left. Otherwise, see `raise_read_error`.
    """
    if error.errno in _FULL:
        raise DiskFullError(
            f"{display_path} was not changed: the disk is full or a quota or file-size limit is"
            f" reached ({error.strerror}). Free some space, then save again."
        ) from error
    _raise_translated(error, display_path, "written")


def _raise_translated(error: OSError, display_path: str, verb: str) -> NoReturn:
    if isinstance(error, (BusyError, ReadOnlyError, DiskFullError)):
        raise error  # already translated by an inner call
    if isinstance(error, IrregularFileError):
        raise _irregular_file(error, display_path) from error
    if error.errno in _ABSENT:
        raise MissingError(f"There is nothing at {display_path!r}.") from error
    if error.errno in _FORBIDDEN:
        raise ReadOnlyError(
            f"{display_path} cannot be {verb}{_obstacle(error, display_path)} ({error.strerror})."
            " Ask the owner of the data for permission, or start the service as a user who has it.",
        ) from error
    if error.errno == errno.ENAMETOOLONG:
        raise NameTooLongError(f"The name of {display_path[:80]!r}... is too long.") from error
    if error.errno in _TRANSIENT:
        raise BusyError(f"{display_path} cannot be {verb} right now ({error.strerror}).") from error
    raise error


def _obstacle(error: OSError, display_path: str) -> str:
    """Return which other file is in the way, to continue a sentence; empty if it is the same."""
    path = error.filename if isinstance(error.filename, str) else display_path
    shown = _beside(display_path, path)
    if shown == display_path or error.errno == errno.EROFS:
        return ""
    return f": {shown} " + ("is in the way" if os.path.lexists(path) else "cannot be created")


def _beside(display_path: str, path: str) -> str:
    directory, slash, _ = display_path.rpartition("/")
    _, found, below = f"{path}/".rpartition(f"/{directory}/")
    name = below if found else path.rpartition("/")[2]
    return f"{directory}{slash}{name}".rstrip("/")


def _irregular_file(error: IrregularFileError, display_path: str) -> DamagedError:
    return DamagedError(
        _beside(display_path, error.path),
        f"expected {error.expected}, found {error.found}; nothing was changed. The service did not"
        " put it there: find out who did, move it aside, and try again.",
    )


# --- printable text ---
# Names, ids and authors come from files and may contain anything: terminal control sequences,
# line ends, characters that reverse the writing direction, lone surrogates, invisible characters.

# Invisible, but not controls in Unicode: joiners, fillers, variation selectors, the blank Braille.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_PLAIN_WORD = re.compile(r"[^\s\"\\]+")


def printable(text: str) -> str:
    r"""Escape unprintable characters as JSON does (``\n``, ``\u202e``); spaces are unchanged."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def printable_json(text: str) -> str:
    """Escape unprintable characters in JSON text; the text still encodes the same value.

    Line ends and tabs stay: between values they are white space, inside strings already escaped.
    """
    return "".join(part if part in "\n\r\t" else printable(part) for part in _SPACES.split(text))


_SPACES = re.compile(r"([\n\r\t])")


def one_word(text: str) -> str:
    """Return text as one word: unchanged, or as a quoted JSON string if it is not a plain word."""
    if _PLAIN_WORD.fullmatch(text) and "..." not in text:
        return printable(text)
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


_SHORT = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(char: str) -> str:
    if char.isprintable() and not _INVISIBLE.match(char):
        return char
    if char in _SHORT:
        return _SHORT[char]
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
