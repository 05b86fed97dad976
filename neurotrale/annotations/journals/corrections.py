"""Corrections that people made to a dataset's annotations, for training the next model.

All changes of an annotation in a file's journal are combined: an annotation that was changed ten
times is one correction, from its first content to its last. The other spelling that a viewer gives
to what it did not touch is none, also in journals in which it was recorded as a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from neurotrale.annotations.documents.contents import Content, Contents
from neurotrale.annotations.documents.spelling import Parsed, edited_keys
from neurotrale.annotations.documents.validation import KNOWN_KEYS
from neurotrale.annotations.journals.archives import Archives, Checkpoint
from neurotrale.annotations.journals.folds import AuthorFolds, Fold, folds_of
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.revisions import applied_changes
from neurotrale.errors import BadInputError, MissingError, reading
from neurotrale.storage.directories import directory_at
from neurotrale.storage.regular import is_regular

Kind = Literal["added", "changed", "removed", "reviewed"]

# Keys that describe the progress of a review, not the annotation.
_REVIEW_KEYS = ("reviewed", "visited")


class Correction(msgspec.Struct, frozen=True):
    """One annotation that a person changed.

    Attributes:
        block: Name of the block.
        file: Name of the file.
        id: The annotation's id.
        kind: The kind of all changes taken together.
        first: Content before the first change; None if the annotation was added.
        last: Content after the last change; None if the annotation was removed.
        by: Author of the last change.
        at: Time of the last change, ISO 8601 in UTC.
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
        """Return the correction as a line of JSON."""
        return _encoder.encode(self) + b"\n"


_encoder = msgspec.json.Encoder()


def corrections(
    annotations: Path, since: str | None = None, by: str | None = None
) -> Iterator[Correction]:
    """Iterate over the corrections of a dataset, file by file.

    Memory holds the changed annotations of one file at a time.

    Args:
        annotations: The dataset's ``annotations`` directory.
        since: Only changes at or after this time (ISO 8601, UTC).
        by: Only changes by this author.
    """
    for name in sorted(directory_at(annotations).names()):
        if not name.startswith("."):
            yield from block_corrections(annotations / name, since, by)


def block_corrections(
    block: Path, since: str | None = None, by: str | None = None
) -> Iterator[Correction]:
    """Iterate over the corrections of the files in a block's directory."""
    for journal in _journals(block):
        with suppress(MissingError):  # the block was removed or replaced since it was listed
            yield from file_corrections(_file_of(journal), since, by)


def check_journals(block: Path, since: str | None = None) -> None:
    """Check that the corrections of the files in a block's directory can be read.

    Args:
        block: The directory.
        since: The time since which they are wanted (ISO 8601, UTC).

    Raises:
        BadInputError: A file's records since then were discarded, and those before, too.
        DamagedError: A journal is a link, a pipe or the like, or a checkpoint is damaged.
    """
    for journal in _journals(block):
        with reading(f"{block.name}/{journal.name}"):
            if is_regular(journal):
                checkpoint = Archives(_file_of(journal)).checkpoint()
                if checkpoint is not None:
                    _includes(checkpoint, since)


def _file_of(journal: Path) -> Path:
    return journal.with_name(journal.name[1 : -len(".journal")])


def _journals(block: Path) -> list[Path]:
    try:
        with reading(block.name):
            names = directory_at(block).names()
    except MissingError:  # the block was removed or replaced since it was listed
        return []
    return sorted(block / name for name in names if fnmatchcase(name, ".*.json.journal"))


def file_corrections(
    file: Path, since: str | None = None, by: str | None = None
) -> Iterator[Correction]:
    """Iterate over the corrections of one annotation file.

    Raises:
        BadInputError: Some of the records since then were discarded.
        DamagedError: Its journal is a link, a pipe or the like, or an archive is damaged.
        ReadOnlyError, BusyError: It cannot be read.
    """
    with reading(f"{file.parent.name}/{file.name}"):
        folds = _folds(file, since, by)
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


def _folds(file: Path, since: str | None, by: str | None) -> dict[str, Fold]:
    """Return the selected changes of each annotation, taken together.

    They are read again if records are discarded meanwhile.
    """
    journal = Journal(file)
    while True:
        checkpoint = journal.archives.checkpoint()
        folds = _read_folds(journal, checkpoint, since, by)
        if journal.archives.checkpoint() == checkpoint:
            return folds


def _read_folds(
    journal: Journal, checkpoint: Checkpoint | None, since: str | None, by: str | None
) -> dict[str, Fold]:
    folds: dict[str, Fold] = {}
    if checkpoint is not None and _includes(checkpoint, since):
        kept = AuthorFolds(journal.archives.kept_lines())
        for id_, fold in kept.selected(by):
            _add(folds, id_, fold)
    applied = {
        entry.n
        for entry, took_effect in applied_changes(journal, _content(journal.file))
        if took_effect
    }
    numbers = journal.numbers(since)
    for record in journal.records_forward():
        if record.op == "outside" or record.n not in applied:
            continue
        if record.n in numbers and (by is None or record.by == by):
            for id_, fold in folds_of(record).items():
                _add(folds, id_, fold)
    return folds


def _includes(checkpoint: Checkpoint, since: str | None) -> bool:
    """Return whether all records that were discarded are selected; False if none is.

    Raises:
        BadInputError: Some of them are.
    """
    if since is None or since <= checkpoint.first_at:
        return True
    if since > checkpoint.latest_at:
        return False
    raise BadInputError(
        f"since={since} is within what was discarded. {checkpoint.sentence} Ask for corrections"
        f" after {checkpoint.latest_at}, or for all."
    )


def _add(folds: dict[str, Fold], id_: str, fold: Fold) -> None:
    known = folds.setdefault(id_, fold)
    if known is not fold:
        known.add(fold)


def _content(file: Path) -> Content | None:
    try:
        return Contents().read(file)
    except FileNotFoundError:
        return None


def _kind(fold: Fold) -> Kind | None:
    if fold.first is None:
        return None if fold.last is None else "added"
    if fold.last is None:
        return "removed"
    first, last = Parsed.of(fold.first), Parsed.of(fold.last)
    if first.fields is None or last.fields is None:
        # another program wrote JSON that cannot be read
        return None if fold.first == fold.last else "changed"
    edited = set(edited_keys(first, last, own=True))
    if fold.is_saved:  # a viewer that saves the whole file leaves out keys that it does not know
        edited -= first.fields.keys() - last.fields.keys() - KNOWN_KEYS
    if edited - set(_REVIEW_KEYS):
        return "changed"
    return "reviewed" if "reviewed" in edited else None


def _raw(content: bytes | None) -> msgspec.Raw | None:
    if content is None:
        return None
    # On one line and in UTF-8, as JSON Lines requires; numbers keep their spelling.
    text = content.decode(errors="replace")
    return msgspec.Raw(msgspec.json.format(text, indent=-1).encode())
