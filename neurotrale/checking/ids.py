"""Which ids stand in more than one file of a data set, at sixteen bytes for each id."""

from __future__ import annotations

from collections.abc import Collection
from threading import Lock

import numpy as np
import xxhash
from numpy.typing import NDArray

Others = dict[int, list[int]]
"""By the hash of an id, the other files that have it."""


class Ids:
    """Keeps a hash of every id; of a hundred million, two that differ collide by no likely chance.

    Files are numbers here.
    """

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []
        self._files: list[NDArray[np.int32]] = []
        self._lock = Lock()

    @staticmethod
    def hashed(id_: str) -> int:
        """Give the hash of an id."""
        return xxhash.xxh3_64_intdigest(id_.encode("utf-8", "surrogatepass"))

    def add(self, file: int, ids: Collection[str]) -> None:
        """Take in the ids of a file, each once."""
        hashes = np.fromiter(map(self.hashed, ids), np.uint64, len(ids))
        with self._lock:
            self._hashes.append(hashes)
            self._files.append(np.full(len(ids), file, np.int32))

    def elsewhere(self, most: int) -> tuple[int, list[tuple[int, Others]]]:
        """Find the ids that stand in several files.

        Args:
            most: For how many to say where.

        Returns:
            How many there are; the files in which the first ones are, in order, and for each of
            those ids the other files.
        """
        if not self._hashes:
            return 0, []
        hashes, files = np.concatenate(self._hashes), np.concatenate(self._files)
        order = np.lexsort((files, hashes))
        hashes, files = hashes[order], files[order]
        again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        is_first = np.ones(len(again), bool)
        is_first[1:] = np.diff(again) > 1
        begins = again[is_first] - 1  # the first place of each id, in its first file
        chosen = begins[np.argsort(files[begins], kind="stable")[:most]]
        found: dict[int, Others] = {}
        for at in chosen.tolist():
            stop = at + 1
            while stop < len(hashes) and hashes[stop] == hashes[at]:
                stop += 1
            found.setdefault(int(files[at]), {})[int(hashes[at])] = files[at + 1 : stop].tolist()
        return len(begins), sorted(found.items())
