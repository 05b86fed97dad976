"""The data root: the only module that turns names from requests into paths.

Names that lead out of the root, hidden files, and anything that is not a regular file or a
directory do not exist here.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neurotrale.errors import (
    BusyError,
    MissingError,
    ReadOnlyError,
    StartError,
    raise_read_error,
    reading,
)
from neurotrale.storage.descriptors import Directory
from neurotrale.storage.directories import directories_below
from neurotrale.storage.links import parts_below
from neurotrale.storage.names import (
    METADATA_NAMES,
    Parts,
    check_file_name,
    check_file_parts,
    check_name,
    is_hidden,
)

log = logging.getLogger(__name__)

DATASET_SEARCH_DEPTH = 4
DATASET_SEARCH_DIRECTORIES = 10_000


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name in a directory listing."""

    name: str
    is_directory: bool


# First item of a directory's entries; it shows that the directory is open.
_OPENED = DirectoryEntry(".", True)


class DataRoot:
    """The directory that holds all datasets; nothing outside it is served.

    Args:
        root: The data root.
        follow_symlinks: Also serve targets of symbolic links that lie outside the root or are
            hidden.
    """

    def __init__(self, root: Path, *, follow_symlinks: bool = False) -> None:
        self.root = Path(os.path.realpath(root))
        self.follow_symlinks = follow_symlinks
        self.directories = directories_below(str(self.root), follow_symlinks=follow_symlinks)
        self._device: int | None = None
        with suppress(OSError):  # `check` says what is wrong
            self._device = os.stat(self.root).st_dev

    def check(self) -> None:
        """Check at start-up that the root can be served; otherwise every request would fail.

        Raises:
            StartError: The root is missing, not a directory, or cannot be listed.
        """
        try:
            with os.scandir(self.root):
                pass
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StartError(
                f"The data root {self.root} is not a directory. Name the directory that holds"
                " the datasets, as in 'neurotrale serve /data', or bind it into the container."
            ) from error
        except OSError as error:
            raise StartError(
                f"The data root {self.root} cannot be listed ({error.strerror}). Give the user"
                f" with id {os.geteuid()} read and execute permission on it."
            ) from error

    def check_readable(self) -> None:
        """Check that the data root can be read right now.

        Raises:
            BusyError: It cannot.
        """
        try:
            with os.scandir(self.root) as entries:
                is_empty = next(entries, None) is None
            is_moved = self._device not in (None, os.stat(self.root).st_dev)
        except OSError as error:
            raise BusyError(f"The data root cannot be read: {error.strerror}.", 5) from error
        if is_empty and is_moved:
            raise BusyError(
                "The data root is not mounted: it is empty, and on another file system than when"
                " the service started. Mount it again.",
                5,
            )

    def status(self, parts: Parts) -> os.stat_result | None:
        """Stat a file or directory, following links that stay inside the root.

        Returns:
            The stat result; None if it does not exist.

        Raises:
            MissingError: The name is never served, or a symbolic link on the path leaves the root.
            ReadOnlyError, BusyError, NameTooLongError: The path cannot be examined.
        """
        check_file_parts(parts)
        self.directories.forget(parts)
        try:
            directory, name = self.directories.locate(parts)
            status = directory.status(name)
            return status if may_be_served(parts, status) else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise_read_error(error, "/".join(parts))

    def path(self, parts: Parts) -> Path:
        """Join names below the root, and check that no link leads out of it.

        The path need not exist; links are checked as far as it does. Whoever opens it does so with
        `neurotrale.storage.directories`, which checks them once more.

        Raises:
            MissingError: A name is never served, or a symbolic link on the path leaves the root.
        """
        return self._located(parts, resolve=False)

    def file_path(self, parts: Parts) -> Path:
        """Return the path of a file; if that is a link, the path of the link's target.

        Raises:
            MissingError: See `path`.
        """
        return self._located(parts, resolve=True)

    def _located(self, parts: Parts, *, resolve: bool) -> Path:
        for part in parts:
            check_name(part)
        self.directories.forget(parts)
        path = self.root.joinpath(*parts)
        try:
            directory, name = self.directories.locate(parts)
        except (FileNotFoundError, NotADirectoryError):
            return path
        except OSError as error:
            raise_read_error(error, "/".join(parts))
        if not resolve or name == parts[-1]:
            return path
        return directory.path_of(name)

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, as in URLs."""
        return path.relative_to(self.root).as_posix()

    def entries(self, parts: Parts) -> Iterator[DirectoryEntry]:
        """Open a directory now, and iterate over its visible entries lazily.

        Raises:
            MissingError: It does not exist or is not a directory.
            ReadOnlyError: Its permissions forbid the read.
        """
        for part in parts:
            check_name(part)
        self.directories.forget(parts)
        with reading("/".join(parts) or "the data root"):
            directory = self.directories.get(parts)
            entries = self._visible(directory)
            next(entries)  # opens the directory; it is closed even if nobody iterates further
        return entries

    def _visible(self, directory: Directory) -> Iterator[DirectoryEntry]:
        descriptor = directory.list_descriptor()
        try:
            with os.scandir(descriptor) as entries:
                yield _OPENED
                for entry in entries:
                    visible = self._entry(directory, entry)
                    if visible is not None:
                        yield visible
        finally:
            os.close(descriptor)

    def _entry(self, directory: Directory, entry: os.DirEntry[str]) -> DirectoryEntry | None:
        try:
            check_file_name(entry.name)
            if entry.is_symlink():
                mode = self._mode_behind(directory, entry.name)
                is_directory, is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
            else:
                is_directory, is_file = entry.is_dir(), entry.is_file()
            if is_directory:
                check_name(entry.name)
        except (MissingError, OSError):
            return None
        return DirectoryEntry(entry.name, is_directory) if is_directory or is_file else None

    def _mode_behind(self, directory: Directory, name: str) -> int:
        directory, name = self.directories.behind(directory, name)
        return directory.status(name).st_mode

    def datasets(self) -> list[str]:
        """Find all datasets, including nested ones; return sorted paths relative to the root.

        A dataset has an ``info`` file or an ``annotations/`` directory. The search goes only a few
        levels down and not into datasets, so that it is fast even for a root of many terabytes.
        """
        datasets: list[str] = []
        level: list[Parts] = [()]
        searched = 0
        for _ in range(DATASET_SEARCH_DEPTH + 1):
            deeper: list[Parts] = []
            for parts in level:
                if self._has_info(parts):  # true for most; listing them takes ten times as long
                    datasets.append("/".join(parts))
                    continue
                searched += 1
                if searched > DATASET_SEARCH_DIRECTORIES:
                    log.warning("looked for datasets in %d directories only", searched - 1)
                    return sorted(datasets)
                names = self._children(parts)
                if names.get("info") is False or names.get("annotations") is True:
                    datasets.append("/".join(parts))
                else:
                    deeper += [(*parts, name) for name, is_dir in names.items() if is_dir]
            level = deeper
        return sorted(datasets)

    def _has_info(self, parts: Parts) -> bool:
        """Return whether a directory that a listing showed has a regular ``info`` file."""
        try:
            return stat.S_ISREG(self.directories.get(parts).status("info").st_mode)
        except OSError:
            return False

    def _children(self, parts: Parts) -> dict[str, bool]:
        try:
            return {entry.name: entry.is_directory for entry in self.entries(parts)}
        except (MissingError, ReadOnlyError, BusyError, OSError):
            return {}

    def is_dataset(self, parts: Parts) -> bool:
        """Return whether a directory has an ``info`` file or an ``annotations/`` directory."""
        self.path(parts)  # a link out of the root is missing, not just no dataset
        return self._is((*parts, "info"), stat.S_ISREG) or self._is(
            (*parts, "annotations"), stat.S_ISDIR
        )

    def is_directory(self, parts: Parts) -> bool:
        """Return whether a directory exists.

        Raises:
            MissingError: The name is never served, or a symbolic link on the path leaves the root.
        """
        status = self.status(parts)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def _is(self, parts: Parts, is_type: Callable[[int], bool]) -> bool:
        try:
            status = self.status(parts)
        except MissingError:
            return False
        return status is not None and is_type(status.st_mode)

    def contains(self, path: Path | str) -> bool:
        """Return whether a path, with links resolved, lies below the root and is not hidden.

        With `follow_symlinks` every path does. It is for reports: what the service opens is decided
        by `neurotrale.storage.directories`, while it is opened.
        """
        if self.follow_symlinks:
            return True
        parts = parts_below(str(self.root), os.path.realpath(path))
        return parts is not None and not is_hidden(parts)


def may_be_served(parts: Parts, status: os.stat_result) -> bool:
    """Return whether this is not a directory with the name of a metadata file."""
    return not parts or parts[-1] not in METADATA_NAMES or stat.S_ISREG(status.st_mode)
