"""How many annotations there are, of which kind, and how many of them a person reviewed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import msgspec

from neurotrale.annotations.places import Place, Places
from neurotrale.errors import BusyError, MissingError
from neurotrale.faults import reading
from neurotrale.files import Stamp
from neurotrale.kept import Kept
from neurotrale.names import Parts

KEPT_FILES = 20_000
MOST_KINDS = 40
PATIENCE_S = 5.0
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
            "damaged": self.damaged,
        }


class _Row(msgspec.Struct):
    # Whatever another program wrote there: a number for a flag is no reason to count nothing.
    type: object = ""
    anntype: object = ""
    reviewed: object = False


_decoder = msgspec.json.Decoder(list[_Row])


class Tallies:
    """Counts files; the counts of a version of a file are kept.

    Args:
        places: Where annotation files are.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._kept: Kept[Tally] = Kept(KEPT_FILES)
        self._counting = Lock()

    def files(self, dataset: Parts) -> Iterator[tuple[str, str, Place]]:
        """Find the annotation files of a data set: block, leaf and place, in order.

        Raises:
            MissingError: It has no annotations.
        """
        above = (*dataset, "annotations")
        tree = self.places.tree
        blocks = sorted(entry.name for entry in tree.entries(above) if entry.is_directory)
        return (file for block in blocks for file in self._files(above, block))

    def _files(self, above: Parts, block: str) -> Iterator[tuple[str, str, Place]]:
        tree = self.places.tree
        try:
            entries = list(tree.entries((*above, block)))
        except MissingError:  # it was there a moment ago
            return
        for leaf in sorted(entry.name for entry in entries if not entry.is_directory):
            if leaf.endswith(".json"):
                path = tree.path((*above, block, leaf))
                yield block, leaf, Place(path, tree.relative(path))

    def of_dataset(self, dataset: Parts) -> Tally | None:
        """Count the annotations of a data set; None when it has none.

        Raises:
            BusyError: Others are being counted.
        """
        total = Tally()
        try:
            for _, _, place in self.files(dataset):
                total.add(self.of_file(place))
        except MissingError:
            return None
        return total

    def of_file(self, place: Place) -> Tally:
        """Count the annotations of a file.

        Raises:
            BusyError: Others are being counted.
        """
        try:
            with reading(place.what):
                stamp = Stamp.of(place.path.stat())
        except MissingError:
            return Tally()
        return self._kept.get(place.path, stamp, lambda: self._count(place))

    def _count(self, place: Place) -> Tally:
        if not self._counting.acquire(timeout=PATIENCE_S):
            raise BusyError("Other annotations are being counted.", 1)
        try:
            return _count(place.path, place.what)
        finally:
            self._counting.release()


def _count(path: Path, what: str) -> Tally:
    tally = Tally(files=1)
    try:
        with reading(what):
            rows = _decoder.decode(path.read_bytes())
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
