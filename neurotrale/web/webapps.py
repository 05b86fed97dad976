"""Built web applications, such as the viewer, that the service hosts from a directory."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from neurotrale.errors import MissingError, StartError, reading
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.compression import compress
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files, StoredDirectory, StoredFile
from neurotrale.storage.names import Parts

PAGE = "index.html"
VIEWER_PACKAGE = "neuroglancer==2.41.2"
"""The viewer that `pages/viewer.js` is written for; requirements-viewer.txt pins the same."""
VIEWER_HEAD = '<link rel="icon" href="data:,"><script defer src="../api/viewer.js"></script>'
# A built viewer has about twenty compressible files.
CACHED_FILES = 64
MAX_COMPRESSED_BYTES = 16 * 2**20

_COMPRESSIBLE = re.compile(r".*[.](html|js|mjs|css|json|svg|wasm|txt)", re.IGNORECASE)
_HEAD = re.compile(rb"<head[^>]*>", re.IGNORECASE)
_HASHED = re.compile(r"(?:.*[.-])?(?=[0-9a-f]*[0-9])[0-9a-f]{8,64}[.]\w+")


def viewer_directory() -> Path | None:
    """Find the built viewer in the package `neuroglancer`, without importing the package.

    The package depends on a dozen others; its viewer on none.
    """
    spec = find_spec("neuroglancer")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        directory = Path(location, "static", "client")
        if (directory / PAGE).is_file():
            return directory
    return None


class Bundle:
    """The files of a web application.

    Args:
        root: Directory of the files.
        head: HTML to insert at the start of the page's head.

    Raises:
        StartError: The directory has no page.
    """

    def __init__(self, root: Path, head: str = "") -> None:
        if not (root / PAGE).is_file():
            raise StartError(
                f"{root} has no {PAGE}. Name the directory that the build of the viewer was"
                " written to."
            )
        # Whoever built or installed the application chose where its links lead.
        self.files = Files(DataRoot(root, follow_symlinks=True))
        self._head = head.encode()
        self._compressed: VersionedCache[bytes] = VersionedCache(CACHED_FILES)

    def page(self) -> tuple[bytes, Stamp]:
        """Return the page of the application and its version stamp.

        Raises:
            MissingError: The page was removed.
            BusyError: The page is being changed.
        """
        file = self.find((PAGE,))
        with self.files.open(file) as stream:
            content = stream.read()
        match = _HEAD.search(content)
        at = match.end() if match is not None else 0
        return content[:at] + self._head + content[at:], file.stamp

    def find(self, parts: Parts) -> StoredFile:
        """Find a file of the application.

        Raises:
            MissingError: It does not exist.
        """
        file = self.files.find(parts)
        if isinstance(file, StoredDirectory):
            raise MissingError(f"The application has no file {'/'.join(parts)!r}.")
        return file

    def mentions(self, word: str) -> bool:
        """Return whether a script of the application has a word in it.

        Tells what a release can do whose version is not stated anywhere.
        """
        scripts = self.files.data_root.root.rglob("*.js")
        with reading(PAGE):
            return any(word.encode() in path.read_bytes() for path in scripts if path.is_file())

    def is_compressible(self, file: StoredFile) -> bool:
        """Return whether compressing a file is worthwhile."""
        small = file.stamp.size <= MAX_COMPRESSED_BYTES
        return small and not file.coding and _COMPRESSIBLE.fullmatch(file.name) is not None

    def compressed(self, file: StoredFile, coding: str) -> bytes:
        """Return the content of a file, compressed and cached.

        Raises:
            BusyError: The file is being changed.
        """
        return self._compressed.get(
            (file.path, coding),
            file.stamp,
            lambda: self._compress(file, coding),
            is_settled=file.stamp.is_settled,
        )

    def _compress(self, file: StoredFile, coding: str) -> bytes:
        with self.files.open(file) as stream:
            return compress(stream.read(), coding)


def is_immutable(name: str) -> bool:
    """Return whether a name contains the hash of the content, as build tools write it."""
    return _HASHED.fullmatch(name.rpartition("/")[2]) is not None
