"""Repacks the scales of a data set, chunk by chunk, and counts what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from neurotrale.errors import BusyError, DamagedError, MissingError
from neurotrale.many import each
from neurotrale.repacking.chunk import Repacked, Repacker
from neurotrale.repacking.directory import (
    ChunkFile,
    chunk_files,
    linked_chunks,
    remove_leftovers,
)
from neurotrale.repacking.plan import Plan

MOST_NAMED = 5

Watch = Callable[[int, int], None]
"""Called with the chunks that are done and those that there are, never by two threads at once."""


@dataclass(slots=True)
class Summary:
    """What became of the chunks of a scale.

    Attributes:
        key: The scale.
        rewritten: Chunks that are in the new layout now.
        alike: Those that were already.
        left: Those that were left as they are, because they are damaged or were being written.
        links: Those that are symbolic links, which are left as they are.
        bytes_before: Of those that could be read.
        bytes_after: The same, now.
        problems: Why some were left, the first few of them.
    """

    key: str
    rewritten: int = 0
    alike: int = 0
    left: int = 0
    links: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """How many TIFF chunks there were."""
        return self.rewritten + self.alike + self.left

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes before and after."""
        return self.bytes_before, self.bytes_after

    def add(self, repacked: Repacked) -> None:
        """Count a chunk."""
        if repacked.outcome == "again":
            return
        if repacked.outcome == "rewritten":
            self.rewritten += 1
        else:
            self.alike += 1
        self.bytes_before += repacked.bytes_before
        self.bytes_after += repacked.bytes_after

    def leave(self, problem: str) -> None:
        """Count a chunk that was left as it is."""
        self.left += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(problem)


def repack(plan: Plan, watch: Watch) -> list[Summary]:
    """Rewrite every chunk that is not in the layout yet.

    Interrupted at any moment, every chunk is the old file or the new one, and starting again goes
    on with the rest.

    Args:
        plan: What is to be done.
        watch: Told about every chunk.

    Returns:
        A summary for each scale.

    Raises:
        DiskFullError, ReadOnlyError: A chunk cannot be replaced; it is as it was.
    """
    directories = [plan.request.dataset / key for key in plan.keys]
    total = sum(1 for directory in directories for _ in chunk_files(directory))
    run = _Run(plan, total, watch)
    return [run.scale(key) for key in plan.keys]


class _Run:
    def __init__(self, plan: Plan, total: int, watch: Watch) -> None:
        self._plan = plan
        self._repacker = Repacker(plan.target)
        self._total = total
        self._done = 0
        self._watch = watch
        self._lock = Lock()
        watch(0, total)

    def scale(self, key: str) -> Summary:
        directory = self._plan.request.dataset / key
        remove_leftovers(directory)
        summary = Summary(key, links=linked_chunks(directory))

        def work(file: ChunkFile) -> None:
            self._repack(key, file, summary)

        each(chunk_files(directory), work, self._plan.request.jobs)
        return summary

    def _repack(self, key: str, file: ChunkFile, summary: Summary) -> None:
        what = f"{key}/{file.path.name}"
        repacked, problem = None, ""
        try:
            repacked = self._repacker.repack(file.path, file.name, what)
        except (DamagedError, BusyError) as error:
            problem = str(error)
        except MissingError:  # it was removed while we were at work
            pass
        with self._lock:
            if repacked is not None:
                summary.add(repacked)
            elif problem:
                summary.leave(problem)
            self._done += 1
            self._watch(min(self._done, self._total), self._total)
