"""The directory of a scale: which chunks are there, which are not, and what else lies about."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from random import Random

from neurotrale.checking.findings import Finding
from neurotrale.checking.grid import Grid
from neurotrale.checking.look import Item, Look
from neurotrale.checking.request import Request, Tally
from neurotrale.checking.sharding import Sharding
from neurotrale.checking.shards import ShardCheck
from neurotrale.checking.voxels import SUFFIXES, ChunkFile, VoxelCheck
from neurotrale.chunks.info import Info, Scale
from neurotrale.many import each, sampled
from neurotrale.names import ChunkName


class ScaleCheck:
    """Checks one scale.

    Args:
        look: The data set.
        info: What it promises.
        scale: One of its scales.
        sharding: How its chunks are put into shards; None when they are files.
        request: How thoroughly to look.
        tally: Counts what was looked at.
    """

    def __init__(
        self,
        look: Look,
        info: Info,
        scale: Scale,
        sharding: Sharding | None,
        request: Request,
        tally: Tally,
    ) -> None:
        self._look = look
        self._findings = look.findings
        self._request = request
        self._tally = tally
        self._key = scale.key.strip("/")
        self._keys = [f"{scale.key.strip('/')}/" for scale in info.scales]
        self._is_finest = scale is info.scales[0]
        self._grids = [
            Grid(scale.size, chunk, scale.voxel_offset)
            for chunk in dict.fromkeys(scale.chunk_sizes)
        ]
        self._voxels = VoxelCheck(look, info, scale)
        self._encoding = scale.encoding
        self._sharding = sharding

    def check(self) -> None:
        """Look at every name, open the chunks, say which are missing."""
        directory = self._look.dataset / self._key
        if not os.path.lexists(directory):
            self._findings.add("scale-missing", self._key, "there is no such directory")
            return
        if os.path.isfile(directory):
            self._findings.add("scale-missing", self._key, "it is not a directory")
            return
        chunks: Iterable[ChunkFile] = self._chunks()
        if self._request.sample is not None:
            chunks = sampled(chunks, self._request.sample, Random())
        each(chunks, self._open, self._request.jobs)
        self._tell_missing()

    def _open(self, chunk: ChunkFile) -> None:
        self._voxels.check(chunk)
        self._tally.opened()

    def _chunks(self) -> Iterator[ChunkFile]:
        if self._encoding != "raw":
            detail = f"whether chunks with the encoding {self._encoding!r} can be decoded"
            self._findings.add("not-looked-into", self._key, detail)
        if self._sharding is None:
            yield from self._files()
            return
        shards = ShardCheck(self._look, self._key, self._sharding, self._grids[0])
        for chunk in shards.chunks():
            self._tally.found()
            yield chunk

    def _files(self) -> Iterator[ChunkFile]:
        for item in self._look.items(self._key):
            if item.is_directory:
                if not any(key.startswith(f"{item.place}/") for key in self._keys):
                    self._findings.add("stray", item.place, "a directory among chunks")
            elif (chunk := self._chunk(item)) is not None:
                yield chunk

    def _chunk(self, item: Item) -> ChunkFile | None:
        stem, suffix = split_suffix(item.name)
        name = ChunkName.parse(stem)
        if name is None:
            self._findings.add("stray", item.place)
            return None
        mistakes = []
        for grid in self._grids:
            index = grid.index(stem, name)
            if isinstance(index, str):
                mistakes.append(index)
            elif grid.mark(index):
                self._findings.add("chunk-twice", f"{self._key}/{stem}")
        if len(mistakes) == len(self._grids):
            self._findings.add("chunk-off-grid", item.place, mistakes[0])
            return None
        self._tally.found()
        return ChunkFile(item, name, suffix)

    def _tell_missing(self) -> None:
        for grid in self._grids:
            if grid.found == 0:
                self._findings.add("scale-missing", self._key, f"0 of {grid.count} chunks")
                continue
            if not grid.is_counted:
                detail = f"{grid.count} chunks are too many to tell which of them are missing"
                self._findings.add("not-looked-into", self._key, detail)
            if self._request.sparse:
                continue
            missing, names, at_edge, edge_names = grid.absent(self._request.places)
            if self._is_finest:
                missing, names = missing + at_edge, (names + edge_names)[: self._request.places]
                at_edge = 0
            self._findings.add_many("chunk-missing", missing, self._places(names))
            self._findings.add_many("edge-missing", at_edge, self._places(edge_names))

    def _places(self, names: list[str]) -> list[Finding]:
        return [Finding(f"{self._key}/{name}") for name in names]


def split_suffix(name: str) -> tuple[str, str]:
    """Split the name of a file that may hold a chunk into the chunk's name and a suffix."""
    for suffix in SUFFIXES[1:]:
        if name.endswith(suffix):
            return name[: -len(suffix)], suffix
    return name, ""
