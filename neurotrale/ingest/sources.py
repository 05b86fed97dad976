"""Where planes come from: many files of one plane each, or one file of many pages.

Everything that is wrong with a source is found before any work starts, and named at once.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from neurotrale.errors import BadInputError, MissingError
from neurotrale.ingest.numbering import natural_key
from neurotrale.ingest.pieces import Piece
from neurotrale.ingest.planes import open_planes
from neurotrale.ingest.stack import open_stack


class Source(Protocol):
    """A stack of planes.

    Attributes:
        shape_zyx: Planes, rows, columns.
        dtype: A numpy name of the data type.
        fingerprint: Differs when another stack lies at the same place.
        piece_bytes: The memory that reading a plane takes, roughly.
    """

    shape_zyx: tuple[int, int, int]
    dtype: str
    fingerprint: str
    piece_bytes: int

    def pieces(self, z: int) -> Iterator[Piece]:
        """Read a plane, some rows at a time; from any thread."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


def open_source(pattern: str, channel: int | None, time: int | None, threads: int) -> Source:
    """Find and check a stack.

    Args:
        pattern: A glob of planes, or the name of a single file of many pages.
        channel: Which channel to take, from 0; None where there is but one.
        time: Which time point to take, from 0; None where there is but one.
        threads: How many files to look into at once.

    Raises:
        MissingError: Nothing has that name.
        BadInputError: Planes are missing, odd-sized, of another type, or no TIFF; the message
            names all of them.
    """
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)), key=natural_key)
    paths = paths or [path for path in [Path(pattern)] if path.is_file()]  # a name with brackets
    if not paths:
        raise MissingError(
            f"No file matches --source {pattern!r}. Put the pattern in quotes, so that the shell"
            " leaves it alone, and give the path from where you stand or from /."
        )
    if len(paths) == 1 and paths[0].is_file():
        return open_stack(paths[0], channel, time)
    for option, value in (("--channel", channel), ("--time", time)):
        if value is not None:
            raise BadInputError(
                f"{option} is for a single file of many pages, but --source {pattern!r} matches"
                f" {len(paths)} files. Let the pattern choose the files of one channel and time."
            )
    return open_planes(paths, threads)
