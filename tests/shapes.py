"""Annotations of every kind, made up; and what a source must give for them."""

from __future__ import annotations

import json
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
import requests

Annotation = dict[str, Any]
Info = dict[str, Any]

POINTS_OF = {"POINT": 1, "LINE": 2, "AXIS_ALIGNED_BOUNDING_BOX": 2, "ELLIPSOID": 2}
TYPES = {
    "points": "point",
    "lines": "line",
    "boxes": "axis_aligned_bounding_box",
    "ellipsoids": "ellipsoid",
    "polylines": "linestring",
}
ANNTYPES = ("neuron", "glia", "axon", "")


def make(type_: str, number: int, at: list[float], more: np.random.Generator) -> Annotation:
    """Make an annotation of a type, near a point."""
    found: Annotation = {
        "id": sha1(f"{type_} {number}".encode()).hexdigest(),
        "type": type_,
        "anntype": ANNTYPES[number % 4],
        "reviewed": number % 3 == 0,
        "visited": number % 2 == 0,
    }
    near = [float(value) for value in np.array(at) + more.uniform(0, 5, 3)]
    if number % 5 == 0:
        found |= {"length": number + 0.5, "description": f"seen {number % 10}"}
    if type_ == "point":
        return found | {"point": at}
    if type_ == "ellipsoid":
        return found | {"center": at, "radii": [2, 3, 4.5]}
    if type_ in ("linestring", "polygon"):
        steps = more.normal(0, 6, (int(more.integers(1, 9)), 3))
        return found | {"points": np.maximum(np.array(at) + steps.cumsum(axis=0), 0).tolist()}
    return found | {"pointA": at, "pointB": near}


def make_many(type_: str, count: int, size_vx: tuple[int, int, int]) -> list[Annotation]:
    """Make annotations inside a box that begins at 0."""
    more = np.random.default_rng(count)
    places = more.uniform(0, size_vx, (count, 3)).tolist()
    return [make(type_, number, at, more) for number, at in enumerate(places)]


def write(file: Path, annotations: list[Annotation]) -> Path:
    """Write an annotation file, and its block's directory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(annotations))
    return file


class Reader:
    """Reads a source as the format says, with nothing but numpy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.info: Info = self.session.get(f"{url}/info", timeout=60).json()
        self._labels = {
            spec["id"]: dict(
                zip(spec.get("enum_values", ()), spec.get("enum_labels", ()), strict=True)
            )
            for spec in self.info["properties"]
        }

    def decode(self, body: bytes, count: int) -> tuple[list[dict[str, Any]], bytes]:
        """Decode single annotations that follow each other; give also what is behind them."""
        sizes = {"float32": "<f4", "uint32": "<u4", "int32": "<i4", "uint16": "<u2", "uint8": "u1"}
        specs = sorted(
            self.info["properties"], key=lambda spec: -np.dtype(sizes[spec["type"]]).itemsize
        )
        dtype = np.dtype([(spec["id"], sizes[spec["type"]]) for spec in specs])
        at, found = 0, []
        for _ in range(count):
            points = POINTS_OF.get(self.info["annotation_type"], 0)
            if points == 0:
                points = int(np.frombuffer(body, "<u4", 1, at)[0])
                at += 4
            geometry = np.frombuffer(body, "<f4", points * 3, at).reshape(-1, 3)
            at += points * 12
            values = np.frombuffer(body, dtype, 1, at)[0]
            at += -(-dtype.itemsize // 4) * 4
            found.append({"points": geometry.tolist(), **self._shown(values)})
        return found, body[at:]

    def _shown(self, values: np.void) -> dict[str, Any]:
        """Give the properties as a viewer shows them: by their labels."""
        found = ((name, values[name].item(), labels) for name, labels in self._labels.items())
        return {name: labels.get(value, value) for name, value, labels in found}

    def cell(self, level: int, at: tuple[int, ...]) -> dict[int, dict[str, Any]]:
        """Read a cell: number -> annotation."""
        answer = self.session.get(f"{self.url}/spatial{level}/{'_'.join(map(str, at))}", timeout=60)
        assert answer.status_code == 200
        (count,) = np.frombuffer(answer.content, "<u8", 1)
        found, rest = self.decode(answer.content[8:], int(count))
        numbers = np.frombuffer(rest, "<u8").tolist()
        assert len(numbers) == len(set(numbers)) == len(found)
        return dict(zip(numbers, found, strict=True))

    def cells(self, level: int) -> dict[tuple[int, ...], dict[int, dict[str, Any]]]:
        """Read all cells of a level."""
        grid = self.info["spatial"][level]["grid_shape"]
        return {at: self.cell(level, at) for at in np.ndindex(*grid)}

    def everything(self) -> dict[int, dict[str, Any]]:
        """Read all annotations of all levels."""
        found: dict[int, dict[str, Any]] = {}
        for level in range(len(self.info["spatial"])):
            for cell in self.cells(level).values():
                found |= cell
        return found

    def one(self, number: int) -> dict[str, Any]:
        """Read an annotation by its number."""
        answer = self.session.get(f"{self.url}/by_id/{number}", timeout=60)
        assert answer.status_code == 200
        (found,), rest = self.decode(answer.content, 1)
        assert rest == b""
        return found
