"""Layouts of voxels other than files of chunks, told by the names of their files.

Chunks of blockfs are served. The files of all others are served as they are, and viewers open them
with their own readers. None of them is ever called stray: it may be the only copy of the voxels.
"""

from __future__ import annotations

import logging
import re
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Final

from neurotrale.chunks.blockfs import DIRECTORY_FILE
from neurotrale.errors import MissingError
from neurotrale.storage.cache import Stamp, VersionedCache
from neurotrale.storage.files import Files, StoredFile
from neurotrale.storage.names import Parts

log = logging.getLogger(__name__)

BLOCKFS: Final = "blockfs, which precomputed-tif writes"
_ZARR_CHUNK: Final = re.compile(r"(c\.)?\d+(\.\d+)*", re.ASCII)
# Files that describe an array or a group, in order of precedence.
_MARKERS: Final = {
    "zarr.json": "zarr version 3",
    ".zarray": "zarr version 2",
    ".zgroup": "zarr version 2, as OME-NGFF has it",
    "attributes.json": "N5",
}
_COMPANIONS: Final = {".zattrs", ".zmetadata", "c"}
MARKERS: Final = frozenset(_MARKERS)
"""Names of files that describe an array or a group in another layout."""
_CACHED_DIRECTORIES = 10_000
# For so long a directory is taken to be one of ordinary chunks without another look.
_ORDINARY_S = 1.0


def layout_of(names: Iterable[str]) -> str | None:
    """Return the name of the other layout that a directory is in; None if there is none.

    Args:
        names: Names of all entries of the directory, including hidden ones.
    """
    names = set(names)
    if any(map(_is_blockfs, names)):
        return BLOCKFS
    for marker, layout in _MARKERS.items():
        if marker in names:
            return layout
    if any(name.endswith(".shard") for name in names):
        return "neuroglancer_uint64_sharded_v1, which needs 'sharding' in info"
    if any(map(_ZARR_CHUNK.fullmatch, names)):
        return "zarr or N5, judging by the names; there is no metadata file"
    return None


def names_in_layouts(names: Iterable[str]) -> Iterator[str]:
    """Filter the names that belong to another layout."""
    for name in names:
        if (
            name in _MARKERS
            or name in _COMPANIONS
            or _is_blockfs(name)
            or name.endswith(".shard")
            or _ZARR_CHUNK.fullmatch(name)
        ):
            yield name


def _is_blockfs(name: str) -> bool:
    return name.startswith(DIRECTORY_FILE)


class Layouts:
    """Tells the layout of scales, and remembers it while their directories are unchanged.

    Args:
        files: Looks up the files.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._cache: VersionedCache[str] = VersionedCache(_CACHED_DIRECTORIES)
        self._ordinary: dict[Parts, float] = {}

    def of_scale(self, directory: Parts) -> str:
        """Return the layout of a scale; "" for files of chunks.

        Args:
            directory: The directory of the scale. If there is none, the dataset may be a group of
                arrays, as OME-NGFF has it.
        """
        now = time.monotonic()
        if self._ordinary.get(directory, 0.0) > now:  # most chunks of a sparse volume are absent
            return ""
        layout = self._of(directory)
        if layout is None and len(directory) > 1:
            layout = self._of(directory[:-1])
        if not layout:
            if len(self._ordinary) >= _CACHED_DIRECTORIES:
                self._ordinary.clear()
            self._ordinary[directory] = now + _ORDINARY_S
        return layout or ""

    def _of(self, directory: Parts) -> str | None:
        try:
            found = self._files.data_root.status(directory)
        except MissingError:
            return None
        if found is None or not stat.S_ISDIR(found.st_mode):
            return None
        stamp = Stamp.of(found)
        return self._cache.get(
            directory, stamp, lambda: self._look(directory), is_settled=stamp.is_settled
        )

    def _look(self, directory: Parts) -> str:
        names = (DIRECTORY_FILE, *_MARKERS)
        present = [
            name
            for name in names
            if isinstance(self._files.find_exact((*directory, name)), StoredFile)
        ]
        layout = layout_of(present) or ""
        if layout and layout != BLOCKFS:
            log.warning(
                "%s is in the layout %s: its files are served, but there are no chunks in it",
                "/".join(directory) or "the data root",
                layout,
            )
        return layout


def absent_chunk_text(name: str, layout: str) -> str:
    """Return the message for a chunk that does not exist.

    Args:
        name: The path of the chunk.
        layout: The layout of its scale; "" for files of chunks.
    """
    text = f"There is no chunk {name!r}."
    if layout == BLOCKFS:
        return f"{text} The scale is {layout}; it has no block of this box, or never wrote it."
    if layout:
        return (
            f"{text} The voxels are in another layout ({layout}), whose files are served as they"
            " are: open the directory in the viewer with zarr:// or n5:// before its URL, or make"
            " chunks of it with 'neurotrale ingest --source'."
        )
    return text
