"""What an ingest will do: decided before it starts, written beside the data, shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from neurotrale.chunks.write import Compression, Layout
from neurotrale.errors import BadInputError
from neurotrale.ingest.levels import Level, Triple, check_levels, make_levels
from neurotrale.ingest.sources import Source, open_source


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        source: A glob of planes, or the name of a single file of many pages.
        dest: The data set.
        resolution_nm: Size of a voxel of the source (x, y, z).
        levels: How many; None for as many as bring the volume into one chunk.
        chunk_vx: Extent of a chunk (x, y, z).
        cores: Threads to use.
        memory_bytes: Memory to use at most.
        segmentation: Voxels are labels.
        isotropic: Halve an axis only while its voxels are shorter than others'.
        channel: Of a file of many, from 0.
        time: Of a file of many, from 0.
        layout: How voxels lie in a chunk's file.
        compression: Of chunks.
        shards: Parts that the work is divided into.
    """

    source: str
    dest: Path
    resolution_nm: tuple[float, float, float]
    levels: int | None = None
    chunk_vx: Triple = (64, 64, 64)
    cores: int = 1
    memory_bytes: int = 2**30
    segmentation: bool = False
    isotropic: bool = False
    channel: int | None = None
    time: int | None = None
    layout: Layout = "single"
    compression: Compression = "deflate"
    shards: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done for a request.

    Attributes:
        request: What was asked for.
        source: The stack.
        levels: From the finest to the coarsest.
        shared: The first level that shards cannot make on their own; as many as there are levels
            when they make all.
    """

    request: Request
    source: Source
    levels: tuple[Level, ...]
    shared: int

    @property
    def raw_bytes(self) -> int:
        """Size of the voxels of all levels."""
        itemsize = np.dtype(self.source.dtype).itemsize
        return sum(prod(level.size_vx) for level in self.levels) * itemsize

    @property
    def unit_vx(self) -> int:
        """Planes of the source of which shards take multiples."""
        coarsest = self.levels[self.shared - 1]
        return coarsest.slab_vx * coarsest.factor[2]

    def planes_of(self, shard: int) -> tuple[int, int]:
        """Give the planes of the source that a shard, counted from 1, reads."""
        depth = self.source.shape_zyx[0]
        units = -(-depth // self.unit_vx)
        start, stop = (units * n // self.request.shards for n in (shard - 1, shard))
        return start * self.unit_vx, min(stop * self.unit_vx, depth)

    def identity(self) -> dict[str, Any]:
        """Say what decides about the files that come out; the keys are words of messages."""
        request = self.request
        return {
            "stack": self.source.fingerprint,
            "extent": list(self.source.shape_zyx[::-1]),
            "data type": self.source.dtype,
            "--voxel-size (nm)": list(request.resolution_nm),
            "--levels": [level.key for level in self.levels],
            "--chunk-size": list(request.chunk_vx),
            "--segmentation": request.segmentation,
            "--channel": request.channel,
            "--time": request.time,
            "--layout": request.layout,
            "--compression": request.compression,
            "shards": request.shards,
        }


def make_plan(request: Request) -> Plan:
    """Look at the source and decide.

    Raises:
        MissingError, BadInputError: The source is not there, or not fit, or the options
            contradict each other; the message names all that is wrong.
    """
    source = open_source(request.source, request.channel, request.time, request.cores)
    try:
        return plan_for(request, source)
    except BaseException:
        source.close()
        raise


def plan_for(request: Request, source: Source) -> Plan:
    """Decide what to do with a stack.

    Raises:
        BadInputError: The options contradict each other or the stack.
    """
    z, y, x = source.shape_zyx
    if request.segmentation and np.dtype(source.dtype).kind == "f":
        raise BadInputError(
            f"--segmentation needs integer labels, but the source is {source.dtype}: leave the"
            " option out, or convert the planes to uint32."
        )
    levels = make_levels(
        (x, y, z), request.resolution_nm, request.chunk_vx, request.levels, request.isotropic
    )
    check_levels(levels)
    return Plan(request, source, levels, _first_shared(levels, request.shards))


def _first_shared(levels: tuple[Level, ...], shards: int) -> int:
    """Find the first level of which shards cannot have slabs of their own.

    The coarser the slabs, the less is left to the end, but the less even are the parts: four
    slabs for each shard are aimed at, one at least.
    """
    if shards == 1:
        return len(levels)
    for least in (4 * shards, shards):
        fitting = [n for n, level in enumerate(levels, 1) if _slabs(level) >= least]
        if fitting:
            return fitting[-1]
    return 1


def _slabs(level: Level) -> int:
    return -(-level.size_vx[2] // level.slab_vx)
