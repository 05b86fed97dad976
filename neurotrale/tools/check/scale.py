"""Checks the directory of a scale: existing and missing chunks, and any other entries."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from random import Random
from zlib import crc32

from neurotrale.chunks.blockfs import DIRECTORY_FILE
from neurotrale.chunks.layouts import layout_of, names_in_layouts
from neurotrale.precomputed.grid import Grid
from neurotrale.precomputed.info import Info, Scale
from neurotrale.precomputed.sharding import Sharding
from neurotrale.storage.names import ChunkName
from neurotrale.tools.check.blocks import BlockfsCheck
from neurotrale.tools.check.chunks import SUFFIXES, CheckedChunk, ShardCheck, VoxelCheck
from neurotrale.tools.check.findings import CheckCounts, CheckRequest, Finding
from neurotrale.tools.check.walk import DirectoryWalker, WalkedEntry
from neurotrale.tools.ingest.empty_chunks import left_out_chunks
from neurotrale.tools.parallel import parallel_for_each, reservoir_sample


class ScaleCheck:
    """Checks one scale.

    Args:
        walker: Lists the dataset's directories.
        info: The `info` of the volume.
        scale: The scale.
        sharding: How its chunks are sharded; None if they are files.
        request: How thoroughly to check.
        counts: Counts what was checked.
    """

    def __init__(
        self,
        walker: DirectoryWalker,
        info: Info,
        scale: Scale,
        sharding: Sharding | None,
        request: CheckRequest,
        counts: CheckCounts,
    ) -> None:
        self._walker = walker
        self._findings = walker.findings
        self._request = request
        self._counts = counts
        self._key = scale.key.strip("/")
        self._keys = [f"{scale.key.strip('/')}/" for scale in info.scales]
        self._is_finest = scale is info.scales[0]
        self._grids = [
            Grid(scale.size, chunk, scale.voxel_offset)
            for chunk in dict.fromkeys(scale.chunk_sizes)
        ]
        self._voxels = VoxelCheck(walker, info, scale)
        self._encoding = scale.encoding
        self._sharding = sharding
        self._other: set[str] = set()
        self._is_blockfs = False

    def check(self) -> None:
        """Check every name, open the chunks, and report which are missing."""
        directory = self._walker.dataset / self._key
        if not os.path.lexists(directory):
            self._findings.add("scale-missing", self._key, "there is no such directory")
            return
        if os.path.isfile(directory):
            self._findings.add("scale-missing", self._key, "it is not a directory")
            return
        self._report_layout()
        chunks: Iterable[CheckedChunk] = filter(self._is_in_part, self._chunks())
        if self._request.sample is not None:
            chunks = reservoir_sample(chunks, self._request.sample, Random())
        parallel_for_each(chunks, self._open, self._request.jobs)
        self._report_missing()

    def _report_layout(self) -> None:
        # The names of chunks are not collected: there may be millions.
        names = [
            name
            for name in names_in_layouts(self._walker.names(self._key))
            if not any(key.startswith(f"{self._key}/{name}/") for key in self._keys)
            and not (self._sharding is not None and name.endswith(".shard"))
        ]
        layout = layout_of(names)
        if layout is not None:
            self._is_blockfs = DIRECTORY_FILE in names
            if not self._is_blockfs:
                self._findings.add("other-layout", self._key, layout)
            self._other = set(names)

    def _is_in_part(self, chunk: CheckedChunk) -> bool:
        """Choose by a hash of the name, which spreads every part over the whole volume."""
        part, parts = self._request.part
        return parts == 1 or crc32(os.fsencode(chunk.entry.relative_path)) % parts == part - 1

    def _open(self, chunk: CheckedChunk) -> None:
        self._voxels.check(chunk)
        self._counts.add_opened()

    def _chunks(self) -> Iterator[CheckedChunk]:
        if self._encoding != "raw":
            detail = f"whether chunks with the encoding {self._encoding!r} can be decoded"
            self._findings.add("not-looked-into", self._key, detail)
        if self._sharding is None:
            yield from self._files()
            if self._is_blockfs:
                for chunk in BlockfsCheck(self._walker, self._key, self._grids[0]).chunks():
                    self._counts.add_found()
                    yield chunk
            return
        shards = ShardCheck(self._walker, self._key, self._sharding, self._grids[0], self._other)
        for chunk in shards.chunks():
            self._counts.add_found()
            yield chunk

    def _files(self) -> Iterator[CheckedChunk]:
        for entry in self._walker.entries(self._key):
            if entry.name in self._other:
                continue
            if entry.is_directory:
                if not any(key.startswith(f"{entry.relative_path}/") for key in self._keys):
                    self._findings.add("stray", entry.relative_path, "a directory among chunks")
            elif (chunk := self._chunk(entry)) is not None:
                yield chunk

    def _chunk(self, entry: WalkedEntry) -> CheckedChunk | None:
        stem, suffix = split_suffix(entry.name)
        name = ChunkName.parse(stem)
        if name is None:
            self._findings.add("stray", entry.relative_path)
            return None
        problems = []
        for grid in self._grids:
            index = grid.index(stem, name)
            if isinstance(index, str):
                problems.append(index)
            elif grid.mark(index):
                self._findings.add("chunk-twice", f"{self._key}/{stem}")
        if len(problems) == len(self._grids):
            self._findings.add("chunk-off-grid", entry.relative_path, problems[0])
            return None
        self._counts.add_found()
        return CheckedChunk(entry, name, suffix)

    def _mark_left_out(self, grid: Grid) -> None:
        """Count chunks that ingest left out as found, as they are not missing."""
        if not grid.is_counted:
            return
        x, y, _ = grid.shape
        positions = left_out_chunks(self._walker.dataset, self._key, grid.count)
        count, names = 0, []
        for at in positions:
            index = (at % x, at // x % y, at // (x * y))
            if not grid.mark(index):
                count += 1
                if count <= self._request.places:
                    names.append(grid.name(index))
        self._findings.add_many("chunk-empty", count, self._findings_of(names))

    def _report_missing(self) -> None:
        for grid in self._grids:
            self._mark_left_out(grid)
            if grid.found == 0:
                self._findings.add("scale-missing", self._key, f"0 of {grid.count} chunks")
                continue
            if not grid.is_counted:
                detail = f"{grid.count} chunks are too many to determine which are missing"
                self._findings.add("not-looked-into", self._key, detail)
            if self._request.sparse:
                continue
            missing, names, at_edge, edge_names = grid.absent(self._request.places)
            if self._is_finest:
                missing, names = missing + at_edge, (names + edge_names)[: self._request.places]
                at_edge = 0
            self._findings.add_many("chunk-missing", missing, self._findings_of(names))
            self._findings.add_many("edge-missing", at_edge, self._findings_of(edge_names))

    def _findings_of(self, names: list[str]) -> list[Finding]:
        return [Finding(f"{self._key}/{name}") for name in names]


def split_suffix(name: str) -> tuple[str, str]:
    """Split the name of a chunk's file into the chunk's name and the suffix."""
    for suffix in SUFFIXES[1:]:
        if name.endswith(suffix):
            return name[: -len(suffix)], suffix
    return name, ""
