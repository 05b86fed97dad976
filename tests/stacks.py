"""Stacks of planes for tests of ingest, and what must come of them, computed voxel by voxel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from click.testing import CliRunner, Result

from neurotrale.cli import main
from tests.datasets import Voxels, boxes

Steps = list[tuple[int, int, int]]
"""For each level but the first, how many voxels of the one above become one, ``z, y, x``."""

HALVES: Steps = [(2, 2, 2)] * 8


def noise(shape_zyx: tuple[int, ...], dtype: str, seed: int = 0) -> Voxels:
    """Voxels over the whole range of a type, its ends included."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        voxels: Voxels = rng.normal(0, 1e6, shape_zyx).astype(dtype)
        return voxels
    most = np.iinfo(dtype).max
    values = rng.integers(0, most, shape_zyx, dtype, endpoint=True)
    values[rng.random(shape_zyx) < 0.3] = most  # sums of which overflow
    return values


def labels(shape_zyx: tuple[int, int, int], dtype: str, seed: int = 0) -> Voxels:
    """A few large labels, mixed so that majorities and ties of every kind occur."""
    rng = np.random.default_rng(seed)
    names = np.array([0, 1, 7, np.iinfo(dtype).max], dtype)
    voxels: Voxels = names[rng.integers(0, 4, shape_zyx)]
    return voxels


def write_planes(directory: Path, voxels: Iterable[Voxels], **tiff: Any) -> str:
    """Write each plane to a file; give the pattern of all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    for z, plane in enumerate(voxels):
        tifffile.imwrite(directory / f"plane{z}.tif", plane, photometric="minisblack", **tiff)
    return str(directory / "plane*.tif")


def expected_levels(voxels: Voxels, steps: Steps, segmentation: bool = False) -> list[Voxels]:
    """Shrink voxel by voxel, in the plainest way."""
    levels = [voxels]
    for step in steps:
        levels.append(_shrunk(levels[-1], step, segmentation))
    return levels


def _shrunk(voxels: Voxels, step: tuple[int, int, int], segmentation: bool) -> Voxels:
    shape = [-(-n // by) for n, by in zip(voxels.shape, step, strict=True)]
    out = np.zeros(shape, voxels.dtype)
    for z, y, x in product(*map(range, shape)):
        part = voxels[
            tuple(slice(i * by, i * by + by) for i, by in zip((z, y, x), step, strict=True))
        ]
        block = part.reshape(-1).tolist()
        if segmentation:  # of labels that are as frequent, the one that comes first
            out[z, y, x] = Counter(block).most_common(1)[0][0]
        elif voxels.dtype.kind == "f":
            out[z, y, x] = np.float32(sum(block) / len(block))
        else:
            out[z, y, x] = (2 * sum(block) + len(block)) // (2 * len(block))
    return out


def read_levels(dataset: Path) -> list[Voxels]:
    """Read every chunk that `info` promises with tifffile; there must be no other."""
    info = json.loads((dataset / "info").read_text())
    levels = []
    for scale in info["scales"]:
        (chunk_vx,) = scale["chunk_sizes"]
        x, y, z = scale["size"]
        voxels = np.zeros((z, y, x), info["data_type"])
        names = set()
        for name, box in chunk_boxes((x, y, z), chunk_vx):
            names.add(f"{name}.tiff")
            chunk = tifffile.imread(dataset / scale["key"] / f"{name}.tiff")
            voxels[box] = chunk.reshape(voxels[box].shape)
        assert {path.name for path in (dataset / scale["key"]).iterdir()} == names
        levels.append(voxels)
    return levels


def chunk_boxes(
    size_vx: tuple[int, int, int], chunk_vx: list[int]
) -> list[tuple[str, tuple[slice, ...]]]:
    """List the chunks of a scale whose chunks may be no cubes."""
    if len(set(chunk_vx)) == 1:
        return boxes(size_vx, chunk_vx[0])
    ranges = [
        [(a, min(a + c, n)) for a in range(0, n, c)] for n, c in zip(size_vx, chunk_vx, strict=True)
    ]
    return [
        ("_".join(f"{a}-{b}" for a, b in box), tuple(slice(a, b) for a, b in reversed(box)))
        for box in product(*ranges)
    ]


def ingest(source: str | Path, dest: Path, *options: str, code: int = 0) -> Result:
    """Run the command in this process; it must end with an exit code."""
    arguments = ["ingest", "--source", str(source), "--dest", str(dest), *options]
    if "--voxel-size" not in options:
        arguments += ["--voxel-size", "1,1,1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def visible_files(dataset: Path) -> dict[str, bytes]:
    """All files of a dataset but those of ingest's own state."""
    return {
        str(path.relative_to(dataset)): path.read_bytes()
        for path in sorted(dataset.rglob("*"))
        if path.is_file() and ".ingest" not in path.parts
    }
