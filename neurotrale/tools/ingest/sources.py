"""Sources of planes: one file per plane, one multi-page file, or an array in memory.

All problems of a source are found before any work starts, and reported together.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from neurotrale.chunks.tiff_pages import RowBlock
from neurotrale.errors import BadInputError, MissingError, SourceError
from neurotrale.tools.ingest.dataset_source import open_dataset
from neurotrale.tools.ingest.hashing import FileRecord
from neurotrale.tools.ingest.joined import JoinedSource
from neurotrale.tools.ingest.page_stack import holds_stack, open_stack
from neurotrale.tools.ingest.plane_files import open_planes
from neurotrale.tools.ingest.plane_names import natural_key
from neurotrale.tools.ingest.plane_order import PlaneOrder, order_planes
from neurotrale.tools.ingest.plane_source import PlaneSource as PlaneSource
from neurotrale.tools.ingest.plane_source import SlabSource
from neurotrale.tools.ingest.slab import format_problems


def open_source(
    pattern: str,
    channel: int | None,
    time: int | None,
    threads: int,
    order: str | None = None,
    series: int | None = None,
) -> PlaneSource:
    """Find a stack and check all its planes.

    Args:
        pattern: A glob of planes, a directory of them, the path of a single multi-page file, or a
            dataset.
        channel: The channel to take, from 0; None for all.
        time: The time point to take, from 0; None if there is only one.
        threads: Number of files to examine at once.
        order: How to order files of planes, as in `order_planes`.
        series: The image to take of each file, from 0; None for the first that is not reduced.

    Raises:
        MissingError: No file matches.
        BadInputError: Planes are missing, differ in size or type, or are not TIFF; the message
            names all of them.
    """
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        dataset = open_dataset(Path(pattern), channel, time)
        if dataset is not None:
            return dataset
        found = glob.glob(os.path.join(glob.escape(pattern), "*.[tT][iI][fF]*"))
        if not found:
            raise MissingError(
                f"--source {pattern!r} is a directory with no TIFF file in it, and not a dataset."
                " Name the directory of the planes, or a pattern for them."
            )
    else:
        found = glob.glob(_literal(pattern), recursive=True)
    paths = sorted(map(Path, found), key=natural_key)
    if not paths:
        raise MissingError(
            f"No file matches --source {pattern!r}. Quote the pattern, so that the shell does not"
            " expand it, and give a path that is absolute or relative to the current directory."
        )
    if len(paths) == 1 and paths[0].is_file():
        return open_stack(paths[0], channel, time, series)
    ordered = order_planes(paths, order)
    if all(holds_stack(path, series) for path in ordered.paths[:2]):
        return _open_pieces(ordered, channel, time, series)
    if time is not None:
        raise BadInputError(
            f"--time is for files of many pages, but --source {pattern!r} matches {len(paths)}"
            " files of one plane. Use a pattern for the files of one time."
        )
    return open_planes(ordered, threads, series, channel)


def _open_pieces(
    order: PlaneOrder, channel: int | None, time: int | None, series: int | None
) -> PlaneSource:
    """Open the pieces of a stack that is cut along z, each a file of many pages."""
    if order.problems:
        raise SourceError(format_problems(order.problems))
    with _closed_on_error(
        open_stack(path, channel, time, series) for path in order.paths
    ) as pieces:
        return JoinedSource(pieces, "z", list(map(str, order.paths)), order.text)


@contextmanager
def _closed_on_error(opening: Iterable[PlaneSource]) -> Iterator[list[PlaneSource]]:
    """Yield the sources that are opened one by one; if anything fails, close them."""
    with ExitStack() as opened:
        sources = []
        for source in opening:
            sources.append(source)
            opened.callback(source.close)
        yield sources
        opened.pop_all()


def open_sources(
    patterns: Sequence[str],
    channel: int | None,
    time: int | None,
    threads: int,
    order: str | None = None,
    series: int | None = None,
) -> PlaneSource:
    """Open one stack, or several that are channels of one volume.

    Args:
        patterns: The stacks, as in `open_source`; the channels are in this order.
        channel: As in `open_source`.
        time: As in `open_source`.
        threads: As in `open_source`.
        order: As in `open_source`.
        series: As in `open_source`.

    Raises:
        MissingError, BadInputError: As in `open_source`, or the stacks differ.
    """
    if len(patterns) == 1:
        return open_source(patterns[0], channel, time, threads, order, series)
    opening = (open_source(one, channel, time, threads, order, series) for one in patterns)
    with _closed_on_error(opening) as sources:
        if any(isinstance(source, SlabSource) for source in sources):
            raise BadInputError("--source may name one dataset only, and nothing else beside it.")
        return JoinedSource(sources, "channel", list(patterns))


def _literal(pattern: str) -> str:
    """Escape the names of a pattern, from the first one on, that exist as they are written."""
    names = pattern.split("/")
    for count in range(len(names), 0, -1):
        head = "/".join(names[:count])
        if head and os.path.lexists(head):
            return "/".join([glob.escape(head), *names[count:]])
    return pattern


class Volume:
    """A stack in memory.

    Args:
        voxels: ``[z, y, x]``.
    """

    def __init__(self, voxels: NDArray[Any]) -> None:
        z, y, x = voxels.shape
        self.shape_zyx = (z, y, x)
        self.dtype = voxels.dtype.name
        self.channels = 1
        self.fingerprint = hashlib.sha256(voxels.tobytes()).hexdigest()
        self.read_memory_bytes = 0  # it is in memory already
        self.paths: tuple[Path, ...] = ()
        self.sizes: tuple[int, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.order = ""
        self._voxels = voxels

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Yield a plane as one block."""
        yield 0, self._voxels[z]

    def file_indices(self, z: int) -> Sequence[int]:
        """Return no indices: no plane is in a file."""
        return ()

    def records(self) -> dict[int, FileRecord]:
        """Return no records: there are no files."""
        return {}

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Do nothing: there are no files."""

    def close(self) -> None:
        """Do nothing: there are no files."""
