"""Which scales are to be repacked, and whether that can be done; an estimate of what it gives."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from neurotrale.chunks.info import Info, parse_info
from neurotrale.chunks.write import Compression, Layout
from neurotrale.errors import BadInputError, DamagedError, MissingError, ReadOnlyError
from neurotrale.faults import reading
from neurotrale.many import sampled
from neurotrale.repacking.chunk import Repacker, Target
from neurotrale.repacking.directory import ChunkFile, chunk_files

TRIED = 20


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done.

    Attributes:
        dataset: The data set.
        layout: The layout that is wanted.
        compression: Of each segment.
        scales: Keys of the scales; empty for all.
        jobs: Threads to use.
    """

    dataset: Path
    layout: Layout
    compression: Compression
    scales: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done: the scales, and how their chunks are to be stored."""

    request: Request
    keys: tuple[str, ...]
    target: Target


@dataclass(frozen=True, slots=True)
class Estimate:
    """What repacking a scale would give, judged by some of its chunks.

    Attributes:
        key: The scale.
        chunks: How many TIFF chunks it has.
        alike: How many of them are in the layout already.
        bytes_before: Of all chunks.
        bytes_after: The same, then.
        seconds: On one core.
    """

    key: str
    chunks: int
    alike: int
    bytes_before: int
    bytes_after: int
    seconds: float


class _Sharded(msgspec.Struct):
    sharding: object = None


class _MaySharded(msgspec.Struct):
    scales: list[_Sharded]


def make_plan(request: Request) -> Plan:
    """Look at `info` and the directories, before anything is changed.

    Raises:
        BadInputError: It has chunks that cannot be repacked, or no such scale.
        MissingError, DamagedError: There is no `info`, or it cannot be understood.
        ReadOnlyError: The chunks may not be written.
    """
    path = request.dataset / "info"
    with reading(str(path)):
        content = path.read_bytes()
    info = parse_info(content, str(path))
    keys = tuple(dict.fromkeys(scale.key.strip("/") for scale in info.scales))
    wanted = tuple(key.strip("/") for key in request.scales) or keys
    unknown = [key for key in wanted if key not in keys]
    if unknown:
        raise BadInputError(f"There is no scale {unknown[0]!r}: info has {', '.join(keys)}.")
    if info.num_channels != 1:
        raise BadInputError(
            f"{path} states {info.num_channels} channels; only chunks of one can be repacked."
        )
    _check_encodings(info, content, wanted)
    for key in wanted:
        _check_directory(request.dataset, key)
    return Plan(request, wanted, Target(request.layout, request.compression, info.data_type))


def _check_encodings(info: Info, content: bytes, wanted: tuple[str, ...]) -> None:
    sharded = msgspec.json.decode(content, type=_MaySharded).scales
    for scale, maybe in zip(info.scales, sharded, strict=True):
        if scale.key.strip("/") not in wanted:
            continue
        if scale.encoding != "raw":
            raise BadInputError(
                f"The scale {scale.key} has the encoding {scale.encoding!r}: only TIFF chunks,"
                " which are served as 'raw', can be repacked. Name others with --scale."
            )
        if maybe.sharding is not None:
            raise BadInputError(
                f"The scale {scale.key} is sharded, its chunks are no files. Name others with"
                " --scale."
            )


def _check_directory(dataset: Path, key: str) -> None:
    directory = dataset / key
    if ".." in Path(key).parts:
        raise BadInputError(f"The scale {key} would lie outside the data set: correct info.")
    if not directory.is_dir():
        raise MissingError(
            f"The scale {key} has no directory. 'neurotrale check' tells what else is missing."
        )
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    if read_only or not os.access(directory, os.W_OK | os.X_OK):
        raise ReadOnlyError(
            f"{directory} cannot be written"
            f" ({'read-only file system' if read_only else 'permission denied'}). Ask the owner"
            " of the data for the permission, or repack as a user who has it."
        )


def estimate(plan: Plan, key: str) -> Estimate:
    """Try out some chunks of a scale; nothing is written."""
    repacker = Repacker(plan.target)
    count = 0

    def counted() -> Iterator[ChunkFile]:
        nonlocal count
        for file in chunk_files(plan.request.dataset / key):
            count += 1
            yield file

    files = sampled(counted(), TRIED, Random())
    started = time.perf_counter()
    tried = []
    for file in files:
        try:
            tried.append(repacker.try_out(file.path, file.name, file.path.name))
        except (DamagedError, MissingError):
            continue
    seconds = time.perf_counter() - started
    share = count / len(tried) if tried else 0.0
    return Estimate(
        key,
        count,
        round(share * sum(one.outcome == "alike" for one in tried)),
        round(share * sum(one.bytes_before for one in tried)),
        round(share * sum(one.bytes_after for one in tried)),
        share * seconds,
    )
