"""Types of voxels that an ingest keeps, converts or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from neurotrale.settings.stacks import DTYPES
from neurotrale.tools.ingest.conversion import convert
from tests.conftest import Service
from tests.datasets import Voxels
from tests.stacks import HALVES, expected_levels, ingest, noise, read_levels, write_planes
from tests.test_clients import CLIENTS, read
from tests.test_ingest_formats import assert_levels_equal


def signed(dtype: str) -> Voxels:
    """Voxels over the whole range of a signed type, its ends included."""
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    values: Voxels = rng.integers(limits.min, limits.max, (9, 20, 21), dtype, endpoint=True)
    values[rng.random(values.shape) < 0.2] = limits.min
    values[rng.random(values.shape) < 0.2] = limits.max
    return values


def stack(path: Path, voxels: Voxels, as_stack: bool) -> str:
    if not as_stack:
        return write_planes(path, voxels)
    tifffile.imwrite(path.with_suffix(".tif"), voxels, photometric="minisblack")
    return str(path.with_suffix(".tif"))


@pytest.mark.parametrize("as_stack", [False, True], ids=["planes", "stack"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_signed_type_is_kept(tmp_path: Path, dtype: str, as_stack: bool) -> None:
    voxels = signed(dtype)
    ingest(stack(tmp_path / "in", voxels, as_stack), tmp_path / "out", "--levels", "3")
    assert_levels_equal(tmp_path / "out", voxels)


@pytest.mark.clients
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.quick(2)
def test_client_reads_every_voxel_of_a_signed_type(
    tmp_path: Path, shared_service: Service, client: str, dtype: str
) -> None:
    voxels = signed(dtype)
    name = f"{dtype}-{client}"
    ingest(stack(tmp_path / "in", voxels, False), shared_service.root / name, "--levels", "2")
    for number, expected in enumerate(expected_levels(voxels, HALVES[:1])):
        found = read(CLIENTS[client](f"{shared_service.url}/{name}", number))
        assert found.dtype == expected.dtype
        assert np.array_equal(found[0], expected)


@pytest.mark.parametrize("as_stack", [False, True], ids=["planes", "stack"])
def test_mask_becomes_white_or_a_label(tmp_path: Path, as_stack: bool) -> None:
    mask = np.random.default_rng(0).random((5, 20, 21)) < 0.5
    source = stack(tmp_path / "in", mask, as_stack)
    said = ingest(source, tmp_path / "image", "--levels", "2").output
    assert "note: bool becomes uint8 (0 and 255)" in said
    assert_levels_equal(tmp_path / "image", np.where(mask, 255, 0).astype("uint8"))
    ingest(source, tmp_path / "labels", "--levels", "2", "--segmentation")
    assert_levels_equal(tmp_path / "labels", mask.astype("uint8"), segmentation=True)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    voxels = (noise((5, 20, 21), "uint16") // 2).astype("float16")
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    ingest(stack(tmp_path / "in", voxels, False), tmp_path / "out", "--levels", "1")
    (found,) = read_levels(tmp_path / "out")
    assert np.array_equal(found, voxels.astype("float32"), equal_nan=True)


def test_labels_of_64_bits_become_unsigned_unless_one_is_negative(tmp_path: Path) -> None:
    voxels = noise((5, 20, 21), "uint32").astype("int64") * 2**31 // 2
    said = ingest(
        stack(tmp_path / "in", voxels, True), tmp_path / "out", "--levels", "2", "--segmentation"
    ).output
    assert "int64 becomes uint64" in said
    assert_levels_equal(tmp_path / "out", voxels.astype("uint64"), segmentation=True)
    voxels[3, 2, 1] = -3
    source = stack(tmp_path / "bad", voxels, True)
    for options, expected in (((), "int64, from -3 to"), (SHARD, "plane 3 has values from -3 to")):
        said = ingest(source, tmp_path / "no", *options, code=1).output
        assert expected in said
        assert "--to" in said


SHARD = ("--shard", "2/2")
MOST_UINT32 = 2**32 - 1


@pytest.mark.parametrize("greatest", [0, 7, MOST_UINT32, MOST_UINT32 + 1, 2**63 - 1])
@pytest.mark.parametrize("is_one_file", [True, False])
@pytest.mark.quick(4)
def test_labels_of_64_bits_get_the_type_that_holds_all(
    tmp_path: Path, greatest: int, is_one_file: bool
) -> None:
    voxels = np.zeros((5, 20, 21), "int64")
    voxels[4, 19, 20] = greatest
    source = stack(tmp_path / "in", voxels, is_one_file)
    said = ingest(source, tmp_path / "out", "--levels", "1", "--segmentation").output
    dtype = "uint32" if greatest <= MOST_UINT32 else "uint64"
    assert f"int64 becomes {dtype} (the values are from 0 to {greatest})" in said
    (found,) = read_levels(tmp_path / "out")
    assert found.dtype == dtype
    assert np.array_equal(found, voxels.astype(dtype))


def test_labels_are_never_saturated(tmp_path: Path) -> None:
    voxels = np.full((2, 8, 8), 256, "uint32")
    source = stack(tmp_path / "in", voxels, False)
    options = ("--to", "uint8", "--levels", "1")
    said = ingest(source, tmp_path / "no", "--segmentation", *options, code=1).output
    assert "which uint8 does not hold" in said
    assert "128 voxels were outside of uint8" in ingest(source, tmp_path / "out", *options).output


def test_double_precision_needs_a_type(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(0, 300, (3, 20, 21))
    voxels[0, 0, :4] = np.nan, 1e300, -1e300, np.inf
    source = stack(tmp_path / "in", voxels, False)
    assert "--to float32" in ingest(source, tmp_path / "no", code=1).output
    said = ingest(source, tmp_path / "float", "--to", "float32", "--levels", "1").output
    assert "WARNING: 2 voxels were outside of float32" in said
    (found,) = read_levels(tmp_path / "float")
    most = np.finfo("float32").max
    assert np.array_equal(
        found, np.clip(voxels, -most, most).astype("float32"), equal_nan=True
    ) or (np.isinf(found[0, 0, 3]))
    said = ingest(source, tmp_path / "byte", "--to", "uint8", "--levels", "1").output
    outside = np.count_nonzero((np.rint(voxels) < 0) | (np.rint(voxels) > 255))
    assert f"WARNING: {outside} voxels were outside of uint8" in said
    assert "WARNING: 1 voxels were not a number" in said
    (found,) = read_levels(tmp_path / "byte")
    assert np.array_equal(found, np.clip(np.rint(np.nan_to_num(voxels)), 0, 255).astype("uint8"))


def test_other_type_is_another_dataset(tmp_path: Path) -> None:
    source = stack(tmp_path / "in", noise((2, 8, 8), "uint16"), False)
    ingest(source, tmp_path / "out")
    assert "data type was" in ingest(source, tmp_path / "out", "--to", "uint32", code=1).output
    info = json.loads((tmp_path / "out" / "info").read_text())
    assert info["data_type"] == "uint16"


NUMBERS = st.sampled_from([*DTYPES, "int64", "float16", "float64"])


@given(st.data(), NUMBERS, st.sampled_from(DTYPES))
def test_number_becomes_the_nearest_value_of_any_type(
    data: st.DataObject, old: str, new: str
) -> None:
    voxels: Voxels = data.draw(arrays.arrays(old, st.integers(1, 9)))
    converted, outside, nan = convert(voxels, new)
    assert converted.dtype == new
    expected_outside = expected_nan = 0
    for value, found in zip(voxels.tolist(), converted.tolist(), strict=True):
        if value != value:
            expected_nan += new != "float32"
            assert found == 0 or (new == "float32" and found != found)
        elif new == "float32":
            limit = float(np.finfo("float32").max)
            is_outside = abs(value) > limit and abs(value) != float("inf")
            expected_outside += is_outside
            assert found == float(
                np.float32(np.clip(value, -limit, limit) if is_outside else value)
            )
        else:
            limits = np.iinfo(new)
            exact: Any = (
                value if isinstance(value, int) or abs(value) == float("inf") else round(value)
            )
            expected_outside += not limits.min <= exact <= limits.max
            assert found == min(max(exact, limits.min), limits.max)
    assert (outside, nan) == (expected_outside, expected_nan)
