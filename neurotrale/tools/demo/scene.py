"""Generates the scene from a seed: cell bodies, and neurites grown as random walks."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from neurotrale.tools.demo.shapes import (
    SIZE_VX,
    Cell,
    CellKind,
    Floats,
    Neurite,
    Scene,
    inside_volume,
    tissue_radius,
)

STEP_VX: Final = 4.0


@dataclass(frozen=True)
class GrowthParameters:
    """How a neurite grows.

    Attributes:
        length_vx: maximum length; growth also stops at the border of the volume.
        radius_vx: radius at the start; it tapers to `tip` times that.
        brightness: grey value of its core above the tissue.
        wander: standard deviation of the change of heading per step.
        persistence: pull towards the initial heading, 0 for none.
        climb: share of the wandering that goes along z, 0 to stay at one depth.
        tip: radius at the far end relative to the start.
    """

    length_vx: float
    radius_vx: float
    brightness: float
    wander: float = 0.05
    persistence: float = 0.06
    climb: float = 1.0
    tip: float = 0.75


def unit(vector: Floats) -> Floats:
    """Return `vector`, shape (3,), scaled to length 1."""
    return vector / np.sqrt(vector @ vector)


def walk(
    rng: np.random.Generator, start_vx: Floats, heading: Floats, growth: GrowthParameters
) -> Floats:
    """Walk from `start_vx` until the length is used up or the volume ends.

    Args:
        rng: random generator for the turns.
        start_vx: first vertex, shape (3,), (x, y, z) in voxels, inside the volume.
        heading: direction of the first step, shape (3,), any length.
        growth: length and straightness.

    Returns:
        Vertices 4 voxels apart, shape (n, 3), n >= 2; the last one is on the face of the volume
        if the walk left it.
    """
    initial = unit(heading)
    direction, turn, position = initial, np.zeros(3), start_vx
    points = [start_vx]
    for _ in range(max(1, round(growth.length_vx / STEP_VX))):
        turn = 0.8 * turn + rng.normal(0, growth.wander, 3) * (1, 1, growth.climb)
        direction = unit(direction + turn + growth.persistence * initial + _push_inwards(position))
        position = position + STEP_VX * direction
        points.append(np.clip(position, 0, np.subtract(SIZE_VX, 0.01)))
        if not inside_volume(position):
            break
    # Annotation files have two decimals, and the volume must match them.
    return np.array(points).round(2)


def _push_inwards(position_vx: Floats) -> Floats:
    excess = tissue_radius(position_vx) - 0.72
    if excess <= 0:
        return np.zeros(3)
    inwards = np.array([SIZE_VX[0] / 2, SIZE_VX[1] / 2, position_vx[2]]) - position_vx
    return 1.2 * excess * unit(inwards)


def tube(rng: np.random.Generator, points_vx: Floats, growth: GrowthParameters) -> Neurite:
    """Return an axon along a path: a tapering tube with irregular swellings.

    Args:
        rng: random generator for the swellings.
        points_vx: vertices, shape (n, 3), (x, y, z) in voxels.
        growth: radius, taper and brightness.

    Returns:
        The axon.
    """
    along = np.arange(len(points_vx))
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(7, 11)
    swelling = 1 + 0.16 * np.sin(2 * np.pi * along / period + phase)
    swelling += rng.normal(0, 0.05, len(along))
    radii = growth.radius_vx * np.linspace(1, growth.tip, len(along)) * swelling
    return Neurite("axon", points_vx, np.maximum(radii, 1.1), growth.brightness)


def branches(rng: np.random.Generator, trunk: Neurite, count: int) -> list[Neurite]:
    """Grow thinner axons from the middle of `trunk`.

    Args:
        rng: random generator for position, direction and length.
        trunk: the axon to branch from.
        count: number of branches.

    Returns:
        `count` axons, or none if the trunk is too short.
    """
    joints = np.arange(6, len(trunk.points_vx) - 6)
    if len(joints) < count:
        return []
    grown = []
    for joint in rng.choice(joints, count, replace=False):
        along = unit(trunk.points_vx[joint + 1] - trunk.points_vx[joint - 1])
        sideways = unit(np.cross(along, rng.normal(size=3)))
        growth = GrowthParameters(
            length_vx=rng.uniform(60, 170),
            radius_vx=max(1.3, 0.72 * trunk.radii_vx[joint]),
            brightness=0.8 * trunk.brightness,
            wander=0.07,
            tip=0.7,
        )
        heading = along + rng.uniform(0.5, 1.1) * sideways
        path = walk(rng, trunk.points_vx[joint], heading, growth)
        grown.append(tube(rng, path, growth))
    return grown


# --- cells ---

NEURONS: Final = 72
GLIA: Final = 52
# Ranges of (half length of the longest axis in voxels, brightness).
_BODY: Final[dict[CellKind, tuple[tuple[float, float], tuple[float, float]]]] = {
    "neuron": ((6.5, 8.5), (3400.0, 5600.0)),
    "glia": ((3.2, 4.3), (1700.0, 3000.0)),
}


def make_scene(seed: int) -> Scene:
    """Generate a scene; the same seed always generates the same scene.

    Args:
        seed: any non-negative integer.

    Returns:
        About 20 axons and their branches, the dendrites, and 124 cell bodies that do not overlap.
    """
    rng = np.random.default_rng(seed)
    cells: list[Cell] = []
    for _ in range(NEURONS):
        cells.append(_place_cell(rng, "neuron", cells))
    trunks = [*_through_axons(rng), *_tract_axons(rng), *_cell_axons(rng, cells)]
    twigs = [twig for trunk in trunks for twig in branches(rng, trunk, int(rng.integers(1, 4)))]
    dendrites = [stub for cell in cells for stub in _dendrites(rng, cell)]
    for _ in range(GLIA):
        cells.append(_place_cell(rng, "glia", cells))
    return Scene((*trunks, *twigs, *dendrites), tuple(cells))


def _place_cell(rng: np.random.Generator, kind: CellKind, others: list[Cell]) -> Cell:
    (shortest, longest), brightness = _BODY[kind]
    longest_axis = rng.uniform(shortest, longest)
    while True:
        centre = np.round(rng.uniform(0, SIZE_VX), 2)
        is_free = all(np.linalg.norm(centre - other.centre_vx) > 19 for other in others)
        if is_free and _is_populated(rng, kind, centre):
            break
    axes = longest_axis * np.array([1.0, rng.uniform(0.72, 0.95), rng.uniform(0.8, 1.0)])
    lobing = rng.uniform(0.02, 0.09)
    return Cell(kind, centre, axes, rng.uniform(0, np.pi), lobing, rng.uniform(*brightness))


def _is_populated(rng: np.random.Generator, kind: CellKind, centre_vx: Floats) -> bool:
    """Decide randomly: neurons are dense in the bright layer and the nucleus, glia everywhere."""
    radius = tissue_radius(centre_vx)
    if radius > 0.93 or not inside_volume(centre_vx, margin_vx=10):
        return False
    density = np.exp(-(((radius - 0.71) / 0.06) ** 2)) + 0.4 * (radius < 0.25) + 0.12
    return kind == "glia" or bool(rng.uniform() < density)


def _through_axons(rng: np.random.Generator) -> list[Neurite]:
    """Grow eight axons from the first plane to the last."""
    grown = []
    for angle in np.arange(8) * (np.pi / 4) + rng.uniform(0, 0.5, 8):
        reach = rng.uniform(0.15, 0.60)
        x, y = 252 + 222 * reach * np.cos(angle), 208 + 186 * reach * np.sin(angle)
        heading = np.array([*rng.uniform(-0.9, 0.9, 2), 1.1])
        growth = GrowthParameters(
            length_vx=2000,
            radius_vx=rng.uniform(2.0, 3.0),
            brightness=rng.uniform(2600, 3600),
            persistence=0.12,
            climb=0.9,
        )
        path = walk(rng, np.round(np.array([x, y, 0.0]), 2), heading, growth)
        grown.append(tube(rng, path, growth))
    return grown


def _tract_axons(rng: np.random.Generator) -> list[Neurite]:
    """Grow six parallel axons across the whole slab, as in a fibre tract."""
    grown = []
    for lane in range(6):
        start = np.array([62 + rng.uniform(-8, 8), 150 + 9 * lane, 60 + rng.uniform(-22, 22)])
        heading = np.array([1.0, 0.28 + 0.03 * lane, rng.uniform(-0.06, 0.06)])
        growth = GrowthParameters(
            length_vx=rng.uniform(350, 430),
            radius_vx=rng.uniform(1.7, 2.4),
            brightness=rng.uniform(2200, 3400),
            wander=0.035,
            persistence=0.08,
            climb=0.4,
        )
        grown.append(tube(rng, walk(rng, np.round(start, 2), heading, growth), growth))
    return grown


def _cell_axons(rng: np.random.Generator, neurons: list[Cell]) -> list[Neurite]:
    """Grow a long axon from each of eight neurons towards the other side of the slab."""
    grown = []
    for cell in neurons[:8]:
        across = np.array([SIZE_VX[0] / 2, SIZE_VX[1] / 2, SIZE_VX[2] / 2]) - cell.centre_vx
        heading = across / np.linalg.norm(across) + rng.normal(0, 0.45, 3) * (1, 1, 0.3)
        growth = GrowthParameters(
            length_vx=rng.uniform(180, 360),
            radius_vx=rng.uniform(1.9, 2.6),
            brightness=rng.uniform(2300, 3600),
        )
        grown.append(tube(rng, walk(rng, cell.centre_vx, heading, growth), growth))
    return grown


def _dendrites(rng: np.random.Generator, neuron: Cell) -> list[Neurite]:
    """Grow three to five short, pointed stubs from a cell body."""
    grown = []
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(rng.integers(3, 6)) * 1.5:
        heading = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.5, 0.5)])
        growth = GrowthParameters(rng.uniform(16, 34), 2.4, 0.5 * neuron.brightness, wander=0.12)
        path = walk(rng, neuron.centre_vx, heading, growth)
        radii = np.linspace(2.6, 0.7, len(path))
        grown.append(Neurite("dendrite", path, radii, growth.brightness))
    return grown
