"""The `info` file of a dataset: its only parser, and a cache of parsed files.

Source of the format: Neuroglancer, "Precomputed volume format" (multi-resolution volume info).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from neurotrale.errors import DamagedError, MissingError, reading
from neurotrale.storage.cache import VersionedCache
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files, StoredFile
from neurotrale.storage.names import Parts

Triple = tuple[int, int, int]
DataType = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]

CACHED_INFOS = 256


class Scale(msgspec.Struct, frozen=True):
    """One resolution of a volume; triples are (x, y, z)."""

    key: str
    size: Triple
    """Size of this scale in voxels."""
    chunk_sizes: list[Triple]
    resolution: tuple[float, float, float]
    """Size of a voxel in nanometres."""
    encoding: str = "raw"
    voxel_offset: Triple = (0, 0, 0)
    sharding: dict[str, object] | None = None
    """As in `info`; `neurotrale.precomputed.sharding.sharding_of` checks it."""


class ChannelStyle(msgspec.Struct, frozen=True):
    """How a channel is shown; each is empty if it is not stated.

    Attributes:
        name: What the channel shows, such as the dye.
        color: ``#rrggbb``.
    """

    name: str = ""
    color: str = ""


_styles = msgspec.json.Decoder(list[ChannelStyle])
_COLOUR = re.compile(r"#[0-9a-f]{6}")


class Info(msgspec.Struct, frozen=True):
    """The `info` of a volume."""

    data_type: DataType
    num_channels: int
    scales: list[Scale]
    type: str = "image"
    """``image`` or ``segmentation``."""
    channels: msgspec.Raw = msgspec.Raw(b"[]")
    """A key of ours, which other programs may use for anything; see `styles`."""

    @property
    def styles(self) -> list[ChannelStyle]:
        """How each channel is shown; empty if that is not stated for all of them."""
        try:
            styles = _styles.decode(self.channels)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return []
        is_whole = len(styles) == self.num_channels
        return styles if is_whole and all(_COLOUR.fullmatch(one.color) for one in styles) else []

    def scale(self, key: str) -> Scale | None:
        """Return the scale with this key (the directory of its chunks); None if there is none."""
        return next((scale for scale in self.scales if scale.key.strip("/") == key), None)


_decoder = msgspec.json.Decoder(Info)


def parse_info(content: bytes, name: str = "info") -> Info:
    """Parse an `info` file.

    Raises:
        DamagedError: The file is not JSON, or does not describe a volume.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DamagedError(
            name, f"expected the JSON description of a volume, but it is malformed: {error}"
        ) from error


# --- one nanometre a voxel ---

_COMMENT = (
    "Voxels are stated as 1 nm large here, whatever their true size, so that a viewer that names"
    " files by positions in nanometres names them by voxels. The true sizes are in the info of the"
    " same dataset without /as/.../voxels in front of its path."
)
# What is drawn at positions in nanometres would be at the wrong place.
_IN_NM = ("mesh", "skeletons")


def in_voxels(info: Info) -> Info:
    """Return the same volume with voxels of 1 nm; coarser scales keep their ratio to the first."""
    scales = []
    for scale in info.scales:
        x, y, z = _ratios(scale.resolution, info.scales[0].resolution)
        scales.append(msgspec.structs.replace(scale, resolution=(x, y, z)))
    return msgspec.structs.replace(info, scales=scales)


def info_in_voxels(content: bytes, name: str = "info") -> bytes:
    """Rewrite an `info` file with voxels of 1 nm and a comment that says so.

    Args:
        content: The file; returned as it is if it does not describe a volume.
        name: Its name, for the error.

    Raises:
        DamagedError: It describes a volume, but is malformed.
    """
    try:
        stated = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return content
    if not (isinstance(stated, dict) and stated.get("scales")):
        return content
    info = in_voxels(parse_info(content, name))
    for raw, scale in zip(stated["scales"], info.scales, strict=True):
        raw["resolution"] = scale.resolution
    kept = {key: value for key, value in stated.items() if key not in _IN_NM}
    return msgspec.json.encode({"comment": _COMMENT, **kept, "scales": stated["scales"]})


def _ratios(sizes: Sequence[float], first: Sequence[float]) -> list[float]:
    ratios = [nm / one if one else 1.0 for nm, one in zip(sizes, first, strict=True)]
    return [int(ratio) if ratio == int(ratio) else ratio for ratio in ratios]


class Infos:
    """Reads the `info` of datasets, or of the dataset that a directory of chunks belongs to."""

    def __init__(self, data_root: DataRoot) -> None:
        self.files = Files(data_root)
        self._cache: VersionedCache[Info] = VersionedCache(CACHED_INFOS, counted_as="info")

    def above(self, directory: Parts) -> tuple[Info, str] | None:
        """Return the nearest `info` above the directory of a scale.

        Args:
            directory: The directory of the chunks.

        Returns:
            The info of the volume, and the path of the directory below the dataset (the scale's
            key); None when no directory above has an `info`.

        Raises:
            DamagedError: The `info` beside the directory is malformed. One further up is skipped:
                it may be any file that happens to have this name.
        """
        return self.above_versioned(directory)[0]

    def above_versioned(self, directory: Parts) -> tuple[tuple[Info, str] | None, bool]:
        """Return what `above` returns, and whether the version of that `info` is settled."""
        for depth in range(len(directory) - 1, -1, -1):
            try:
                info, is_settled = self._versioned((*directory[:depth], "info"))
            except DamagedError:
                if depth == len(directory) - 1:
                    raise
                continue
            if info is not None:
                return (info, "/".join(directory[depth:])), is_settled
        return None, False

    def of(self, dataset: Parts) -> Info | None:
        """Return the `info` of a dataset; None when it has none.

        Raises:
            DamagedError: The `info` is malformed.
        """
        return self._read((*dataset, "info"))

    def _read(self, parts: Parts) -> Info | None:
        return self._versioned(parts)[0]

    def _versioned(self, parts: Parts) -> tuple[Info | None, bool]:
        """Return an `info` and whether its version is settled."""
        # The dataset may have been replaced within the last second.
        self.files.data_root.directories.forget(parts[:-1])
        try:
            found = self.files.find_exact(parts)
        except MissingError:
            return None, False
        if not isinstance(found, StoredFile):
            return None, False
        settled = found.stamp.is_settled
        info = self._cache.get(
            found.path, found.stamp, lambda: self._load(found), is_settled=settled
        )
        return info, settled

    def _load(self, file: StoredFile) -> Info:
        with reading(file.name), self.files.open(file) as stream:
            return parse_info(stream.read(), file.name)
