"""Runs a plan: a shard, and the levels that remain when all shards are done."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash
from msgspec.structs import replace

from neurotrale.errors import BusyError, IncompleteError
from neurotrale.tools.ingest.budget import ResourceBudget, choose_budget
from neurotrale.tools.ingest.checkpoint import Checkpoint, PartProgress, part_name, part_names
from neurotrale.tools.ingest.compare import (
    Comparison,
    changed_shard_options,
    compare_sources,
    require_unchanged,
    source_notes,
)
from neurotrale.tools.ingest.levels import PyramidLevel
from neurotrale.tools.ingest.output import ChunkFiles, ProgressCounter
from neurotrale.tools.ingest.part import Part
from neurotrale.tools.ingest.plan import IngestPlan
from neurotrale.tools.ingest.preview import NAME as PREVIEW
from neurotrale.tools.ingest.preview import draw_preview
from neurotrale.tools.parallel import ProgressCallback

FINISH = "finish"


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """The result of a run.

    Attributes:
        files: Number of chunks written.
        file_bytes: Their size.
        voxel_bytes: Size of the voxels read and written.
        seconds: Duration.
        resumed: Whether an earlier run was continued.
        complete: Whether the dataset is complete now.
        notes: Notes about the source.
        left_out: Number of chunks that were left out, as they hold a single value.
    """

    files: int
    file_bytes: int
    voxel_bytes: int
    seconds: float
    resumed: bool
    complete: bool
    notes: tuple[str, ...] = ()
    left_out: int = 0


def run_shard(
    plan: IngestPlan,
    shard: int,
    on_progress: ProgressCallback,
    *,
    again: bool = False,
    force: bool = False,
) -> IngestSummary:
    """Make the chunks of a shard, continuing where an earlier run stopped.

    Args:
        plan: The plan that all shards share.
        shard: Number of the shard, from 1.
        on_progress: Called after every step.
        again: Rebuild what was made from planes that have changed.
        force: Also compare the bytes of planes that have the recorded size and time.

    Raises:
        ConflictError: The dataset was begun with other options, or planes have changed.
        BusyError: Another process is working on the shard.
    """
    started = time.monotonic()
    checkpoint = Checkpoint(plan.request.dest)
    part = shard_part(plan, checkpoint, shard)
    checkpoint.begin(plan)
    with checkpoint.exclusive(part.name):
        before = checkpoint.progress(part.name)
        comparisons = compare_sources(plan, checkpoint, force)
        progress = shard_progress(part, before, comparisons, again)
        if before is not None and progress != before:
            # Recorded before any chunk is touched, so that a crash leaves none of them unnoticed.
            checkpoint.record(part.name, progress)
        counter = part.run(progress, on_progress, lambda _: None)
    notes = [*plan.notes, *source_notes(plan, comparisons)]
    others = [
        comparison if number != shard else Comparison()
        for number, comparison in enumerate(comparisons, 1)
    ]
    if any(comparison.changed for comparison in others):
        options = changed_shard_options(others, plan.request.shards)
        notes.append(f"planes of other shards have changed, too: run {options} with --again")
    return _summary(part, counter, started, before, notes)


def run_finish(
    plan: IngestPlan, on_progress: ProgressCallback, *, force: bool = False
) -> IngestSummary:
    """Make the levels that shards share and the preview, when all shards are done.

    Args:
        plan: The plan that the shards share.
        on_progress: Called after every step.
        force: Also compare the bytes of planes that have the recorded size and time.

    Raises:
        IncompleteError: Some shards are not complete; the message names them.
        ConflictError: The dataset was begun with other options, or planes have changed.
        BusyError: Another process is finishing the dataset.
    """
    started = time.monotonic()
    checkpoint = Checkpoint(plan.request.dest)
    checkpoint.begin(plan)
    _refuse_incomplete(plan, checkpoint)
    part = finish_part(plan, checkpoint)
    with checkpoint.exclusive(part.name):
        before = checkpoint.progress(part.name)
        comparisons = compare_sources(plan, checkpoint, force)
        require_unchanged(plan, comparisons)
        made_from = _made_from(plan, checkpoint)
        progress = _finish_progress(part, before, made_from)
        if before is not None and progress != before:
            checkpoint.record(part.name, progress)

        def finalize(files: ChunkFiles) -> None:
            if _made_from(plan, checkpoint) != made_from:
                raise BusyError("A shard was rebuilt meanwhile. Run --finish after it.")
            picture = draw_preview(plan.levels, files, plan.request.segmentation)
            if picture is not None:
                files.writer.write(PREVIEW, picture)
                files.writer.sync()

        counter = part.run(progress, on_progress, finalize)
    return _summary(part, counter, started, before, source_notes(plan, comparisons))


def shard_part(plan: IngestPlan, checkpoint: Checkpoint, shard: int) -> Part:
    """Return the part of a shard, counted from 1."""
    name, levels = part_name(shard, plan.request.shards), plan.levels[: plan.shared]
    budget = budget_for(plan, levels, from_chunks=False)
    return Part(plan, checkpoint, name, levels, budget, plan.planes_of(shard), shard)


def finish_part(plan: IngestPlan, checkpoint: Checkpoint) -> Part:
    """Return the part that remains when the shards are done."""
    levels = plan.levels[plan.shared - 1 :]
    budget = budget_for(plan, levels, from_chunks=True)
    return Part(plan, checkpoint, FINISH, levels, budget, (0, levels[0].size_vx[2]), None)


def budget_for(
    plan: IngestPlan, levels: tuple[PyramidLevel, ...], *, from_chunks: bool
) -> ResourceBudget:
    """Choose threads and memory for a part of the plan."""
    request = plan.request
    return choose_budget(
        levels,
        plan.source.dtype,
        request.memory_bytes,
        request.cores,
        0 if from_chunks else plan.source.read_memory_bytes,
        first_is_chunks=from_chunks,
        channels=plan.source.channels,
    )


def shard_progress(
    part: Part, before: PartProgress | None, comparisons: list[Comparison], again: bool
) -> PartProgress:
    """Return where a shard continues, and which of its slabs are rebuilt.

    Raises:
        ConflictError: Planes have changed, and `again` is not set.
    """
    assert part.shard is not None
    progress = before or PartProgress(part.planes[0])
    own = comparisons[part.shard - 1]
    if not again:
        require_unchanged(part.plan, comparisons)
    progress = progress.with_records(own.verified)
    slab_vx = part.levels[0].slab_vx
    unhashed = {z // slab_vx for z in own.unknown}
    if not again:
        return replace(progress, unhashed=tuple(sorted(unhashed)))
    # Planes without a recorded hash may have changed, so they count as changed.
    slabs = unhashed | {z // slab_vx for z in own.changed}
    source = part.plan.source
    changed = {file for z in own.changed for file in source.file_indices(z)}
    progress = progress.without_records(changed)
    return _with_rebuild(replace(progress, unhashed=()), slabs) if slabs else progress


def _finish_progress(
    part: Part, before: PartProgress | None, made_from: tuple[str, ...]
) -> PartProgress:
    """Return where the last part continues, and which slabs of its first level have changed."""
    if before is None:
        return PartProgress(0, made_from=made_from)
    earlier = before.made_from or ("",) * len(made_from)
    slab_vx = part.levels[0].slab_vx
    slabs = {
        number
        for number, (old, new) in enumerate(zip(earlier, made_from, strict=True))
        if old != new and number * slab_vx < before.planes
    }
    progress = replace(before, made_from=made_from)
    return _with_rebuild(progress, slabs) if slabs else progress


def _with_rebuild(progress: PartProgress, slabs: set[int]) -> PartProgress:
    both = tuple(sorted(slabs | set(progress.again)))
    return replace(progress, done=False, again=both, anew=0)


def _made_from(plan: IngestPlan, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return, for each slab of the shards' coarsest level, a hash of its source files' hashes."""
    level = plan.levels[plan.shared - 1]
    unit = level.slab_vx * level.factor[2]
    depth = plan.source.shape_zyx[0]
    hashes = [""] * -(-depth // unit)
    for shard, name in enumerate(part_names(plan.request.shards), 1):
        progress = checkpoint.progress(name) or PartProgress(0)
        records, start, stop = progress.records, *plan.planes_of(shard)
        for z in range(start, stop, unit) if records else ():
            planes = range(z, min(z + unit, depth))
            unhashed = {plane // plan.levels[0].slab_vx for plane in planes} & {*progress.unhashed}
            hashes[z // unit] = _hash_lines(
                repr(sorted(records[file].xxh3_128.items())) if file in records else ""
                for file in sorted({file for z in planes for file in plan.source.file_indices(z)})
            ) + "".join(f" {slab}" for slab in sorted(unhashed))
    return tuple(hashes)


def _hash_lines(lines: Iterable[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())


def _refuse_incomplete(plan: IngestPlan, checkpoint: Checkpoint) -> None:
    shards = plan.request.shards
    missing = [
        number
        for number, part in enumerate(part_names(shards), 1)
        if not (checkpoint.progress(part) or PartProgress(0)).complete
    ]
    if missing:
        options = ", ".join(f"--shard {number}/{shards}" for number in missing)
        raise IncompleteError(
            f"{len(missing)} of {shards} shards are not complete; run them again with {options}.",
            missing,
        )


def _summary(
    part: Part,
    counter: ProgressCounter,
    started: float,
    before: PartProgress | None,
    notes: list[str],
) -> IngestSummary:
    return IngestSummary(
        counter.files,
        counter.file_bytes,
        counter.run_bytes,
        time.monotonic() - started,
        resumed=before is not None,
        complete=part.name == FINISH,
        notes=tuple(notes),
        left_out=counter.left_out,
    )
