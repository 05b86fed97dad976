"""What is in the demo's volume, made from a seed: cell bodies and the neurites between them."""

from typing import Final

import numpy as np

from neurotrale.demo.growth import Habit, branches, tube, walk
from neurotrale.demo.shapes import Cell, CellKind, Neurite, Scene
from neurotrale.demo.tissue import SIZE_VX, Floats, inside_volume, tissue_radius

NEURONS: Final = 72
GLIA: Final = 52
# (half lengths along the longest axis in voxels, brightness), each as a range to draw from.
_BODY: Final[dict[CellKind, tuple[tuple[float, float], tuple[float, float]]]] = {
    "neuron": ((6.5, 8.5), (3400.0, 5600.0)),
    "glia": ((3.2, 4.3), (1700.0, 3000.0)),
}


def make_scene(seed: int) -> Scene:
    """Make the scene that belongs to `seed`; the same seed always gives the same scene.

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
        clear = all(np.linalg.norm(centre - other.centre_vx) > 19 for other in others)
        if clear and _welcomes(rng, kind, centre):
            break
    axes = longest_axis * np.array([1.0, rng.uniform(0.72, 0.95), rng.uniform(0.8, 1.0)])
    lobing = rng.uniform(0.02, 0.09)
    return Cell(kind, centre, axes, rng.uniform(0, np.pi), lobing, rng.uniform(*brightness))


def _welcomes(rng: np.random.Generator, kind: CellKind, centre_vx: Floats) -> bool:
    """Let neurons crowd in the bright layer and in the nucleus; glia live everywhere."""
    radius = tissue_radius(centre_vx)
    if radius > 0.93 or not inside_volume(centre_vx, margin_vx=10):
        return False
    crowding = np.exp(-(((radius - 0.71) / 0.06) ** 2)) + 0.4 * (radius < 0.25) + 0.12
    return kind == "glia" or bool(rng.uniform() < crowding)


def _through_axons(rng: np.random.Generator) -> list[Neurite]:
    """Run eight axons from the first plane to the last."""
    grown = []
    for angle in np.arange(8) * (np.pi / 4) + rng.uniform(0, 0.5, 8):
        reach = rng.uniform(0.15, 0.60)
        x, y = 252 + 222 * reach * np.cos(angle), 208 + 186 * reach * np.sin(angle)
        heading = np.array([*rng.uniform(-0.9, 0.9, 2), 1.1])
        habit = Habit(
            length_vx=2000,
            radius_vx=rng.uniform(2.0, 3.0),
            brightness=rng.uniform(2600, 3600),
            persistence=0.12,
            climb=0.9,
        )
        path = walk(rng, np.round(np.array([x, y, 0.0]), 2), heading, habit)
        grown.append(tube(rng, path, habit))
    return grown


def _tract_axons(rng: np.random.Generator) -> list[Neurite]:
    """Run six axons side by side across the whole slab, as in a fibre tract."""
    grown = []
    for lane in range(6):
        start = np.array([62 + rng.uniform(-8, 8), 150 + 9 * lane, 60 + rng.uniform(-22, 22)])
        heading = np.array([1.0, 0.28 + 0.03 * lane, rng.uniform(-0.06, 0.06)])
        habit = Habit(
            length_vx=rng.uniform(350, 430),
            radius_vx=rng.uniform(1.7, 2.4),
            brightness=rng.uniform(2200, 3400),
            wander=0.035,
            persistence=0.08,
            climb=0.4,
        )
        grown.append(tube(rng, walk(rng, np.round(start, 2), heading, habit), habit))
    return grown


def _cell_axons(rng: np.random.Generator, neurons: list[Cell]) -> list[Neurite]:
    """Give eight of the neurons a long axon that heads for the other side of the slab."""
    grown = []
    for cell in neurons[:8]:
        across = np.array([SIZE_VX[0] / 2, SIZE_VX[1] / 2, SIZE_VX[2] / 2]) - cell.centre_vx
        heading = across / np.linalg.norm(across) + rng.normal(0, 0.45, 3) * (1, 1, 0.3)
        habit = Habit(
            length_vx=rng.uniform(180, 360),
            radius_vx=rng.uniform(1.9, 2.6),
            brightness=rng.uniform(2300, 3600),
        )
        grown.append(tube(rng, walk(rng, cell.centre_vx, heading, habit), habit))
    return grown


def _dendrites(rng: np.random.Generator, neuron: Cell) -> list[Neurite]:
    """Put three to five short, pointed stubs on a cell body."""
    grown = []
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(rng.integers(3, 6)) * 1.5:
        heading = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.5, 0.5)])
        habit = Habit(rng.uniform(16, 34), 2.4, 0.5 * neuron.brightness, wander=0.12)
        path = walk(rng, neuron.centre_vx, heading, habit)
        radii = np.linspace(2.6, 0.7, len(path))
        grown.append(Neurite("dendrite", path, radii, habit.brightness))
    return grown
