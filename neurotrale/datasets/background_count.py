"""Counts of one dataset, made by a thread, and those of a large one by one worker for all."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from threading import Condition, Lock, Thread

import msgspec

from neurotrale.annotations.files.block_listing import BlockListing
from neurotrale.annotations.journals.changes import format_time
from neurotrale.datasets.annotation_counts import AnnotationCounts, CountProgress
from neurotrale.datasets.count_index import (
    CountIndex,
    decode_total,
    encode_total,
    update,
    update_blocks,
)
from neurotrale.datasets.counted_writer import counts_name, noted_name
from neurotrale.storage.shared_files import SharedFiles

log = logging.getLogger(__name__)

LARGE_BLOCKS = 1000
LARGE_FILES = 10_000
# A large dataset is compared with its files for at most a tenth of the time.
LEAST_REST_S = 2.0
REST_RATIO = 9.0
MOST_NOTED = 2000
MOST_WAIT_S = 10.0
PROGRESS_S = 0.2
_ATTEMPTS = 3
_NS = 1_000_000_000

_INDEX_FORM, _TOTAL_FORM = "count index 1", "count total 1"


class _Total(msgspec.Struct, array_like=True, frozen=True):
    """The counts of a large dataset, as its workers share them.

    Attributes:
        generation: Number of the index that belongs to them; 0 if they are not complete.
        began_ns: When the count began, in nanoseconds since the epoch.
        ended_ns: When it ended.
        noted: How much of the list of changes it had seen when it began.
        blocks: Number of blocks that are counted.
        of: Number of blocks.
        counts: The encoded counts.
    """

    generation: int
    began_ns: int
    ended_ns: int
    noted: int
    blocks: int
    of: int
    counts: bytes

    @property
    def is_due(self) -> bool:
        """Whether the files should be compared with the counts again."""
        took_ns = self.ended_ns - self.began_ns
        rest_ns = max(LEAST_REST_S * _NS, REST_RATIO * took_ns)
        return not self.generation or abs(time.time_ns() - self.ended_ns) > rest_ns


_total = msgspec.msgpack.Decoder(_Total)


class BackgroundCount:
    """The counts of one dataset.

    Each comparison with the files is made by a thread of its own; requests that come meanwhile
    wait for the next one, which begins after they came.

    Args:
        listing: The blocks of the dataset.
        shared: Where the processes of the service share the counts of large datasets.
    """

    def __init__(self, listing: BlockListing, shared: SharedFiles) -> None:
        self._listing = listing
        self._shared = shared
        self._path = "/".join(listing.parts)
        self._key = counts_name(self._path)
        self._changed = Condition()
        self._begun = self._finished = self._wanted = 0
        self._is_running = self._is_large = False
        self._error: Exception | None = None
        self._index = CountIndex(self._path)
        self._counts = AnnotationCounts()
        self._partial = AnnotationCounts(progress=CountProgress(0, 0))
        self._noted: tuple[int, CountIndex] | None = None
        self._noting = Lock()

    @property
    def known_blocks(self) -> int:
        """Number of blocks whose counts are in memory."""
        return len(self._index.blocks)

    def counts(self) -> AnnotationCounts:
        """Return the counts; those of a large dataset may be incomplete.

        Raises:
            MissingError: The dataset has no annotations.
            ReadOnlyError, BusyError: A file cannot be read.
        """
        self._listing.check()
        if not self._is_large and self._stored() is not None:  # another worker counted it
            self._is_large = True
        if self._is_large:
            return self._shared_counts()
        with self._changed:
            number = self._start()
            self._changed.wait_for(lambda: self._finished >= number or self._is_large, MOST_WAIT_S)
            # A large dataset may be finished here because another worker counts it.
            if self._finished >= number and not self._is_large:
                if self._error is not None:
                    raise self._error
                return self._counts.copy()
        return self._shared_counts()

    def _start(self) -> int:
        """Have the files compared with the counts; return the number of the comparison."""
        number = self._wanted = self._begun + 1
        if not self._is_running:
            self._is_running = True
            Thread(target=self._run, name="count-annotations", daemon=True).start()
        return number

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._finished >= self._wanted:
                    self._is_running = False
                    return
                self._begun += 1
            error: Exception | None = None
            try:
                self._compare()
            except Exception as raised:  # noqa: BLE001  for those who wait
                error = raised
            with self._changed:
                self._error = error
                self._counts = self._index.total.copy()
                self._finished = self._begun
                self._changed.notify_all()

    def _compare(self) -> None:
        if not self._is_large:
            large = self._compare_small()
            if not large:
                return
        with self._claimed() as is_held:
            self._grown()
            if is_held:
                self._compare_large()
            # The shared ones are loaded when they are needed.
            self._index = CountIndex(self._path)

    def _compare_small(self) -> bool:
        """Compare a dataset that is not known to be large; return whether it is."""
        for done, of in update(self._index, self._listing):
            if done > LARGE_BLOCKS or self._index.total.files > LARGE_FILES:
                return True
            self._publish(self._index.total, done, of)
        return False

    def _compare_large(self) -> None:
        """Compare a large dataset, as the only one who does."""
        began_ns = time.time_ns()
        # Before the first file is looked at: what changes from now on is noted.
        noted = self._shared.begin_list(noted_name(self._path))
        stored = self._stored()
        generation = 0 if stored is None else stored.generation
        known = self._loaded(generation)
        index = self._index if known is None else known
        told = time.monotonic()
        of = 0
        for done, of in update(index, self._listing):
            if not generation and time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                self._store(_Total(0, began_ns, 0, noted, done, of, encode_total(index.total)))
        pieces, counts = index.encode(), encode_total(index.total)
        new = _Total(generation + 1, began_ns, time.time_ns(), noted, of, of, counts)
        if not self._shared.write(self._index_name(new.generation), _INDEX_FORM, pieces):
            self._shared = SharedFiles(None)  # there is no room: in the memory of this process
            self._shared.write(self._index_name(new.generation), _INDEX_FORM, pieces)
        self._store(new)
        self._shared.remove(self._index_name(generation))

    def _publish(self, total: AnnotationCounts, done: int, of: int) -> None:
        partial = total.copy()
        partial.progress = CountProgress(done, of)
        self._partial = partial

    def _grown(self) -> None:
        """Let nobody wait for the end any more."""
        with self._changed:
            self._is_large = True
            self._changed.notify_all()

    @contextmanager
    def _claimed(self) -> Iterator[bool]:
        with ExitStack() as stack:
            try:
                is_held = stack.enter_context(self._shared.claimed(f"{self._key}.claim"))
            except OSError as error:
                log.warning("%s is counted by each worker: %s", self._path, error)
                is_held = True
            yield is_held

    # --- shared ---

    def _shared_counts(self) -> AnnotationCounts:
        for _ in range(_ATTEMPTS):
            stored = self._stored()
            if stored is None or stored.is_due:
                self._refresh()
            if stored is None:
                return self._partial.copy()
            total = decode_total(stored.counts)
            if not stored.generation:
                total.progress = CountProgress(stored.blocks, stored.of)
                return total
            with_noted = self._with_noted(stored, total)
            if with_noted is not None:
                at = datetime.fromtimestamp(stored.began_ns / _NS, UTC)
                with_noted.checked = format_time(at)
                return with_noted
        return self._partial.copy()

    def _refresh(self) -> None:
        """Have the files compared with the counts in the background."""
        with self._changed:
            error, self._error = self._error, None
            if not self._is_running:
                self._start()
        if error is not None:
            raise error

    def _with_noted(self, stored: _Total, total: AnnotationCounts) -> AnnotationCounts | None:
        """Return the counts with what the service changed since; None if newer ones are there."""
        noted = self._shared.appended(noted_name(self._path), stored.noted)
        if not noted:
            self._noted = None
            return total
        names = sorted({name.decode() for name in noted.split(b"\n") if name})
        if len(names) > MOST_NOTED:
            self._refresh()
        with self._noting:
            if self._noted is None or self._noted[0] != stored.generation:
                index = self._loaded(stored.generation)
                if index is None:
                    return None
                self._noted = stored.generation, index
            index = self._noted[1]
            update_blocks(index, self._listing, names)
            return index.total.copy()

    def _index_name(self, generation: int) -> str:
        return f"{self._key}.index{generation}"

    def _loaded(self, generation: int) -> CountIndex | None:
        content = self._shared.read(self._index_name(generation), _INDEX_FORM)
        return None if content is None else CountIndex.decode(self._path, content)

    def _stored(self) -> _Total | None:
        content = self._shared.read(f"{self._key}.total", _TOTAL_FORM)
        return None if content is None else _total.decode(content)

    def _store(self, total: _Total) -> None:
        encoded = msgspec.msgpack.encode(total)
        self._shared.write(f"{self._key}.total", _TOTAL_FORM, [encoded])
