"""What was learnt of files, kept as long as they stay the same version."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Kept(Generic[V]):
    """Values by file and version; the oldest ones are dropped.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, tuple[object, V]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, file: Hashable, version: object, learn: Callable[[], V]) -> V:
        """Give what is known of a version of a file.

        Args:
            file: Its place.
            version: What changes whenever the file does.
            learn: Called when nothing is known.
        """
        kept = self._values.get(file)
        if kept is not None and kept[0] == version:
            return kept[1]
        value = learn()
        self.put(file, version, value)
        return value

    def find(self, file: Hashable, version: object) -> V | None:
        """Give what is known of a version of a file, if anything is."""
        kept = self._values.get(file)
        return kept[1] if kept is not None and kept[0] == version else None

    def put(self, file: Hashable, version: object, value: V) -> None:
        """Keep what was learnt, in place of what was known."""
        with self._lock:
            self._values.pop(file, None)
            self._values[file] = version, value
            while len(self._values) > self._most:
                del self._values[next(iter(self._values))]
