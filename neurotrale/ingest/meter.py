"""How much is done, counted by many threads."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

Watch = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are, never by two threads at once."""


class Meter:
    """Counts voxels that were read and written.

    Args:
        total_bytes: How many there will be.
        done_bytes: How many an earlier run has done.
        watch: Told about every step.
    """

    def __init__(self, total_bytes: int, done_bytes: int, watch: Watch) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = done_bytes
        self.files = 0
        self.file_bytes = 0
        self._watch = watch
        self._lock = Lock()
        watch(done_bytes, total_bytes)

    def read(self, count: int) -> None:
        """Count voxels of the source, in bytes."""
        with self._lock:
            self.done_bytes += count
            self._watch(self.done_bytes, self.total_bytes)

    def wrote(self, count: int, file_bytes: int) -> None:
        """Count the voxels of a chunk and the size of its file, in bytes."""
        with self._lock:
            self.done_bytes += count
            self.files += 1
            self.file_bytes += file_bytes
            self._watch(self.done_bytes, self.total_bytes)
