"""The formats that annotations are given in, and how they are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from neurotrale.errors import BadInputError
from neurotrale.layers.space import Space
from neurotrale.queries.found import Found
from neurotrale.queries.swc import swc
from neurotrale.queries.tabular import csv_rows

WRITE_BYTES = 64 * 2**10

Writer = Callable[[Iterable[Found], Space], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Format:
    """How annotations are written.

    Attributes:
        name: As in ``format=``.
        media_type: As in Content-Type.
        write: Writes annotations piece by piece.
        needs_voxel_size: Whether coordinates are in micrometres.
    """

    name: str
    media_type: str
    write: Writer
    needs_voxel_size: bool = False

    def check(self, space: Space) -> None:
        """Refuse what cannot be done in a space.

        Raises:
            BadInputError: The size of a voxel is needed and not known.
        """
        if self.needs_voxel_size and not space.known:
            raise BadInputError(
                f"The format {self.name!r} has coordinates in micrometres, and the data set has no"
                " 'info' that states the size of a voxel. Take 'csv' or 'jsonl', or add the 'info'."
            )


def json_array(found: Iterable[Found], space: Space) -> Iterator[bytes]:
    """Write annotations as the files have them, byte for byte."""
    start = b"["
    for one in found:
        if one.mistake:
            continue
        yield start + one.content
        start = b",\n"
    yield b"[]" if start == b"[" else b"]"


def json_lines(found: Iterable[Found], space: Space) -> Iterator[bytes]:
    """Write a line of JSON for each annotation; numbers keep their spelling."""
    for one in found:
        names = {"block": one.block, "file": one.file}
        if one.mistake:
            line: dict[str, object] = {**names, "error": one.mistake}
        else:
            text = one.content.decode(errors="replace")
            raw = msgspec.Raw(msgspec.json.format(text, indent=-1).encode())
            line = {**names, "annotation": raw}
        yield msgspec.json.encode(line) + b"\n"


FORMATS = {
    one.name: one
    for one in (
        Format("json", "application/json", json_array),
        Format("jsonl", "application/x-ndjson", json_lines),
        Format("csv", "text/csv; charset=utf-8", csv_rows),
        Format("swc", "text/plain; charset=utf-8", swc, needs_voxel_size=True),
    )
}


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Put small pieces together: one write for each line would cost more than to make it."""
    kept: list[bytes] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size >= WRITE_BYTES:
            yield b"".join(kept)
            kept, size = [], 0
    if kept:
        yield b"".join(kept)


def format_named(name: str) -> Format:
    """Find a format.

    Raises:
        BadInputError: There is none of this name.
    """
    if name not in FORMATS:
        raise BadInputError(f"format={name[:100]!r} is none of {', '.join(FORMATS)}.")
    return FORMATS[name]
