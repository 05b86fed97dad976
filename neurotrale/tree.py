"""The data root: the only place where names from outside become paths.

What leaves the root, hides behind a dot or is no plain file or directory does not exist here.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurotrale.errors import BusyError, MissingError, ReadOnlyError, StartError
from neurotrale.faults import reading
from neurotrale.names import Parts, check_name

log = logging.getLogger(__name__)

DATASET_SEARCH_DEPTH = 4
REMEMBERED_S = 1.0
REMEMBERED_DIRECTORIES = 10_000
DATASET_SEARCH_DIRECTORIES = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory listing."""

    name: str
    is_directory: bool


class Tree:
    """The directory that holds the datasets, and the wall around it.

    Args:
        root: The data root.
        follow_symlinks: Serve what symbolic links point to outside the root, too.
    """

    def __init__(self, root: Path, *, follow_symlinks: bool = False) -> None:
        self.root = Path(os.path.realpath(root))
        self.follow_symlinks = follow_symlinks
        self._known: dict[Parts, tuple[float, str]] = {}

    def check(self) -> None:
        """Say at start-up what would otherwise be a stream of errors later.

        Raises:
            StartError: The root is absent, no directory, or cannot be listed.
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

    def healthy(self) -> None:
        """Raise BusyError when the data root cannot be read right now."""
        try:
            with os.scandir(self.root) as entries:
                next(entries, None)
        except OSError as error:
            raise BusyError(f"The data root cannot be read: {error.strerror}.", 5) from error

    def status(self, parts: Parts) -> tuple[str, os.stat_result] | None:
        """Look at what a name stands for, behind links that stay inside the root.

        Every chunk passes here, so paths are text here; `pathlib` takes several times as long.

        Returns:
            Its path and what stat says of it; None if there is nothing.

        Raises:
            MissingError: The name is never served, or a symbolic link on the way leaves the root.
            ReadOnlyError, BusyError, NameTooLongError: It cannot be looked at.
        """
        with reading("/".join(parts)):
            try:
                directory = self._known_directory(parts[:-1]) if parts else None
                if directory is not None:
                    check_name(parts[-1])
                    path = f"{directory}/{parts[-1]}"
                    status = os.lstat(path)
                    if not stat.S_ISLNK(status.st_mode):
                        return path, status
                path = str(self.path(parts))
                return path, os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _known_directory(self, parts: Parts) -> str | None:
        """Give the path of a directory that was found inside the root within the last second.

        Looking at every link above every chunk is most of the work of finding it.
        """
        now = time.monotonic()
        until, directory = self._known.get(parts, (0.0, ""))
        if until > now:
            return directory
        for part in parts:
            check_name(part)
        directory = "/".join((str(self.root).rstrip("/"), *parts))
        if not self.inside(directory):
            return None
        if len(self._known) >= REMEMBERED_DIRECTORIES:
            self._known.clear()
        self._known[parts] = now + REMEMBERED_S, directory
        return directory

    def path(self, parts: Parts) -> Path:
        """Join checked names below the root, and make sure that no link leads out of it.

        The path need not exist; its existing part is what is looked at.

        Raises:
            MissingError: A symbolic link on the way leaves the root.
        """
        for part in parts:
            check_name(part)
        path = self.root.joinpath(*parts)
        if not self.inside(path):
            log.warning(
                "refused %s: a symbolic link leads out of the data root %s"
                " (allow that with --follow-symlinks)",
                path,
                self.root,
            )
            raise MissingError(f"There is nothing at {'/'.join(parts)!r}.")
        return path

    def relative(self, path: Path) -> str:
        """Name a path below the root the way its URL does."""
        return path.relative_to(self.root).as_posix()

    def entries(self, parts: Parts) -> Iterator[Entry]:
        """Open a directory now, give its visible entries as they are read.

        Raises:
            MissingError: It is absent or not a directory.
            ReadOnlyError: It may not be read.
        """
        path = self.path(parts)
        with reading("/".join(parts) or "the data root"):
            entries = os.scandir(path)
        return self._visible(entries)

    def directories(self, parts: Parts) -> list[Path]:
        """List the directories in a directory that are visible, sorted by name.

        Raises:
            MissingError: It is absent or not a directory.
            ReadOnlyError: It may not be read.
        """
        names = sorted(entry.name for entry in self.entries(parts) if entry.is_directory)
        return [self.path((*parts, name)) for name in names]

    def _visible(self, entries: os._ScandirIterator[str]) -> Iterator[Entry]:
        with entries:
            for entry in entries:
                found = self._entry(entry)
                if found is not None:
                    yield found

    def _entry(self, entry: os.DirEntry[str]) -> Entry | None:
        try:
            check_name(entry.name)
            if entry.is_symlink() and not self.inside(Path(entry.path)):
                return None
            if entry.is_dir():
                return Entry(entry.name, True)
            return Entry(entry.name, False) if entry.is_file() else None
        except (MissingError, OSError):
            return None

    def datasets(self) -> list[str]:
        """Find the datasets, nested ones too, as paths relative to the root, sorted.

        A dataset has an ``info`` file or an ``annotations/`` directory. The search goes a few
        levels down and not into datasets, so that a root of many terabytes starts at once.
        """
        found: list[str] = []
        level: list[Parts] = [()]
        looked_at = 0
        for _ in range(DATASET_SEARCH_DEPTH + 1):
            deeper: list[Parts] = []
            for parts in level:
                if self._has_info(parts):  # most do; to list them all would take ten times as long
                    found.append("/".join(parts))
                    continue
                looked_at += 1
                if looked_at > DATASET_SEARCH_DIRECTORIES:
                    log.warning("looked for datasets in %d directories only", looked_at - 1)
                    return sorted(found)
                names = self._children(parts)
                if names.get("info") is False or names.get("annotations") is True:
                    found.append("/".join(parts))
                else:
                    deeper += [(*parts, name) for name, is_dir in names.items() if is_dir]
            level = deeper
        return sorted(found)

    def _has_info(self, parts: Parts) -> bool:
        """Tell whether a directory that a listing showed has a plain ``info`` file."""
        try:
            path = "/".join((str(self.root).rstrip("/"), *parts, "info"))
            return stat.S_ISREG(os.lstat(path).st_mode)
        except OSError:
            return False

    def _children(self, parts: Parts) -> dict[str, bool]:
        try:
            return {entry.name: entry.is_directory for entry in self.entries(parts)}
        except (MissingError, ReadOnlyError, BusyError, OSError):
            return {}

    def is_dataset(self, parts: Parts) -> bool:
        """Tell whether a directory has an ``info`` file or an ``annotations/`` directory."""
        path = self.path(parts)
        info, annotations = path / "info", path / "annotations"
        with reading("/".join(parts)):
            return (info.is_file() and self.inside(info)) or (
                annotations.is_dir() and self.inside(annotations)
            )

    def inside(self, path: Path | str) -> bool:
        """Tell whether a path lies below the root, its links followed; any does if they may."""
        if self.follow_symlinks:
            return True
        real = os.path.realpath(path)
        return real == str(self.root) or real.startswith(f"{self.root}/") or str(self.root) == "/"
