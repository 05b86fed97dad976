"""TIFF file to chunk bytes, through tifffile, with every promise checked."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import tifffile

from neurotrale.chunks.layout import Array, Expected, axis_order, little_endian
from neurotrale.errors import DamagedError
from neurotrale.faults import reading

# A chunk is some hundred kilobytes; a header that promises more than this is damage or an attack.
DECODED_LIMIT_BYTES = 2**30
PAGES_LIMIT = 2**14


def decode_chunk(path: Path, name: str, expected: Expected) -> bytes:
    """Decode a TIFF to raw Precomputed bytes.

    Args:
        path: The TIFF file.
        name: What to call it in errors.
        expected: What its content must be.

    Returns:
        The voxels as ``[channel, z, y, x]`` in C order, little-endian.

    Raises:
        MissingError, ReadOnlyError, BusyError: The file cannot be opened.
        DamagedError: It is no TIFF, is truncated, or is not what is expected.
    """
    with reading(name), path.open("rb") as file:
        try:
            # A description that names other files must not make this one reach for them.
            tiff = tifffile.TiffFile(file, name=path.name, _multifile=False)
            return _decode(tiff, name, expected)
        except (DamagedError, OSError):
            raise
        # What a broken file makes a decoder raise has no common class: ValueError, KeyError,
        # struct.error, RuntimeError of the codecs, ZeroDivisionError, ... were all seen.
        except Exception as error:
            raise DamagedError(
                name, f"expected {expected}, found a TIFF that cannot be decoded: {error}"
            ) from error


def _decode(tiff: tifffile.TiffFile, name: str, expected: Expected) -> bytes:
    if _has_more_pages(tiff, PAGES_LIMIT):
        raise DamagedError(
            name, f"expected {expected}, found more than {PAGES_LIMIT} pages, or pages in a circle"
        )
    if not tiff.series:
        raise DamagedError(name, f"expected {expected}, found a TIFF without any image")
    series = tiff.series[0]
    found = f"shape {'x'.join(map(str, series.shape))} (axes {series.axes}), {series.dtype}"
    if series.dtype is None or not 0 < series.nbytes <= DECODED_LIMIT_BYTES:
        raise DamagedError(name, f"expected {expected}, found {found}")
    in_colour = series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB
    axes = series.axes if in_colour else series.axes.replace("S", "C")
    order = axis_order(series.shape, axes, expected)
    dtype_fits = expected.dtype in (None, series.dtype.name)
    if order is None or not dtype_fits:
        raise DamagedError(name, f"expected {expected}, found {found}")
    if expected.shape_vx is None:
        _check_pages(tiff, series, name)
    _check_segments(tiff, series, name)
    array: Array = np.asarray(series.asarray(maxworkers=1))
    if array.shape != series.shape:
        raise DamagedError(name, f"expected {found}, found only {array.shape} in the file")
    order += [i for i in range(array.ndim) if i not in order]
    return little_endian(array.transpose(order)).tobytes()


def _has_more_pages(tiff: tifffile.TiffFile, limit: int) -> bool:
    """Follow the pages so far only: where they form a circle, tifffile would go on for ever."""
    try:
        return tiff.pages[limit] is not None
    except IndexError:
        return False


def _check_pages(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> None:
    """Refuse files that lost pages, where no promised extent would tell."""
    written = next(iter(tiff.shaped_metadata or ()), {}).get("shape", series.shape)
    tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
    link = tiff.filehandle.read(tiff.tiff.offsetsize)
    if len(link) < tiff.tiff.offsetsize or any(link) or prod(written) != prod(series.shape):
        raise DamagedError(
            name,
            f"expected more pages than the {len(tiff.pages)} found: it was not written to its end",
        )


def _check_segments(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> None:
    """Refuse files whose strips or tiles are not all there; decoders fill such gaps with zeros."""
    size = tiff.filehandle.size
    if series.dataoffset is not None:  # one run of uncompressed data, perhaps under a single page
        if series.dataoffset + series.nbytes > size:
            raise DamagedError(
                name,
                f"expected {series.nbytes} bytes of voxels at {series.dataoffset}, but the file"
                f" has {size}: it was not written to its end",
            )
        return
    needed = 1 if series.keyframe.is_contiguous else prod(series.keyframe.chunked)
    for number, page in enumerate(series.pages):
        if page is None:
            raise DamagedError(name, f"expected {len(series.pages)} pages, page {number} is absent")
        counts = page.databytecounts
        if len(counts) < needed:
            raise DamagedError(
                name, f"page {number} expects {needed} strips or tiles, but lists {len(counts)}"
            )
        for offset, count in zip(page.dataoffsets, counts, strict=True):
            if count == 0 or offset == 0 or offset + count > size:
                raise DamagedError(
                    name,
                    f"page {number} expects {count} bytes at {offset}, but the file has {size}:"
                    " it was not written to its end",
                )
