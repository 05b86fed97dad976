"""The layers of a plane: which page and sample holds each of its channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import tifffile
from numpy.typing import NDArray

from neurotrale.chunks.tiff_pages import Page, RowBlock
from neurotrale.tools.ingest.series import samples_of

# Some writers have no z axis and call it the channel; more channels than this must be planes.
MOST_COLOURS = 4
_TIME = "--time"

Layer = tuple[int, int]
"""The index of a plane of grey values over all axes of an image but y, x and the samples of a
pixel, and the index of the sample."""


class LayersError(ValueError):
    """An image has no planes that can be told apart."""


def choose_layers(
    images: Sequence[tifffile.TiffPageSeries], channel: int | None, time: int | None
) -> list[list[Layer]]:
    """Find the layers of each plane of an image.

    Args:
        images: The image, or an image for each plane.
        channel: The channel to take, from 0; None for all.
        time: The time point to take, from 0; None if there is only one.

    Returns:
        For each plane along z, its channels.

    Raises:
        LayersError: The image has no planes, or along which axis they are is ambiguous.
    """
    first = images[0]
    if first.dtype is None or not {"Y", "X"} <= set(first.axes):
        raise LayersError("it has no image of rows and columns")
    samples = first.shape[-1] if first.axes.endswith("YXS") else 1
    axes = first.axes.removesuffix("S") if samples > 1 else first.axes
    if len(images) > 1:  # of a plane each
        grid = np.arange(len(images))
        axes = "ZYX"
    else:
        grid = np.arange(prod(first.shape[: len(axes) - 2])).reshape(first.shape[: len(axes) - 2])
    if not axes.endswith("YX"):
        raise LayersError(
            f"its axes are {first.axes}; expected planes of grey values, one page each, or of"
            " pixels of several samples"
        )
    planes = _planes(grid, axes[:-2], time)
    layers = [[(int(number), s) for number in plane for s in range(samples)] for plane in planes]
    if channel is None:
        return layers
    if channel >= len(layers[0]):
        raise LayersError(f"--channel {channel} does not exist; it has 0 to {len(layers[0]) - 1}")
    return [[plane[channel]] for plane in layers]


def _planes(grid: NDArray[np.int_], axes: str, time: int | None) -> NDArray[np.int_]:
    """Return the numbers of the pages, ``[z, channel]``."""
    points = grid.shape[axes.index("T")] if "T" in axes else 1
    if time is not None and time >= points:
        raise LayersError(f"{_TIME} {time} does not exist; it has 0 to {points - 1}")
    if time is not None and "T" in axes:
        grid = np.take(grid, [time], axes.index("T"))
    kept = [i for i, n in enumerate(grid.shape) if n > 1]
    grid, axes = grid.squeeze(), "".join(axes[i] for i in kept)
    colours = [i for i, axis in enumerate(axes) if axis in "CS"]
    others = [i for i in range(len(axes)) if i not in colours]
    if not others and axes == "C" and grid.shape[0] > MOST_COLOURS:
        colours, others = [], [0]
    if len(others) > 1:
        text = ", ".join(f"{grid.shape[i]} along {axes[i]}" for i in others)
        advice = _TIME if any(axes[i] == "T" for i in others) else "a file with one stack"
        raise LayersError(f"it has planes along several axes ({text}): choose with {advice}")
    depth = grid.shape[others[0]] if others else 1
    return grid.transpose([*others, *colours]).reshape(depth, -1)


def page_of(images: Sequence[tifffile.TiffPageSeries], layer: Layer) -> tuple[Page, int]:
    """Return the page of a layer, and the index of its sample in the page."""
    number, sample = layer
    index, planar = divmod(number, samples_of(images[0]))
    page = images[number].pages[0] if len(images) > 1 else images[0].pages[index]
    assert page is not None
    return page, planar + sample


def side_by_side(layers: Sequence[Iterator[RowBlock]]) -> Iterator[RowBlock]:
    """Join the channels of a plane side by side along x, as slabs hold them.

    Args:
        layers: The rows of each channel, in blocks of any number of rows.
    """
    if len(layers) == 1:
        yield from layers[0]
        return
    heads = [next(layer, None) for layer in layers]
    while all(head is not None for head in heads):
        blocks = [head for head in heads if head is not None]
        count = min(len(rows) for _, rows in blocks)
        yield blocks[0][0], np.concatenate([rows[:count] for _, rows in blocks], axis=1)
        heads = [
            (y + count, rows[count:]) if len(rows) > count else next(layer, None)
            for layer, (y, rows) in zip(layers, blocks, strict=True)
        ]
    if any(head is not None for head in heads):
        raise LayersError("its channels differ in size")
