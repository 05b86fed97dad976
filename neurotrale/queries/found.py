"""The wanted annotations of files, one file in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from neurotrale.annotations.document import NotAnArrayError
from neurotrale.annotations.places import Place
from neurotrale.errors import MissingError
from neurotrale.faults import reading
from neurotrale.layers.reading import Annotation, read_batches
from neurotrale.queries.near import near
from neurotrale.queries.wanted import Wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """One annotation that is wanted, or a file that is damaged.

    Attributes:
        block: Directory of the file below ``annotations``.
        file: Name of the file.
        content: The annotation's bytes as they stand in the file.
        annotation: What is read of it.
        mistake: Why the file is no JSON array; "" for an annotation.
    """

    block: str
    file: str
    content: bytes
    annotation: Annotation
    mistake: str = ""


def found_in_all(places: Iterable[Place], wanted: Wanted) -> Iterator[Found]:
    """Give the wanted annotations of several files; one that is damaged is named in its place."""
    for place in places:
        try:
            with reading(place.what):
                content = place.path.read_bytes()
        except MissingError:  # it was there a moment ago
            continue
        try:
            yield from found_in(place.what, content, wanted)
        except NotAnArrayError as error:
            log.warning("left out %s: %s", place.what, error)
            yield Found(*_names(place.what), b"", Annotation(), str(error))


def found_in(what: str, content: bytes, wanted: Wanted) -> Iterator[Found]:
    """Give the wanted annotations of one file, in its order.

    Args:
        what: The file's path, which ends in its block and name.
        content: Its content.
        wanted: Which ones.

    Raises:
        NotAnArrayError: The content is no JSON array.
    """
    block, file = _names(what)
    for batch in read_batches(content):
        annotations = batch.annotations
        places = range(len(annotations)) if wanted.box is None else near(annotations, wanted.box)
        for place in places:
            if wanted.fits(annotations[place]):
                yield Found(block, file, bytes(batch.items[place]), annotations[place])


def _names(what: str) -> tuple[str, str]:
    above, _, file = what.rpartition("/")
    return above.rpartition("/")[2], file
