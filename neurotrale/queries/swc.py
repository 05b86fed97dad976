"""Fibers as SWC: every line string a tree of its own, coordinates in micrometres.

Source of the format: Cannon et al. 1998, as the field reads it: a line for each node with index,
type, x, y, z, radius and parent, which is -1 for a root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from neurotrale.layers.reading import Vertex
from neurotrale.layers.space import Space
from neurotrale.queries.found import Found

# Annotations have no radius; this is what tools draw well.
RADIUS_UM = 1.0

# `anntype` -> type of a node; anything else is 0, undefined.
TYPES = {"soma": 1, "axon": 2, "dendrite": 3, "basal dendrite": 3, "apical dendrite": 4}


def swc(found: Iterable[Found], space: Space) -> Iterator[bytes]:
    """Write the line strings among annotations; the others are counted at the end."""
    x_nm, y_nm, z_nm = space.voxel_nm
    yield (
        "# SWC written by neurotrale\n"
        "# index type x y z radius parent\n"
        "# coordinates and radius in micrometres; one tree for each line string\n"
        f"# voxel size {x_nm:g} x {y_nm:g} x {z_nm:g} nm; every radius is {RADIUS_UM:g}\n"
    ).encode()
    index, others = 1, 0
    for one in found:
        where = _one_line(f"{one.block}/{one.file}")
        if one.mistake:
            yield f"# left out {where}: {_one_line(one.mistake)}\n".encode(errors="replace")
        elif one.annotation.type.lower() != "linestring":
            others += 1
        else:
            name = _one_line(one.annotation.id)
            points = one.annotation.points or ()
            nodes = _nodes(points, space, TYPES.get(one.annotation.anntype.lower(), 0), index)
            if not nodes:
                yield f"# left out {name} {where}: no coordinates\n".encode(errors="replace")
                continue
            kind = _one_line(one.annotation.anntype)
            yield f"# {name} {where} {kind}\n".encode(errors="replace") + nodes
            index += len(points)
    if others:
        yield f"# left out {others} annotations that are no line strings\n".encode()


def _nodes(points: tuple[Vertex, ...], space: Space, type_: int, first: int) -> bytes:
    """Write a tree; nothing when a coordinate is no number."""
    lines = []
    for number, point in enumerate(points):
        um = [
            at * nm / 1000 for at, nm in zip(point, space.voxel_nm, strict=True) if at is not None
        ]
        if len(um) < 3:
            return b""
        parent = first + number - 1 if number else -1
        x, y, z = um
        lines.append(f"{first + number} {type_} {x:.4f} {y:.4f} {z:.4f} {RADIUS_UM:g} {parent}\n")
    return "".join(lines).encode()


def _one_line(text: str) -> str:
    return " ".join(text.split())
