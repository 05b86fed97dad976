"""Plain files below the data root, and their compressed twins.

cloud-volume and other writers store ``name.gz`` or ``name.br`` and mean ``name``.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from neurotrale.errors import (
    BusyError,
    DamagedError,
    MissingError,
    NotAcceptableError,
    raise_read_error,
    reading,
)
from neurotrale.storage.cache import Stamp
from neurotrale.storage.compression import decompress
from neurotrale.storage.data_root import DataRoot, may_be_served
from neurotrale.storage.descriptors import SAFE_FLAGS, Directory
from neurotrale.storage.media_types import media_type
from neurotrale.storage.names import METADATA_NAMES, Parts, check_file_parts, check_name

# Larger twins are not decompressed in memory for clients that do not accept the coding.
DECOMPRESS_LIMIT_BYTES = 128 * 2**20

_QUIET = "/quiet"  # a note about a directory; no file has this name

_TWINS = ((".gz", "gzip"), (".br", "br"))


class OpenFile:
    """A file that is open; it is closed when nobody refers to it any more.

    Args:
        descriptor: Its descriptor; None if only its status is known.
        status: Its stat result.
        directory: The directory that it was opened in.
        name: Its name there.
    """

    __slots__ = ("descriptor", "directory", "name", "status")

    def __init__(
        self, descriptor: int | None, status: os.stat_result, directory: Directory, name: str
    ) -> None:
        self.descriptor = descriptor
        self.status = status
        self.directory = directory
        self.name = name

    @property
    def path(self) -> str:
        """Its path when it was opened, for messages and as a key."""
        return f"{self.directory.path}/{self.name}"

    def fileno(self) -> int:
        """Return the descriptor of a file that is not closed."""
        assert self.descriptor is not None
        return self.descriptor

    def detach(self) -> int | None:
        """Return the descriptor, which the caller closes from now on; None if there is none."""
        descriptor, self.descriptor = self.descriptor, None
        return descriptor

    def close(self) -> None:
        """Close the file now."""
        descriptor = self.detach()
        if descriptor is not None:
            os.close(descriptor)

    __del__ = close


def _opened(directory: Directory, name: str) -> OpenFile:
    """Open a file that cannot be opened the usual way: behind a link, or a closed directory."""
    status = directory.status(name)
    if not stat.S_ISREG(status.st_mode):
        return OpenFile(None, status, directory, name)
    descriptor = directory.open(name)
    return OpenFile(descriptor, os.fstat(descriptor), directory, name)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that exists: the requested one, or its compressed twin."""

    name: str
    """The requested path relative to the data root, without the suffix of a twin."""
    path: str
    stamp: Stamp
    coding: str
    """"" for the file itself, ``gzip`` or ``br`` for a twin."""
    opened: OpenFile | None = field(default=None, compare=False, repr=False)
    """The file as it was found; None if it was not found in a data root."""

    def close(self) -> None:
        """Close the file if it is open and was not passed on."""
        if self.opened is not None:
            self.opened.close()

    @property
    def media_type(self) -> str:
        """Media type of the decompressed content."""
        return media_type(self.name)


@dataclass(frozen=True, slots=True)
class StoredDirectory:
    """A directory that exists where a file was requested."""


class Files:
    """Looks up and opens files below the data root.

    Args:
        data_root: The data root.
    """

    def __init__(self, data_root: DataRoot) -> None:
        self.data_root = data_root

    def find(self, parts: Parts) -> StoredFile | StoredDirectory:
        """Find a file or, if it does not exist, one of its twins.

        Raises:
            MissingError: None of them exists as a regular file.
            ReadOnlyError: The permissions forbid the look-up.
        """
        found = self.find_exact(parts) or self.find_twin(parts)
        if found is None:
            raise MissingError(f"There is nothing at {'/'.join(parts)!r}.")
        return found

    def find_exact(
        self, parts: Parts, *, renew: bool = True
    ) -> StoredFile | StoredDirectory | None:
        """Find a file of exactly this name; None if there is none.

        Args:
            parts: Names from the root down.
            renew: Whether to open the directory anew before that: it may have been replaced within
                the last second.
        """
        found = self._find(parts, parts, "")
        if found is None and parts and renew and self.data_root.directories.renew(parts[:-1]):
            found = self._find(parts, parts, "")
        return found

    def find_twin(self, parts: Parts) -> StoredFile | None:
        """Find ``name.gz`` or ``name.br``; None if there is neither."""
        for suffix, coding in _TWINS if parts else ():
            file = self._find(parts, (*parts[:-1], parts[-1] + suffix), coding)
            if isinstance(file, StoredFile):
                return file
        return None

    def _find(
        self, parts: Parts, stored: Parts, coding: str
    ) -> StoredFile | StoredDirectory | None:
        try:
            opened = self.opened(stored)
        except MissingError:
            opened = None
        if opened is None:
            return None
        if stat.S_ISREG(opened.status.st_mode):
            return StoredFile("/".join(parts), opened.path, Stamp.of(opened.status), coding, opened)
        is_directory = stat.S_ISDIR(opened.status.st_mode)
        return StoredDirectory() if is_directory and may_be_served(stored, opened.status) else None

    def opened(self, parts: Parts) -> OpenFile | None:
        """Open a file, following links that stay inside the root; None if it does not exist.

        Every chunk request calls this: one ``openat`` and one ``fstat``. What is not a regular
        file is not read, and opening it does not wait.

        Raises:
            MissingError: The name is never served, or a symbolic link on the path leaves the root.
            ReadOnlyError, BusyError, NameTooLongError: The file cannot be opened.
        """
        directories = self.data_root.directories
        try:
            if not parts:
                directory, name = directories.get(()), "."
            else:
                if parts[-1] in METADATA_NAMES:
                    check_file_parts(parts)
                else:
                    for part in parts:
                        check_name(part)
                directory, name = directories.get(parts[:-1]), parts[-1]
            try:
                descriptor = os.open(name, SAFE_FLAGS, dir_fd=directory.descriptor)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return None
                if error.errno == errno.ELOOP:
                    directory, name = directories.behind(directory, name)
                return _opened(directory, name)
            return OpenFile(descriptor, os.fstat(descriptor), directory, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise_read_error(error, "/".join(parts))

    def open(self, stored: StoredFile) -> BinaryIO:
        """Open a file that was looked up; the caller closes it.

        Raises:
            BusyError: The file has changed since it was looked up.
        """
        with reading(stored.name):
            opened = self.reopened(stored).opened
            descriptor = None if opened is None else opened.detach()
            return open(stored.path if descriptor is None else descriptor, "rb")

    def stream(self, stored: StoredFile) -> BinaryIO | OpenFile:
        """Return a file that was looked up, for a `FilePart`.

        Raises:
            BusyError: The file has changed since it was looked up.
        """
        opened = self.reopened(stored).opened
        if opened is None:
            return self.open(stored)
        return OpenFile(opened.detach(), opened.status, opened.directory, opened.name)

    def reopened(self, stored: StoredFile) -> StoredFile:
        """Return a file that was looked up, open again if it was closed.

        Raises:
            BusyError: The file has changed since it was looked up.
        """
        if stored.opened is None or stored.opened.descriptor is not None:
            return stored
        suffix = next((suffix for suffix, coding in _TWINS if coding == stored.coding), "")
        again = self.opened(tuple(f"{stored.name}{suffix}".split("/")))
        if again is None or Stamp.of(again.status) != stored.stamp:
            raise BusyError(f"{stored.name} was changed while it was being looked up.")
        return replace(stored, opened=again)

    def notes(self, directory: Parts) -> dict[str, object]:
        """Return what was noted about a directory within the last second, to add to it.

        Of a directory that has changed lately, nothing is kept: more changes may follow.
        """
        try:
            opened = self.data_root.directories.get(directory)
            quiet = opened.notes.get(_QUIET)
            if quiet is None:
                quiet = Stamp.of(os.fstat(opened.descriptor)).is_settled
                opened.notes[_QUIET] = quiet
        except OSError:  # whoever opens a file there reports it
            return {}
        return opened.notes if quiet else {}

    def decompress(self, stored: StoredFile, enough: int | None = None) -> bytes:
        """Return the decompressed content of a twin.

        Args:
            stored: The twin.
            enough: Return only a little more than so many bytes; None returns all.

        Raises:
            NotAcceptableError: It is too large for that; the client must accept the coding.
            DamagedError: It is not valid in its coding.
        """
        with reading(stored.name), self.open(stored) as file:
            compressed = file.read(DECOMPRESS_LIMIT_BYTES + 1)
        is_too_large = len(compressed) > DECOMPRESS_LIMIT_BYTES
        most_bytes = DECOMPRESS_LIMIT_BYTES if enough is None else enough
        try:
            content = b"" if is_too_large else decompress(compressed, stored.coding, most_bytes)
        except ValueError as error:
            raise DamagedError(
                os.path.basename(stored.path),
                f"expected {stored.coding} data, found something else ({error})",
            ) from error
        if is_too_large or len(content) > DECOMPRESS_LIMIT_BYTES:
            raise NotAcceptableError(
                f"{stored.name} is stored with the coding {stored.coding} and too large to"
                f" decompress here: ask for it with 'Accept-Encoding: {stored.coding}'."
            )
        return content
