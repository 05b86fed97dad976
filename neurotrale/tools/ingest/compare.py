"""Comparison of source files with their state when a dataset was made from them.

Only names, sizes, times and bytes are compared, never paths or inodes: shards may run on other
nodes, where the same files are mounted elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from neurotrale.errors import ConflictError, reading
from neurotrale.tools.ingest.checkpoint import Checkpoint, PartProgress, part_names
from neurotrale.tools.ingest.hashing import FileRecord
from neurotrale.tools.ingest.plan import IngestPlan
from neurotrale.tools.ingest.plane_source import PlaneSource

_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """The current state of the files that a shard was made from.

    Attributes:
        changed: Planes whose bytes have changed.
        unknown: Planes that cannot be compared, as no hash was recorded.
        touched: Files that have a new modification time, but the same bytes.
        verified: Records of the files whose bytes were compared, with their current times.
        changed_files: Files whose bytes have changed.
    """

    changed: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    verified: dict[int, FileRecord] = field(default_factory=dict)
    changed_files: set[int] = field(default_factory=set)


def compare_sources(plan: IngestPlan, checkpoint: Checkpoint, force: bool) -> list[Comparison]:
    """Compare the files of every shard.

    Args:
        plan: The plan that the shards share.
        checkpoint: The recorded progress.
        force: Also hash files that have the recorded size and time.

    Returns:
        A comparison for each shard, in order.

    Raises:
        MissingError, ReadOnlyError, BusyError: A file cannot be read.
        BadInputError: A file changed while it was compared.
    """
    if not plan.source.paths:
        return [Comparison() for _ in range(plan.request.shards)]
    sizes = checkpoint.source_sizes()
    slab_vx = plan.levels[0].slab_vx
    with ThreadPoolExecutor(plan.request.cores) as pool:
        comparisons = []
        for shard, part in enumerate(part_names(plan.request.shards), 1):
            start, _ = plan.planes_of(shard)
            progress = checkpoint.progress(part) or PartProgress(start)
            planes = progress.completed_planes(start, slab_vx)
            result = _compare(plan.source, planes, progress.records, sizes, force, pool)
            # The file may have a record by now, made when other planes of it were read.
            unhashed = {z for z in planes if z // slab_vx in progress.unhashed}
            result.unknown[:] = sorted(unhashed.union(result.unknown).difference(result.changed))
            comparisons.append(result)
        return comparisons


def _compare(
    source: PlaneSource,
    planes: Sequence[int],
    records: dict[int, FileRecord],
    sizes: Sequence[int],
    force: bool,
    pool: ThreadPoolExecutor,
) -> Comparison:
    files = _files(source, planes)
    compare = partial(_compare_file, source, records, sizes, force)
    states = dict(zip(files, pool.map(compare, files), strict=True))
    result = Comparison()
    result.changed_files.update(file for file, state in states.items() if state == "changed")
    for file, state in states.items():
        if isinstance(state, FileRecord) and state != records[file]:
            result.verified[file] = state
            if state.mtime_ns != records[file].mtime_ns:
                result.touched.add(file)
    for z in planes:
        found = [states[file] for file in source.file_indices(z)]
        if "changed" in found:
            result.changed.append(z)
        elif "unknown" in found:
            result.unknown.append(z)
    return result


def _compare_file(
    source: PlaneSource,
    records: dict[int, FileRecord],
    sizes: Sequence[int],
    force: bool,
    file: int,
) -> FileRecord | str:
    """Return the record of a file with the recorded bytes, else ``changed`` or ``unknown``."""
    path, record = source.paths[file], records.get(file)
    with reading(str(path)):
        status = path.stat()
        if record is None:
            return "unknown" if not sizes or status.st_size == sizes[file] else "changed"
        if record.is_of(status) and not force:
            return record
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return record.verified(descriptor) or "changed"
        finally:
            os.close(descriptor)


def require_unchanged(plan: IngestPlan, comparisons: Sequence[Comparison]) -> None:
    """Check that no plane has changed since it was read.

    Raises:
        ConflictError: Some planes have; the message names them and the ways to continue.
    """
    files = sorted({file for comparison in comparisons for file in comparison.changed_files})
    if not files:
        return
    shards = plan.request.shards
    raise ConflictError(
        f"{plan.request.dest}: its stack has changed since it was read."
        f" {_files_text(plan.source, files)} other bytes now. Use --again to rebuild what was"
        f" made from {'it' if len(files) == 1 else 'them'}"
        + (f" ({changed_shard_options(comparisons, shards)}, then --finish)" if shards > 1 else "")
        + ", or use another --dest."
    )


def changed_shard_options(comparisons: Sequence[Comparison], shards: int) -> str:
    """Return the ``--shard`` options of the shards whose planes have changed."""
    numbers = [number for number, comparison in enumerate(comparisons, 1) if comparison.changed]
    return ", ".join(f"--shard {number}/{shards}" for number in numbers)


def source_notes(plan: IngestPlan, comparisons: Sequence[Comparison]) -> list[str]:
    """Return notes about files that are accepted although they were touched or not compared."""
    notes = []
    touched = {file for comparison in comparisons for file in comparison.touched}
    if touched:
        notes.append(
            f"{_counted(len(touched), 'file')} of the source"
            f" {'has' if len(touched) == 1 else 'have'} another time than when read, but the same"
            " bytes"
        )
    unknown = sum(len(comparison.unknown) for comparison in comparisons)
    if unknown:
        notes.append(
            f"{_counted(unknown, 'plane')} could not be compared: an older version read"
            f" {'it' if unknown == 1 else 'them'} and kept no hashes"
        )
    return notes


def _files_text(source: PlaneSource, files: Sequence[int]) -> str:
    names = [source.paths[file].name for file in files[:_MOST_NAMES]]
    more = f" and {len(files) - _MOST_NAMES} more" if len(files) > _MOST_NAMES else ""
    return f"{', '.join(names)}{more} {'has' if len(files) == 1 else 'have'}"


def _files(source: PlaneSource, planes: Sequence[int]) -> list[int]:
    return sorted({file for z in planes for file in source.file_indices(z)})


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
