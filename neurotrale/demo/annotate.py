"""Writes the annotations that belong to a scene, block by block, as the NeuroTrALE viewer has them.

Coordinates and lengths are voxels of the full scale. A contour's z is the centre of its plane:
`z-0040.json` holds z = 40.5. What crosses the border between two blocks is cut there, on x = 250,
and either part ends on the border.
"""

import json
from collections.abc import Iterator, Sequence
from hashlib import sha1
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from neurotrale.demo.shapes import Scene
from neurotrale.demo.tissue import SIZE_VX, Floats

Annotation = dict[str, Any]

BLOCK_VX: Final = (SIZE_VX[0] // 2, SIZE_VX[1], SIZE_VX[2])
CONTOUR_SLICES: Final = (40, 75, 110)


def write_annotations(scene: Scene, directory: Path) -> None:
    """Write `block_info.csv` and one directory per block.

    Args:
        scene: what was drawn.
        directory: the data set's `annotations` directory, to be made.
    """
    directory.mkdir()
    block_size = ",".join(str(length) for length in BLOCK_VX)
    (directory / "block_info.csv").write_text(f"{block_size}\n", encoding="utf-8")
    for block in range(2):
        block_directory = directory / f"x{block}y0z0"
        block_directory.mkdir()
        _write(block_directory / "fibers.json", list(_fibers(scene, block)))
        _write(block_directory / "centroids.json", list(_centroids(scene, block)))
        for z in CONTOUR_SLICES:
            _write(block_directory / f"z-{z:04d}.json", list(_contours(scene, block, z)))


def cut_at(points_vx: Floats, x_vx: float) -> list[Floats]:
    """Cut a polyline wherever it crosses the plane at `x_vx`.

    Args:
        points_vx: vertices, shape (n, 3), (x, y, z).
        x_vx: position of the plane along x.

    Returns:
        The parts in order, each of shape (m, 3), m >= 2; neighbours share the point on the plane.
    """
    parts = []
    part = [points_vx[0]]
    # -1 and 1 are the two sides; 0 means that the part has only been on the plane so far.
    side = np.sign(points_vx[0, 0] - x_vx)
    for start, stop in pairwise(points_vx):
        next_side = np.sign(stop[0] - x_vx)
        if next_side * side < 0:
            if start[0] != x_vx:
                share = (x_vx - start[0]) / (stop[0] - start[0])
                part.append(np.round(start + share * (stop - start), 2))
            parts.append(np.array(part))
            part = part[-1:]
        part.append(stop)
        side = next_side or side
    return [*parts, np.array(part)]


def _fibers(scene: Scene, block: int) -> Iterator[Annotation]:
    axons = (neurite for neurite in scene.neurites if neurite.kind == "axon")
    for number, axon in enumerate(axons):
        for order, part in enumerate(cut_at(axon.points_vx, BLOCK_VX[0])):
            if _block_of(part.mean(axis=0)) == block:
                length = np.linalg.norm(np.diff(part, axis=0), axis=1).sum()
                yield {
                    "id": _identity("axon", number, order),
                    "type": "linestring",
                    "anntype": "axon",
                    "points": _coordinates(part),
                    "length": round(float(length), 2),
                    **_progress(number),
                }


def _centroids(scene: Scene, block: int) -> Iterator[Annotation]:
    for number, cell in enumerate(scene.cells):
        if _block_of(cell.centre_vx) == block:
            yield {
                "id": _identity("centroid", number),
                "type": "point",
                "anntype": cell.kind,
                "point": _coordinates(cell.centre_vx[np.newaxis])[0],
                **_progress(number),
            }


def _contours(scene: Scene, block: int, z: int) -> Iterator[Annotation]:
    for number, cell in enumerate(scene.cells):
        outline = cell.outline(z + 0.5)
        if outline is not None and _block_of(cell.centre_vx) == block:
            yield {
                "id": _identity("contour", number, z),
                "type": "polygon",
                "anntype": cell.kind,
                "points": _coordinates(outline),
                **_progress(number),
            }


def _block_of(position_vx: Floats) -> int:
    return int(position_vx[0] // BLOCK_VX[0])


def _identity(*parts: str | int) -> str:
    """Name an annotation as the viewer does, by 40 hex characters, the same in every build."""
    return sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


def _progress(number: int) -> dict[str, bool]:
    """Say how far the imaginary annotator got: every third is reviewed, half are visited."""
    return {"reviewed": number % 3 == 0, "visited": number % 3 == 0 or number % 4 == 1}


def _coordinates(points_vx: Floats) -> list[list[float]]:
    return [[round(float(axis), 2) for axis in point] for point in points_vx]


def _write(path: Path, annotations: Sequence[Annotation]) -> None:
    """Write a JSON array, one annotation per line, so that edits show up in a diff."""
    lines = ",\n".join(json.dumps(annotation, separators=(",", ":")) for annotation in annotations)
    path.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")
