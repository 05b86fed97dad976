"""Counts of annotations: of a file, of a block, and of a dataset.

The counts of a block are kept as bytes, with the version of the block that they were made of: of a
hundred thousand blocks, objects would take ten times the memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

import msgspec
import xxhash

from neurotrale.annotations.files.block_listing import ListedBlock, ListedFile
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.cache import Stamp

MAX_KINDS = 40
MAX_DAMAGED = 100
MAX_NAME = 100
OTHER = "(other)"

AnnotationKind = tuple[str, str]
"""A kind of annotations, as `anntype` and `type`: neurons as points, axons as linestrings, ..."""


class FileCounts(msgspec.Struct, array_like=True, frozen=True):
    """Counts of an annotation file.

    Attributes:
        leaf: Name of the file in its block.
        version: Hash of the stamps of the file and its journal.
        is_settled: Whether the next version is certain to have another hash.
        files: 1; 0 if only the journal of a deleted file is left.
        is_damaged: Whether it is not an array of annotations.
        held: Number of removals that are held back.
        kinds: `anntype`, `type`, number of annotations, and of reviewed ones.
    """

    leaf: str
    version: bytes
    is_settled: bool
    files: int
    is_damaged: bool = False
    held: int = 0
    kinds: tuple[tuple[str, str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class CountProgress:
    """How far the first count of a large dataset is.

    Attributes:
        blocks: Number of blocks that are counted.
        of: Number of blocks of the dataset.
    """

    blocks: int
    of: int


@dataclass(slots=True)
class AnnotationCounts:
    """Counts of the annotations of a dataset.

    Attributes:
        counts: Number of annotations of each kind.
        reviewed: Number of reviewed annotations of each kind.
        files: Number of files.
        held: Number of removals that are held back.
        damaged: Files that are not an array of annotations, relative to the data root.
        progress: How far the count is; None if it is complete.
        checked: When all files were last compared with the counts, as ISO 8601; empty if that was
            for this request.
    """

    counts: Counter[AnnotationKind] = field(default_factory=Counter)
    reviewed: Counter[AnnotationKind] = field(default_factory=Counter)
    files: int = 0
    held: int = 0
    damaged: set[str] = field(default_factory=set)
    progress: CountProgress | None = None
    checked: str = ""

    def add(self, block_path: str, files: Iterable[FileCounts], sign: int = 1) -> None:
        """Add the counts of files, or subtract them.

        Args:
            block_path: Path of their block, relative to the data root.
            files: The counts.
            sign: 1 to add, -1 to subtract.
        """
        for file in files:
            self.files += sign * file.files
            self.held += sign * file.held
            for anntype, type_, count, reviewed in file.kinds:
                _change(self.counts, (anntype, type_), sign * count)
                _change(self.reviewed, (anntype, type_), sign * reviewed)
            if file.is_damaged:
                path = f"{block_path}/{file.leaf}"
                (self.damaged.add if sign > 0 else self.damaged.discard)(path)

    def copy(self) -> AnnotationCounts:
        """Return counts that can be changed without changing these."""
        return AnnotationCounts(
            self.counts.copy(),
            self.reviewed.copy(),
            self.files,
            self.held,
            self.damaged.copy(),
            self.progress,
            self.checked,
        )

    def summary(self) -> dict[str, object]:
        """Return the counts for JSON, the most frequent kinds first and the rarest as one."""
        frequent = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        rest = frequent[MAX_KINDS:]
        kinds = [(*kind, self.counts[kind], self.reviewed[kind]) for kind in frequent[:MAX_KINDS]]
        if rest:
            counted, reviewed = (
                sum(counter[kind] for kind in rest) for counter in (self.counts, self.reviewed)
            )
            kinds.append((OTHER, "", counted, reviewed))
        names = ("anntype", "type", "count", "reviewed")
        progress = self.progress
        return {
            "files": self.files,
            "count": self.counts.total(),
            "reviewed": self.reviewed.total(),
            "kinds": [dict(zip(names, kind, strict=True)) for kind in kinds],
            "damaged": sorted(self.damaged)[:MAX_DAMAGED],
            "held": self.held,
            "counting": None
            if progress is None
            else {"blocks": progress.blocks, "of": progress.of},
            "checked": self.checked or None,
        }


def _change(counter: Counter[AnnotationKind], kind: AnnotationKind, by: int) -> None:
    count = counter[kind] + by
    if count:
        counter[kind] = count
    else:
        counter.pop(kind, None)


# --- one file ---


class _Row(msgspec.Struct, gc=False):
    # Any type: a number in place of a flag is no reason not to count the annotation.
    type: object = ""
    anntype: object = ""
    reviewed: object = False


_rows = msgspec.json.Decoder(list[_Row])


def count_kinds(content: bytes) -> tuple[tuple[str, str, int, int], ...] | None:
    """Count the annotations in the content of a file; None if it is not an array of objects."""
    try:
        rows = _rows.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        kind = _text(row.anntype), _text(row.type).lower()
        counted = counts.get(kind)
        if counted is None:
            counted = counts[kind] = [0, 0]
        counted[0] += 1
        counted[1] += row.reviewed is True
    return tuple((*kind, count, reviewed) for kind, (count, reviewed) in counts.items())


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    if len(value) <= MAX_NAME and value.isascii():
        return value
    return value[:MAX_NAME].encode(errors="replace").decode()


# --- one block ---

_STAMP = Struct("<QQqqQ")
_VERSION_BYTES = 16
_files = msgspec.msgpack.Decoder(tuple[FileCounts, ...])
_encode = msgspec.msgpack.Encoder().encode


def files_of(record: bytes) -> tuple[FileCounts, ...]:
    """Return the counts of the files in the record of a block.

    Raises:
        msgspec.DecodeError: It is not a record.
    """
    return _files.decode(memoryview(record)[1 + _VERSION_BYTES :])


def block_record(
    block: ListedBlock, known: bytes | None, held_removals: Callable[[Path], int]
) -> bytes:
    """Return the record of a block: the known one if it is up to date.

    Args:
        block: The block as it is now.
        known: A record of an earlier version; files that are the same are not counted again.
        held_removals: Returns how many removals the journal of a file holds back.

    Raises:
        ReadOnlyError, BusyError: A file cannot be read.
    """
    files = {file.leaf: file for file in block.files}
    stamps = {leaf: [*block.journals.get(leaf, ()), file.stamp] for leaf, file in files.items()}
    for leaf, journals in block.journals.items():
        stamps.setdefault(leaf, journals)
    versions = {leaf: _version(stamps[leaf]) for leaf in stamps}
    whole = xxhash.xxh3_128()
    for leaf, version in versions.items():
        whole.update(version + leaf.encode(errors="surrogateescape"))
    prefix = b"\1" + whole.digest()
    if known is not None and known.startswith(prefix):
        return known
    old = {} if known is None else {file.leaf: file for file in files_of(known)}
    counted = []
    for leaf, version in versions.items():
        before = old.get(leaf)
        if before is None or not before.is_settled or before.version != version:
            # Before reading: what is changed meanwhile has another stamp from then on.
            settled = all(stamp.is_settled for stamp in stamps[leaf])
            held = 0
            if leaf in block.journals:
                with suppress(OSError, DamagedError):
                    held = held_removals(block.directory.path_of(leaf))
            before = _count(leaf, files.get(leaf), version, held, settled=settled)
        counted.append(before)
    if not all(file.is_settled for file in counted):
        prefix = b"\0" + prefix[1:]
    return prefix + _encode(counted)


def _count(
    leaf: str, file: ListedFile | None, version: bytes, held: int, *, settled: bool
) -> FileCounts:
    leaf = leaf.encode(errors="replace").decode()
    try:
        content = None if file is None else file.read()[0]
    except MissingError:  # removed since it was listed
        content, settled = None, False
    if content is None:
        return FileCounts(leaf, version, settled, 0, held=held)
    kinds = count_kinds(content)
    return FileCounts(leaf, version, settled, 1, kinds is None, held, kinds or ())


def _version(stamps: list[Stamp]) -> bytes:
    packed = [
        _STAMP.pack(stamp.inode, stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.device)
        for stamp in stamps
    ]
    return xxhash.xxh3_128_digest(b"".join(packed))
