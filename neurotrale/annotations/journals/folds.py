"""All changes of an annotation taken together, and how they are kept once records are discarded.

A checkpoint has a line of JSON for each annotation and author, in the order in which the first of
their changes was made.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator

import msgspec

from neurotrale.annotations.documents.touched import changes_in
from neurotrale.annotations.journals.journal_records import JournalRecord


class Fold(msgspec.Struct):
    """The changes of one annotation, by one author or by all.

    Attributes:
        first: Content before the first change; None if the annotation was added.
        last: Content after the last change; None if the annotation was removed.
        by: Author of the last change.
        at: Time of the last change, ISO 8601 in UTC.
        is_saved: Whether all of them were saves of the whole file.
        last_number: Number of the record of the last change.
    """

    first: bytes | None
    last: bytes | None
    by: str
    at: str
    is_saved: bool
    last_number: int

    def add(self, later: Fold) -> None:
        """Add changes, of which the first ones are later than those so far."""
        if later.last_number >= self.last_number:
            self.last, self.by, self.at = later.last, later.by, later.at
            self.last_number = later.last_number
        self.is_saved = self.is_saved and later.is_saved


def folds_of(record: JournalRecord) -> dict[str, Fold]:
    """Return the changes of a record by the annotation's id."""
    changes = changes_in(record.bytes_hunks())
    steps: dict[str, tuple[bytes | None, bytes | None]] = dict(changes.changed)
    steps |= {id_: (None, content) for id_, content in changes.added.items()}
    steps |= {id_: (content, None) for id_, content in changes.removed.items()}
    return {
        id_: Fold(before, after, record.by, record.at, record.op == "put", record.n)
        for id_, (before, after) in steps.items()
    }


class _KeptFold(msgspec.Struct, omit_defaults=True):
    """A line of a checkpoint."""

    id: str
    by: str
    at: str
    n: int
    first: str | None = None
    last: str | None = None
    saved: bool = False
    base64: bool = False  # the contents are not valid UTF-8


_encoder = msgspec.json.Encoder()
_kept = msgspec.json.Decoder(_KeptFold)


class AuthorFolds:
    """The changes of annotations, by annotation and author.

    Args:
        lines: The lines of the checkpoint that they continue.
    """

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self._folds: dict[tuple[str, str], Fold] = {}
        for line in lines:
            one = _kept.decode(line)
            first, last = (_decoded(content, one.base64) for content in (one.first, one.last))
            self._folds[one.id, one.by] = Fold(first, last, one.by, one.at, one.saved, one.n)

    def add(self, record: JournalRecord) -> None:
        """Add the changes of a record."""
        for id_, fold in folds_of(record).items():
            known = self._folds.setdefault((id_, record.by), fold)
            if known is not fold:
                known.add(fold)

    def selected(self, by: str | None) -> Iterator[tuple[str, Fold]]:
        """Iterate over the changes of each annotation by an author; None for all authors."""
        for (id_, author), fold in self._folds.items():
            if by is None or author == by:
                yield id_, fold

    def lines(self) -> Iterator[bytes]:
        """Iterate over them as lines of a checkpoint."""
        for (id_, by), fold in self._folds.items():
            try:
                first, last = (_text(content) for content in (fold.first, fold.last))
                is_base64 = False
            except UnicodeDecodeError:
                first, last = (_as_base64(content) for content in (fold.first, fold.last))
                is_base64 = True
            kept = _KeptFold(
                id_, by, fold.at, fold.last_number, first, last, fold.is_saved, is_base64
            )
            yield _encoder.encode(kept) + b"\n"


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode()


def _as_base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _decoded(content: str | None, is_base64: bool) -> bytes | None:
    if content is None:
        return None
    return base64.b64decode(content) if is_base64 else content.encode()
