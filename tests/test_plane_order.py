"""The order of planes: what their names show, what they leave open, and who decides that."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurotrale.errors import BadInputError, SourceError
from neurotrale.tools.ingest.plane_order import order_planes
from tests.datasets import gradient
from tests.stacks import ingest, read_levels, write_planes
from tests.test_ingest_sources import first_level, refused


def ordered(names: str, order: str | None = None) -> str:
    """Order names that come in any order; there must be no problem with them."""
    shuffled = [Path(name) for name in names.split(", ")]
    random.Random(0).shuffle(shuffled)
    result = order_planes(shuffled, order)
    assert result.problems == []
    return ", ".join(map(str, result.paths))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param("z9.tif, z10.tif, z11.tif", id="whole"),
        pytest.param("z_-0040.tif, z_-0020.tif, z_00000.tif, z_00020.tif", id="minus"),
        pytest.param("Z-00400.tif, Z-00200.tif, Z+00000.tif, Z+00200.tif", id="both-signs"),
        pytest.param("Z-2.tif, Z-1.tif, Z0.tif, Z1.tif", id="minus-after-a-letter"),
        pytest.param("z_0.25um.tif, z_0.5um.tif, z_0.75um.tif, z_1.0um.tif", id="decimals"),
        pytest.param("z_0.25um.tif, z_0.5um.tif", id="two-decimals"),
        pytest.param("z_-2.5um.tif, z_0um.tif, z_2.5um.tif, z_5um.tif", id="signed-decimals"),
        pytest.param("z_-5.5um.tif, z_-3.0um.tif, z_-0.5um.tif", id="minus-and-unit"),
        pytest.param("z0.5.tif, z1.tif, z1.5.tif, z2.tif", id="some-decimals"),
        pytest.param("z0.25.tif, z0.5.tif, z0.75.tif, z1.0.tif", id="even-only-as-decimals"),
        pytest.param("s1.8.tif, s1.9.tif, s1.10.tif, s1.11.tif", id="even-only-as-whole-numbers"),
        pytest.param("2020-01-30_z8.tif, 2020-01-30_z9.tif, 2020-01-30_z10.tif", id="date"),
        pytest.param("scan-8.tif, scan-9.tif, scan-10.tif", id="dashes"),
        pytest.param("1.2.8.tif, 1.2.9.tif, 1.2.10.tif", id="several-dots"),
        pytest.param("t8_z1.tif, t9_z2.tif, t10_z3.tif", id="two-that-go-up-together"),
        pytest.param("a/z1.tif, a/z2.tif, b/z3.tif, b/z4.tif", id="directories"),
        pytest.param("one.tif, three.tif, two.tif", id="no-numbers"),
        pytest.param("img.tif0001.tif, img.tif0002.tif, img.tif0003.tif", id="dot-in-the-name"),
        pytest.param("z1.ome.tif, z2.ome.tif, z3.ome.tif", id="ome"),
        pytest.param("Z1.TIF, z2.tif, z3.tiff", id="any-case-and-extension"),
    ],
)
def test_names_show_the_order(names: str) -> None:
    assert ordered(names) == names


@given(
    start=st.integers(-300, 300),
    step=st.integers(1, 40),
    count=st.integers(3, 30),
    places=st.sampled_from([0, 1, 2]),
    width=st.integers(1, 6),
    plus=st.booleans(),
    gap=st.one_of(st.none(), st.integers(0, 27)),
    seed=st.integers(0, 99),
)
def test_any_series_of_positions_is_in_order_and_its_gap_is_named(
    start: int, step: int, count: int, places: int, width: int, plus: bool, gap: int | None,
    seed: int,
) -> None:  # fmt: skip
    numbers = [Decimal(start + step * n).scaleb(-places) for n in range(count)]
    sign = "+" if plus else ""
    names = [Path(f"z_{number:{sign}0{width + places}.{places}f}um.tif") for number in numbers]
    if numbers[-1] < 0 and not places:
        return  # a minus that all names have may be a dash
    lost = []
    if gap is not None and gap < count - 3 and count > 4:
        lost = [f"{names.pop(gap + 1)}: missing"]
    shuffled = [*names]
    random.Random(seed).shuffle(shuffled)
    result = order_planes(shuffled, None)
    assert result.paths == names
    assert result.problems == lost
    if not lost:
        assert f"step {float(Decimal(step).scaleb(-places)):g}" in result.text


@pytest.mark.parametrize(
    ("names", "by_name", "by_number"),
    [
        ("t0_z0 t0_z1 t1_z0 t1_z1", "t0_z0 t0_z1 t1_z0 t1_z1", "t0_z0 t1_z0 t0_z1 t1_z1"),
        ("Z0_C01 Z0_C02 Z1_C01 Z1_C02", "Z0_C01 Z0_C02 Z1_C01 Z1_C02",
         "Z0_C01 Z1_C01 Z0_C02 Z1_C02"),
        ("b1 a2 a10", "a2 a10 b1", "b1 a2 a10"),
        ("x2y10 x10y1 x2y9", "x2y9 x2y10 x10y1", "x10y1 x2y9 x2y10"),
        ("z_-1 z_-2 z_-3", "z_-1 z_-2 z_-3", "z_-3 z_-2 z_-1"),
        ("v0.9 v0.10", "v0.9 v0.10", "v0.10 v0.9"),
        ("a/z0 a/z1 b/z0 b/z1", "a/z0 a/z1 b/z0 b/z1", "a/z0 b/z0 a/z1 b/z1"),
    ],
)  # fmt: skip
def test_names_with_two_readings_are_refused_with_both_and_order_decides(
    names: str, by_name: str, by_number: str
) -> None:
    paths = [Path(f"{name}.tif") for name in names.split()]
    with pytest.raises(SourceError) as refusal:
        order_planes(paths, None)
    said = str(refusal.value).splitlines()
    for label, reading in (("by name:", by_name), ("by number:", by_number)):
        (line,) = (line for line in said if label in line)
        first, second, *_, last = (
            f"{name}.tif" for name in [*reading.split(), reading.split()[-1]]
        )
        assert first in line
        assert second in line
        assert line.endswith(last)
    assert "--order NAME, --order NUMBER, or --order with the path of a file" in str(refusal.value)
    for order, reading in (("NAME", by_name), ("number", by_number)):
        assert [path.stem for path in order_planes(paths, order).paths] == [
            name.rpartition("/")[2] for name in reading.split()
        ]


def test_refusal_of_channels_proposes_a_pattern_for_one() -> None:
    paths = [Path(f"Z{z:04}_C{c:02}.tif") for z in range(9) for c in (1, 2)]
    with pytest.raises(SourceError, match=r"such as 'Z\*_C01.tif'"):
        order_planes(paths, None)


@pytest.mark.parametrize(
    ("stray", "said"),
    [
        ("z1.tiff", "z1.tiff: the same plane as z1.tif"),
        ("z01.tif", "z1.tif: the same plane as z01.tif"),
        ("z1 (1).tif", "z1 (1).tif: a copy of z1.tif"),
        ("z1(2).tif", "z1(2).tif: a copy of z1.tif"),
        ("z1 copy.tif", "z1 copy.tif: a copy of z1.tif"),
        ("z1 copy 2.tif", "z1 copy 2.tif: a copy of z1.tif"),
        ("z1 - Copy.tif", "z1 - Copy.tif: a copy of z1.tif"),
        ("Copy of z1.tif", "Copy of z1.tif: a copy of z1.tif"),
        ("MAX_z.tif", "MAX_z.tif: not named like the others (z*.tif)"),
        ("AVG_z1.tif", "AVG_z1.tif: not named like the others (z*.tif)"),
        ("z1_mask.tif", "z1_mask.tif: not named like the others (z*.tif)"),
    ],
)
def test_stray_file_is_named_before_any_work(tmp_path: Path, stray: str, said: str) -> None:
    write_planes(tmp_path / "in", gradient((6, 5, 7)))
    for path in (tmp_path / "in").iterdir():
        path.rename(path.with_name(path.name.replace("plane", "z")))
    (tmp_path / "in" / stray).write_bytes((tmp_path / "in" / "z1.tif").read_bytes())
    output = refused(tmp_path / "in" / "*.tif*", tmp_path / "out")
    assert said in output
    assert "1 problem;" in output


def test_all_kinds_of_problems_are_named_at_once() -> None:
    names = ["z1", "z2", "z3", "z5", "z1 copy", "z3 (1)", "MAX_z"]
    result = order_planes([Path(f"{name}.tif") for name in names], None)
    assert [problem.partition(" (z*")[0] for problem in result.problems] == [
        "z1 copy.tif: a copy of z1.tif",
        "z3 (1).tif: a copy of z3.tif",
        "MAX_z.tif: not named like the others",
        "z4.tif: missing",
    ]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ("t1034_z0001 t1034_z0002 t1034_z0004 t1035_z0005 t1035_z0006", "t*_z0003.tif"),
        ("t1031_z1 t1032_z2 t1034_z4 t1035_z5", "t*_z3.tif"),
        ("z_-20 z_00 z_20 z_60 z_80", "z_40.tif"),
    ],
)
def test_gap_is_named_if_other_numbers_vary_too(names: str, missing: str) -> None:
    result = order_planes([Path(f"{name}.tif") for name in names.split()], None)
    assert result.problems == [f"{missing}: missing"]


def test_gap_in_one_of_several_times_is_named_with_the_order_that_was_told() -> None:
    paths = [
        Path(f"t{t}_z{z:04}.tif") for t in (1034, 1035) for z in range(9) if (t, z) != (1035, 5)
    ]
    assert order_planes(paths, "NAME").problems == ["t1035_z0005.tif: missing"]


def test_names_of_many_kinds_are_refused() -> None:
    paths = [Path(name) for name in ("z1.tif", "z2.tif", "x.tif", "AVG_1_2.tif")]
    with pytest.raises(SourceError, match="different parts"):
        order_planes(paths, None)
    with pytest.raises(BadInputError, match="--order NUMBER needs names with numbers"):
        order_planes(paths, "NUMBER")


def test_order_of_a_file_is_that_of_its_lines(tmp_path: Path) -> None:
    voxels = gradient((4, 5, 7))
    source = write_planes(tmp_path / "in", voxels)
    listing = tmp_path / "order.txt"
    listing.write_text("plane2.tif\n\nplane0.tif\r\n  plane3.tif\nplane1.tif")
    found = first_level(source, tmp_path / "out", "--order", str(listing))
    assert np.array_equal(found, voxels[[2, 0, 3, 1]])


def test_file_that_lists_other_names_is_refused_with_all_of_them(tmp_path: Path) -> None:
    source = write_planes(tmp_path / "in", gradient((4, 5, 7)))
    listing = tmp_path / "order.txt"
    listing.write_text("plane2.tif\nplane0.tif\nplane2.tif\nplane9.tif\nplane1.tif\n")
    output = refused(source, tmp_path / "out", "--order", str(listing))
    assert "3 problems;" in output
    assert "plane2.tif: listed twice" in output
    assert f"plane9.tif: in {listing}, but not in --source" in output
    assert f"plane3.tif: in --source, but not in {listing}" in output
    absent = refused(source, tmp_path / "out", "--order", str(tmp_path / "none.txt"))
    assert "none.txt" in absent


def test_plan_says_the_first_names_the_last_and_the_step(tmp_path: Path) -> None:
    voxels = gradient((5, 6, 7))
    write_planes(tmp_path / "in", voxels)
    for z in range(5):
        (tmp_path / "in" / f"plane{z}.tif").rename(tmp_path / "in" / f"z_{20 * z - 40:05}.tif")
    source = tmp_path / "in" / "*.tif"
    plan = ingest(source, tmp_path / "out", "--dry-run").output
    assert "order   z_-0040.tif, z_-0020.tif ... z_00040.tif (step 20)" in plan
    ingest(source, tmp_path / "out", "--levels", "1")
    assert np.array_equal(read_levels(tmp_path / "out")[0], voxels)
