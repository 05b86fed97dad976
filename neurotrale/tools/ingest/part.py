"""A part of an ingest: the planes and levels of one shard, or the levels that shards share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod

from msgspec.structs import replace

from neurotrale.tools.ingest.budget import ResourceBudget
from neurotrale.tools.ingest.checkpoint import Checkpoint, PartProgress, part_names
from neurotrale.tools.ingest.empty_chunks import SUFFIX, EmptyChunks
from neurotrale.tools.ingest.levels import PyramidLevel, info_text
from neurotrale.tools.ingest.output import (
    AtomicWriter,
    ChunkFiles,
    ProgressCounter,
    chunk_files_for,
    open_pyramid,
)
from neurotrale.tools.ingest.plan import IngestPlan
from neurotrale.tools.ingest.plane_source import slab_reads
from neurotrale.tools.ingest.pyramid import (
    SlabBlock,
    SlabReader,
    Step,
    slab_planes,
    slabs_to_rebuild,
)
from neurotrale.tools.parallel import ProgressCallback

# After a crash, at most this much work is repeated. Syncing more often would cost more than that.
SYNC_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a plan.

    Attributes:
        plan: The plan.
        checkpoint: Records the progress.
        name: Name of the part in the checkpoint.
        levels: From the level of the incoming planes to the coarsest that the part makes.
        budget: Threads and memory to use.
        planes: First plane of the part in its first level, and the one after the last.
        shard: Number of the shard, from 1; None for the levels that shards share. The first of
            these exists already, and is read back from its chunks.
    """

    plan: IngestPlan
    checkpoint: Checkpoint
    name: str
    levels: Sequence[PyramidLevel]
    budget: ResourceBudget
    planes: tuple[int, int]
    shard: int | None

    @property
    def from_chunks(self) -> bool:
        """Whether the first level is read back from its chunks."""
        return self.shard is None

    def run(
        self,
        progress: PartProgress,
        on_progress: ProgressCallback,
        finalize: Callable[[ChunkFiles], None],
    ) -> ProgressCounter:
        """Rebuild slabs whose planes have changed, then continue to the last plane.

        Args:
            progress: Progress so far.
            on_progress: Called after every step.
            finalize: Called when all chunks are durable, before the part is recorded as done.

        Returns:
            The amount of work that was done.
        """
        stop = self.planes[1]
        with ExitStack() as stack:
            writer = AtomicWriter(self.plan.request.dest, self.checkpoint.temp_directory(self.name))
            stack.callback(writer.close)
            if not (writer.dest / "info").exists():  # it may have been edited
                plan = self.plan
                text = info_text(
                    plan.levels,
                    plan.source.dtype,
                    plan.request.segmentation,
                    plan.source.channels,
                    plan.styles,
                )
                writer.write("info", text.encode())
            files = chunk_files_for(self.plan, writer, self._empty_chunks())
            counter = self._make_counter(progress, on_progress)
            progress = self._rebuild(progress, files, counter)
            if progress.planes < stop and len(self.levels) > self.from_chunks:
                progress = self._continue(progress, files, counter)
            if not progress.done:
                self._hash_rest(progress)
                finalize(files)
                self._record(replace(progress, planes=stop, done=True), files)
        return counter

    def _empty_chunks(self) -> EmptyChunks | None:
        """Return the record of chunks that are left out, if the plan leaves out any."""
        value, directory = self.plan.request.skip_empty, self.checkpoint.directory
        if value is None:
            return None
        names = part_names(self.plan.request.shards)
        others = [directory / f"{name}{SUFFIX}" for name in names] if self.from_chunks else []
        return EmptyChunks(value, self.plan.levels, directory / f"{self.name}{SUFFIX}", others)

    def rebuild_steps(self, progress: PartProgress) -> list[Step]:
        """Return the slabs that have to be rebuilt, in order."""
        return slabs_to_rebuild(
            self.levels, progress.again, progress.planes, from_chunks=self.from_chunks
        )

    def _rebuild(
        self, progress: PartProgress, files: ChunkFiles, counter: ProgressCounter
    ) -> PartProgress:
        if not progress.again:
            return progress
        synced = time.monotonic()
        for done, step in list(enumerate(self.rebuild_steps(progress), 1))[progress.anew :]:
            self._make_slab(step, files, counter)
            if time.monotonic() - synced > SYNC_EVERY_S:
                files.writer.sync()
                progress = self._record(replace(progress, anew=done), files)
                synced = time.monotonic()
        files.writer.sync()
        return self._record(replace(progress, again=(), anew=0), files)

    def _make_slab(self, step: Step, files: ChunkFiles, counter: ProgressCounter) -> None:
        """Make the chunks of one slab, from planes or from the chunks of the next finer level."""
        number, slab = step
        level, threads = self.levels[number], self.budget.threads
        start, stop = slab_planes(level, slab)
        outputs = [(level, self.budget.in_memory[number])]
        if number == 0:
            with open_pyramid(self.plan, None, outputs, threads, files, counter) as pyramid:
                pyramid.resume(start)
                pyramid.add_planes(self._counted_reader(counter))
            return
        finer = self.levels[number - 1]
        end = min(stop * level.step[2], finer.size_vx[2])
        with open_pyramid(self.plan, finer, outputs, threads, files, counter) as pyramid:
            pyramid.resume(start * level.step[2])
            while pyramid.add_chunks() < end:
                pass

    def _continue(
        self, progress: PartProgress, files: ChunkFiles, counter: ProgressCounter
    ) -> PartProgress:
        finer = self.levels[0] if self.from_chunks else None
        outputs = list(zip(self.levels, self.budget.in_memory, strict=True))[self.from_chunks :]
        threads = self.budget.threads
        with open_pyramid(self.plan, finer, outputs, threads, files, counter) as pyramid:
            pyramid.resume(progress.planes)
            read = self._counted_reader(counter)
            add = pyramid.add_chunks if self.from_chunks else lambda: pyramid.add_planes(read)
            for durable in _durable_planes(add, self.planes[1], files.writer):
                progress = self._record(replace(progress, planes=durable), files)
        return progress

    def _counted_reader(self, counter: ProgressCounter) -> SlabReader:
        def counted(blocks: Callable[[], Iterator[SlabBlock]]) -> Iterator[SlabBlock]:
            for block in blocks():
                yield block
                counter.add_read(block[2].nbytes)

        def read(start: int, stop: int) -> Iterator[Callable[[], Iterator[SlabBlock]]]:
            for blocks in slab_reads(self.plan.source, start, stop):
                yield partial(counted, blocks)

        return read

    def _record(self, progress: PartProgress, files: ChunkFiles) -> PartProgress:
        if files.empty is not None:
            files.empty.save()
        if not self.from_chunks:
            progress = progress.with_records(self.plan.source.records())
        self.checkpoint.record(self.name, progress)
        return progress

    def _hash_rest(self, progress: PartProgress) -> None:
        if self.shard is not None:
            known = {part for record in progress.files for part in record.xxh3_128}
            self.plan.source.hash_share(self.shard, self.plan.request.shards, known)

    def _make_counter(
        self, progress: PartProgress, on_progress: ProgressCallback
    ) -> ProgressCounter:
        steps = [self._step_bytes(step) for step in self.rebuild_steps(progress)]
        total = self._bytes_between(*self.planes) + sum(steps)
        done = self._bytes_between(self.planes[0], progress.planes) + sum(steps[: progress.anew])
        if self.from_chunks:
            return ProgressCounter(total, done, on_progress)
        start, stop = self.planes
        source_bytes = (stop - start) * prod(self.levels[0].size_vx[:2]) * self.plan.voxel_bytes
        return ProgressCounter(total, done, on_progress, source_bytes)

    def _bytes_between(self, start: int, stop: int) -> int:
        """Count the voxels read and written between two planes of the first level, in bytes."""
        first = self.levels[0]
        voxels = 0 if self.from_chunks else (stop - start) * prod(first.size_vx[:2])
        for level in self.levels[self.from_chunks :]:
            factor = level.factor[2] // first.factor[2]
            voxels += (-(-stop // factor) - -(-start // factor)) * prod(level.size_vx[:2])
        return voxels * self.plan.voxel_bytes

    def _step_bytes(self, step: Step) -> int:
        number, slab = step
        level = self.levels[number]
        start, stop = slab_planes(level, slab)
        voxels = (stop - start) * prod(level.size_vx[:2]) * (2 if number == 0 else 1)
        return voxels * self.plan.voxel_bytes


def _durable_planes(add: Callable[[], int], stop: int, writer: AtomicWriter) -> Iterator[int]:
    """Add slabs up to a plane; yield each plane up to which everything is durable."""
    synced = time.monotonic()
    z = 0
    while z < stop:
        z = add()
        if z == stop or time.monotonic() - synced > SYNC_EVERY_S:
            writer.sync()
            yield z
            synced = time.monotonic()
