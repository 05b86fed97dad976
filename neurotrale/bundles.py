"""Bundles: directories with a built web application, such as the viewer."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from neurotrale.codings import pack
from neurotrale.errors import MissingError, StartError
from neurotrale.files import Files, Found, FoundDirectory, Stamp
from neurotrale.kept import Kept
from neurotrale.names import Parts
from neurotrale.tree import Tree

PAGE = "index.html"
VIEWER_PACKAGE = "neuroglancer==2.41.2"
"""Carries the viewer that `pages/viewer.js` was written for; requirements-viewer.txt agrees."""
VIEWER_HEAD = '<link rel="icon" href="data:,"><script defer src="../api/viewer.js"></script>'
# A built viewer has about twenty files that compress.
KEPT_FILES = 64
MOST_PACKED_BYTES = 16 * 2**20

_PACKED = re.compile(r".*[.](html|js|mjs|css|json|svg|wasm|txt)", re.IGNORECASE)
_HEAD = re.compile(rb"<head[^>]*>", re.IGNORECASE)
_HASHED = re.compile(r"(?:.*[.-])?(?=[0-9a-f]*[0-9])[0-9a-f]{8,64}[.]\w+")


def viewer_directory() -> Path | None:
    """Find the built viewer that the package `neuroglancer` carries, without importing it.

    The package itself needs a dozen others; its files need none.
    """
    spec = find_spec("neuroglancer")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        directory = Path(place, "static", "client")
        if (directory / PAGE).is_file():
            return directory
    return None


class Bundle:
    """The files of a web application.

    Args:
        root: Where they are.
        head: HTML that its page needs in front of all else in its head.

    Raises:
        StartError: There is no page among them.
    """

    def __init__(self, root: Path, head: str = "") -> None:
        if not (root / PAGE).is_file():
            raise StartError(
                f"{root} has no {PAGE}. Name the directory that the build of the viewer was"
                " written to."
            )
        # What links lead to was chosen by whoever built or installed it.
        self.files = Files(Tree(root, follow_symlinks=True))
        self._head = head.encode()
        self._packed: Kept[bytes] = Kept(KEPT_FILES)

    def page(self) -> tuple[bytes, Stamp]:
        """Read the page of the application.

        Raises:
            MissingError: It was taken away.
            BusyError: It is being changed.
        """
        found = self.find((PAGE,))
        with self.files.open(found) as file:
            content = file.read()
        match = _HEAD.search(content)
        at = match.end() if match is not None else 0
        return content[:at] + self._head + content[at:], found.stamp

    def find(self, parts: Parts) -> Found:
        """Find a file.

        Raises:
            MissingError: There is none.
        """
        found = self.files.find(parts)
        if isinstance(found, FoundDirectory):
            raise MissingError(f"The application has no file {'/'.join(parts)!r}.")
        return found

    def packs(self, found: Found) -> bool:
        """Tell whether compression pays."""
        small = found.stamp.size <= MOST_PACKED_BYTES
        return small and not found.coding and _PACKED.fullmatch(found.name) is not None

    def packed(self, found: Found, coding: str) -> bytes:
        """Give the content of a file, compressed; it is kept.

        Raises:
            BusyError: The file is being changed.
        """
        return self._packed.get(
            (found.path, coding), found.stamp, lambda: self._pack(found, coding)
        )

    def _pack(self, found: Found, coding: str) -> bytes:
        with self.files.open(found) as file:
            return pack(file.read(), coding)


def never_changes(name: str) -> bool:
    """Tell whether a file has the hash of its content in its name, as builds write them."""
    return _HASHED.fullmatch(name.rpartition("/")[2]) is not None
