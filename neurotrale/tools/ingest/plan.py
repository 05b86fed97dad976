"""The plan of an ingest, made before the work starts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from neurotrale.chunks.encode import Compression, Layout
from neurotrale.errors import BadInputError
from neurotrale.precomputed.info import ChannelStyle, Triple
from neurotrale.tools.ingest.channel_colours import channel_styles
from neurotrale.tools.ingest.conversion import converted_source, range_of_values
from neurotrale.tools.ingest.dataset_source import DatasetSource
from neurotrale.tools.ingest.levels import PyramidLevel, check_levels, make_levels
from neurotrale.tools.ingest.sources import PlaneSource, open_sources
from neurotrale.tools.ingest.voxel_size import choose_voxel_size

# What WebGL 2 guarantees for the sides of a three-dimensional texture is less; GPUs have this.
_LARGEST_TEXTURE_VX = 2048


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """The options of an ingest.

    Attributes:
        source: A glob of planes, or the path of a single multi-page file.
        dest: The dataset.
        resolution_nm: Voxel size of the source (x, y, z); None for that which the source states,
            or else that which precomputed-tif assumes.
        levels: Number of levels; None for as many as it takes to fit the volume into one chunk.
        chunk_vx: Extent of a chunk (x, y, z).
        cores: Number of threads.
        memory_bytes: Memory limit.
        segmentation: Whether voxels are labels.
        isotropic: Halve an axis only while its voxels are shorter than those of others.
        channel: The channel to take from a multi-channel file, from 0.
        time: The time point to take from a multi-page file, from 0.
        order: How to order files of planes, as in `order_planes`.
        series: The image to take of each file, from 0; None for the first that is not reduced.
        layout: Layout of the chunk files.
        compression: Compression of the chunk files.
        shards: Number of parts that the work is divided into.
        dtype: The data type to convert voxels to, a numpy name; None for that of the source, or
            one that holds its values.
        more_sources: Stacks of further channels, like `source`.
        skip_empty: Chunks of only this value are left out; None to write all.
    """

    source: str
    dest: Path
    resolution_nm: tuple[float, float, float] | None = None
    levels: int | None = None
    chunk_vx: Triple = (64, 64, 64)
    cores: int = 1
    memory_bytes: int = 2**30
    segmentation: bool = False
    isotropic: bool = False
    channel: int | None = None
    time: int | None = None
    order: str | None = None
    series: int | None = None
    layout: Layout = "single"
    compression: Compression = "deflate"
    shards: int = 1
    dtype: str | None = None
    more_sources: tuple[str, ...] = ()
    skip_empty: float | None = None


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """The levels to make from a stack, and how shards divide them.

    Attributes:
        request: The options.
        source: The stack.
        levels: From the finest to the coarsest.
        shared: Index of the first level that shards cannot make on their own; the number of levels
            if there is none.
        own_notes: What the user should know about the options.
        planning_s: How long it took to find and check the source.
        styles: How each channel is shown; empty if the source does not state it.
    """

    request: IngestRequest
    source: PlaneSource
    levels: tuple[PyramidLevel, ...]
    shared: int
    own_notes: tuple[str, ...] = ()
    planning_s: float = 0.0
    styles: tuple[ChannelStyle, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What the user should know about the options and the source."""
        return [*self.own_notes, *self.source.notes]

    @property
    def raw_bytes(self) -> int:
        """Size of the voxels of all levels."""
        return sum(prod(level.size_vx) for level in self.levels) * self.voxel_bytes

    @property
    def voxel_bytes(self) -> int:
        """Size of a voxel with all its channels."""
        return np.dtype(self.source.dtype).itemsize * self.source.channels

    @property
    def unit_vx(self) -> int:
        """The planes of a shard are a multiple of this number of source planes."""
        coarsest = self.levels[self.shared - 1]
        return coarsest.slab_vx * coarsest.factor[2]

    def planes_of(self, shard: int) -> tuple[int, int]:
        """Return the planes of the source that a shard, counted from 1, reads: start and stop."""
        depth = self.source.shape_zyx[0]
        units = -(-depth // self.unit_vx)
        start, stop = (units * n // self.request.shards for n in (shard - 1, shard))
        return start * self.unit_vx, min(stop * self.unit_vx, depth)

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the output; the keys appear in messages."""
        request = self.request
        return {
            "stack": self.source.fingerprint,
            "extent": list(self.source.shape_zyx[::-1]),
            "data type": self.source.dtype,
            **({"channels": self.source.channels} if self.source.channels > 1 else {}),
            "--voxel-size (nm)": list(self.levels[0].resolution_nm),
            "--levels": [level.key for level in self.levels],
            "--chunk-size": list(request.chunk_vx),
            "--segmentation": request.segmentation,
            "--channel": request.channel,
            "--time": request.time,
            "--series": request.series,
            "--layout": request.layout,
            "--compression": request.compression,
            "--skip-empty": request.skip_empty,
            "shards": request.shards,
        }


def make_plan(request: IngestRequest) -> IngestPlan:
    """Check the source, and plan its ingest.

    Raises:
        MissingError, BadInputError: The source is missing or unsuitable, or the options
            contradict each other; the message names all problems.
    """
    started = time.monotonic()
    source = _opened(request)
    try:
        refuse_dest_in_source(request, source)
        resolution_nm, notes = choose_voxel_size(request.resolution_nm, source)
        if request.skip_empty is not None:
            notes.append(
                f"chunks of only {request.skip_empty} are left out, so there are fewer than below:"
                " viewers show them as 0, cloud-volume needs fill_missing=True"
            )
        styles = channel_styles(source)
        if styles:
            shown = ", ".join(f"{one.name} {one.color}".strip() for one in styles)
            notes.append(f"colours of the channels, from the source: {shown}")
        if max(request.chunk_vx) > _LARGEST_TEXTURE_VX:
            notes.append(
                f"chunks larger than {_LARGEST_TEXTURE_VX} voxels a side do not fit into a texture"
                " of many graphics cards: viewers may not draw them"
            )
        if not request.dest.parent.is_dir():
            notes.append(f"the directory {request.dest.parent} does not exist: it is made")
        if isinstance(source, DatasetSource) and source.segmentation and not request.segmentation:
            notes.append("the source is a segmentation: so is the new dataset")
            request = replace(request, segmentation=True)
        source = converted_source(
            source,
            request.dtype,
            labels=request.segmentation,
            values=_values(request) if source.dtype == "int64" else None,
        )
        plan = plan_for(replace(request, resolution_nm=resolution_nm), source)
        return replace(
            plan,
            own_notes=tuple(notes),
            planning_s=time.monotonic() - started,
            styles=tuple(styles),
        )
    except BaseException:
        source.close()
        raise


def _opened(request: IngestRequest) -> PlaneSource:
    return open_sources(
        (request.source, *request.more_sources),
        request.channel,
        request.time,
        request.cores,
        request.order,
        request.series,
    )


def _values(request: IngestRequest) -> tuple[int, int] | None:
    """Return the least and the greatest value of the source, if finding them is worthwhile."""
    if request.dtype is not None or request.shards > 1:  # each part would read all of it
        return None
    source = _opened(request)
    try:
        return range_of_values(source, request.cores)
    finally:
        source.close()


def plan_for(request: IngestRequest, source: PlaneSource) -> IngestPlan:
    """Plan the ingest of a stack.

    Raises:
        BadInputError: The options contradict each other or do not fit the stack.
    """
    z, y, x = source.shape_zyx
    if request.segmentation and np.dtype(source.dtype).kind == "f":
        raise BadInputError(
            f"--segmentation needs integer labels, but the source is {source.dtype}: omit the"
            " option, or convert the planes to uint32."
        )
    value = request.skip_empty
    if value is not None and np.asarray(value).astype(source.dtype) != value:
        raise BadInputError(f"--skip-empty {value}: {source.dtype} has no such value.")
    assert request.resolution_nm is not None
    levels = make_levels(
        (x, y, z), request.resolution_nm, request.chunk_vx, request.levels, request.isotropic
    )
    check_levels(levels)
    return IngestPlan(request, source, levels, _first_shared(levels, request.shards))


def refuse_dest_in_source(request: IngestRequest, source: PlaneSource) -> None:
    """Refuse to write into the directory that is read.

    Raises:
        BadInputError: The dataset would be the directory of the planes, or one in it.
    """
    patterns = [os.path.expanduser(pattern) for pattern in (request.source, *request.more_sources)]
    whole = {os.path.realpath(pattern) for pattern in patterns if os.path.isdir(pattern)}
    directories = {os.path.realpath(plane.parent) for plane in source.paths}
    if any("**" in pattern for pattern in patterns):
        whole |= directories
    dest = os.path.realpath(request.dest)
    # Beside the planes of a pattern is fine, as long as the dataset has a directory of its own.
    for directory in whole | directories:
        if dest == directory or (dest.startswith(f"{directory}/") and directory in whole):
            raise BadInputError(
                f"--dest {request.dest} is in the source {directory}: choose a directory outside of"
                " it, so that voxels that are made are never taken for voxels that were measured."
            )


def _first_shared(levels: tuple[PyramidLevel, ...], shards: int) -> int:
    """Return the index of the first level whose slabs shards cannot make on their own.

    The coarser the levels that shards make, the less work remains for the end, but the less even
    are the shards: aim at four slabs for each, and settle for one.
    """
    if shards == 1:
        return len(levels)
    for needed in (4 * shards, shards):
        slabs = [-(-level.size_vx[2] // level.slab_vx) for level in levels]
        suitable = [n for n, count in enumerate(slabs, 1) if count >= needed]
        if suitable:
            return suitable[-1]
    return 1
