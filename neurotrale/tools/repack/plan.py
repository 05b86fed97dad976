"""Plans, estimates and runs the repacking of a dataset's scales."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Lock

from neurotrale.chunks.encode import Compression, Layout
from neurotrale.errors import (
    BadInputError,
    BusyError,
    DamagedError,
    MissingError,
    ReadOnlyError,
    reading,
)
from neurotrale.precomputed.info import Info, parse_info
from neurotrale.tools.parallel import ProgressCallback, parallel_for_each, reservoir_sample
from neurotrale.tools.repack.chunk import (
    ChunkFile,
    Repacker,
    RepackSummary,
    Target,
    count_symlinks,
    iter_chunks,
    remove_leftovers,
)

SAMPLE_CHUNKS = 20


@dataclass(frozen=True, slots=True)
class RepackRequest:
    """The options of a repack.

    Attributes:
        dataset: The dataset.
        layout: The layout to rewrite chunks in.
        compression: The compression of their segments.
        scales: Keys of the scales; empty for all.
        jobs: Number of threads.
    """

    dataset: Path
    layout: Layout
    compression: Compression
    scales: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class RepackPlan:
    """The scales to repack, and the format to rewrite their chunks in."""

    request: RepackRequest
    keys: tuple[str, ...]
    target: Target


@dataclass(frozen=True, slots=True)
class RepackEstimate:
    """The expected result of repacking a scale, from a sample of its chunks.

    Attributes:
        key: The scale.
        chunks: Number of TIFF chunks.
        unchanged: Number of chunks that are in the target layout already.
        bytes_before: Size of all chunks before.
        bytes_after: Size of all chunks after.
        seconds: Duration on one core.
    """

    key: str
    chunks: int
    unchanged: int
    bytes_before: int
    bytes_after: int
    seconds: float


def make_plan(request: RepackRequest) -> RepackPlan:
    """Check `info` and the directories of the scales, before anything is changed.

    Raises:
        BadInputError: The dataset has no such scale, or chunks that cannot be repacked.
        MissingError, DamagedError: `info` or a directory is missing, or `info` cannot be parsed.
        ReadOnlyError: The directory of a scale is not writable.
    """
    path = request.dataset / "info"
    with reading(str(path)):
        content = path.read_bytes()
    info = parse_info(content, str(path))
    keys = tuple(dict.fromkeys(scale.key.strip("/") for scale in info.scales))
    keys_to_repack = tuple(key.strip("/") for key in request.scales) or keys
    unknown = [key for key in keys_to_repack if key not in keys]
    if unknown:
        raise BadInputError(f"There is no scale {unknown[0]!r}: info has {', '.join(keys)}.")
    if info.num_channels != 1:
        raise BadInputError(
            f"{path} states {info.num_channels} channels; only single-channel chunks can be"
            " repacked."
        )
    _check_encodings(info, keys_to_repack)
    for key in keys_to_repack:
        _check_directory(request.dataset, key)
    return RepackPlan(
        request, keys_to_repack, Target(request.layout, request.compression, info.data_type)
    )


def _check_encodings(info: Info, keys_to_repack: tuple[str, ...]) -> None:
    for scale in info.scales:
        if scale.key.strip("/") not in keys_to_repack:
            continue
        if scale.encoding != "raw":
            raise BadInputError(
                f"The scale {scale.key} has the encoding {scale.encoding!r}: only TIFF chunks,"
                " which are served as 'raw', can be repacked. Name others with --scale."
            )
        if scale.sharding is not None:
            raise BadInputError(
                f"The scale {scale.key} is sharded: its chunks are not files of their own. Name"
                " others with --scale."
            )


def _check_directory(dataset: Path, key: str) -> None:
    directory = dataset / key
    if ".." in Path(key).parts:
        raise BadInputError(f"The scale {key} would lie outside the dataset: correct info.")
    if not directory.is_dir():
        raise MissingError(
            f"The scale {key} has no directory. 'neurotrale check' lists what else is missing."
        )
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    if read_only or not os.access(directory, os.W_OK | os.X_OK):
        raise ReadOnlyError(
            f"{directory} cannot be written"
            f" ({'read-only file system' if read_only else 'permission denied'}). Ask the owner"
            " of the data for write permission, or repack as a user who has it."
        )


def estimate(plan: RepackPlan, key: str) -> RepackEstimate:
    """Estimate the result for a scale from a sample of its chunks; write nothing."""
    repacker = Repacker(plan.target)
    count = 0

    def counted() -> Iterator[ChunkFile]:
        nonlocal count
        for file in iter_chunks(plan.request.dataset / key):
            count += 1
            yield file

    files = reservoir_sample(counted(), SAMPLE_CHUNKS, Random())
    started = time.perf_counter()
    results = []
    for file in files:
        try:
            results.append(repacker.dry_run(file.path, file.name, file.path.name))
        except (DamagedError, MissingError):
            continue
    seconds = time.perf_counter() - started
    factor = count / len(results) if results else 0.0
    return RepackEstimate(
        key,
        count,
        round(factor * sum(result.outcome == "unchanged" for result in results)),
        round(factor * sum(result.bytes_before for result in results)),
        round(factor * sum(result.bytes_after for result in results)),
        factor * seconds,
    )


def repack(plan: RepackPlan, on_progress: ProgressCallback) -> list[RepackSummary]:
    """Rewrite every chunk that is not in the target layout yet.

    After an interruption every chunk is either the old file or the new one, and a second run
    continues with the rest.

    Args:
        plan: The plan.
        on_progress: Called after every chunk.

    Returns:
        A summary for each scale.

    Raises:
        DiskFullError, ReadOnlyError: A chunk cannot be replaced; it is left as it was.
    """
    directories = [plan.request.dataset / key for key in plan.keys]
    total = sum(1 for directory in directories for _ in iter_chunks(directory))
    run = _Run(plan, total, on_progress)
    return [run.repack_scale(key) for key in plan.keys]


class _Run:
    def __init__(self, plan: RepackPlan, total: int, on_progress: ProgressCallback) -> None:
        self._plan = plan
        self._repacker = Repacker(plan.target)
        self._total = total
        self._done = 0
        self._on_progress = on_progress
        self._lock = Lock()
        on_progress(0, total)

    def repack_scale(self, key: str) -> RepackSummary:
        directory = self._plan.request.dataset / key
        remove_leftovers(directory)
        summary = RepackSummary(key, links=count_symlinks(directory))

        def work(file: ChunkFile) -> None:
            self._repack(key, file, summary)

        parallel_for_each(iter_chunks(directory), work, self._plan.request.jobs)
        return summary

    def _repack(self, key: str, file: ChunkFile, summary: RepackSummary) -> None:
        display_path = f"{key}/{file.path.name}"
        result, problem = None, ""
        try:
            result = self._repacker.repack(file.path, file.name, display_path)
        except (DamagedError, BusyError) as error:
            problem = str(error)
        except MissingError:  # removed since the directory was listed
            pass
        with self._lock:
            if result is not None:
                summary.add(result)
            elif problem:
                summary.skip(problem)
            self._done += 1
            self._on_progress(min(self._done, self._total), self._total)
