"""Values parsed from URL paths, before any file is accessed.

Axis order is (x, y, z) in every name and tuple here; units are voxels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from neurotrale.errors import BadInputError, MissingError, NameTooLongError

Parts = tuple[str, ...]
"""Names from the data root down to a file or directory, each of them checked."""

Triple = tuple[int, int, int]
"""One integer per axis: x, y, z."""

NAME_MAX_BYTES = 255
PATH_MAX_BYTES = 4096 - 256  # PATH_MAX less room for the data root

METADATA_NAMES = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata"})
"""The only names with a leading dot that are served: they describe arrays and groups of zarr."""

_INT = r"(-?\d{1,18})"
_FORBIDDEN = re.compile(r"\A\.|[/\\\x00-\x1f\x7f]")
_CHUNK = re.compile("_".join([f"{_INT}-{_INT}"] * 3), re.ASCII)
_BLOCK = re.compile(f"x{_INT}y{_INT}z{_INT}", re.ASCII)
_POSITION = re.compile(f"{_INT},{_INT},{_INT}", re.ASCII)


@lru_cache(4096)  # pays off mostly for the directories of chunks
def split_path(path: str) -> Parts:
    """Split a decoded URL path into names that are safe to look up below the data root.

    Args:
        path: The path; doubled slashes count as one, a final slash is ignored.

    Returns:
        The names, outermost first; an empty tuple is the data root itself.

    Raises:
        MissingError: A name is never served: ``..``, a hidden file, NUL, a backslash.
        NameTooLongError: A name or the whole path is longer than file systems allow.
    """
    parts = tuple(part for part in path.split("/") if part)
    for part in parts:
        check_name(part)
    if sum(len(part.encode()) + 1 for part in parts) > PATH_MAX_BYTES:
        raise NameTooLongError(f"The path is longer than {PATH_MAX_BYTES} bytes.")
    return parts


@lru_cache(4096)
def split_file_path(path: str) -> Parts:
    """Split a decoded URL path whose last name may also be one of `METADATA_NAMES`.

    Raises:
        MissingError, NameTooLongError: As in `split_path`.
    """
    head, _, last = path.rstrip("/").rpartition("/")
    if last in METADATA_NAMES:
        return (*split_path(head), last)
    return split_path(path)


def check_file_name(name: str) -> None:
    """Check the name of a file; unlike that of a directory it may be one of `METADATA_NAMES`.

    Raises:
        MissingError, NameTooLongError: As in `check_name`.
    """
    if name not in METADATA_NAMES:
        check_name(name)


def check_file_parts(parts: Parts) -> None:
    """Check the names down to a file; the last one as in `check_file_name`."""
    for part in parts[:-1]:
        check_name(part)
    for part in parts[-1:]:
        check_file_name(part)


def is_hidden(parts: Parts) -> bool:
    """Return whether one of the names is hidden; the last one may be one of `METADATA_NAMES`."""
    names = parts[:-1] if parts and parts[-1] in METADATA_NAMES else parts
    return any(name.startswith(".") for name in names)


@lru_cache(16_384)  # the names of a request are checked again when they become a path
def check_name(name: str) -> None:
    """Check a single name: it must not lead out of its directory, nor be one that is never served.

    Raises:
        MissingError: The name starts with a dot or contains a forbidden character.
        NameTooLongError: The name has more than 255 bytes.
    """
    if _FORBIDDEN.search(name):
        raise MissingError(f"There is nothing at the name {name[:80]!r}.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise MissingError("There is nothing at a name that is not valid UTF-8.") from None
    if size > NAME_MAX_BYTES:
        raise NameTooLongError(
            f"A name of {size} bytes is too long; the maximum is {NAME_MAX_BYTES} bytes."
        )


@dataclass(frozen=True, slots=True)
class ChunkName:
    """The box of voxels in the name of a chunk file: ``x0-x1_y0-y1_z0-z1``, ends exclusive.

    Source of the format: Neuroglancer, "Precomputed volume format", unsharded chunk storage.
    """

    start_vx: tuple[int, int, int]
    stop_vx: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> ChunkName | None:
        """Parse a chunk name without extension; None if it is not one or the box is empty."""
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
    """A chunk in a URL: the directory of its scale, and the file name without extension."""

    directory: Parts
    stem: str
    name: ChunkName | None = field(init=False, compare=False)
    """The box of voxels; None if the stem is not a chunk name."""
    shape_vx: Triple | None = field(init=False, compare=False)
    """The extent of the box; None if the stem is not a chunk name."""

    def __post_init__(self) -> None:
        """Parse the stem once: a path that is requested often is created once."""
        name = ChunkName.parse(self.stem)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "shape_vx", None if name is None else name.shape_vx)


@dataclass(frozen=True, slots=True)
class BlockName:
    """A block in an annotation URL: the name of a directory below ``annotations``."""

    text: str
    position: Triple | None
    """The numbers in the name: an index, or a position in voxels if a viewer asks. None for any
    other directory name, such as ``x0001_y0002`` of the original service."""

    @classmethod
    def parse(cls, text: str) -> BlockName:
        """Parse ``x<int>y<int>z<int>``, or any other directory name."""
        check_name(text)
        match = _BLOCK.fullmatch(text)
        if match is None:
            return cls(text, None)
        x, y, z = (int(group) for group in match.groups())
        return cls(text, (x, y, z))


def parse_position(text: str) -> Triple:
    """Parse an absolute position in voxels: ``x,y,z``, integers.

    Raises:
        BadInputError: The text is not a position.
    """
    match = _POSITION.fullmatch(text)
    if match is None:
        raise BadInputError(
            f"position={text[:80]!r} is not a position in voxels. Write it as x,y,z in whole"
            " numbers, for example ?position=300,10,5."
        )
    x, y, z = (int(group) for group in match.groups())
    return x, y, z


@dataclass(frozen=True, slots=True)
class AnnotationUrl:
    """An annotation file as its URL names it, before the block is resolved."""

    dataset: Parts
    block: BlockName | None
    """None in ``{dataset}/annotations/{leaf}.json``, where the query contains a position."""
    leaf: str
    """The file name, including ``.json``."""


@dataclass(frozen=True, slots=True)
class AnnotationName:
    """One annotation file: ``{dataset}/annotations/{block}/{leaf}.json``."""

    dataset: Parts
    block: BlockName
    """Names the directory itself; a viewer's position is already resolved."""
    leaf: str
    """The file name, including ``.json``."""
