"""The data of the benchmarks: chunks in every layout, and a large annotation file and directory."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from neurotrale.chunks.encode import encode_chunk

CHUNK_VX = 64
CHUNKS = 4  # along each axis
CHUNK_BYTES = CHUNK_VX**3 * 2

LAYOUTS: dict[str, dict[str, Any]] = {
    # As precomputed-tif writes them.
    "pages": {"compression": "zlib"},
    # As ingest writes them.
    "single": {},
    "uncompressed": {},
}


def write_volumes(root: Path) -> None:
    """Write the same noisy, smooth uint16 volume (which deflate shrinks to 64 %) in each layout."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(0, 4, CHUNK_VX)
    smooth = np.sin(ramp)[:, None, None] * np.cos(ramp)[:, None] * np.sin(ramp + 1)
    size = CHUNKS * CHUNK_VX
    scale = {
        "key": "1_1_1",
        "size": [size] * 3,
        "chunk_sizes": [[CHUNK_VX] * 3],
        "resolution": [1000, 1000, 1000],
        "encoding": "raw",
    }
    info = {"type": "image", "data_type": "uint16", "num_channels": 1, "scales": [scale]}
    for layout in LAYOUTS:
        (root / layout / "1_1_1").mkdir(parents=True)
        (root / layout / "info").write_text(json.dumps(info))
    for name in chunk_names():
        noise = rng.normal(0, 30, smooth.shape)
        chunk = (2000 + 200 * smooth + noise).astype("<u2")
        for layout, options in LAYOUTS.items():
            path = root / layout / "1_1_1" / f"{name}.tiff"
            if layout == "single":
                path.write_bytes(encode_chunk(chunk))
            else:
                tifffile.imwrite(path, chunk, photometric="minisblack", **options)


def chunk_names() -> list[str]:
    """Return the names of the chunks of the volume."""
    spans = [f"{i * CHUNK_VX}-{(i + 1) * CHUNK_VX}" for i in range(CHUNKS)]
    return ["_".join(axes) for axes in itertools.product(spans, repeat=3)]


def write_annotations(path: Path, count: int = 20_000, points: int = 60) -> None:
    """Write fibers in the layout of the original service (indent 3)."""
    rng = random.Random(7)
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for number in range(count):
            fiber = {
                "id": f"{number:040x}",
                "type": "linestring",
                "anntype": "axon",
                "points": [[rng.uniform(0, 5000) for _ in range(3)] for _ in range(points)],
                "length": 812.25,
                "reviewed": False,
                "visited": False,
            }
            file.write("[\n" if number == 0 else ",\n")
            text = json.dumps(fiber, indent=3)
            file.write("\n".join("   " + line for line in text.split("\n")))
        file.write("\n]")


def load_and_dump(path: Path, copy: Path, number: int) -> float:
    """Return how long the original service's way to change one annotation takes, in seconds."""
    started = time.perf_counter()
    fibers = json.loads(path.read_text())
    fibers[number]["reviewed"] = True
    with copy.open("w") as file:
        file.write(json.dumps(fibers, indent=3))
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def contours(count: int, points: int = 20) -> list[dict[str, Any]]:
    """Return contours as a viewer writes them, of some 960 bytes each."""
    rng = np.random.default_rng(7)
    vertices = rng.uniform(0, 5000, (count, points, 2)).astype(np.float32).astype(float).tolist()
    return [
        {
            "id": f"{number:040x}",
            "type": "polygon",
            "anntype": ("axon", "myelin")[number % 2],
            "description": "",
            "reviewed": False,
            "visited": False,
            "points": [[x, y, 12.0] for x, y in vertices[number]],
        }
        for number in range(count)
    ]


def write_entries(directory: Path, count: int = 100_000) -> None:
    """Create a directory with many empty files."""
    directory.mkdir(parents=True)
    for number in range(count):
        (directory / f"{number}-{number + 1}_0-64_0-64").touch()
