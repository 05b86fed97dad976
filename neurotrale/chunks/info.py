"""The `info` file of a data set.

Source of the format: Neuroglancer, "Precomputed volume format" (multi-resolution volume info).
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

import msgspec

from neurotrale.errors import DamagedError, MissingError
from neurotrale.faults import reading
from neurotrale.files import Stamp
from neurotrale.kept import Kept
from neurotrale.names import Parts
from neurotrale.tree import Tree

Triple = tuple[int, int, int]
DataType = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]

CACHED_INFOS = 256


class Scale(msgspec.Struct, frozen=True):
    """One resolution of a volume; triples are (x, y, z)."""

    key: str
    size: Triple
    """Extent in voxels of this scale."""
    chunk_sizes: list[Triple]
    resolution: tuple[float, float, float]
    """Size of a voxel in nanometres."""
    encoding: str = "raw"
    voxel_offset: Triple = (0, 0, 0)
    sharding: dict[str, object] | None = None


class Info(msgspec.Struct, frozen=True):
    """What a volume's `info` promises about every chunk."""

    data_type: DataType
    num_channels: int
    scales: list[Scale]
    type: str = "image"
    """``image`` or ``segmentation``."""

    def scale(self, key: str) -> Scale | None:
        """Find a scale by its key, the directory of its chunks; None when there is none."""
        return next((scale for scale in self.scales if scale.key.strip("/") == key), None)


_decoder = msgspec.json.Decoder(Info)


def parse_info(content: bytes, name: str = "info") -> Info:
    """Read an `info` file.

    Raises:
        DamagedError: It is not JSON, or not that of a volume.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DamagedError(
            name, f"expected the JSON description of a volume, found a mistake: {error}"
        ) from error


class Infos:
    """Finds and keeps the `info` of the data set that a scale's directory belongs to."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._kept: Kept[Info] = Kept(CACHED_INFOS)

    def above(self, directory: Parts) -> tuple[Info, str] | None:
        """Find the nearest `info` above a scale's directory.

        Args:
            directory: The directory of the chunks.

        Returns:
            The volume's info and the directory's path below the data set (the scale's key);
            None when no directory above has an `info`.

        Raises:
            DamagedError: The `info` cannot be understood.
        """
        for depth in range(len(directory) - 1, -1, -1):
            info = self._read((*directory[:depth], "info"))
            if info is not None:
                return info, "/".join(directory[depth:])
        return None

    def of(self, dataset: Parts) -> Info | None:
        """Give the `info` of a data set; None when it has none.

        Raises:
            DamagedError: The `info` cannot be understood.
        """
        return self._read((*dataset, "info"))

    def _read(self, parts: Parts) -> Info | None:
        name = "/".join(parts)
        try:
            found = self.tree.status(parts)
            if found is None or not stat.S_ISREG(found[1].st_mode):
                return None
            path, status = found
            return self._kept.get(path, Stamp.of(status), lambda: _learn(path, name))
        except MissingError:
            return None


def _learn(path: str, name: str) -> Info:
    with reading(name):
        content = Path(path).read_bytes()
    return parse_info(content, name)
