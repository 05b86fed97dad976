"""Uploads: whether a body is taken at all, and what becomes of one that is not.

A request is admitted by its headers, before its client is told to go on with the body. The answer
to one that is not admitted goes out at once. Many clients send the whole body before they read, and
the kernel drops the answer if the connection is closed meanwhile: so it is closed in one direction
only, and some of what still comes is discarded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from neurotrale.errors import DiskFullError
from neurotrale.storage.names import Parts
from neurotrale.storage.spool import Spool

Admit = Callable[[str, str, str, Mapping[str, str]], Exception | None]
"""Says why a request is refused; None if it is not. Opens no file.

Args: the method; the path, decoded as Latin-1; the query string; the headers, with names in the
form ``CONTENT_LENGTH``, among them the length of the body or of the part that has arrived.
"""

LENGTH = "CONTENT_LENGTH"

# A refused body of at most this size is received all the same: the connection can be used again.
RECEIVED_BYTES = 2**16
# After so many bytes of a body of unknown length, its request has to be admitted once more.
STEP_BYTES = 2**18

DISCARDED_BYTES = 8 * 2**20
DISCARDED_S = 2.0


def _admit_all(method: str, path: str, query: str, headers: Mapping[str, str]) -> None:
    pass


def _beside_nothing(path: str, query: str) -> Parts:
    return ()


@dataclass(frozen=True, slots=True)
class Uploads:
    """What a worker does with the bodies of requests.

    Args:
        admit: Decides which ones are taken.
        spool: Where they wait until they are complete.
        beside: Returns the names, from the data root down, of the directory of the file that a
            path and a query mean.
    """

    admit: Admit = _admit_all
    spool: Spool = field(default_factory=Spool)
    beside: Callable[[str, str], Parts] = _beside_nothing


class Upload:
    """The body of a request while it arrives; has the interface of a buffer of a WSGI server.

    Args:
        uploads: What to do with it.
        method: The method of the request.
        path: Its path, decoded as Latin-1.
        query: Its query string.
        headers: Its headers.
        size: The size of the body in bytes; None if that is not known.
        waits: Whether the client sends the body only when it is told to.

    Attributes:
        refusal: Why the rest of the body is not wanted; None if it is.
    """

    def __init__(
        self,
        uploads: Uploads,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        size: int | None,
        *,
        waits: bool,
    ) -> None:
        self._admit = uploads.admit
        self._request = method, path, query, headers
        self._body = uploads.spool.body(size or 0, partial(uploads.beside, path, query))
        self._next_step = STEP_BYTES if size is None else None
        is_short = size is not None and size <= RECEIVED_BYTES and not waits
        # The application refuses a short one itself.
        self.refusal = None if is_short else self._refusal_at(size or 0)

    def __len__(self) -> int:
        return len(self._body)

    def append(self, data: bytes) -> None:
        """Append bytes, unless the body is not wanted."""
        if self.refusal is not None:
            return
        try:
            self._body.append(data)
        except DiskFullError as error:
            self.refusal = error
        if self._next_step is not None and len(self) > self._next_step:
            self._next_step = len(self) + STEP_BYTES
            self.refusal = self.refusal or self._refusal_at(len(self))

    def _refusal_at(self, size: int) -> Exception | None:
        method, path, query, headers = self._request
        return self._admit(method, path, query, {**headers, LENGTH: str(size)})

    def getfile(self) -> BinaryIO:
        """Return the body as a file."""
        return self._body.getfile()

    def close(self) -> None:
        """Free the memory, or the file, that the body takes."""
        self._body.close()


class Discarding:
    """Counts what is discarded of a connection that is closed in one direction."""

    def __init__(self) -> None:
        self._until = time.monotonic() + DISCARDED_S
        self._left = DISCARDED_BYTES

    def is_over(self, size: int = 0) -> bool:
        """Discard bytes; return whether the connection is to be closed now."""
        self._left -= size
        return self._left < 0 or time.monotonic() > self._until
