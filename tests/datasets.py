"""Small datasets for tests, written in the plainest way."""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

SETTLED_S = 2.2
"""After that, whatever changes has another time than before."""

Voxels = NDArray[Any]
"""Voxels as ``[z, y, x]``, or ``[channel, z, y, x]``."""

ANNOTATIONS: list[dict[str, Any]] = [
    {"id": "a" * 40, "type": "point", "anntype": "neuron", "point": [1, 2, 3], "reviewed": False},
    {"id": "b" * 40, "type": "linestring", "anntype": "axon", "points": [[1, 2, 3], [4, 5.5, 6]]},
    {"id": "c" * 40, "type": "polygon", "anntype": "glia", "points": [[0, 0, 1], [5, 0, 1]]},
]


def gradient(shape_zyx: tuple[int, int, int], dtype: str = "uint16") -> Voxels:
    """Make voxels that differ from each other, so that no mix-up of axes goes unseen."""
    size = int(np.prod(shape_zyx))
    voxels: Voxels = (np.arange(size) * 7919 % 65521).astype(dtype).reshape(shape_zyx)
    return voxels


def info_of(voxels: Voxels, chunk_vx: int = 64, **more: Any) -> dict[str, Any]:
    """Make the `info` of a volume with one scale."""
    channels = voxels.shape[0] if voxels.ndim == 4 else 1
    return {
        "type": "image",
        "data_type": voxels.dtype.name,
        "num_channels": channels,
        "scales": [
            {
                "key": "1_1_1",
                "size": list(voxels.shape[:-4:-1]),
                "chunk_sizes": [[chunk_vx] * 3],
                "encoding": "raw",
                "resolution": [1000, 1000, 2000],
                "voxel_offset": [0, 0, 0],
                **more,
            }
        ],
    }


def boxes(size_vx: tuple[int, int, int], chunk_vx: int = 64) -> list[tuple[str, tuple[slice, ...]]]:
    """List a scale's chunks: name, and the slices ``[z, y, x]`` of its voxels."""
    ranges = [[(a, min(a + chunk_vx, n)) for a in range(0, n, chunk_vx)] for n in size_vx]
    return [
        (
            f"{x[0]}-{x[1]}_{y[0]}-{y[1]}_{z[0]}-{z[1]}",
            (slice(*z), slice(*y), slice(*x)),
        )
        for x, y, z in product(*ranges)
    ]


def write_chunks(directory: Path, voxels: Voxels, chunk_vx: int = 64, **tiff: Any) -> None:
    """Write a single-channel volume as TIFF chunks, 64 pages each as precomputed-tif does."""
    directory.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack", **tiff}
    z, y, x = voxels.shape
    for name, box in boxes((x, y, z), chunk_vx):
        tifffile.imwrite(directory / f"{name}.tiff", voxels[box], **options)


def write_dataset(path: Path, shape_zyx: tuple[int, int, int] = (70, 90, 100)) -> Path:
    """Write a volume of several chunks with clipped edges, and one block of annotations."""
    voxels = gradient(shape_zyx)
    write_chunks(path / "1_1_1", voxels)
    (path / "info").write_text(json.dumps(info_of(voxels)))
    block = path / "annotations" / "x0y0z0"
    block.mkdir(parents=True)
    (path / "annotations" / "block_info.csv").write_text("64,64,64\n")
    (block / "fibers.json").write_text(json.dumps(ANNOTATIONS, indent=1))
    return path


def wait_until_settled(place: Path) -> None:
    """Wait until whatever changes next below a directory gets another time than all before it.

    Until then no date is told, and what was read is read again.
    """
    paths = [place, *place.rglob("*")]
    newest = max(max(path.lstat().st_mtime, path.lstat().st_ctime) for path in paths)
    time.sleep(max(0.0, newest + SETTLED_S - time.time()))
