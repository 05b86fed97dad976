"""Runs a plan: one shard of it, or all, or what is left when the shards are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurotrale.errors import IncompleteError
from neurotrale.ingest.chunks import ChunkFiles
from neurotrale.ingest.levels import Box, Level, info_text
from neurotrale.ingest.memory import Means, choose_means
from neurotrale.ingest.meter import Meter, Watch
from neurotrale.ingest.pieces import Piece
from neurotrale.ingest.place import Placer
from neurotrale.ingest.plan import Plan
from neurotrale.ingest.preview import NAME as PREVIEW
from neurotrale.ingest.preview import draw_preview
from neurotrale.ingest.pyramid import Pyramid
from neurotrale.ingest.shrink import shrink_mean, shrink_mode
from neurotrale.ingest.slab import MemorySlab, ScratchSlab, Slab
from neurotrale.ingest.state import Progress, State, part_name, parts_of

FINISH = "finish"
# To wait for the disk costs more than to do so much again after a crash.
SYNC_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did.

    Attributes:
        files: Chunks that it wrote.
        file_bytes: Their size.
        voxel_bytes: The voxels that it read and wrote.
        seconds: How long it took.
        resumed: Whether it went on with the work of an earlier run.
        complete: Whether the data set is complete now.
    """

    files: int
    file_bytes: int
    voxel_bytes: int
    seconds: float
    resumed: bool
    complete: bool


def run_shard(plan: Plan, shard: int, watch: Watch) -> Summary:
    """Do a shard's part; go on where an earlier run of it stopped.

    Args:
        plan: The plan that all shards share.
        shard: Its number, from 1.
        watch: Told about every step.

    Raises:
        ConflictError: The data set was begun with other options.
        BusyError: Another process does the same part.
    """
    state = State(plan.request.dest)
    part, levels = part_name(shard, plan.request.shards), plan.levels[: plan.shared]
    means = means_of(plan, levels, from_chunks=False)
    state.begin(plan)
    return _run(plan, state, part, levels, means, plan.planes_of(shard), watch)


def run_finish(plan: Plan, watch: Watch) -> Summary:
    """Make the levels that shards share, when all shards are done.

    Raises:
        IncompleteError: Some are not; it names them.
        ConflictError: The data set was begun with other options.
        BusyError: Another process does the same.
    """
    state = State(plan.request.dest)
    state.begin(plan)
    shards = plan.request.shards
    missing = [
        number
        for number, part in enumerate(parts_of(shards), 1)
        if not (state.progress(part) or Progress(0)).done
    ]
    if missing:
        again = ", ".join(f"--shard {number}/{shards}" for number in missing)
        raise IncompleteError(
            f"{len(missing)} of {shards} shards are not complete; run them again with {again}.",
            missing,
        )
    levels = plan.levels[plan.shared - 1 :]
    means = means_of(plan, levels, from_chunks=True)
    planes = (0, levels[0].size_vx[2])
    return _run(plan, state, FINISH, levels, means, planes, watch, from_chunks=True)


def _run(
    plan: Plan,
    state: State,
    part: str,
    levels: Sequence[Level],
    means: Means,
    planes: tuple[int, int],
    watch: Watch,
    *,
    from_chunks: bool = False,
) -> Summary:
    started = time.monotonic()
    start, stop = planes
    with state.only_one(part), ExitStack() as stack:
        before = state.progress(part)
        at = before.planes if before is not None else start
        total = _voxel_bytes(plan, levels, planes, from_chunks)
        done = _voxel_bytes(plan, levels, (start, at), from_chunks)
        meter = Meter(total, done, watch)
        placer = Placer(plan.request.dest, state.hidden(part))
        stack.callback(placer.close)
        if not (placer.dest / "info").exists():  # what was edited since is kept
            placer.place("info", _info(plan))
        if at < stop and len(levels) > from_chunks:
            pyramid = stack.enter_context(_pyramid(plan, levels, means, placer, meter, from_chunks))
            pyramid.resume(at)
            add = pyramid.add_chunks if from_chunks else _adding(plan, pyramid, meter)
            for reached in _steps(add, stop, placer):
                state.record(part, Progress(reached))
        if from_chunks and not (before is not None and before.done):
            _draw(plan, placer)
        state.record(part, Progress(stop, done=True))
    return Summary(
        meter.files,
        meter.file_bytes,
        meter.done_bytes - done,
        time.monotonic() - started,
        resumed=before is not None,
        complete=part == FINISH,
    )


def _steps(add: Callable[[], int], stop: int, placer: Placer) -> Iterator[int]:
    """Go on to a plane, and give each one up to which all is on disk for good."""
    synced = time.monotonic()
    at = 0
    while at < stop:
        at = add()
        if at == stop or time.monotonic() - synced > SYNC_EVERY_S:
            placer.sync()
            yield at
            synced = time.monotonic()


def means_of(plan: Plan, levels: Sequence[Level], *, from_chunks: bool) -> Means:
    """Choose what a part of the plan uses."""
    request = plan.request
    return choose_means(
        levels,
        plan.source.dtype,
        request.memory_bytes,
        request.cores,
        0 if from_chunks else plan.source.piece_bytes,
        first_is_chunks=from_chunks,
    )


@contextmanager
def _pyramid(
    plan: Plan,
    levels: Sequence[Level],
    means: Means,
    placer: Placer,
    meter: Meter,
    from_chunks: bool,
) -> Iterator[Pyramid]:
    dtype, request = plan.source.dtype, plan.request
    files = _files(plan, placer)

    def write(level: Level, box: Box, voxels: NDArray[Any]) -> None:
        meter.wrote(voxels.nbytes, files.write(level, box, voxels))

    with ExitStack() as stack:
        slabs: list[Slab | None] = []
        for number, (level, in_memory) in enumerate(zip(levels, means.in_memory, strict=True)):
            if number == 0 and from_chunks:
                slabs.append(None)
                continue
            slab = _slab(level, dtype, placer, in_memory)
            stack.callback(slab.close)
            slabs.append(slab)
        pool = stack.enter_context(ThreadPoolExecutor(means.threads))
        shrink = shrink_mode if request.segmentation else shrink_mean
        yield Pyramid(levels, slabs, shrink, write, files.read, pool)


def _slab(level: Level, dtype: str, placer: Placer, in_memory: bool) -> Slab:
    x, y, z = level.size_vx
    shape = (min(level.slab_vx, z), y, x)
    if in_memory:
        return MemorySlab(shape, dtype)
    return ScratchSlab(placer.scratch(), shape, dtype, level.band_vx)


def _info(plan: Plan) -> bytes:
    return info_text(plan.levels, plan.source.dtype, plan.request.segmentation).encode()


def _draw(plan: Plan, placer: Placer) -> None:
    picture = draw_preview(plan.levels, _files(plan, placer), plan.request.segmentation)
    if picture is not None:
        placer.place(PREVIEW, picture)
        placer.sync()


def _files(plan: Plan, placer: Placer) -> ChunkFiles:
    return ChunkFiles(placer, plan.source.dtype, plan.request.layout, plan.request.compression)


def _adding(plan: Plan, pyramid: Pyramid, meter: Meter) -> Callable[[], int]:
    def read(z: int) -> Iterator[Piece]:
        for piece in plan.source.pieces(z):
            yield piece
            meter.read(piece[1].nbytes)

    return lambda: pyramid.add_planes(read)


def _voxel_bytes(
    plan: Plan, levels: Sequence[Level], planes: tuple[int, int], from_chunks: bool
) -> int:
    """Count what is read from the source and written between two planes of the first level."""
    first = levels[0]
    voxels = 0 if from_chunks else (planes[1] - planes[0]) * first.size_vx[0] * first.size_vx[1]
    for level in levels[from_chunks:]:
        factor = level.factor[2] // first.factor[2]
        start, stop = (-(-z // factor) for z in planes)
        voxels += (stop - start) * prod(level.size_vx[:2])
    return voxels * np.dtype(plan.source.dtype).itemsize
