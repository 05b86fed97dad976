"""The bursts of saves that this process has open, and a thread that ends them when they rest.

What a burst is, and what becomes of it, is in `neurotrale.annotations.journals.burst_records`. This
process alone knows which views a save continues, and when it came: a burst goes on only in the
process in which it began. Whoever appends to the journal of a file ends its burst, also one that
another process has left behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock, Thread

from neurotrale.annotations.documents.contents import recorded_stamp
from neurotrale.annotations.journals.burst_records import continues
from neurotrale.annotations.journals.changes import JournalTail
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import NewRecord
from neurotrale.locking.held import HeldLock, LockLostError
from neurotrale.locking.locks import Locks

log = logging.getLogger(__name__)

REST_S = 1.0
MOST_SAVES = 1000
MOST_BYTES = 4 * 2**20  # of the texts of a burst's changes


@dataclass(frozen=True, slots=True)
class OpenBurst:
    """A save that others may follow, or a burst of saves.

    Attributes:
        display_path: Path of the file relative to the data root.
        last: The record of the last save.
        at: When it was made.
        rests_s: When the burst rests, unless another save comes; by `time.monotonic`.
        saves: How many saves there were.
        size: Bytes of the changes in the burst file; 0 for a single save, which is in the journal.
    """

    display_path: str
    last: NewRecord
    at: datetime
    rests_s: float
    saves: int = 1
    size: int = 0


class Bursts:
    """The open bursts of all files.

    Args:
        locks: The locks of the files. Their holder alone changes the burst of a file.
        rest_s: A burst ends when it has rested for so many seconds; 0 allows no bursts.

    Attributes:
        loaded: Returns hashes of those contents of a file that clients have loaded, given its path
            relative to the data root. They stay revisions: the next saves of these clients come
            from them.
    """

    def __init__(self, locks: Locks, rest_s: float = REST_S) -> None:
        self._locks = locks
        self._rest_s = rest_s
        self.loaded: Callable[[str], Container[str]] = lambda _: frozenset()
        self._guard = Lock()
        self._open: dict[Path, OpenBurst] = {}
        self._thread: Thread | None = None

    def goes_on(
        self, path: Path, tail: JournalTail, records: Sequence[NewRecord], now: datetime
    ) -> bool:
        """Return whether all of some records continue the open burst of a file.

        Args:
            path: The file.
            tail: The end of its journal.
            records: The records, with `NewRecord.chain`.
            now: Their time.
        """
        burst = self._open.get(path)
        if burst is None or tail.last is None or tail.applied is not tail.last:
            return False
        last = burst.last
        steps = [(last, records[0]), *pairwise(records)]
        return (
            (tail.last.n, tail.last.at, tail.last.new)
            == (last.entry.n, last.entry.at, last.entry.new)
            and timedelta(0) <= now - burst.at <= timedelta(seconds=self._rest_s)
            and burst.saves + len(records) <= MOST_SAVES
            and burst.size < MOST_BYTES
            and all(_is_same_chain(one, other) and continues(one, other) for one, other in steps)
            and last.entry.new is not None
            and last.entry.new.hash not in self.loaded(burst.display_path)
        )

    def note(
        self,
        path: Path,
        display_path: str,
        records: Sequence[NewRecord],
        now: datetime,
        *,
        goes_on: bool,
    ) -> None:
        """Note saves that are on disk, and that others may follow.

        Args:
            path: The file.
            display_path: Its path relative to the data root.
            records: Their records.
            now: Their time.
            goes_on: What `goes_on` returned for them.
        """
        with self._guard:
            before = self._open.pop(path, None)
            if not self._rest_s:
                return
            burst = OpenBurst(display_path, records[-1], now, time.monotonic() + self._rest_s)
            if goes_on:
                saves, size = (1, 0) if before is None else (before.saves, before.size)
                size += sum(len(hunk.old) + len(hunk.new) for one in records for hunk in one.hunks)
                burst = replace(burst, saves=saves + len(records), size=size)
            self._open[path] = burst
            if self._thread is None:
                self._thread = Thread(target=self._end_all, name="end-bursts", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End all bursts, as this process ends."""
        for path in list(self._open):
            self._end(path, time.monotonic() + self._rest_s)

    def _end_all(self) -> None:
        while True:
            time.sleep(self._rest_s / 2)
            for path in list(self._open):
                self._end(path, time.monotonic())
            with self._guard:
                if not self._open:
                    self._thread = None
                    return

    def _end(self, path: Path, now_s: float) -> None:
        """End the burst of a file if it rests at a time and nobody writes the file just now."""
        if not self._rests(path, now_s):
            return
        try:
            with self._locks.try_hold(path) as lock:
                if lock is not None and self._rests(path, now_s):
                    with self._guard:
                        burst = self._open.pop(path)
                    self._record(path, burst, lock)
        except Exception as error:  # the next writer of the file does it
            is_expected = isinstance(error, (OSError, LockLostError, LookupError, ValueError))
            log.warning(
                "the end of a burst of saves of %s is left to its next change: %s",
                path,
                error,
                exc_info=not is_expected,
            )
            with self._guard:
                self._open.pop(path, None)

    def _rests(self, path: Path, now_s: float) -> bool:
        with self._guard:
            burst = self._open.get(path)
            if burst is not None and not burst.size and burst.rests_s <= now_s:
                del self._open[path]
            return burst is not None and burst.size > 0 and burst.rests_s <= now_s

    def _record(self, path: Path, burst: OpenBurst, lock: HeldLock) -> None:
        """Append one record for a burst to the journal, unless its last save may not be applied."""
        journal = Journal(path, partial(self.loaded, burst.display_path))
        last, applied = journal.tail()
        is_last = last is applied and last is not None and last.n == burst.last.entry.n
        if is_last and burst.last.entry.stamp != recorded_stamp(path):
            lock.check()
            journal.append()


def _is_same_chain(last: NewRecord, new: NewRecord) -> bool:
    """Return whether two saves come from one client, and not surely from different chains."""
    if last.chain is None or new.chain is None or last.chain[0] != new.chain[0]:
        return False
    return last.chain[1] == new.chain[1] or not (last.chain[1] and new.chain[1])
