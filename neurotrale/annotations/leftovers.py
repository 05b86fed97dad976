"""Temporary files of writers that died: recognised, and removed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from neurotrale.annotations.locks import Locks
from neurotrale.durable import temporary_of

log = logging.getLogger(__name__)

_SUFFIX = ".tmp"


class Leftovers:
    """Removes what belongs to nobody any more.

    Args:
        locks: Tell whether a file is being written.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._swept: set[Path] = set()

    def remove(self, path: Path) -> None:
        """Remove what a writer of a file left behind; the caller holds the file's lock.

        So a temporary file of it belongs to nobody. The first call for a directory looks at the
        other files' leftovers, too.
        """
        temporary_of(path).unlink(missing_ok=True)
        directory = path.parent
        if directory in self._swept:
            return
        self._swept.add(directory)
        for name in os.listdir(directory):
            if name.startswith(".") and name.endswith(_SUFFIX):
                self._remove_of(directory / name[1 : -len(_SUFFIX)], path)

    def _remove_of(self, other: Path, mine: Path) -> None:
        if other == mine or other.suffix != ".json":
            return
        with self._locks.if_free(other) as free:
            if free:
                temporary_of(other).unlink(missing_ok=True)
                log.info("removed what a writer of %s left behind", other)
