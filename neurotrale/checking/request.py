"""How thoroughly to check, and a count of what was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from neurotrale.checking.findings import PLACES

Watch = Callable[[int, int], None]
"""Called with the things that are done and those that there are, never by two threads at once."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be checked.

    Attributes:
        dataset: The data set.
        root: The data root that it will be served from.
        follow_symlinks: Whether links may leave the root.
        sample: How many chunks of each scale to open; None for all.
        sparse: Whether chunks may be absent.
        jobs: Threads to use.
        places: How many places to name for each kind of finding.
    """

    dataset: Path
    root: Path
    follow_symlinks: bool = False
    sample: int | None = None
    sparse: bool = False
    jobs: int = 1
    places: int = PLACES


class Tally:
    """Counts what was looked at.

    Args:
        watch: Told about every step.
        by_name: Whether a chunk is done when its name was looked at, as most are not opened.
    """

    def __init__(self, watch: Watch, *, by_name: bool = False) -> None:
        self._by_name = by_name
        self.scales = 0
        self.chunks_found = 0
        self.chunks_opened = 0
        self.annotation_files = 0
        self.annotations = 0
        self.total = 0
        self._done = 0
        self._watch = watch
        self._lock = Lock()

    def found(self) -> None:
        """Count a chunk whose file is there."""
        with self._lock:
            self.chunks_found += 1
            if self._by_name:
                self._step()

    def opened(self) -> None:
        """Count a chunk that was opened."""
        with self._lock:
            self.chunks_opened += 1
            if not self._by_name:
                self._step()

    def read(self, annotations: int) -> None:
        """Count an annotation file and what is in it."""
        with self._lock:
            self.annotation_files += 1
            self.annotations += annotations
            self._step()

    def skip_to(self, done: int) -> None:
        """Take up to here for done; what is missing cannot be opened."""
        with self._lock:
            self._done = done - 1
            self._step()

    def _step(self) -> None:
        self._done += 1
        self._watch(min(self._done, self.total), self.total)
