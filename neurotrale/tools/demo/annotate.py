"""Writes the demo dataset: its volume, and annotations block by block, as the viewer saves them.

Coordinates and lengths are voxels of the full scale. A contour's z is the centre of its plane:
`z-0040.json` holds z = 40.5. A fiber that crosses the border between two blocks, at x = 250, is
cut there, and both parts end on the border.
"""

import json
from collections.abc import Iterator, Sequence
from hashlib import sha1
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from neurotrale.tools.demo.render import render
from neurotrale.tools.demo.scene import make_scene
from neurotrale.tools.demo.shapes import RESOLUTION_NM, SIZE_VX, Floats, Scene
from neurotrale.tools.ingest.plan import IngestRequest, plan_for
from neurotrale.tools.ingest.run import run_finish, run_shard
from neurotrale.tools.ingest.sources import Volume

Annotation = dict[str, Any]

BLOCK_VX: Final = (SIZE_VX[0] // 2, SIZE_VX[1], SIZE_VX[2])
CONTOUR_SLICES: Final = (40, 75, 110)


def write_annotations(scene: Scene, directory: Path) -> None:
    """Write `block_info.csv` and one directory per block.

    Args:
        scene: the scene that was rendered.
        directory: the dataset's `annotations` directory, which is created.
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
    # -1 and 1 are the two sides; 0 means that the part has been on the plane so far.
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
                    "id": _make_id("axon", number, order),
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
                "id": _make_id("centroid", number),
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
                "id": _make_id("contour", number, z),
                "type": "polygon",
                "anntype": cell.kind,
                "points": _coordinates(outline),
                **_progress(number),
            }


def _block_of(position_vx: Floats) -> int:
    return int(position_vx[0] // BLOCK_VX[0])


def _make_id(*parts: str | int) -> str:
    """Return an id in the style of the viewer, 40 hex digits; the same in every build."""
    return sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


def _progress(number: int) -> dict[str, bool]:
    """Return the review flags of an annotation: every third is reviewed, half are visited."""
    return {"reviewed": number % 3 == 0, "visited": number % 3 == 0 or number % 4 == 1}


def _coordinates(points_vx: Floats) -> list[list[float]]:
    return [[round(float(axis), 2) for axis in point] for point in points_vx]


def _write(path: Path, annotations: Sequence[Annotation]) -> None:
    """Write a JSON array with one annotation per line, so that diffs show edits."""
    lines = ",\n".join(json.dumps(annotation, separators=(",", ":")) for annotation in annotations)
    path.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")


# --- the dataset ---

NAME: Final = "demo-brain"
_SEED: Final = 3
_SCALES: Final = 3
_CORES: Final = 2


def write_demo(root: Path) -> Path:
    """Write the dataset `demo-brain` below `root`, unless it exists already.

    A dataset that has an `info` file is left exactly as it is: its annotations may have been
    edited. An interrupted build leaves no `demo-brain` behind.

    Args:
        root: directory of datasets; created if missing.

    Returns:
        `root / "demo-brain"`: 500 x 420 x 150 voxels (x, y, z) of uint16 in three scales, and
        annotations in two blocks along x.

    Raises:
        FileExistsError: `demo-brain` exists, but is not a dataset.
        OSError: `root` cannot be written to.
    """
    target = root / NAME
    if (target / "info").is_file():
        return target
    if target.exists() or target.is_symlink():
        raise FileExistsError(
            f"{target} has no info file: move it away, so that the demo can be written"
        )
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{NAME}-", dir=root) as temp_directory:
        # One level further down, as only the owner may read the temporary directory itself.
        dataset = Path(temp_directory) / NAME
        dataset.mkdir()
        _build(dataset)
        try:
            dataset.rename(target)
        except OSError:
            # Another process may have been faster; its dataset is identical.
            if not (target / "info").is_file():
                raise
    return target


def _build(dataset: Path) -> None:
    scene = make_scene(_SEED)
    x, y, z = RESOLUTION_NM
    request = IngestRequest("the demo's scene", dataset, (x, y, z), levels=_SCALES, cores=_CORES)
    plan = plan_for(request, Volume(render(scene, _SEED)))
    run_shard(plan, 1, _ignore_progress)
    run_finish(plan, _ignore_progress)
    write_annotations(scene, dataset / "annotations")


def _ignore_progress(done: int, total: int) -> None:
    """Do nothing: the demo takes only seconds."""
