"""Temporary files of writers that died: recognised, and removed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from neurotrale.annotations.locks import Locks
from neurotrale.durable import temporary_of
from neurotrale.errors import DamagedError, MissingError

log = logging.getLogger(__name__)

_SUFFIX = ".tmp"


class Leftovers:
    """Removes what belongs to nobody any more.

    Args:
        locks: Tell whether a file is being written.
        agree: Makes the journal of a file say what the file says; a writer that died may have
            recorded a change that it never made.
    """

    def __init__(self, locks: Locks, agree: Callable[[Path], object]) -> None:
        self._locks = locks
        self._agree = agree
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
        for name in os.listdir(directory):
            if name.startswith(".") and name.endswith(_SUFFIX):
                self._remove_of(directory / name[1 : -len(_SUFFIX)], path)
        self._swept.add(directory)

    def _remove_of(self, other: Path, mine: Path) -> None:
        if other == mine or other.suffix != ".json":
            return
        try:
            with self._locks.if_free(other) as free:
                if free:
                    self._agree(other)
                    temporary_of(other).unlink(missing_ok=True)
                    log.info("removed what a writer of %s left behind", other)
        except (OSError, MissingError, DamagedError) as error:  # no reason to refuse this write
            log.warning("what a writer of %s left behind stays there: %s", other, error)
