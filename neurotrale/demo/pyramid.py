"""Writes a volume the way precomputed-tif lays it out: `info`, and TIFF chunks of three scales.

Format: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed, except that
a chunk is a TIFF file with one page per z plane.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import tifffile

Volume = npt.NDArray[np.uint16]
Range = tuple[int, int]

CHUNK_VX: Final = 64
SCALES: Final = 3


def write_pyramid(volume: Volume, resolution_nm: tuple[int, int, int], dataset: Path) -> None:
    """Write `info` and every chunk of every scale, edge chunks included.

    Args:
        volume: the finest scale, shape (z, y, x).
        resolution_nm: its voxel size (x, y, z) in nanometres.
        dataset: existing directory to write into.
    """
    scales = []
    for level in range(SCALES):
        factor = 2**level
        key = f"{factor}_{factor}_{factor}"
        _write_chunks(volume, dataset / key)
        scales.append(
            {
                "key": key,
                "size": list(volume.shape[::-1]),
                "resolution": [factor * nm for nm in resolution_nm],
                "chunk_sizes": [[CHUNK_VX] * 3],
                "encoding": "raw",
                "voxel_offset": [0, 0, 0],
            }
        )
        volume = halve(volume)
    info = {"type": "image", "data_type": "uint16", "num_channels": 1, "scales": scales}
    (dataset / "info").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def halve(volume: Volume) -> Volume:
    """Downsample by two along every axis.

    Args:
        volume: shape (z, y, x).

    Returns:
        Means of 2 x 2 x 2 voxels, halves rounded up, shape ceil(z / 2), ceil(y / 2), ceil(x / 2);
        at an odd end the mean of the voxels there are.
    """
    # Doubling the last plane of an odd axis leaves the means of what is there as they are.
    even = np.pad(volume, [(0, length % 2) for length in volume.shape], mode="edge")
    total = np.full([length // 2 for length in even.shape], 4, np.uint32)
    for z, y, x in product(range(2), repeat=3):
        total += even[z::2, y::2, x::2]
    return (total // 8).astype(np.uint16)


def _write_chunks(volume: Volume, directory: Path) -> None:
    directory.mkdir()
    chunks = product(*(_chunk_ranges(length) for length in volume.shape))
    # Compression releases the interpreter lock: two threads take half the time.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda ranges: _write_chunk(volume, ranges, directory), chunks):
            pass


def _chunk_ranges(length: int) -> list[Range]:
    return [(begin, min(begin + CHUNK_VX, length)) for begin in range(0, length, CHUNK_VX)]


def _write_chunk(volume: Volume, ranges_zyx: tuple[Range, ...], directory: Path) -> None:
    z, y, x = (slice(begin, end) for begin, end in ranges_zyx)
    block = volume[z, y, x]
    leaf = "_".join(f"{begin}-{end}" for begin, end in reversed(ranges_zyx))
    tifffile.imwrite(
        directory / f"{leaf}.tiff",
        block,
        # Unsaid, tifffile would take a chunk that is 3 or 4 voxels wide for a colour image.
        photometric="minisblack",
        compression="zlib",
        rowsperstrip=block.shape[1],
    )
