"""Datasets as the source of an ingest: chunks of any layout that is served, zarr, and OME-NGFF."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from threading import Lock

import numpy as np

from neurotrale.chunks.blockfs import DIRECTORY_FILE
from neurotrale.chunks.tiff_pages import RowBlock
from neurotrale.errors import BadInputError, DamagedError, SourceError, reading
from neurotrale.precomputed.grid import chunk_spans
from neurotrale.precomputed.info import ChannelStyle, Scale, parse_info
from neurotrale.storage.names import split_path
from neurotrale.tools.ingest.chunked_volume import (
    MOST_CHUNK_BYTES,
    ChunkedVolume,
    PrecomputedScale,
)
from neurotrale.tools.ingest.hashing import FileRecord
from neurotrale.tools.ingest.pyramid import SlabBlock, split_channels
from neurotrale.tools.ingest.slab import dtype_problems, format_problems
from neurotrale.tools.ingest.zarr_array import open_zarr, read_multiscales


class DatasetSource:
    """The finest level of a dataset as a stack of planes, read in rows of chunks.

    Args:
        volume: The voxels.
        channel: The channel to take; None for all.
        voxel_nm: Size of a voxel (x, y, z), if the dataset states it.
        segmentation: Whether the dataset says that its voxels are labels.
        notes: What the user should know about the dataset.
        styles: How each channel is shown, if the dataset states it.
    """

    def __init__(
        self,
        volume: ChunkedVolume,
        channel: int | None,
        voxel_nm: tuple[float, float, float] | None,
        segmentation: bool,
        notes: list[str],
        styles: Sequence[ChannelStyle] = (),
    ) -> None:
        x, y, z = volume.size_vx
        self.shape_zyx = (z, y, x)
        self.dtype = volume.dtype
        self.channels = volume.channels if channel is None else 1
        self.voxel_nm = voxel_nm
        self.segmentation = segmentation
        self.styles = styles
        self.paths: tuple[Path, ...] = ()
        self.sizes: tuple[int, ...] = ()
        self.order = ""
        self.fingerprint = hashlib.sha256(volume.fingerprint).hexdigest()
        self._volume = volume
        self._selected = slice(None) if channel is None else slice(channel, channel + 1)
        self._notes = notes
        self._lock = Lock()
        self._absent = 0
        chunk_bytes = prod(volume.chunk_vx) * volume.channels * np.dtype(volume.dtype).itemsize
        self.read_memory_bytes = chunk_bytes * (2 * -(-x // volume.chunk_vx[0]) + 2)

    @property
    def notes(self) -> list[str]:
        """What the user should know; chunks that are absent are counted as they are read."""
        absent = f"{self._absent} chunks are absent in the source: their voxels are 0"
        return [*self._notes, *([absent] if self._absent else [])]

    def slab_reads(self, start: int, stop: int) -> Iterator[Callable[[], Iterator[SlabBlock]]]:
        """Divide the reading of planes into calls, one for each row of chunks."""
        _, rows, _ = self.shape_zyx
        for z_vx in chunk_spans(0, self.shape_zyx[0], self._volume.chunk_vx[2]):
            if z_vx[0] < stop and z_vx[1] > start:
                for y_vx in chunk_spans(0, rows, self._volume.chunk_vx[1]):
                    yield partial(self._row_of_chunks, y_vx, z_vx, start, stop)

    def read_plane(self, z: int) -> Iterator[RowBlock]:
        """Read a plane as blocks of rows."""
        for blocks in self.slab_reads(z, z + 1):
            for _, y, block in blocks():
                yield y, block[0]

    def _row_of_chunks(
        self, y_vx: tuple[int, int], z_vx: tuple[int, int], start: int, stop: int
    ) -> Iterator[SlabBlock]:
        columns = self.shape_zyx[2]
        shape = (z_vx[1] - z_vx[0], y_vx[1] - y_vx[0], self.channels * columns)
        block = np.zeros(shape, self.dtype)
        by_channel = split_channels(block, self.channels)
        for x_vx in chunk_spans(0, columns, self._volume.chunk_vx[0]):
            chunk = self._volume.read((x_vx, y_vx, z_vx))
            if chunk is None:
                with self._lock:
                    self._absent += 1
            else:
                by_channel[..., x_vx[0] : x_vx[1]] = chunk[self._selected]
        first = max(start, z_vx[0])
        yield first, y_vx[0], block[first - z_vx[0] : stop - z_vx[0]]

    def file_indices(self, z: int) -> tuple[int, ...]:
        """Return no indices: planes are not files."""
        return ()

    def records(self) -> dict[int, FileRecord]:
        """Return no records: chunks are not compared with earlier runs."""
        return {}

    def hash_share(self, shard: int, shards: int, known: Container[int]) -> None:
        """Do nothing: chunks are not compared with earlier runs."""

    def close(self) -> None:
        """Do nothing: files are open only while they are being read."""


def open_dataset(path: Path, channel: int | None, time: int | None) -> DatasetSource | None:
    """Open the finest level of a dataset.

    Args:
        path: A directory.
        channel: The channel to take, from 0; None for all.
        time: The time point to take, from 0; None if there is only one.

    Returns:
        None if the directory is not a dataset.

    Raises:
        BadInputError: It is a dataset that cannot be read here.
    """
    opened = _open_info(path, time) or _open_arrays(path, time)
    if opened is None:
        return None
    volume, voxel_nm, segmentation, notes = opened
    if channel is not None and channel >= volume.channels:
        raise BadInputError(
            f"{path}: --channel {channel} does not exist; it has 0 to {volume.channels - 1}"
        )
    problems = dtype_problems(volume.dtype)
    if problems:
        raise SourceError(format_problems([f"{path}: {problem}" for problem in problems]))
    styles = _stated_styles(path) if channel is None else ()
    return DatasetSource(volume, channel, voxel_nm, segmentation, notes, styles)


def _stated_styles(path: Path) -> Sequence[ChannelStyle]:
    try:
        return parse_info((path / "info").read_bytes()).styles
    except (OSError, DamagedError):
        return ()


_Opened = tuple[ChunkedVolume, tuple[float, float, float] | None, bool, list[str]]


def _open_info(path: Path, time: int | None) -> _Opened | None:
    """Open a dataset that has an `info`, which also precomputed-tif's zarr and OME-NGFF have."""
    if not (path / "info").is_file():
        return None
    with reading(str(path / "info")):
        content = (path / "info").read_bytes()
    try:
        info = parse_info(content, str(path / "info"))
    except DamagedError as error:
        raise BadInputError(str(error)) from error
    if not info.scales or info.num_channels < 1:
        raise BadInputError(f"{path / 'info'}: expected at least one scale and one channel")
    scale = info.scales[0]
    voxel_nm, segmentation = scale.resolution, info.type == "segmentation"
    notes = [f"the source is the level {scale.key} of a dataset"]
    if any(scale.voxel_offset):
        notes.append(
            f"the voxel offset {list(scale.voxel_offset)} of the source is not kept: the new"
            " dataset starts at 0,0,0"
        )
    directory = path.joinpath(*split_path(scale.key))
    image = read_multiscales(path)
    if (directory / ".zarray").is_file():
        notes.append("it is stored as zarr version 2")
        return open_zarr(directory, "", time), voxel_nm, segmentation, notes
    if image is not None and not directory.is_dir():
        notes[0] = f"the source is the array {image.path} of OME-NGFF"
        return open_zarr(path / image.path, image.axes, time), voxel_nm, segmentation, notes
    problem = _scale_problem(scale)
    if problem:
        raise BadInputError(f"{path / 'info'}: {problem}")
    if (directory / DIRECTORY_FILE).is_file():
        notes.append("it is stored as blockfs")
    return PrecomputedScale(path, info, scale), voxel_nm, segmentation, notes


def _scale_problem(scale: Scale) -> str:
    if scale.encoding != "raw" or scale.sharding is not None:
        kind = "sharded" if scale.sharding is not None else f"in the encoding {scale.encoding!r}"
        return f"its chunks are {kind}; only raw chunks in files, TIFF and blockfs can be read"
    if not scale.chunk_sizes or min(*scale.size, *scale.chunk_sizes[0]) < 1:
        return "expected sizes above 0"
    if prod(scale.chunk_sizes[0]) * 8 > MOST_CHUNK_BYTES:
        return f"its chunks of {list(scale.chunk_sizes[0])} voxels are too large"
    return ""


def _open_arrays(path: Path, time: int | None) -> _Opened | None:
    if (path / ".zarray").is_file():
        return open_zarr(path, "", time), None, False, ["the source is an array of zarr version 2"]
    image = read_multiscales(path)
    if image is not None:
        notes = [f"the source is the array {image.path} of OME-NGFF"]
        return open_zarr(path / image.path, image.axes, time), image.voxel_nm, False, notes
    if (path / "zarr.json").is_file() or (path / "attributes.json").is_file():
        raise BadInputError(
            f"{path}: zarr version 3 and N5 cannot be read here: save it as zarr version 2 or TIFF"
        )
    return None
