"""Temporary files of writers that died, which the next writer removes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from neurotrale.errors import ConflictError, DamagedError, MissingError
from neurotrale.locking.locks import Locks
from neurotrale.storage.atomic import temporary_path
from neurotrale.storage.directories import directory_at
from neurotrale.storage.regular import remove_regular

log = logging.getLogger(__name__)

_SUFFIX = ".tmp"


class StaleTemporaryFiles:
    """Removes temporary files of writers that died.

    Args:
        locks: Show whether a file is being written.
        reconcile: Reconciles the journal of a file with the file.
    """

    def __init__(self, locks: Locks, reconcile: Callable[[Path], object]) -> None:
        self._locks = locks
        self._reconcile = reconcile
        self._swept: set[Path] = set()

    def remove(self, path: Path) -> None:
        """Remove the stale temporary file of a file; the caller holds the file's lock.

        As the lock is held, no writer uses the temporary file. The first call for a directory also
        removes those of the other files in it.

        Raises:
            IrregularFileError: The temporary file is a link, a directory or the like.
        """
        remove_regular(temporary_path(path))
        directory = path.parent
        if directory in self._swept:
            return
        for name in directory_at(directory).names():
            if name.startswith(".") and name.endswith(_SUFFIX):
                self._remove_other(directory / name[1 : -len(_SUFFIX)], path)
        self._swept.add(directory)

    def _remove_other(self, other: Path, own: Path) -> None:
        if other == own or other.suffix != ".json":
            return
        try:
            with self._locks.try_hold(other) as free:
                if free:
                    self._reconcile(other)
                    remove_regular(temporary_path(other))
                    log.info("removed the stale temporary file of %s", other)
        except (OSError, MissingError, DamagedError, ConflictError) as error:  # not of this write
            log.warning("cannot remove the stale temporary file of %s: %s", other, error)
