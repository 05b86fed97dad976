"""The size of a voxel: as it is given, as files state it, or as precomputed-tif assumes it.

Sources of the metadata: OME-XML, "Pixels"; ImageJ's description in TIFF; TIFF revision 6.0,
"XResolution" and "ResolutionUnit".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from neurotrale.tools.ingest.dataset_source import DatasetSource
from neurotrale.tools.ingest.plane_source import PlaneSource
from neurotrale.tools.ingest.series import ome_pixels

DEFAULT_UM = (1.8, 1.8, 2.0)
"""What precomputed-tif assumes (x, y, z)."""

_UM = {
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("å", "Å", "angstrom"), 1e-4),
    **dict.fromkeys(("in", "inch"), 25400.0),
}
_RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}
# Resolution tags of larger pixels are those of a printer or screen, such as 72 or 300 dpi.
_MOST_TAG_UM = 50.0
_TOLERANCE = 0.01
# Sizes in micrometres beyond these are those in another unit.
_MOST_UM, _LEAST_UM = 100.0, 0.001


@dataclass(frozen=True, slots=True)
class StatedSize:
    """The size of a voxel in the metadata of a source.

    Attributes:
        um: Size (x, y, z) in micrometres; None for an axis that is not stated.
        origin: Where it is stated.
    """

    um: tuple[float | None, float | None, float | None]
    origin: str

    def __str__(self) -> str:
        return um_text(tuple("?" if size is None else size for size in self.um))


def um_text(um: tuple[object, ...]) -> str:
    """Format a size as ``--voxel-size`` has it."""
    return ",".join(f"{size:.6g}" if isinstance(size, float) else str(size) for size in um)


def choose_voxel_size(
    given_nm: tuple[float, float, float] | None, source: PlaneSource
) -> tuple[tuple[float, float, float], list[str]]:
    """Choose the size of a voxel (x, y, z) in nanometres, and say why.

    Args:
        given_nm: The size that the user gave, if any. It is used; a difference to the one that the
            source states is a warning.
        source: The stack.
    """
    stated = stated_size(source)
    if given_nm is not None:
        return given_nm, _unlikely(given_nm) + _differences(given_nm, stated)
    if stated is None:
        text = (
            f"WARNING: no voxel size is given, and the source states none: {um_text(DEFAULT_UM)} um"
            " is assumed, as precomputed-tif does. Give --voxel-size X,Y,Z if that is wrong."
        )
        return _nm(DEFAULT_UM), [text]
    pairs = zip(stated.um, DEFAULT_UM, strict=True)
    x, y, z = (default if um is None else um for um, default in pairs)
    text = f"the voxel size {um_text((x, y, z))} um is that of {stated.origin}"
    if None in stated.um:
        text = (
            f"WARNING: {stated.origin} states {stated} um: {um_text((x, y, z))} um is assumed, with"
            " the rest as in precomputed-tif. Give --voxel-size X,Y,Z if that is wrong."
        )
    return _nm((x, y, z)), [text]


def _nm(um: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = (1000 * size for size in um)
    return x, y, z


def _unlikely(given_nm: tuple[float, float, float]) -> list[str]:
    """Return a warning if the size is so far from that of a microscope that a unit is mistaken."""
    um = tuple(nm / 1000 for nm in given_nm)
    if max(um) <= _MOST_UM and min(um) >= _LEAST_UM:
        return []
    meant = (
        size / 1000 if size > _MOST_UM else size * 1000 if size < _LEAST_UM else size for size in um
    )
    return [f"WARNING: --voxel-size is {um_text(um)} um: did you mean {um_text(tuple(meant))}?"]


def _differences(given_nm: tuple[float, float, float], stated: StatedSize | None) -> list[str]:
    if stated is None:
        return []
    um = tuple(nm / 1000 for nm in given_nm)
    pairs = [(a, b) for a, b in zip(um, stated.um, strict=True) if b is not None]
    if all(abs(a - b) <= _TOLERANCE * max(a, b) for a, b in pairs):
        return []
    text = f"WARNING: --voxel-size is {um_text(um)} um, but {stated.origin} states {stated} um"
    return [f"{text}: the option is used."]


def stated_size(source: PlaneSource) -> StatedSize | None:
    """Return the size of a voxel that a source states; None if it states none."""
    if isinstance(source, DatasetSource):
        if source.voxel_nm is None:
            return None
        x, y, z = (nm / 1000 for nm in source.voxel_nm)
        return StatedSize((x, y, z), "the source")
    return size_in_file(source.paths[0]) if source.paths else None


def size_in_file(path: Path) -> StatedSize | None:
    """Return the size of a voxel that a TIFF file states; None if it states none."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return _in_ome(tiff) or _in_imagej(tiff) or _in_tags(tiff)
    # Metadata may hold anything, and its parsers raise anything for it.
    except Exception:  # noqa: BLE001
        return None


def _in_ome(tiff: tifffile.TiffFile) -> StatedSize | None:
    pixels = ome_pixels(tiff)
    if pixels is None:
        return None
    x, y, z = (
        _positive(float(pixels[f"PhysicalSize{axis}"]) * _UM[_unit(pixels, axis)])
        if f"PhysicalSize{axis}" in pixels and _unit(pixels, axis) in _UM
        else None
        for axis in "XYZ"
    )
    return StatedSize((x, y, z), "the OME metadata") if x and y else None


def _unit(pixels: dict[str, Any], axis: str) -> str:
    return str(pixels.get(f"PhysicalSize{axis}Unit", "µm"))


def _in_imagej(tiff: tifffile.TiffFile) -> StatedSize | None:
    if not tiff.is_imagej or not tiff.imagej_metadata:
        return None
    unit = str(tiff.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ").lower()
    um = _UM.get(unit)
    x, y = (_tag_pixel(tiff, name) for name in ("XResolution", "YResolution"))
    if um is None or x is None or y is None:
        return None
    spacing = tiff.imagej_metadata.get("spacing")
    z = None if spacing is None else _positive(float(spacing) * um)
    return StatedSize((x * um, y * um, z), "the ImageJ metadata")


def _in_tags(tiff: tifffile.TiffFile) -> StatedSize | None:
    page = tiff.pages.first
    unit = page.tags.get("ResolutionUnit")
    um = _RESOLUTION_UNITS.get(int(unit.value) if unit is not None else 2)
    x, y = (_tag_pixel(tiff, name) for name in ("XResolution", "YResolution"))
    if um is None or x is None or y is None or max(x, y) * um > _MOST_TAG_UM or tiff.is_imagej:
        return None
    return StatedSize((x * um, y * um, None), "the resolution in the file")


def _tag_pixel(tiff: tifffile.TiffFile, name: str) -> float | None:
    """Return the size of a pixel in the unit of the resolution."""
    tag = tiff.pages.first.tags.get(name)
    if tag is None:
        return None
    pixels, units = tag.value
    return _positive(units / pixels) if pixels else None


def _positive(value: float) -> float | None:
    return value if 0 < value < float("inf") else None
