"""Stacks that are joined: end to end along z, or side by side as channels."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from neurotrale.chunks.tiff_pages import RowBlock
from neurotrale.errors import SourceError
from neurotrale.tools.ingest.hashing import FileRecord
from neurotrale.tools.ingest.layers import side_by_side
from neurotrale.tools.ingest.plane_source import PlaneSource
from neurotrale.tools.ingest.slab import format_problems


class JoinedSource:
    """Several stacks as one.

    Args:
        parts: The stacks, in order; all of one size (but along z, if that joins them) and type.
        along: What joins them: ``z``, or each has channels of its own.
        names: What to call each of them in problems.
        order: The order of the files, for people.

    Raises:
        SourceError: They differ; the message names all differences.
    """

    def __init__(
        self,
        parts: Sequence[PlaneSource],
        along: Literal["z", "channel"],
        names: Sequence[str],
        order: str = "",
    ) -> None:
        problems = [
            f"{name}: {_form(part, along)}, but {names[0]} is {_form(parts[0], along)}"
            for name, part in zip(names, parts, strict=True)
            if _form(part, along) != _form(parts[0], along)
        ]
        if problems:
            raise SourceError(format_problems(problems))
        depth, rows, columns = parts[0].shape_zyx
        self.parts = parts
        self.along = along
        self.order = order or "; ".join(part.order for part in parts if part.order)
        self.dtype = parts[0].dtype
        self.channels = parts[0].channels
        self._ends = list(accumulate(part.shape_zyx[0] for part in parts))
        self._first_files = [0, *accumulate(len(part.paths) for part in parts)]
        reads = [part.read_memory_bytes for part in parts]
        if along == "z":
            depth, self.read_memory_bytes = self._ends[-1], max(reads)
        else:
            self.channels = sum(part.channels for part in parts)
            self.read_memory_bytes = 2 * sum(reads)
        self.shape_zyx = (depth, rows, columns)
        facts = " ".join([along, *(part.fingerprint for part in parts)])
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        return [path for part in self.parts for path in part.paths]

    @property
    def sizes(self) -> Sequence[int]:
        """Sizes of the files in bytes."""
        return [size for part in self.parts for size in part.sizes]

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know, each note once."""
        return list(dict.fromkeys(note for part in self.parts for note in part.notes))

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Read a plane, with all channels."""
        if self.along == "z":
            number, start = self._part_of(z)
            yield from self.parts[number].read_plane(z - start)
        else:
            yield from side_by_side([part.read_plane(z) for part in self.parts])

    def file_indices(self, z: int) -> Sequence[int]:
        """Return the indices of the files that hold a plane."""
        if self.along == "z":
            number, start = self._part_of(z)
            return self._files(number, z - start)
        return [file for number in range(len(self.parts)) for file in self._files(number, z)]

    def _part_of(self, z: int) -> tuple[int, int]:
        """Return the number of the part that holds a plane, and its first plane."""
        number = bisect_right(self._ends, z)
        return number, self._ends[number - 1] if number else 0

    def _files(self, number: int, z: int) -> list[int]:
        return [self._first_files[number] + file for file in self.parts[number].file_indices(z)]

    def records(self) -> dict[int, FileRecord]:
        """Return a record of each file that was read, by its index."""
        return {
            first + file: replace(record, file=first + file)
            for first, part in zip(self._first_files, self.parts, strict=False)
            for file, record in part.records().items()
        }

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Hash one shard's share of the bytes that belong to no plane."""
        for part in self.parts:  # parts of different files have the same numbers
            part.hash_share(shard, shards, ())

    def close(self) -> None:
        """Close any open files."""
        for part in self.parts:
            part.close()


def _form(part: PlaneSource, along: str) -> str:
    z, y, x = part.shape_zyx
    if along == "z":
        return f"{x} x {y} {part.dtype} with {part.channels} channels"
    return f"{z} planes of {x} x {y} {part.dtype}"
