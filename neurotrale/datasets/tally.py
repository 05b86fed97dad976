"""How many annotations there are, of which kind, and how many of them a person reviewed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

import msgspec

from neurotrale.annotations.places import Places
from neurotrale.errors import BusyError, MissingError
from neurotrale.faults import reading
from neurotrale.files import Stamp
from neurotrale.kept import Kept
from neurotrale.names import Parts

KEPT_FILES = 10_000
KEPT_BLOCKS = 10_000
MOST_KINDS = 40
MOST_DAMAGED = 100
PATIENCE_S = 2.0
OTHER = "(other)"


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What annotations are: a neuron as a point, an axon as a linestring, ..."""

    anntype: str
    type: str


@dataclass(slots=True)
class Tally:
    """Counts of annotations.

    Attributes:
        counts: How many there are of each kind.
        reviewed: How many of them are reviewed.
        files: In how many files.
        damaged: Files that are no array of annotations, relative to the data root.
    """

    counts: Counter[Kind] = field(default_factory=Counter)
    reviewed: Counter[Kind] = field(default_factory=Counter)
    files: int = 0
    damaged: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add the counts of another tally to this one."""
        self.counts.update(other.counts)
        self.reviewed.update(other.reviewed)
        self.files += other.files
        self.damaged += other.damaged

    def summary(self) -> dict[str, object]:
        """Describe it for JSON, the most frequent kinds first; the rarest count as one."""
        frequent = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        rest = frequent[MOST_KINDS:]
        kinds = [
            (kind.anntype, kind.type, self.counts[kind], self.reviewed[kind])
            for kind in frequent[:MOST_KINDS]
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
            "damaged": self.damaged[:MOST_DAMAGED],
        }


class _Row(msgspec.Struct):
    # Whatever another program wrote there: a number for a flag is no reason to count nothing.
    type: object = ""
    anntype: object = ""
    reviewed: object = False


_decoder = msgspec.json.Decoder(list[_Row])


@dataclass(frozen=True, slots=True)
class _File:
    """A version of an annotation file."""

    path: str
    what: str
    stamp: Stamp


class Tallies:
    """Counts annotations; the counts of a version of a file, and of a block, are kept.

    Args:
        places: Where annotation files are.
    """

    def __init__(self, places: Places) -> None:
        self.tree = places.tree
        self._files: Kept[Tally] = Kept(KEPT_FILES)
        self._blocks: Kept[Tally] = Kept(KEPT_BLOCKS)
        self._counting = Lock()

    def files(self, dataset: Parts) -> Iterator[tuple[str, str]]:
        """Find the annotation files of a data set: block and leaf, in order.

        Raises:
            MissingError: It has no annotations.
        """
        above = (*dataset, "annotations")
        blocks = self._names(above, directories=True)
        return ((block, leaf) for block in blocks for leaf in self._leaves((*above, block)))

    def of_dataset(self, dataset: Parts) -> Tally | None:
        """Count the annotations of a data set; None when it has none.

        Raises:
            BusyError: Others are being counted.
        """
        above = (*dataset, "annotations")
        try:
            blocks = self._names(above, directories=True)
        except MissingError:
            return None
        total = Tally()
        for block in blocks:
            total.add(self._of_block((*above, block)))
        return total

    def _of_block(self, block: Parts) -> Tally:
        found = self._found(block)
        version = hash(tuple((file.path, file.stamp) for file in found))
        return self._blocks.get(block, version, lambda: self._sum(found))

    def _sum(self, files: list[_File]) -> Tally:
        total = Tally()
        for file in files:
            count = partial(self._count, file)
            total.add(self._files.get(file.path, file.stamp, count))
        return total

    def _found(self, block: Parts) -> list[_File]:
        """Look at the files of a block; their directory is resolved once, as there may be many."""
        try:
            directory = str(self.tree.path(block))
        except MissingError:
            return []
        found = []
        for leaf in self._leaves(block):
            path = f"{directory}/{leaf}"
            what = "/".join((*block, leaf))
            try:
                with reading(what):
                    found.append(_File(path, what, Stamp.of(os.stat(path))))
            except MissingError:  # it was there a moment ago
                continue
        return found

    def _leaves(self, block: Parts) -> list[str]:
        try:
            names = self._names(block, directories=False)
        except MissingError:  # it was there a moment ago
            return []
        return [name for name in names if name.endswith(".json")]

    def _names(self, parts: Parts, *, directories: bool) -> list[str]:
        entries = self.tree.entries(parts)
        return sorted(entry.name for entry in entries if entry.is_directory is directories)

    def _count(self, file: _File) -> Tally:
        if not self._counting.acquire(timeout=PATIENCE_S):
            raise BusyError("Other annotations are being counted.", 1)
        try:
            return _count(file.path, file.what)
        finally:
            self._counting.release()


def _count(path: str, what: str) -> Tally:
    tally = Tally(files=1)
    try:
        with reading(what):
            rows = _decoder.decode(Path(path).read_bytes())
    except MissingError:
        return Tally()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        tally.damaged.append(what)
        return tally
    for row in rows:
        kind = Kind(_text(row.anntype), _text(row.type).lower())
        tally.counts[kind] += 1
        if row.reviewed is True:
            tally.reviewed[kind] += 1
    return tally


def _text(value: object) -> str:
    return value[:100] if isinstance(value, str) else ""
