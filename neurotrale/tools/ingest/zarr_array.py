"""Reads arrays of zarr version 2 as volumes, also those in a group of OME-NGFF.

Sources of the formats: "Zarr storage specification version 2"; OME-NGFF 0.4, "multiscales".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import msgspec
import numpy as np
from numpy.typing import NDArray

from neurotrale.chunks.blockfs import decode_block
from neurotrale.errors import BadInputError, reading
from neurotrale.precomputed.grid import ChunkBox
from neurotrale.precomputed.info import Triple

_MOST_JSON_BYTES = 64 * 2**20
_MOST_CHUNK_BYTES = 2**30
_AXES = "tczyx"
_NM = {
    "angstrom": 0.1,
    "nanometer": 1.0,
    "micrometer": 1e3,
    "millimeter": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
}

_Codec = Callable[[bytes, int], bytes]
_CODECS: Mapping[str, _Codec] = {
    "blosc": decode_block,
    "zstd": lambda content, size: bytes(imagecodecs.zstd_decode(content, out=size)),
    "zlib": lambda content, size: bytes(imagecodecs.zlib_decode(content, out=size)),
    "gzip": lambda content, size: bytes(imagecodecs.gzip_decode(content, out=size)),
    "lz4": lambda content, size: bytes(imagecodecs.lz4_decode(content, header=True, out=size)),
}


class _Metadata(msgspec.Struct, frozen=True):
    """The members of ``.zarray``."""

    zarr_format: Literal[2]
    shape: list[int]
    chunks: list[int]
    dtype: str
    compressor: dict[str, Any] | None = None
    filters: list[Any] | None = None
    fill_value: float | int | str | None = None
    order: Literal["C", "F"] = "C"
    dimension_separator: Literal[".", "/"] = "."


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """A volume in an array; triples are (x, y, z).

    Attributes:
        path: The directory of the array.
        axes: A letter for each dimension, of ``tczyx``.
        time: The time point to read.
        stored: The data type as it is stored.
        metadata: The content of ``.zarray``.
    """

    path: Path
    axes: str
    time: int
    stored: np.dtype[Any]
    metadata: _Metadata

    @property
    def size_vx(self) -> Triple:
        """Extent of the volume."""
        return self._of("x"), self._of("y"), self._of("z")

    @property
    def chunk_vx(self) -> Triple:
        """Extent of a chunk."""
        x, y, z = (self.metadata.chunks[self.axes.index(axis)] if axis in self.axes else 1
                   for axis in "xyz")  # fmt: skip
        return x, y, z

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._of("c")

    @property
    def dtype(self) -> str:
        """The numpy name of the data type."""
        return self.stored.name

    @property
    def fingerprint(self) -> bytes:
        """The description of the array."""
        return (self.path / ".zarray").read_bytes() + self.axes.encode()

    def read(self, box: ChunkBox) -> NDArray[Any] | None:
        """Read a chunk, clipped at the edge of the volume.

        Args:
            box: Its voxels along x, y and z.

        Returns:
            ``[channel, z, y, x]``; None if the array has no such chunk.

        Raises:
            BadInputError: The chunk cannot be decoded.
        """
        starts = dict(zip("xyz", (start for start, _ in box), strict=True))
        starts["t"] = self.time
        extents = [stop - start for start, stop in reversed(box)]
        voxels = np.full((self.channels, *extents), self._fill(), self.stored.newbyteorder("="))
        step = self.metadata.chunks[self.axes.index("c")] if "c" in self.axes else 1
        found = False
        for channel in range(0, self.channels, step):
            starts["c"] = channel
            part = self._chunk(starts)
            if part is not None:
                found = True
                count = min(step, self.channels - channel)
                z, y, x = extents
                voxels[channel : channel + count] = part[:count, :z, :y, :x]
        return voxels if found else None

    def _chunk(self, starts: Mapping[str, int]) -> NDArray[Any] | None:
        chunks = self.metadata.chunks
        index = [starts[axis] // n for axis, n in zip(self.axes, chunks, strict=True)]
        path = self.path / self.metadata.dimension_separator.join(map(str, index))
        raw_bytes = prod(chunks) * self.stored.itemsize
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if self.metadata.compressor is not None:
                content = _CODECS[self.metadata.compressor["id"]](content, raw_bytes)
            if len(content) != raw_bytes:
                raise ValueError(f"expected {raw_bytes} bytes of voxels, found {len(content)}")
        except (RuntimeError, ValueError) as error:  # imagecodecs' errors are RuntimeErrors
            raise BadInputError(f"{path}: the chunk is damaged ({error})") from error
        voxels = np.frombuffer(content, self.stored).reshape(chunks, order=self.metadata.order)
        present = [axis for axis in _AXES if axis in self.axes]
        ordered = voxels.transpose([self.axes.index(axis) for axis in present])
        ordered = ordered.reshape([ordered.shape[present.index(axis)] if axis in present else 1
                                   for axis in _AXES])  # fmt: skip
        time_step = chunks[self.axes.index("t")] if "t" in self.axes else 1
        part: NDArray[Any] = ordered[self.time % time_step]
        return part

    def _of(self, axis: str) -> int:
        return self.metadata.shape[self.axes.index(axis)] if axis in self.axes else 1

    def _fill(self) -> float | int:
        value = self.metadata.fill_value
        return float(value) if isinstance(value, str) else value or 0


def open_zarr(path: Path, axes: str, time: int | None) -> ZarrArray:
    """Open an array of zarr version 2.

    Args:
        path: The directory with ``.zarray``.
        axes: A letter for each dimension; "" to tell them by their number, as ``tczyx``.
        time: The time point to read; None if there is only one.

    Raises:
        BadInputError: It is not an array that can be read here.
    """
    file = path / ".zarray"
    with reading(str(file)):
        content = file.read_bytes()[:_MOST_JSON_BYTES]
    try:
        found = msgspec.json.decode(content, type=_Metadata)
        dtype = np.dtype(found.dtype)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise BadInputError(f"{file}: not the description of an array ({error})") from error
    axes = axes or _AXES[-len(found.shape) :]
    problem = _problem(found, dtype, axes)
    points = found.shape[axes.index("t")] if "t" in axes and not problem else 1
    if not problem and time is None and points > 1:
        problem = f"it has {points} time points: choose one with --time"
    if not problem and not 0 <= (time or 0) < points:
        problem = f"--time {time} does not exist; it has 0 to {points - 1}"
    if problem:
        raise BadInputError(f"{file}: {problem}")
    return ZarrArray(path, axes, time or 0, dtype, found)


def _problem(found: _Metadata, dtype: np.dtype[Any], axes: str) -> str:
    """Return the reason why an array cannot be read; "" if it can."""
    if len(found.shape) != len(found.chunks) or len(axes) != len(found.shape):
        return f"expected sizes along {axes}, found {found.shape} in chunks of {found.chunks}"
    if not {"y", "x"} <= set(axes) <= set(_AXES) or len(set(axes)) != len(axes):
        return f"its axes are {axes}; expected some of {_AXES}"
    if min([*found.shape, *found.chunks]) < 1:
        return f"expected sizes above 0, found {found.shape} in chunks of {found.chunks}"
    if prod(found.chunks) * dtype.itemsize > _MOST_CHUNK_BYTES:
        return f"its chunks of {found.chunks} are too large"
    if found.filters:
        return "its filters are not supported"
    codec = None if found.compressor is None else found.compressor.get("id")
    if found.compressor is not None and codec not in _CODECS:
        return f"its compressor {codec!r} is not supported; expected one of {', '.join(_CODECS)}"
    try:
        float(found.fill_value or 0)
    except ValueError:
        return f"its fill value {found.fill_value!r} is not a number"
    return ""


@dataclass(frozen=True, slots=True)
class NgffImage:
    """The finest array of a group of OME-NGFF.

    Attributes:
        path: The array, relative to the group.
        axes: A letter for each dimension; "" if the group does not say.
        voxel_nm: Size of a voxel (x, y, z); None if the group does not say.
    """

    path: str
    axes: str
    voxel_nm: tuple[float, float, float] | None


def read_multiscales(group: Path) -> NgffImage | None:
    """Read ``.zattrs`` of a group; None if it does not describe an image."""
    try:
        attributes = json.loads((group / ".zattrs").read_bytes()[:_MOST_JSON_BYTES])
        image = attributes["multiscales"][0]
        dataset = image["datasets"][0]
        named = image.get("axes", [])
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in named]
        letters = "".join(str(axis["name"]).lower() for axis in axes)
        path = str(dataset["path"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    # A path that leads elsewhere is not followed.
    if not path or path.startswith("/") or ".." in path.split("/"):
        return None
    return NgffImage(path, letters, _voxel_nm(image, dataset, axes))


def _voxel_nm(
    image: dict[str, Any], dataset: dict[str, Any], axes: list[dict[str, Any]]
) -> tuple[float, float, float] | None:
    try:
        scale = [1.0] * len(axes)
        steps = [*dataset["coordinateTransformations"], *image.get("coordinateTransformations", [])]
        for step in steps:
            if step["type"] == "scale":
                scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
        sizes = {
            axis["name"]: value * _NM[axis["unit"]]
            for axis, value in zip(axes, scale, strict=True)
            if axis["name"] in ("x", "y", "z")
        }
        return sizes["x"], sizes["y"], sizes.get("z", sizes["x"])
    except (KeyError, TypeError, ValueError):
        return None
