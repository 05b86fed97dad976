"""Plain files below the data root, and their compressed twins.

cloud-volume and other writers store ``name.gz`` or ``name.br`` and mean ``name``.
"""

from __future__ import annotations

import mimetypes
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neurotrale.codings import unpack
from neurotrale.errors import BusyError, DamagedError, MissingError, NotAcceptableError
from neurotrale.faults import reading
from neurotrale.names import Parts
from neurotrale.tree import Tree

# Beyond this a twin is not unpacked in memory for a client that cannot do it itself.
UNPACK_LIMIT_BYTES = 256 * 2**20

_SETTLED_NS = 2_000_000_000

_TWINS = ((".gz", "gzip"), (".br", "br"))

_TYPES = mimetypes.MimeTypes(filenames=())
for _suffix, _type in {
    ".json": "application/json",
    ".csv": "text/csv",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".swc": "text/plain",
    ".log": "text/plain",
    ".md": "text/plain",
    ".nii": "application/octet-stream",
}.items():
    _TYPES.add_type(_type, _suffix)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one version of a file from another without reading it."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take the stamp from what stat says of a file."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def etag(self) -> str:
        """The stamp as the inside of a strong HTTP validator."""
        return f"{self.mtime_ns:x}-{self.size:x}-{self.inode:x}"


def is_settled(changed_ns: int) -> bool:
    """Tell whether a change lies so far back that the next one has another time for certain.

    Args:
        changed_ns: When it was, in nanoseconds since the epoch. Some file systems keep whole
            seconds only.
    """
    return time.time_ns() - changed_ns > _SETTLED_NS


@dataclass(frozen=True, slots=True)
class Found:
    """A file that exists: the one asked for, or its compressed twin."""

    name: str
    """The name that was asked for, relative to the data root."""
    path: str
    stamp: Stamp
    coding: str
    """"" for the file itself, ``gzip`` or ``br`` for a twin."""

    @property
    def media_type(self) -> str:
        """The media type of the decoded content."""
        return media_type(self.name)


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """A directory that exists where a file was asked for."""


class Files:
    """Looks up and opens files below the data root."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def find(self, parts: Parts) -> Found | FoundDirectory:
        """Look for a file, then for its twins.

        Raises:
            MissingError: None of them exists, or it is no regular file.
            ReadOnlyError: The permissions forbid to look.
        """
        exact = self.find_exact(parts)
        if exact is not None:
            return exact
        twin = self.find_twin(parts)
        if twin is not None:
            return twin
        raise MissingError(f"There is nothing at {'/'.join(parts)!r}.")

    def find_exact(self, parts: Parts) -> Found | FoundDirectory | None:
        """Look for a file of just this name."""
        return self._find(parts, parts, "")

    def find_twin(self, parts: Parts) -> Found | None:
        """Look for ``name.gz`` and ``name.br``."""
        if not parts:
            return None
        for suffix, coding in _TWINS:
            found = self._find(parts, (*parts[:-1], parts[-1] + suffix), coding)
            if isinstance(found, Found):
                return found
        return None

    def _find(self, parts: Parts, stored: Parts, coding: str) -> Found | FoundDirectory | None:
        try:
            status_of = self.tree.status(stored)
        except MissingError:
            return None
        if status_of is None:
            return None
        path, status = status_of
        if stat.S_ISDIR(status.st_mode):
            return FoundDirectory()
        if not stat.S_ISREG(status.st_mode):  # pipes and devices are never opened
            return None
        return Found("/".join(parts), path, Stamp.of(status), coding)

    def open(self, found: Found) -> BinaryIO:
        """Open a found file; the caller closes it.

        Raises:
            BusyError: It is not the version that was found any more.
        """
        with reading(found.name):
            file = open(found.path, "rb")  # noqa: SIM115 - the caller closes it
            # A network file system may have told of an old version until the file was opened.
            if Stamp.of(os.fstat(file.fileno())) != found.stamp:
                file.close()
                raise BusyError(f"{found.name} was changed while it was being looked up.")
            return file

    def unpack(self, found: Found) -> bytes:
        """Read a twin and undo its coding.

        Raises:
            NotAcceptableError: It is too large for that; the client must accept the coding.
            DamagedError: It is not valid in its coding.
        """
        with reading(found.name):
            packed = Path(found.path).read_bytes()
        try:
            unpacked = unpack(packed, found.coding, UNPACK_LIMIT_BYTES)
        except ValueError as error:
            raise DamagedError(
                os.path.basename(found.path),
                f"expected {found.coding} data, found something else ({error})",
            ) from error
        if len(unpacked) > UNPACK_LIMIT_BYTES:
            raise NotAcceptableError(
                f"{found.name} is stored with the coding {found.coding} and too large to unpack"
                f" here: ask for it with 'Accept-Encoding: {found.coding}'."
            )
        return unpacked


def media_type(name: str) -> str:
    """Guess a media type from a name; ``info`` is the JSON file of a data set."""
    if name == "info" or name.endswith("/info"):
        return "application/json"
    # The slash keeps a name with a colon from being taken for a URL.
    guessed, packed = _TYPES.guess_type(f"/{name}", strict=False)
    if guessed is None or packed is not None:  # the type is that of what is packed inside
        guessed = "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
