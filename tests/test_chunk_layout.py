"""Which axis of a TIFF's array is z, y, x and channel: decided by sizes, labels, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from neurotrale.chunks.decode import Expected, axis_order, little_endian

Shape = tuple[int, ...]

# Shapes of arrays are written in the order of their axes; `expected` is always (x, y, z).


def param(
    name: str, shape: Shape, axes: str, channels: int | None, shape_vx: Shape | None, *order: int
) -> object:
    return pytest.param(shape, axes, Expected(_triple(shape_vx), None, channels), [*order], id=name)


def misfit(
    name: str, shape: Shape, axes: str, channels: int | None, shape_vx: Shape | None
) -> object:
    return pytest.param(shape, axes, Expected(_triple(shape_vx), None, channels), id=name)


def _triple(shape_vx: Shape | None) -> tuple[int, int, int] | None:
    if shape_vx is None:
        return None
    x, y, z = shape_vx
    return x, y, z


@pytest.mark.parametrize(
    ("shape", "axes", "expected", "order"),
    [
        param("pages", (4, 5, 6), "QYX", 1, (6, 5, 4), 0, 1, 2),
        param("pages-of-equal-sides", (5, 5, 5), "QYX", 1, (5, 5, 5), 0, 1, 2),
        param("generic-pages", (4, 5, 6), "IYX", 1, (6, 5, 4), 0, 1, 2),
        param("depth", (4, 5, 6), "ZYX", 1, (6, 5, 4), 0, 1, 2),
        param("times-taken-for-depth", (4, 5, 6), "TYX", 1, (6, 5, 4), 0, 1, 2),
        param("channels-taken-for-depth", (4, 5, 6), "CYX", 1, (6, 5, 4), 0, 1, 2),
        param("one-page", (5, 6), "YX", 1, (6, 5, 1), 0, 1),
        param("one-row", (4, 1, 6), "QYX", 1, (6, 1, 4), 0, 2),
        param("one-column", (4, 5, 1), "QYX", 1, (1, 5, 4), 0, 1),
        param("one-voxel", (1, 1), "YX", 1, (1, 1, 1)),
        param("colour-guess-3-wide", (4, 5, 3), "YXS", 1, (3, 5, 4), 0, 1, 2),
        param("colour-guess-4-wide", (4, 5, 4), "YXS", 1, (4, 5, 4), 0, 1, 2),
        param("colour-guess-3-deep", (3, 5, 6), "SYX", 1, (6, 5, 3), 0, 1, 2),
        param("further-axes-of-one", (1, 4, 1, 5, 6, 1), "TZCYXS", 1, (6, 5, 4), 1, 3, 4),
        param("labelled-backwards", (6, 5, 4), "XYZ", 1, (6, 5, 4), 2, 1, 0),
        param("labelled-backwards-equal-sides", (5, 5, 5), "XYZ", 1, (5, 5, 5), 2, 1, 0),
        param("nothing-promised", (4, 5, 6), "QYX", None, None, 0, 1, 2),
        param("only-channels-promised", (4, 5, 6), "QYX", 1, None, 0, 1, 2),
    ],
)
def test_axis_order_single_channel_is_z_y_x(
    shape: Shape, axes: str, expected: Expected, order: list[int]
) -> None:
    assert axis_order(shape, axes, expected) == order


@pytest.mark.parametrize(
    ("shape", "axes", "expected", "order"),
    [
        param("labelled", (2, 4, 5, 6), "CZYX", 2, (6, 5, 4), 0, 1, 2, 3),
        param("depth-first", (4, 2, 5, 6), "ZCYX", 2, (6, 5, 4), 1, 0, 2, 3),
        param("depth-first-equal-sides", (3, 3, 5, 6), "ZCYX", 3, (6, 5, 3), 1, 0, 2, 3),
        param("channel-last", (4, 5, 6, 2), "ZYXC", 2, (6, 5, 4), 3, 0, 1, 2),
        param("samples", (4, 5, 6, 3), "ZYXS", 3, (6, 5, 4), 3, 0, 1, 2),
        param("samples-in-unlabelled-pages", (4, 5, 6, 3), "QYXS", 3, (6, 5, 4), 3, 0, 1, 2),
        param("planes-of-samples", (4, 2, 5, 6), "QSYX", 2, (6, 5, 4), 1, 0, 2, 3),
        param("volumetric-planes-of-samples", (2, 4, 5, 6), "SZYX", 2, (6, 5, 4), 0, 1, 2, 3),
        param("samples-of-one-page", (5, 6, 3), "YXS", 3, (6, 5, 1), 2, 0, 1),
        param("channel-and-sample-of-one", (2, 4, 5, 6, 1), "CZYXS", 2, (6, 5, 4), 0, 1, 2, 3),
        param("unlabelled", (2, 4, 5, 6), "QQYX", 2, (6, 5, 4), 0, 1, 2, 3),
        param("unlabelled-one-deep", (2, 5, 6), "QYX", 2, (6, 5, 1), 0, 1, 2),
        param("unlabelled-one-row", (2, 4, 1, 6), "QQYX", 2, (6, 1, 4), 0, 1, 3),
        param("unlabelled-with-depth", (2, 4, 5, 6), "QZYX", 2, (6, 5, 4), 0, 1, 2, 3),
        param("unlabelled-volumes", (2, 4, 1, 6), "ZYXQ", 2, (6, 1, 4), 0, 1, 3),
        param("colour-guess-3-wide", (2, 4, 5, 3), "QYXS", 2, (3, 5, 4), 0, 1, 2, 3),
        param("colour-guess-3-wide-3-channels", (3, 4, 5, 3), "QYXS", 3, (3, 5, 4), 0, 1, 2, 3),
        param("colour-guess-4-deep", (2, 4, 5, 6), "QSYX", 2, (6, 5, 4), 0, 1, 2, 3),
        param("colour-guess-volumetric", (2, 4, 5, 3), "ZYXS", 2, (3, 5, 4), 0, 1, 2, 3),
        param("only-channels-promised", (4, 2, 5, 6), "ZCYX", 2, None, 1, 0, 2, 3),
    ],
)
def test_axis_order_several_channels_is_channel_z_y_x(
    shape: Shape, axes: str, expected: Expected, order: list[int]
) -> None:
    assert axis_order(shape, axes, expected) == order


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        misfit("too-deep", (5, 5, 6), "QYX", 1, (6, 5, 4)),
        misfit("too-shallow", (3, 5, 6), "QYX", 1, (6, 5, 4)),
        misfit("too-wide", (4, 5, 7), "QYX", 1, (6, 5, 4)),
        misfit("x-and-z-swapped", (6, 5, 4), "QYX", 1, (6, 5, 4)),
        misfit("x-and-y-swapped", (4, 6, 5), "QYX", 1, (6, 5, 4)),
        misfit("a-plane-of-a-volume", (5, 6), "YX", 1, (6, 5, 4)),
        misfit("a-volume-for-a-plane", (4, 5, 6), "QYX", 1, (6, 5, 1)),
        misfit("as-many-voxels-otherwise", (2, 10, 6), "QYX", 1, (6, 5, 4)),
        misfit("colours-for-one-channel", (4, 5, 6, 3), "QYXS", 1, (6, 5, 4)),
        misfit("five-channels-for-two-in-any-box", (5, 4, 6, 7), "QQYX", 2, None),
        misfit("one-channel-for-two", (4, 5, 6), "QYX", 2, (6, 5, 4)),
        misfit("two-channels-for-one", (2, 4, 5, 6), "CZYX", 1, (6, 5, 4)),
        misfit("three-channels-for-two", (3, 4, 5, 6), "CZYX", 2, (6, 5, 4)),
        misfit("two-channels-for-three", (2, 4, 5, 6), "QQYX", 3, (6, 5, 4)),
        misfit("labelled-otherwise", (2, 3, 5, 6), "ZCYX", 2, (6, 5, 3)),
        misfit("stack-of-all-planes", (8, 5, 6), "IYX", 2, (6, 5, 4)),
        misfit("labelled-stack-of-all-planes", (8, 5, 6), "ZYX", 2, (6, 5, 4)),
        misfit("channels-and-samples", (2, 4, 5, 6, 3), "CZYXS", 6, (6, 5, 4)),
        misfit("one-axis-too-many", (2, 2, 4, 5, 6), "QQQYX", 4, (6, 5, 4)),
        misfit("no-plane", (2, 20), "CX", 2, (5, 4, 1)),
    ],
)
def test_axis_order_of_what_does_not_fit_is_none(
    shape: Shape, axes: str, expected: Expected
) -> None:
    assert axis_order(shape, axes, expected) is None


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        # [channel, z, y, x] written without labels: tifffile takes a depth of 3 for planes of
        # colours; real planes of colours, [z, channel, y, x], look exactly the same.
        misfit("3-channels-3-deep", (3, 3, 5, 6), "QSYX", 3, (6, 5, 3)),
        misfit("4-channels-4-deep", (4, 4, 5, 6), "QSYX", 4, (6, 5, 4)),
        misfit("all-of-3", (3, 3, 3, 3), "QYXS", 3, (3, 3, 3)),
    ],
)
def test_axis_order_that_could_be_either_of_two_is_none(
    shape: Shape, axes: str, expected: Expected
) -> None:
    assert axis_order(shape, axes, expected) is None


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "=u2", "u1", ">f4", "<u8"])
def test_little_endian_of_any_byte_order_keeps_values(dtype: str) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    assert little_endian(array).tobytes() == np.arange(6, dtype="<" + dtype[-2:]).tobytes()


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (Expected(), "any image"),
        (Expected((6, 5, 4)), "6x5x4 voxels (x, y, z)"),
        (Expected((6, 5, 4), "uint16", 1), "6x5x4 voxels (x, y, z), 1 channel, uint16"),
        (Expected(None, "float32", 3), "3 channels, float32"),
    ],
    ids=["nothing", "box", "all", "no-box"],
)
def test_expected_says_what_it_promises(expected: Expected, text: str) -> None:
    assert str(expected) == text
