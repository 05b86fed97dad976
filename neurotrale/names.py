"""Frozen values made from URLs: what a path means, before any file is looked at.

Axis order is (x, y, z) in every name and every tuple here; units are voxels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from neurotrale.errors import MissingError, NameTooLongError

Parts = tuple[str, ...]
"""The names from the data root down to a file or directory, each one checked."""

NAME_MAX_BYTES = 255
PATH_MAX_BYTES = 4096 - 256  # PATH_MAX less room for the data root

_INT = r"(-?\d{1,18})"
_FORBIDDEN = re.compile(r"\A\.|[/\\\x00-\x1f\x7f]")
_CHUNK = re.compile("_".join([f"{_INT}-{_INT}"] * 3), re.ASCII)
_BLOCK = re.compile(f"x{_INT}y{_INT}z{_INT}", re.ASCII)


@lru_cache(4096)  # the directories above the chunks, above all
def split_path(path: str) -> Parts:
    """Split a decoded URL path into names that are safe to look for below the data root.

    Args:
        path: As decoded from the URL; doubled slashes count as one, a final slash is dropped.

    Returns:
        The names, outermost first; an empty tuple means the data root itself.

    Raises:
        MissingError: A name that is never served: ``..``, hidden files, NUL, a backslash.
        NameTooLongError: A name or the whole path is longer than file systems allow.
    """
    parts = tuple(part for part in path.split("/") if part)
    for part in parts:
        check_name(part)
    if sum(len(part.encode()) + 1 for part in parts) > PATH_MAX_BYTES:
        raise NameTooLongError(f"The path is longer than {PATH_MAX_BYTES} bytes.")
    return parts


def check_name(name: str) -> None:
    """Refuse a single name that could leave its directory or that is never served.

    Raises:
        MissingError: The name is ``.`` or ``..``, starts with a dot, or has a forbidden character.
        NameTooLongError: The name has more than 255 bytes.
    """
    if _FORBIDDEN.search(name):
        raise MissingError(f"There is nothing to see under the name {name[:80]!r}.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise MissingError("There is nothing to see under a name that is not UTF-8.") from None
    if size > NAME_MAX_BYTES:
        raise NameTooLongError(f"A name of {size} bytes is too long; {NAME_MAX_BYTES} is the most.")


@dataclass(frozen=True, slots=True)
class ChunkName:
    """The box of voxels that a chunk's file name states: ``x0-x1_y0-y1_z0-z1``, ends exclusive.

    Source of the format: Neuroglancer, "Precomputed volume format", unsharded chunk storage.
    """

    start_vx: tuple[int, int, int]
    stop_vx: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> ChunkName | None:
        """Read a chunk's name without extension; None when it is not one or the box is empty."""
        match = _CHUNK.fullmatch(text)
        if match is None:
            return None
        x0, x1, y0, y1, z0, z1 = (int(group) for group in match.groups())
        if x1 <= x0 or y1 <= y0 or z1 <= z0:
            return None
        return cls((x0, y0, z0), (x1, y1, z1))

    @property
    def shape_vx(self) -> tuple[int, int, int]:
        """The extent (x, y, z) in voxels."""
        x, y, z = (stop - start for start, stop in zip(self.start_vx, self.stop_vx, strict=True))
        return x, y, z


@dataclass(frozen=True, slots=True)
class ChunkPath:
    """A chunk as a URL names it: the directory of its scale and its name without extension."""

    directory: Parts
    stem: str

    @property
    def name(self) -> ChunkName | None:
        """The box of voxels, when the stem states one."""
        return ChunkName.parse(self.stem)


@dataclass(frozen=True, slots=True)
class BlockName:
    """The block in an annotation URL: an index, or an absolute position in voxels (x, y, z)."""

    text: str
    position: tuple[int, int, int] | None
    """None for any other directory name, such as ``x0001_y0002`` of the original service."""

    @classmethod
    def parse(cls, text: str) -> BlockName:
        """Read ``x<int>y<int>z<int>``, or take the text as the name of a directory."""
        check_name(text)
        match = _BLOCK.fullmatch(text)
        if match is None:
            return cls(text, None)
        x, y, z = (int(group) for group in match.groups())
        return cls(text, (x, y, z))


@dataclass(frozen=True, slots=True)
class AnnotationName:
    """One annotation file as a URL names it: ``{dataset}/annotations/{block}/{leaf}.json``."""

    dataset: Parts
    block: BlockName
    leaf: str
    """The file name with its ``.json``."""
