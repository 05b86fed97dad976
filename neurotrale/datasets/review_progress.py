"""Review progress: how many annotations of each kind there are, and how many are reviewed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

import msgspec

from neurotrale.annotations.paths import AnnotationFiles
from neurotrale.errors import BusyError, MissingError, reading
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.names import Parts
from neurotrale.storage.regular import open_regular

CACHED_FILES = 10_000
CACHED_BLOCKS = 10_000
MAX_KINDS = 40
MAX_DAMAGED = 100
MAX_WAIT_S = 2.0
OTHER = "(other)"


@dataclass(frozen=True, slots=True, order=True)
class AnnotationKind:
    """A kind of annotations: neurons as points, axons as linestrings, ..."""

    anntype: str
    type: str


@dataclass(slots=True)
class AnnotationCounts:
    """Counts of annotations.

    Attributes:
        counts: Number of annotations of each kind.
        reviewed: Number of reviewed annotations of each kind.
        files: Number of files.
        damaged: Files that are not an array of annotations, relative to the data root.
    """

    counts: Counter[AnnotationKind] = field(default_factory=Counter)
    reviewed: Counter[AnnotationKind] = field(default_factory=Counter)
    files: int = 0
    damaged: list[str] = field(default_factory=list)

    def add(self, other: AnnotationCounts) -> None:
        """Add other counts to these."""
        self.counts.update(other.counts)
        self.reviewed.update(other.reviewed)
        self.files += other.files
        self.damaged += other.damaged

    def summary(self) -> dict[str, object]:
        """Return the counts for JSON, the most frequent kinds first and the rarest as one."""
        frequent = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        rest = frequent[MAX_KINDS:]
        kinds = [
            (kind.anntype, kind.type, self.counts[kind], self.reviewed[kind])
            for kind in frequent[:MAX_KINDS]
        ]
        if rest:
            counted, reviewed = (
                sum(counter[kind] for kind in rest) for counter in (self.counts, self.reviewed)
            )
            kinds.append((OTHER, "", counted, reviewed))
        names = ("anntype", "type", "count", "reviewed")
        return {
            "files": self.files,
            "count": self.counts.total(),
            "reviewed": self.reviewed.total(),
            "kinds": [dict(zip(names, kind, strict=True)) for kind in kinds],
            "damaged": self.damaged[:MAX_DAMAGED],
        }


class _Row(msgspec.Struct):
    # Any type: a number in place of a flag is no reason not to count the annotation.
    type: object = ""
    anntype: object = ""
    reviewed: object = False


_decoder = msgspec.json.Decoder(list[_Row])


@dataclass(frozen=True, slots=True)
class _File:
    """A version of an annotation file."""

    path: Path
    display_path: str
    stamp: Stamp


class ReviewProgress:
    """Counts annotations; caches the counts of each version of a file and of a block.

    Args:
        annotation_files: Finds annotation files.
    """

    def __init__(self, annotation_files: AnnotationFiles) -> None:
        self.annotation_files = annotation_files
        self._files: VersionedCache[AnnotationCounts] = VersionedCache(CACHED_FILES)
        self._blocks: VersionedCache[AnnotationCounts] = VersionedCache(CACHED_BLOCKS)
        self._counting = Lock()

    def files(self, dataset: Parts) -> Iterator[tuple[str, str]]:
        """Yield the block and the leaf of each annotation file of a dataset, in order.

        Raises:
            MissingError: The dataset has no annotations.
        """
        blocks = self.annotation_files.block_directories(dataset)
        return (
            (block[-1], leaf) for block in blocks for leaf in self.annotation_files.leaves(block)
        )

    def of_dataset(self, dataset: Parts) -> AnnotationCounts | None:
        """Count the annotations of a dataset; None if it has no annotations directory.

        Raises:
            BusyError: Other annotations are being counted.
        """
        try:
            blocks = self.annotation_files.block_directories(dataset)
        except MissingError:
            return None
        total = AnnotationCounts()
        for block in blocks:
            total.add(self._of_block(block))
        return total

    def _of_block(self, block: Parts) -> AnnotationCounts:
        files = self._versions(block)
        version = hash(tuple((file.path, file.stamp) for file in files))
        settled = all(file.stamp.is_settled for file in files)
        return self._blocks.get(block, version, lambda: self._sum(files), is_settled=settled)

    def _sum(self, files: list[_File]) -> AnnotationCounts:
        total = AnnotationCounts()
        for file in files:
            count = partial(self._count, file)
            settled = file.stamp.is_settled
            total.add(self._files.get(file.path, file.stamp, count, is_settled=settled))
        return total

    def _versions(self, block: Parts) -> list[_File]:
        """Stat the files of a block; the directory is resolved once, as there may be many."""
        try:
            leaves = self.annotation_files.leaves(block)
            directories = self.annotation_files.data_root.directories
            with reading("/".join(block)):
                directory = directories.get(block)
        except MissingError:
            return []
        files = []
        for leaf in leaves:
            display_path = "/".join((*block, leaf))
            with suppress(MissingError), reading(display_path):  # deleted since it was listed
                place, name = directories.behind(directory, leaf)
                stamp = Stamp.of(place.status(name))
                files.append(_File(place.path_of(name), display_path, stamp))
        return files

    def _count(self, file: _File) -> AnnotationCounts:
        if not self._counting.acquire(timeout=MAX_WAIT_S):
            raise BusyError("Other annotations are being counted.", 1)
        try:
            return _count(file.path, file.display_path)
        finally:
            self._counting.release()


def _count(path: Path, display_path: str) -> AnnotationCounts:
    counts = AnnotationCounts(files=1)
    try:
        with reading(display_path), open_regular(path) as file:
            rows = _decoder.decode(file.read())
    except MissingError:
        return AnnotationCounts()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        counts.damaged.append(display_path)
        return counts
    for row in rows:
        kind = AnnotationKind(_text(row.anntype), _text(row.type).lower())
        counts.counts[kind] += 1
        if row.reviewed is True:
            counts.reviewed[kind] += 1
    return counts


def _text(value: object) -> str:
    return value[:100] if isinstance(value, str) else ""
