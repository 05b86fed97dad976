"""The block directories below ``annotations``: how they are named, and where they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from neurotrale.annotations.blocks import BLOCK_INFO, LEGACY_DIRECTORY, read_block_size
from neurotrale.checking.look import Item, Look
from neurotrale.chunks.info import Info, Triple
from neurotrale.errors import BusyError, ReadOnlyError
from neurotrale.names import BlockName

ANNOTATIONS = "annotations"

_NUMBERS = re.compile(r"\d+")
# What the viewer asks for before a place was chosen, wherever the volume begins.
_FIRST = (0, 0, 0)


@dataclass(slots=True)
class _Named:
    """Block directories by index; those of the original service have no z."""

    current: dict[Triple, str] = field(default_factory=dict)
    legacy: dict[tuple[int, int], str] = field(default_factory=dict)


class BlockCheck:
    """Checks the directories of a data set's annotations, not what is in them.

    Args:
        look: The data set.
        info: Of its volume, if it has one.
    """

    def __init__(self, look: Look, info: Info | None) -> None:
        self._look = look
        self._findings = look.findings
        self._info = info
        self._named = _Named()

    def files(self) -> list[Item]:
        """Check the blocks; give the annotation files in them, sorted by name."""
        top = sorted(self._look.items(ANNOTATIONS), key=lambda item: item.name)
        if any(item.name == "info" for item in top):
            detail = "this is in Neuroglancer's own format for annotations"
            self._findings.add("not-looked-into", ANNOTATIONS, detail)
            return []
        blocks = [item for item in top if self._is_block(item)]
        if blocks:
            self._check_places(self._size_vx())
            self._check_mixed()
        return [file for block in blocks for file in self._in_block(block)]

    def _is_block(self, item: Item) -> bool:
        if item.is_directory:
            position = BlockName.parse(item.name).position
            if position is not None:
                self._named.current[position] = item.name
                return True
            if LEGACY_DIRECTORY.fullmatch(item.name):
                x, y = map(int, _NUMBERS.findall(item.name))
                self._named.legacy[x - 1, y - 1] = item.name
                return True
        if item.name != BLOCK_INFO:
            self._findings.add("stray", item.place, "not the name of a block")
        return False

    def _in_block(self, block: Item) -> Iterator[Item]:
        for item in sorted(self._look.items(block.place), key=lambda item: item.name):
            if item.is_directory:
                self._findings.add("stray", item.place, "a directory in a block")
            elif item.name.endswith(".json"):
                yield item

    def _size_vx(self) -> Triple | None:
        place = f"{ANNOTATIONS}/{BLOCK_INFO}"
        path = self._look.dataset / place
        if not os.path.lexists(path):
            self._findings.add("block-size", place, "it is missing")
            return None
        try:
            size_vx = read_block_size(path)
        except (ReadOnlyError, BusyError) as error:
            self._look.unreadable(place, error)
            return None
        if size_vx is None:
            detail = "expected three positive whole numbers x,y,z"
            self._findings.add("block-size", place, detail)
        return size_vx

    def _check_places(self, size_vx: Triple | None) -> None:
        for position, name in self._named.current.items():
            self._check_place(name, position, size_vx)
        for (x, y), name in self._named.legacy.items():
            self._check_place(name, (x, y, 0), size_vx)

    def _check_place(self, name: str, index: Triple, size_vx: Triple | None) -> None:
        place = f"{ANNOTATIONS}/{name}"
        if min(index) < 0:
            self._findings.add("block-outside", place, "before the first block")
            return
        if size_vx is None or self._info is None or index == _FIRST:
            return
        scale = self._info.scales[0]
        for axis, letter in enumerate("xyz"):
            begin = scale.voxel_offset[axis]
            end = begin + scale.size[axis]
            start, stop = (i * size_vx[axis] for i in (index[axis], index[axis] + 1))
            # Blocks of the original service have no z: they go through all of it.
            has_axis = letter != "z" or name not in self._named.legacy.values()
            if has_axis and (start >= end or stop <= begin):
                detail = f"it begins at {letter} = {start}, the volume has {begin} to {end}"
                self._findings.add("block-outside", place, detail)
                return

    def _check_mixed(self) -> None:
        if not self._named.current or not self._named.legacy:
            return
        current = {(x, y): name for (x, y, _), name in self._named.current.items()}
        for index, name in sorted(self._named.legacy.items()):
            twin = current.get(index)
            detail = f"{twin} is the same block" if twin else f"beside {min(current.values())}"
            self._findings.add("blocks-mixed", f"{ANNOTATIONS}/{name}", detail)
