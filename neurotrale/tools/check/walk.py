"""The directories of a dataset as the service sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurotrale.errors import MissingError, NameTooLongError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.links import what_is_missing
from neurotrale.storage.names import check_name
from neurotrale.tools.check.findings import Findings


@dataclass(frozen=True, slots=True)
class WalkedEntry:
    """A file or directory that is served.

    Attributes:
        name: Its name.
        relative_path: Its path below the dataset.
        path: Its path on disk.
        is_directory: Whether it is a directory.
    """

    name: str
    relative_path: str
    path: str
    is_directory: bool


class DirectoryWalker:
    """Lists directories, and reports the entries that the service would not serve.

    Entries are used as the directory lists them: only links are examined with a `stat` call.

    Args:
        dataset: The dataset.
        data_root: The data root.
        findings: Collects the findings.
    """

    def __init__(self, dataset: Path, data_root: DataRoot, findings: Findings) -> None:
        self.dataset = dataset
        self.data_root = data_root
        self.findings = findings

    def entries(self, directory: str) -> Iterator[WalkedEntry]:
        """Iterate over the entries of a directory that are served, while it is being read.

        Args:
            directory: Path below the dataset; "" for the dataset itself.
        """
        try:
            with os.scandir(self.dataset / directory) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    walked = self._served(entry, path)
                    if walked is not None:
                        yield walked
        except OSError as error:
            self.report_unreadable(directory or ".", error)

    def names(self, directory: str) -> Iterator[str]:
        """Iterate over the names of all entries of a directory, including hidden ones."""
        try:
            with os.scandir(self.dataset / directory) as entries:
                for entry in entries:
                    yield entry.name
        except OSError:  # reported by `entries`
            return

    def report_unreadable(self, path: str, error: OSError) -> None:
        """Add the finding that a path below the dataset cannot be read."""
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        self.findings.add("unreadable", path, cause.strerror or str(error))

    def _served(self, entry: os.DirEntry[str], path: str) -> WalkedEntry | None:
        if entry.name.startswith("."):
            if entry.name.endswith(".tmp"):
                self.findings.add("leftover", path)
            return None
        try:
            check_name(entry.name)
        except (MissingError, NameTooLongError):
            self.findings.add("never-served", path)
            return None
        if entry.is_symlink() and not self._is_valid_link(entry, path):
            return None
        if entry.is_file():
            return WalkedEntry(entry.name, path, entry.path, False)
        if entry.is_dir():
            return WalkedEntry(entry.name, path, entry.path, True)
        self.findings.add("stray", path, "neither a file nor a directory")
        return None

    def _is_valid_link(self, entry: os.DirEntry[str], path: str) -> bool:
        target = os.readlink(entry.path)
        if not os.path.exists(entry.path):
            missing = what_is_missing(os.path.realpath(entry.path)) or "which does not exist"
            self.findings.add("link-broken", path, f"points to {target}, {missing}")
            return False
        if not self.data_root.contains(entry.path):
            self.findings.add("link-outside", path, f"points to {target}")
            return False
        return True
