"""Decodes any TIFF with tifffile, and checks it against what a chunk must contain.

A chunk is sent as ``[channel, z, y, x]`` in C order. TIFF writers label axes in many ways, so the
order of the axes follows from their sizes if possible, else from the labels, and ambiguous files
are refused.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from neurotrale.chunks.image_headers import IMAGE_COMPRESSIONS, stated_voxels
from neurotrale.chunks.tiff_pages import is_stored, missing_entries, own_page, page_array
from neurotrale.errors import DamagedError, reading
from neurotrale.late import LazyModule

if TYPE_CHECKING:
    import numpy as np
    import tifffile
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")
    tifffile = LazyModule("tifffile")

Array: TypeAlias = "NDArray[np.generic]"


@dataclass(frozen=True, slots=True)
class Expected:
    """The content of a chunk according to its name and `info`; None for what neither states."""

    shape_vx: tuple[int, int, int] | None = None
    """Size (x, y, z) in voxels."""
    dtype: str | None = None
    """The numpy name of the data type, such as ``uint16``."""
    channels: int | None = None
    labels: bool = False
    """Whether the voxels are labels of a segmentation."""

    @property
    def size_bytes(self) -> int | None:
        """Size of the voxels; None if it is not known."""
        if self.shape_vx is None or self.dtype is None:
            return None
        return prod(self.shape_vx) * (self.channels or 1) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        parts = []
        if self.shape_vx is not None:
            parts.append("{}x{}x{} voxels (x, y, z)".format(*self.shape_vx))
        if self.channels is not None:
            parts.append(f"{self.channels} channel{'s' if self.channels != 1 else ''}")
        if self.dtype is not None:
            parts.append(self.dtype)
        return ", ".join(parts) or "any image"


def axis_order(shape: tuple[int, ...], axes: str, expected: Expected) -> list[int] | None:
    """Return the permutation that brings the array of a TIFF to ``[channel, z, y, x]``.

    Args:
        shape: The shape of the first series.
        axes: One letter per axis, as in tifffile: Y and X; C channel; Z depth; S sample of a colour
            image; any other letter is a stack of pages without a specific meaning.
        expected: The expected content.

    Returns:
        The axes of the array in the order channel, z, y, x, without those of length one; None
        if the array does not match what is expected, or matches in more than one way.
    """
    labels = {letter for letter, n in zip(axes, shape, strict=True) if n != 1}
    labelled, as_stored = _by_labels(shape, axes, expected), _by_sizes(shape, expected)
    if _channels(expected) == 1:
        return as_stored if labelled is None else labelled
    if "C" in labels:
        return labelled
    # Colours are often a guess: tifffile takes an axis of length 3 or 4 in some positions for them.
    orders = [order for order in (labelled, as_stored) if order is not None]
    return orders[0] if orders and orders[0] == orders[-1] else None


def _by_labels(shape: tuple[int, ...], axes: str, expected: Expected) -> list[int] | None:
    axis_of: dict[str, int] = {}
    unlabelled = []
    for i, letter in enumerate(axes):
        if shape[i] == 1:
            continue
        name = "C" if letter == "S" else letter
        if name in axis_of:
            return None
        if name in "CZYX":
            axis_of[name] = i
        else:
            unlabelled.append(i)
    # Pages without labels follow the Precomputed order: all of z within a channel.
    for name in "CZ":
        if unlabelled and name not in axis_of:
            axis_of[name] = unlabelled.pop(0)
    if unlabelled:
        return None
    sizes = {"C": _channels(expected), **dict(zip("XYZ", expected.shape_vx or (), strict=False))}
    if any((shape[axis_of[k]] if k in axis_of else 1) != n for k, n in sizes.items()):
        return None
    return [axis_of[name] for name in "CZYX" if name in axis_of]


def _by_sizes(shape: tuple[int, ...], expected: Expected) -> list[int] | None:
    """Return the order of the axes as stored, if it has the sizes of the chunk."""
    order = [i for i, n in enumerate(shape) if n != 1]
    channels = _channels(expected)
    if expected.shape_vx is None:
        return order if channels == 1 else None
    x, y, z = expected.shape_vx
    if channels == 1:
        return order if [shape[i] for i in order] == [n for n in (z, y, x) if n != 1] else None
    return order if shape == (channels, z, y, x) else None


def _channels(expected: Expected) -> int:
    return 1 if expected.channels is None else expected.channels


def little_endian(array: Array) -> Array:
    """Return the array in the byte order of the Precomputed format, swapped if needed."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


# A chunk has a few hundred kilobytes; a header that claims more than this is damaged or malicious.
DECODED_LIMIT_BYTES = 2**27
PAGES_LIMIT, SEGMENTS_LIMIT = 2**14, 2**16


def decode_chunk(path: Path, name: str, expected: Expected, descriptor: int | None = None) -> bytes:
    """Decode a TIFF to the bytes of a raw Precomputed chunk.

    Args:
        path: The TIFF file.
        name: The path shown in errors.
        expected: The expected content.
        descriptor: A descriptor of the file, if it is open; it is not closed.

    Returns:
        The voxels as ``[channel, z, y, x]`` in C order, little-endian.

    Raises:
        MissingError, ReadOnlyError, BusyError: The file cannot be opened.
        DamagedError: The file is not a TIFF, is truncated, or is not as expected.
    """
    source = path if descriptor is None else descriptor
    with reading(name), open(source, "rb", closefd=descriptor is None) as file:
        try:
            # A description that names other files must not cause them to be opened.
            tiff = tifffile.TiffFile(file, name=path.name, _multifile=False)
            return _decode(tiff, name, expected)
        except (DamagedError, OSError):
            raise
        # The errors that decoders raise for a broken file have no common class: ValueError,
        # KeyError, struct.error, RuntimeError and ZeroDivisionError have all been seen.
        except Exception as error:
            raise DamagedError(
                name, f"expected {expected}, found a TIFF that cannot be decoded: {error}"
            ) from error


def _decode(tiff: tifffile.TiffFile, name: str, expected: Expected) -> bytes:
    if excess := _excess(tiff):
        raise DamagedError(name, f"expected {expected}, found {excess}")
    if not tiff.series:
        raise DamagedError(name, f"expected {expected}, found a TIFF without an image")
    series = tiff.series[0]
    actual = f"shape {'x'.join(map(str, series.shape))} (axes {series.axes}), {series.dtype}"
    if series.dtype is None or series.nbytes <= 0:
        raise DamagedError(name, f"expected {expected}, found {actual}")
    if series.nbytes > DECODED_LIMIT_BYTES:
        raise DamagedError(
            name,
            f"expected at most {DECODED_LIMIT_BYTES // 2**20} MiB of voxels, found {actual}: make"
            " smaller chunks of it, as 'neurotrale ingest' does",
        )
    is_colour = series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB
    axes = series.axes if is_colour else series.axes.replace("S", "C")
    order = axis_order(series.shape, axes, expected)
    is_dtype_expected = expected.dtype in (None, series.dtype.name)
    if order is None or not is_dtype_expected:
        raise DamagedError(name, f"expected {expected}, found {actual}")
    if expected.shape_vx is None:
        _check_pages(tiff, series, name)
    _check_segments(tiff, series, name)
    array = _voxels(series)
    if array.shape != series.shape:
        raise DamagedError(name, f"expected {actual}, found only {array.shape} in the file")
    order += [i for i in range(array.ndim) if i not in order]
    if array.flags.writeable and array.dtype.newbyteorder("<") != array.dtype:  # without a copy
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("<"))
    return little_endian(array.transpose(order)).tobytes()


def _voxels(series: tifffile.TiffPageSeries) -> Array:
    """Read a series; page by page if tifffile would take segments of others to be contiguous."""
    pages = [page for page in series.pages if page is not None] if _are_listed(series) else []
    if series.keyframe.is_contiguous and not all(
        is_stored(page) and own_page(page) is page for page in pages
    ):
        return np.stack([page_array(page) for page in pages]).reshape(series.shape)
    return np.asarray(series.asarray(maxworkers=1))


def _are_listed(series: tifffile.TiffPageSeries) -> bool:
    """Return whether every page of a series has a header; some writers describe only the first."""
    assert series.parent is not None
    return not series.is_truncated and len(series.parent.pages) >= len(series.pages)


def _excess(tiff: tifffile.TiffFile) -> str:
    """Return what there is too much of: in a loop of pages, tifffile would never stop."""
    with suppress(IndexError):
        if len(tiff.pages.first.dataoffsets) > SEGMENTS_LIMIT:
            return f"a page of more than {SEGMENTS_LIMIT} strips or tiles"
        if tiff.pages[PAGES_LIMIT] is not None:
            return f"more than {PAGES_LIMIT} pages, or a loop of pages"
    return ""


def _check_pages(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> None:
    """Refuse files that lost pages, when no expected shape would show it."""
    described = next(iter(tiff.shaped_metadata or ()), {}).get("shape", series.shape)
    tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
    link = tiff.filehandle.read(tiff.tiff.offsetsize)
    if len(link) < tiff.tiff.offsetsize or any(link) or prod(described) != prod(series.shape):
        raise DamagedError(
            name,
            f"expected more than the {len(tiff.pages)} pages found: the file is truncated",
        )


def _check_segments(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> None:
    """Refuse files whose strips or tiles are damaged; decoders would fill them with zeros.

    A segment is absent on purpose if both its offset and its size are 0.
    """
    size = tiff.filehandle.size
    if series.dataoffset:  # contiguous uncompressed data, perhaps with a single page
        if series.dataoffset + series.nbytes > size:
            raise DamagedError(
                name,
                f"expected {series.nbytes} bytes of voxels at {series.dataoffset}, but the file"
                f" has {size}: it is truncated",
            )
        if not _are_listed(series):
            return
    for number, page in enumerate(series.pages):
        if page is None:
            raise DamagedError(
                name, f"expected {len(series.pages)} pages, but page {number} is missing"
            )
        page = own_page(page)
        if series.dataoffset and is_stored(page):
            continue
        counts, lacking = page.databytecounts, missing_entries(page)
        if lacking:
            raise DamagedError(
                name,
                f"page {number} expects {len(counts) + lacking} strips or tiles, but lists"
                f" {len(counts)}",
            )
        for offset, count in zip(page.dataoffsets, counts, strict=True):
            absent = not offset and not count
            if not absent and (not count or not offset or offset + count > size):
                raise DamagedError(
                    name,
                    f"page {number} expects {count} bytes at {offset}, but the file has {size}:"
                    " it is truncated",
                )
        _check_images(page, number, name)


def _check_images(page: tifffile.TiffPage | tifffile.TiffFrame, number: int, name: str) -> None:
    """Refuse images that promise more voxels than a strip or tile has; others end by themselves."""
    keyframe = page.keyframe
    assert keyframe is not None
    most = prod(keyframe.chunks) if keyframe.chunks else 0
    if most * (keyframe.bitspersample // 8) > DECODED_LIMIT_BYTES:
        raise DamagedError(name, f"page {number} has strips or tiles of {most} voxels")
    if keyframe.compression not in IMAGE_COMPRESSIONS:
        return
    file = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        stated = stated_voxels(keyframe.compression, file.read(count)) if count else 0
        if stated > most:
            raise DamagedError(
                name,
                f"page {number} has a strip or tile with an image of {stated} voxels, but room for"
                f" {most}",
            )
