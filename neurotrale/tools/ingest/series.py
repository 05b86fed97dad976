"""Which image of a TIFF file is the stack, if it holds several, and whether all of it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tifffile

# tifffile made these of pages without a description that relates them.
_UNRELATED = ("generic", "shaped", "uniform")
_REDUCED, _MASK = 0b1, 0b100  # bits of the tag NewSubfileType


class SeriesError(ValueError):
    """Which image of a file to read is not clear, or there is no such image."""


@dataclass(frozen=True, slots=True)
class ChosenSeries:
    """The image of a file that is read.

    Attributes:
        images: One image, or several of a plane each that make a stack together.
        notes: What else is in the file.
    """

    images: list[tifffile.TiffPageSeries]
    notes: list[str]


def choose_series(tiff: tifffile.TiffFile, number: int | None) -> ChosenSeries:
    """Choose the image of a file: the first that is not a thumbnail, a reduced copy or a mask.

    Args:
        tiff: The open file.
        number: Index of the image; None to choose.

    Raises:
        SeriesError: The file has no image, there is none of this number, or several images cannot
            be told from planes.
    """
    series = _all_series(tiff)
    if not series:
        raise SeriesError("it has no image")
    if number is not None:
        if number >= len(series):
            raise SeriesError(f"--series {number} does not exist; it has 0 to {len(series) - 1}")
        return ChosenSeries([series[number]], [])
    full = [image for image in series if not _is_small(image)] or series[:1]
    if len(full) > 1 and full[0].kind in _UNRELATED:
        if any(_form(image) != _form(full[0]) for image in full) or prod(full[0].shape[:-2]) != 1:
            raise SeriesError(
                f"it holds {len(full)} images ({_listed(full, series)}); expected one stack of"
                " planes, so choose an image with --series"
            )
    else:
        full = full[:1]
    notes = _notes_on_files(tiff)
    if len(full) < len(series):
        number = series.index(full[0])
        notes.append(f"series {number} is read, of {len(series)}: {_listed(series, series)}")
    if len(full[0].levels) > 1:
        notes.append(f"{len(full[0].levels) - 1} reduced levels of the image are left out")
    return ChosenSeries(full, notes)


def is_small_page(page: tifffile.TiffPage) -> bool:
    """Return whether a page says that it is a reduced image or a mask of another one."""
    return bool(page.subfiletype & (_REDUCED | _MASK))


def _all_series(tiff: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    try:
        return list(tiff.series)
    except RuntimeError:
        # It takes pages to be alike after a look at some of them only.
        tiff.is_uniform = False
        return list(tiff.series)


def _notes_on_files(tiff: tifffile.TiffFile) -> list[str]:
    """Return a note if a file is one of several of an OME image.

    Its pages are then those of this file, in order, as if there was no description.

    Raises:
        SeriesError: They are of several channels or times, so their order is not that of planes.
    """
    if not tiff.is_ome or len(tiff.pages) == 1:
        return []
    try:
        root = tifffile.xml2dict(tiff.ome_metadata or "")["OME"]
        blocks = listed(listed(root["Image"])[0]["Pixels"]["TiffData"])
        files = {str(block["UUID"]["value"]) for block in blocks}
        own = [block for block in blocks if str(block["UUID"]["value"]) == str(root["UUID"])]
        held = {(block.get("FirstC", 0), block.get("FirstT", 0)) for block in own}
    except Exception:  # noqa: BLE001 - a description may hold anything
        return []
    if len(files) < 2:
        return []
    if len(held) > 1:
        raise SeriesError(
            "it is one of several files of an OME image, and has pages of several channels or"
            " times; expected one channel and time in each file"
        )
    return [f"the image is in {len(files)} files as OME: only the planes of files named are read"]


def _is_small(image: tifffile.TiffPageSeries) -> bool:
    return is_small_page(image.keyframe)


def _form(image: tifffile.TiffPageSeries) -> tuple[object, ...]:
    return image.shape, image.dtype


def _listed(images: Sequence[tifffile.TiffPageSeries], among: list[tifffile.TiffPageSeries]) -> str:
    return ", ".join(
        f"{among.index(image)}: {' x '.join(map(str, image.shape))} {image.dtype}"
        f"{f' {image.name!r}' if image.name else ''}{' (reduced)' if _is_small(image) else ''}"
        for image in images
    )


def check_pages(tiff: tifffile.TiffFile, images: Sequence[tifffile.TiffPageSeries]) -> list[str]:
    """Check that no page is lost; tifffile would silently omit those after a lost one.

    Returns:
        Notes on pages that the description does not count, or that do not exist.

    Raises:
        ValueError: The file is truncated.
    """
    handle, pages = tiff.filehandle, len(tiff.pages)  # follows the chain of pages to its end
    handle.seek(tiff.pages.next_page_offset or 0)
    link = handle.read(tiff.tiff.offsetsize)
    is_whole = len(link) == tiff.tiff.offsetsize and not any(link)
    if any(end_of(image) > handle.size for image in images):
        raise ValueError("it is truncated")
    first, described = images[0], _described_planes(tiff)
    held = pages * samples_of(first)
    notes = []
    if not is_whole:
        one_header = first.kind == "imagej" and first.dataoffset is not None
        if described is None or (described > held and not one_header):
            raise ValueError("it is truncated, or its last page refers to one that does not exist")
        notes.append("the last page refers to one that does not exist; all that are counted exist")
    if first.kind == "imagej" and described is not None and 1 < described < held:
        more = held - described
        notes.append(f"ImageJ counts {described} planes in it; {more} more are left out")
    return notes


def end_of(image: tifffile.TiffPageSeries) -> int:
    """Return the offset after the last voxel of an image; the file is at least this long."""
    if image.dataoffset is not None:
        return image.dataoffset + image.nbytes
    return max(
        (
            offset + count
            for page in image.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ),
        default=0,
    )


def samples_of(image: tifffile.TiffPageSeries) -> int:
    """Return how many planes are in each page of an image, one after the other."""
    return image.keyframe.shaped[0]


def _described_planes(tiff: tifffile.TiffFile) -> int | None:
    """Return how many planes the description of a file counts; None if it does not."""
    if tiff.is_imagej and tiff.imagej_metadata:
        counts = [int(tiff.imagej_metadata.get(key, 1)) for key in ("channels", "slices", "frames")]
        return max(prod(counts), int(tiff.imagej_metadata.get("images", 1)))
    if tiff.is_shaped:
        shapes = [item["shape"] for item in tiff.shaped_metadata or () if "shape" in item]
        return sum(int(prod(shape[:-2])) for shape in shapes)
    if tiff.is_ome and len(tiff.series) == 1:
        return prod(tiff.series[0].shape[:-2])
    return None


def ome_pixels(tiff: tifffile.TiffFile) -> dict[str, Any] | None:
    """Return the element "Pixels" of the first image in the OME metadata of a file, if it has any.

    Raises:
        Exception: Whatever malformed metadata make their parser raise.
    """
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    pixels: dict[str, Any] = listed(tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"])[0][
        "Pixels"
    ]
    return pixels


def listed(elements: Any) -> list[Any]:
    """Return the elements of one name in parsed XML, where a single one is not in a list."""
    return elements if isinstance(elements, list) else [elements]
