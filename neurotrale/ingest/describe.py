"""A plan in words, for people who decide whether to start it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from neurotrale.ingest.estimate import estimate
from neurotrale.ingest.plan import Plan
from neurotrale.ingest.run import Summary, means_of

# The viewer's file names have four digits for a slice.
_MOST_SLICES = 9999


def describe(plan: Plan) -> Iterator[str]:
    """Say what a plan will do, line by line."""
    z, y, x = plan.source.shape_zyx
    itemsize = np.dtype(plan.source.dtype).itemsize
    source_bytes = x * y * z * itemsize
    yield f"source  {z} planes of {x} x {y} {plan.source.dtype}, {size_text(source_bytes)}"
    yield f"dest    {plan.request.dest}"
    yield from _levels(plan, itemsize)
    cost = estimate(plan)
    files = sum(level.chunks for level in plan.levels)
    # Beside the chunks: directories, info, the preview, the state of the plan and its parts.
    others = len(plan.levels) + 2 + 2 + 2 + plan.request.shards
    yield (
        f"files   {files} chunks, {files + others} inodes, about"
        f" {size_text(cost.file_bytes)} ({size_text(plan.raw_bytes)} of voxels)"
    )
    yield from _memory(plan)
    cores = plan.request.cores
    yield (
        f"time    about {time_text(cost.seconds / cores)} on {cores}"
        f" core{'' if cores == 1 else 's'} like this one{_divided(plan, cost.seconds / cores)}"
    )
    if plan.request.shards > 1:
        yield from _shards(plan)
    if z > _MOST_SLICES:
        yield f"note    NeuroTrALE's contour files have names for {_MOST_SLICES} slices only"


def summarize(what: str, summary: Summary) -> str:
    """Say in a line what was done."""
    if not summary.voxel_bytes:
        return f"{what}: all of it was done before"
    rate = summary.voxel_bytes / max(summary.seconds, 1e-3)
    again = ", going on with what was there" if summary.resumed else ""
    return (
        f"{what}: {summary.files} chunks, {size_text(summary.file_bytes)}, in"
        f" {time_text(summary.seconds)} ({size_text(rate)}/s of voxels){again}"
    )


def _levels(plan: Plan, itemsize: int) -> Iterator[str]:
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


def _memory(plan: Plan) -> Iterator[str]:
    levels = plan.levels[: plan.shared]
    means = means_of(plan, levels, from_chunks=False)
    outside = [level.key for level, kept in zip(levels, means.in_memory, strict=True) if not kept]
    yield (
        f"memory  {size_text(means.bytes)} of {size_text(plan.request.memory_bytes)} that may be"
        f" used, {means.threads} thread{'' if means.threads == 1 else 's'}"
    )
    if outside:
        yield (
            f"scratch {size_text(means.scratch_bytes)} below the data set while it runs, as"
            f" {', '.join(outside)} would not fit into memory"
        )


def _shards(plan: Plan) -> Iterator[str]:
    shards = plan.request.shards
    for number in range(1, shards + 1):
        start, stop = plan.planes_of(number)
        what = f"planes {start} to {stop - 1}" if stop > start else "nothing: there are too many"
        yield f"shard   {number}/{shards}: {what}"
    shared = [level.key for level in plan.levels[plan.shared :]]
    yield f"finish  {', '.join([*shared, 'preview.png'])}"


def _divided(plan: Plan, seconds: float) -> str:
    shards = plan.request.shards
    return f", {time_text(seconds / shards)} for each of {shards} shards" if shards > 1 else ""


def size_text(count: float) -> str:
    """Write a number of bytes for people: ``1.5 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def time_text(seconds: float) -> str:
    """Write a duration for people: ``2 h 5 min``."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
