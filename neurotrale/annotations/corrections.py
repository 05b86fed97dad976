"""What people changed in a data set's annotations, for training the next model.

An algorithm detects, a person corrects. Folded over a file's journal, an annotation that was
changed ten times is one correction: from what it was first to what it is now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from neurotrale.annotations.content import Content, Contents
from neurotrale.annotations.difference import changes
from neurotrale.annotations.history import made
from neurotrale.annotations.journal import Journal, Record

Kind = Literal["added", "changed", "removed", "reviewed"]

# Keys that say what a person looked at, not what is there.
_LOOKED_AT = ("reviewed", "visited")


class Correction(msgspec.Struct, frozen=True):
    """One annotation that a person changed.

    Attributes:
        block: Directory of the file below ``annotations``.
        file: Name of the file.
        id: The annotation's id.
        kind: What was done to it, all changes together.
        first: Its content before the first change; None when it was added.
        last: Its content after the last change; None when it was removed.
        by: Who changed it last.
        at: When, ISO 8601 in UTC.
    """

    block: str
    file: str
    id: str
    kind: Kind
    first: msgspec.Raw | None
    last: msgspec.Raw | None
    by: str
    at: str

    def line(self) -> bytes:
        """Give the correction as a line of JSON."""
        return _encoder.encode(self) + b"\n"


_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder()


@dataclass(slots=True)
class _Fold:
    first: bytes | None
    last: bytes | None
    by: str
    at: str


def corrections(
    annotations: Path, since: str | None = None, by: str | None = None
) -> Iterator[Correction]:
    """Give the corrections of a data set, file by file.

    Memory holds what was changed in one file at a time.

    Args:
        annotations: The data set's ``annotations`` directory.
        since: Only changes at or after this time (ISO 8601, UTC).
        by: Only changes of this name.
    """
    for block in sorted(annotations.iterdir()):
        if block.is_dir() and not block.name.startswith("."):
            yield from block_corrections(block, since, by)


def block_corrections(
    block: Path, since: str | None = None, by: str | None = None
) -> Iterator[Correction]:
    """Give the corrections of the files of one block's directory."""
    for journal in sorted(block.glob(".*.json.journal")):
        file = journal.with_name(journal.name[1 : -len(".journal")])
        yield from file_corrections(file, since, by)


def file_corrections(
    file: Path, since: str | None = None, by: str | None = None
) -> Iterator[Correction]:
    """Give the corrections of one annotation file."""
    folds: dict[str, _Fold] = {}
    journal = Journal(file)
    applied = {entry.n for entry, took_effect in made(journal, _content(file)) if took_effect}
    for record in journal.records_forward():
        if record.op == "outside" or record.n not in applied:
            continue
        if (since is None or record.at >= since) and (by is None or record.by == by):
            _fold(folds, record)
    for id_, fold in folds.items():
        kind = _kind(fold)
        if kind is not None:
            yield Correction(
                file.parent.name,
                file.name,
                id_,
                kind,
                _raw(fold.first),
                _raw(fold.last),
                fold.by,
                fold.at,
            )


def _content(file: Path) -> Content | None:
    try:
        return Contents().read(file)
    except FileNotFoundError:
        return None


def _fold(folds: dict[str, _Fold], record: Record) -> None:
    found = changes(record.bytes_hunks())
    steps: dict[str, tuple[bytes | None, bytes | None]] = dict(found.changed)
    steps |= {id_: (None, content) for id_, content in found.added.items()}
    steps |= {id_: (content, None) for id_, content in found.removed.items()}
    for id_, (before, after) in steps.items():
        fold = folds.setdefault(id_, _Fold(before, after, record.by, record.at))
        fold.last, fold.by, fold.at = after, record.by, record.at


def _kind(fold: _Fold) -> Kind | None:
    if fold.first is None:
        return None if fold.last is None else "added"
    if fold.last is None:
        return "removed"
    try:
        first, last = _decode.decode(fold.first), _decode.decode(fold.last)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "changed"  # from what another program wrote, and nobody can read
    if first == last:
        return None
    for key in _LOOKED_AT:
        before, after = first.pop(key, None), last.pop(key, None)
        if key == "reviewed":
            reviewed = before != after
    if first != last:
        return "changed"
    return "reviewed" if reviewed else None


def _raw(content: bytes | None) -> msgspec.Raw | None:
    if content is None:
        return None
    # On one line and in UTF-8, as JSON Lines wants it; the spelling of numbers stays.
    text = content.decode(errors="replace")
    return msgspec.Raw(msgspec.json.format(text, indent=-1).encode())
