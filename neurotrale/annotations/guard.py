"""Saves annotations from a viewer that puts a file back without those it forgot.

Leaving a slice, the viewer puts the old slice's file without one type of annotation, then empty;
and after a failed GET it puts a file with nothing but what was drawn since. People delete one
annotation at a time. So a PUT from a browser that removes several at once, or empties the file,
is merged: what it adds and changes is applied, what it would remove is kept and noted as held.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from neurotrale.annotations.difference import apply
from neurotrale.annotations.document import Document

GuardMode = Literal["browser", "all", "off"]


@dataclass(frozen=True, slots=True)
class Merged:
    """What is written in place of the body.

    Attributes:
        body: The new content of the file.
        held: Ids whose removal is held back, old ones included.
        kept: How many of them this body would have removed for the first time.
    """

    body: bytes
    held: tuple[str, ...]
    kept: int


def merge(old: Document, new: Document, body: bytes, held: Set[str]) -> Merged:
    """Keep what a guarded PUT would remove, unless it is what a person does: one at a time.

    Args:
        old: The file as it is.
        new: The body that was sent.
        body: The same as bytes.
        held: Ids whose removal is held back already; the viewer that goes on without them is
            not asked again, and does not lose its right to delete one annotation.
    """
    missing = [id_ for id_ in old.index.ids if id_ not in new.index.ids]
    nameless = old.nameless()  # no viewer loads these, so nobody who saves one removes them
    still_held = [id_ for id_ in missing if id_ in held]
    removed = [id_ for id_ in missing if id_ not in held]
    empties = not len(new.index) and bool(removed)
    hold = removed if len(removed) > 1 or empties else []
    staying = still_held + hold
    if not staying and not nameless:
        return Merged(body, (), 0)
    annotations = [*nameless, *(old.at(old.index.ids[id_]) for id_ in staying)]
    return Merged(apply(body, [new.appended(annotations)]), tuple(staying), len(hold))
