"""What can go wrong, as a handful of classes that are also built-ins.

Stores raise these; the one table in `neurotrale.problems` says which HTTP status each becomes.
Every message is written for the person who has to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence


class BadInputError(ValueError):
    """The request cannot be understood: malformed JSON, a missing id, a bad name."""


class RuleBrokenError(ValueError):
    """The body is well-formed but breaks rules.

    Args:
        problems: One sentence per broken rule, each naming its place, as in
            ``[17].points[3]: expected 3 numbers``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class MissingError(LookupError):
    """There is nothing (that may be shown) under this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NameTooLongError(ValueError):
    """A name is longer than any file system takes."""


class ConflictError(ValueError):
    """What is on disk does not allow this change, for example an id that stands there twice."""


class ChangedError(ValueError):
    """The file is no longer the version that the client's If-Match names, or exists already."""


class TooLargeError(ValueError):
    """The body or the file is larger than the limit that the administrator set."""


class NotAcceptableError(ValueError):
    """The file exists only in a coding that the client does not take."""


class NoTokenError(PermissionError):
    """The request has no token that is valid here; the message never holds any part of one."""


class ReadOnlyError(PermissionError):
    """The service, the file system or the permissions do not allow this access."""


class DamagedError(ValueError):
    """A file is there but is not what it should be.

    Args:
        what: The file, relative to the data root.
        why: What was expected and what was found.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class BusyError(TimeoutError):
    """It would work later: the lock is held, or the file system has a passing fault.

    Args:
        message: What was waited for.
        retry_after_s: Seconds after which a client should ask again.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFullError(OSError):
    """There is no space (or quota) left for a write."""


class StartError(ValueError):
    """The service cannot start as it was told to; the message says what to change."""


class IncompleteError(ValueError):
    """Parts of a work are not done yet that the last step needs.

    Args:
        message: Which, and how to do them.
        shards: Their numbers, from 1.
    """

    def __init__(self, message: str, shards: Sequence[int]) -> None:
        super().__init__(message)
        self.shards = tuple(shards)
