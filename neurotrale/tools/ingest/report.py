"""Text for people: a plan with an estimate of its cost, and the summary of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from neurotrale.chunks.encode import encode_chunk
from neurotrale.tools.ingest.plan import IngestPlan
from neurotrale.tools.ingest.run import IngestSummary, budget_for

_SAMPLES = 3
# Rough costs of downsampling and copying voxels, and of creating a file.
_BYTES_PER_S = 5e8
_CREATE_S = 0.3e-3


@dataclass(frozen=True, slots=True)
class IngestEstimate:
    """The estimated cost of a plan.

    Attributes:
        file_bytes: Size of all chunk files.
        seconds: Duration on this machine, with one thread.
    """

    file_bytes: int
    seconds: float


def estimate(plan: IngestPlan) -> IngestEstimate:
    """Estimate the cost of a plan from a few planes that are read and encoded."""
    depth = plan.source.shape_zyx[0]
    chunk_vx = prod(plan.request.chunk_vx)
    read_s, encode_s, ratios = [], [], []
    for number in range(_SAMPLES):
        started = time.perf_counter()
        z = (2 * number + 1) * depth // (2 * _SAMPLES)
        rows = [block for _, block in plan.source.read_plane(z)]
        read = time.perf_counter()
        # A real chunk would need as many planes as it is deep; rows of one plane compress as well.
        block = np.resize(rows[len(rows) // 2], (1, 1, chunk_vx))
        started_to_encode = time.perf_counter()
        content = encode_chunk(block, "single", plan.request.compression)
        encode_s.append((time.perf_counter() - started_to_encode) / block.nbytes)
        read_s.append(read - started)
        ratios.append(len(content) / block.nbytes)
    raw = plan.raw_bytes
    chunks = sum(level.chunks for level in plan.levels)
    seconds = depth * float(np.median(read_s))
    seconds += raw * (float(np.median(encode_s)) + 1 / _BYTES_PER_S) + chunks * _CREATE_S
    return IngestEstimate(int(raw * float(np.mean(ratios))), seconds)


# The viewer uses four digits for the slice in a file name.
_MOST_SLICES = 9999


def describe(plan: IngestPlan) -> Iterator[str]:
    """Describe a plan and its cost, line by line."""
    z, y, x = plan.source.shape_zyx
    itemsize = plan.voxel_bytes
    source_bytes = x * y * z * itemsize
    channels = f" with {plan.source.channels} channels" if plan.source.channels > 1 else ""
    yield (
        f"source  {z} planes of {x} x {y} {plan.source.dtype}{channels}, {size_text(source_bytes)}"
    )
    if plan.source.order:
        yield f"order   {plan.source.order}"
    for note in plan.notes:
        yield f"note    {note}"
    yield f"dest    {plan.request.dest}"
    yield from _levels(plan, itemsize)
    cost = estimate(plan)
    files = sum(level.chunks for level in plan.levels)
    # Besides the chunks: directories, info, the preview, the plan, and for each part its progress
    # and its lock.
    others = len(plan.levels) + 2 + 2 + 1 + 2 * (plan.request.shards + 1)
    yield (
        f"files   {files} chunks, {files + others} inodes, about"
        f" {size_text(cost.file_bytes)} ({size_text(plan.raw_bytes)} of voxels)"
    )
    yield from _memory(plan)
    cores = plan.request.cores
    seconds = cost.seconds / cores + plan.planning_s  # every run checks the source
    yield (
        f"time    about {time_text(seconds)} on {cores} core{'' if cores == 1 else 's'} like this"
        f" one{_time_per_shard(plan, seconds)}"
    )
    if plan.request.shards > 1:
        yield from _shards(plan)
    if z > _MOST_SLICES:
        yield f"note    NeuroTrALE can name the contour files of {_MOST_SLICES} slices only"


def summarize(name: str, summary: IngestSummary) -> str:
    """Return a one-line summary of a run of the part `name`."""
    if not summary.voxel_bytes:
        return f"{name}: already done before"
    rate = summary.voxel_bytes / max(summary.seconds, 1e-3)
    resumed = ", continuing an earlier run" if summary.resumed else ""
    left_out = f" ({summary.left_out} left out)" if summary.left_out else ""
    return (
        f"{name}: {summary.files} chunks{left_out}, {size_text(summary.file_bytes)}, in"
        f" {time_text(summary.seconds)} ({size_text(rate)}/s of voxels){resumed}"
    )


def _levels(plan: IngestPlan, itemsize: int) -> Iterator[str]:
    head = ("level", "size (x y z)", "voxel (nm)", "chunks", "voxels")
    table = [head]
    for level in plan.levels:
        table.append(
            (
                level.key,
                " ".join(map(str, level.size_vx)),
                " ".join(f"{nm:g}" for nm in level.resolution_nm),
                str(level.chunks),
                size_text(prod(level.size_vx) * itemsize),
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield "        " + "  ".join(cells).rstrip()


def _memory(plan: IngestPlan) -> Iterator[str]:
    levels = plan.levels[: plan.shared]
    budget = budget_for(plan, levels, from_chunks=False)
    on_disk = [
        level.key
        for level, in_memory in zip(levels, budget.in_memory, strict=True)
        if not in_memory
    ]
    yield (
        f"memory  {size_text(budget.bytes)} of the {size_text(plan.request.memory_bytes)} allowed,"
        f" {budget.threads} thread{'' if budget.threads == 1 else 's'}"
    )
    if on_disk:
        yield (
            f"scratch {size_text(budget.scratch_bytes)} in the dataset's directory while it runs,"
            f" as {', '.join(on_disk)} would not fit into memory"
        )


def _shards(plan: IngestPlan) -> Iterator[str]:
    shards = plan.request.shards
    for number in range(1, shards + 1):
        start, stop = plan.planes_of(number)
        planes = f"planes {start} to {stop - 1}" if stop > start else "none: too many shards"
        yield f"shard   {number}/{shards}: {planes}"
    shared = [level.key for level in plan.levels[plan.shared :]]
    yield f"finish  {', '.join([*shared, 'preview.png'])}"


def _time_per_shard(plan: IngestPlan, seconds: float) -> str:
    shards = plan.request.shards
    return f", {time_text(seconds / shards)} for each of {shards} shards" if shards > 1 else ""


def size_text(count: float) -> str:
    """Format a number of bytes for people: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def time_text(seconds: float) -> str:
    """Format a duration for people: ``2 h 5 min``."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
