"""How neurites grow: random walks with a memory, kept inside the tissue."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from neurotrale.demo.shapes import Neurite
from neurotrale.demo.tissue import SIZE_VX, Floats, inside_volume, tissue_radius

STEP_VX: Final = 4.0


@dataclass(frozen=True)
class Habit:
    """How one neurite grows.

    Attributes:
        length_vx: where it stops, unless it leaves the volume before.
        radius_vx: radius at its start; it tapers to `tip` times that.
        brightness: grey value of its core above the tissue.
        wander: how sharply it turns, per step (standard deviation of the change of heading).
        persistence: pull towards the heading it started with, 0 for none.
        climb: how much of the wandering goes along z, 0 to stay in one depth.
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


def walk(rng: np.random.Generator, start_vx: Floats, heading: Floats, habit: Habit) -> Floats:
    """Walk from `start_vx` until the length is used up or the volume ends.

    Args:
        rng: source of the turns.
        start_vx: first vertex, shape (3,), (x, y, z) in voxels, inside the volume.
        heading: direction of the first step, shape (3,), any length.
        habit: how far and how straight.

    Returns:
        Vertices 4 voxels apart, shape (n, 3), n >= 2; the last one lies on the face of the volume
        when the walk left it.
    """
    aim = unit(heading)
    direction, turn, position = aim, np.zeros(3), start_vx
    points = [start_vx]
    for _ in range(max(1, round(habit.length_vx / STEP_VX))):
        turn = 0.8 * turn + rng.normal(0, habit.wander, 3) * (1, 1, habit.climb)
        direction = unit(direction + turn + habit.persistence * aim + _push_inwards(position))
        position = position + STEP_VX * direction
        points.append(np.clip(position, 0, np.subtract(SIZE_VX, 0.01)))
        if not inside_volume(position):
            break
    # Annotation files hold two decimals; what is drawn must be what they say.
    return np.array(points).round(2)


def _push_inwards(position_vx: Floats) -> Floats:
    excess = tissue_radius(position_vx) - 0.72
    if excess <= 0:
        return np.zeros(3)
    inwards = np.array([SIZE_VX[0] / 2, SIZE_VX[1] / 2, position_vx[2]]) - position_vx
    return 1.2 * excess * unit(inwards)


def tube(rng: np.random.Generator, points_vx: Floats, habit: Habit) -> Neurite:
    """Give a walked path the thickness of an axon: a taper with irregular swellings.

    Args:
        rng: source of the swellings.
        points_vx: vertices, shape (n, 3), (x, y, z) in voxels.
        habit: radius, taper and brightness.

    Returns:
        The axon.
    """
    along = np.arange(len(points_vx))
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(7, 11)
    swelling = 1 + 0.16 * np.sin(2 * np.pi * along / period + phase)
    swelling += rng.normal(0, 0.05, len(along))
    radii = habit.radius_vx * np.linspace(1, habit.tip, len(along)) * swelling
    return Neurite("axon", points_vx, np.maximum(radii, 1.1), habit.brightness)


def branches(rng: np.random.Generator, trunk: Neurite, count: int) -> list[Neurite]:
    """Grow thinner axons from the middle of `trunk`.

    Args:
        rng: source of where, in which direction and how long.
        trunk: the axon they leave.
        count: how many.

    Returns:
        `count` axons, or none where the trunk is too short to carry any.
    """
    joints = np.arange(6, len(trunk.points_vx) - 6)
    if len(joints) < count:
        return []
    grown = []
    for joint in rng.choice(joints, count, replace=False):
        along = unit(trunk.points_vx[joint + 1] - trunk.points_vx[joint - 1])
        sideways = unit(np.cross(along, rng.normal(size=3)))
        habit = Habit(
            length_vx=rng.uniform(60, 170),
            radius_vx=max(1.3, 0.72 * trunk.radii_vx[joint]),
            brightness=0.8 * trunk.brightness,
            wander=0.07,
            tip=0.7,
        )
        heading = along + rng.uniform(0.5, 1.1) * sideways
        path = walk(rng, trunk.points_vx[joint], heading, habit)
        grown.append(tube(rng, path, habit))
    return grown
