"""The directories of a data set as the service sees them, entry by entry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurotrale.checking.findings import Findings
from neurotrale.errors import MissingError, NameTooLongError
from neurotrale.names import check_name
from neurotrale.tree import Tree


@dataclass(frozen=True, slots=True)
class Item:
    """A file or directory that is served.

    Attributes:
        name: Its own.
        place: Its path below the data set.
        path: Where it is.
        is_directory: What it is.
    """

    name: str
    place: str
    path: str
    is_directory: bool


class Look:
    """Lists directories, and notes what the service would not serve of them.

    Entries are taken as the directory gives them: no file is asked for its status but links.

    Args:
        dataset: The data set.
        tree: The data root.
        findings: Where what is wrong is noted.
    """

    def __init__(self, dataset: Path, tree: Tree, findings: Findings) -> None:
        self.dataset = dataset
        self.tree = tree
        self.findings = findings

    def items(self, place: str) -> Iterator[Item]:
        """Give the entries of a directory that are served, as they are read.

        Args:
            place: The directory's path below the data set; "" for the data set itself.
        """
        try:
            with os.scandir(self.dataset / place) as entries:
                for entry in entries:
                    item = self._item(entry, f"{place}/{entry.name}" if place else entry.name)
                    if item is not None:
                        yield item
        except OSError as error:
            self.unreadable(place or ".", error)

    def unreadable(self, place: str, error: OSError) -> None:
        """Note that something cannot be read."""
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        self.findings.add("unreadable", place, cause.strerror or str(error))

    def _item(self, entry: os.DirEntry[str], place: str) -> Item | None:
        if entry.name.startswith("."):
            if entry.name.endswith(".tmp"):
                self.findings.add("leftover", place)
            return None
        try:
            check_name(entry.name)
        except (MissingError, NameTooLongError):
            self.findings.add("never-served", place)
            return None
        if entry.is_symlink() and not self._is_good_link(entry, place):
            return None
        if entry.is_file():
            return Item(entry.name, place, entry.path, False)
        if entry.is_dir():
            return Item(entry.name, place, entry.path, True)
        self.findings.add("stray", place, "neither a file nor a directory")
        return None

    def _is_good_link(self, entry: os.DirEntry[str], place: str) -> bool:
        target = os.readlink(entry.path)
        if not self.tree.inside(entry.path):
            self.findings.add("link-outside", place, f"leads to {target}")
            return False
        if not os.path.exists(entry.path):
            self.findings.add("link-broken", place, f"leads to {target}")
            return False
        return True
