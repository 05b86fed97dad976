"""A stack of planes, and the algorithm of precomputed-tif with current libraries."""

from __future__ import annotations

import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

PLANES, SIDE_VX = 256, 768
CHUNK_VX = 64
STACK_MB = PLANES * SIDE_VX**2 * 2 / 1e6

Size = tuple[int, int, int]


def write_stack(directory: Path) -> str:
    """Write compressed uint16 planes, smooth and noisy like tissue; return their pattern."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(7)
    ramp = np.linspace(0, 30, SIDE_VX)
    for z in range(PLANES):
        smooth = 2000 + 200 * np.sin(ramp + z / 20)[:, None] * np.cos(ramp)
        plane = (smooth + rng.normal(0, 30, smooth.shape)).astype("uint16")
        tifffile.imwrite(directory / f"plane_{z:04d}.tif", plane, compression="zlib")
    return str(directory / "plane_*.tif")


def ingest_rate(pattern: str, dest: Path) -> float:
    """Run ingest; return the megabytes of planes per core second."""
    command = [sys.executable, "-m", "neurotrale", "ingest", "--source", pattern, "--n-cores", "1"]
    command += ["--dest", str(dest), "--voxel-size", "1.8,1.8,2.0", "--levels", "4"]
    return _rate(command)


def plain_rate(pattern: str, dest: Path) -> float:
    """Run the algorithm of precomputed-tif in its own process; return its rate, likewise."""
    return _rate([sys.executable, "-m", "benchmarks.stack", pattern, str(dest)])


def _rate(command: list[str]) -> float:
    """Return the rate by CPU time, start included, which other load hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return STACK_MB / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def make_plainly(pattern: str, dest: Path, levels: int = 4) -> None:
    """Write every level as precomputed-tif does.

    For the first level, planes are read 64 at a time; for each chunk of a later level, eight chunks
    of the finer level are read back and averaged. Every chunk is written with zlib at level 4.
    """
    paths = sorted(Path(pattern).parent.glob(Path(pattern).name))
    rows, columns = tifffile.imread(paths[0]).shape
    size = (len(paths), rows, columns)
    _first_level(paths, size, _directory(dest, 1))
    for level in range(1, levels):
        fine, size = size, _halved(size)
        _next_level(fine, size, _directory(dest, 2 ** (level - 1)), _directory(dest, 2**level))


def _first_level(paths: list[Path], size: Size, directory: Path) -> None:
    directory.mkdir(parents=True)
    for z0 in range(0, size[0], CHUNK_VX):
        slab = np.stack([tifffile.imread(path) for path in paths[z0 : z0 + CHUNK_VX]])
        for y0, x0 in product(range(0, size[1], CHUNK_VX), range(0, size[2], CHUNK_VX)):
            _write(directory, (z0, y0, x0), size,
                   slab[:, y0 : y0 + CHUNK_VX, x0 : x0 + CHUNK_VX])  # fmt: skip


def _next_level(fine: Size, coarse: Size, above: Path, directory: Path) -> None:
    directory.mkdir()
    z, y, x = (range(0, n, CHUNK_VX) for n in coarse)
    for corner in product(z, y, x):
        shape = [min(CHUNK_VX, n - at) for n, at in zip(coarse, corner, strict=True)]
        total, hits = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
        for part in product((0, 1), repeat=3):
            source = [2 * at + i * CHUNK_VX for at, i in zip(corner, part, strict=True)]
            if any(at >= n for at, n in zip(source, fine, strict=True)):
                continue
            block = tifffile.imread(above / _name((source[0], source[1], source[2]), fine))
            half = CHUNK_VX // 2
            for k, j, i in product((0, 1), repeat=3):
                voxels = block[k::2, j::2, i::2]
                target = tuple(
                    slice(side * half, side * half + n)
                    for side, n in zip(part, voxels.shape, strict=True)
                )
                total[target] += voxels.astype(np.uint64)
                hits[target] += np.uint64(1)
        total[hits > 0] = total[hits > 0] // hits[hits > 0]
        _write(directory, corner, coarse, total.astype("uint16"))


def _directory(dest: Path, factor: int) -> Path:
    return dest / f"{factor}_{factor}_{factor}"


def _halved(size: Size) -> Size:
    z, y, x = (-(-n // 2) for n in size)
    return z, y, x


def _name(corner: Size, size: Size) -> str:
    ends = [(at, min(at + CHUNK_VX, n)) for at, n in zip(corner, size, strict=True)]
    return "_".join(f"{start}-{stop}" for start, stop in reversed(ends)) + ".tiff"


def _write(directory: Path, corner: Size, size: Size, voxels: NDArray[Any]) -> None:
    path = directory / _name(corner, size)
    tifffile.imwrite(path, voxels, compression="zlib", compressionargs={"level": 4},
                     photometric="minisblack")  # fmt: skip


if __name__ == "__main__":
    make_plainly(sys.argv[1], Path(sys.argv[2]))
