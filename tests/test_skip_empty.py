"""Chunks of a single value that ingest leaves out: which, and who knows of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.tools.ingest.plan import IngestRequest, plan_for
from neurotrale.tools.ingest.run import run_finish, run_shard
from neurotrale.tools.ingest.sources import Volume
from tests.datasets import Voxels
from tests.examples import examples
from tests.stacks import HALVES, chunk_boxes, expected_levels, ingest, noise, write_planes
from tests.test_check import check, counts
from tests.test_ingest_sources import refused


def brain(value: float = 0, dtype: str = "uint16") -> Voxels:
    """Voxels that are the value in all but one corner, and in one voxel far from there."""
    voxels = np.full((40, 24, 32), value, dtype)
    voxels[:10, :10, :10] = noise((10, 10, 10), dtype)
    voxels[30, 20, 30] = 3
    return voxels


def assert_left_out(dataset: Path, levels: list[Voxels], value: float) -> int:
    """Compare all chunks, and count those that are left out: the ones of the value only."""
    info = json.loads((dataset / "info").read_text())
    left_out = 0
    for scale, voxels in zip(info["scales"], levels, strict=True):
        for name, box in chunk_boxes(tuple(scale["size"]), scale["chunk_sizes"][0]):
            path = dataset / scale["key"] / f"{name}.tiff"
            is_empty = bool((voxels[box] == value).all())
            assert path.exists() != is_empty, path
            left_out += is_empty
            if not is_empty:
                assert np.array_equal(tifffile.imread(path).reshape(voxels[box].shape), voxels[box])
    return left_out


@pytest.mark.parametrize("layout", ["single", "pages"])
@pytest.mark.parametrize(
    ("value", "dtype", "options"),
    [
        (0, "uint16", ["--skip-empty"]),
        (0, "uint8", ["--skip-empty", "--segmentation"]),
        (65535, "uint16", ["--skip-empty", "65535"]),
        (1.5, "float32", ["--skip-empty=1.5"]),
    ],
)
def test_chunks_of_only_the_value_are_left_out_and_check_knows_them(
    tmp_path: Path, value: float, dtype: str, options: list[str], layout: str
) -> None:
    voxels = brain(value, dtype)
    source, dest = write_planes(tmp_path / "in", voxels), tmp_path / "out"
    all_options = [*options, "--chunk-size", "8", "--levels", "3", "--layout", layout]
    assert "are left out" in ingest(source, dest, *all_options, "--dry-run").output
    said = ingest(source, dest, *all_options).output
    levels = expected_levels(voxels, HALVES[:2], "--segmentation" in options)
    left_out = assert_left_out(dest, levels, value)
    assert left_out > 30
    assert f"({left_out} left out)" in said
    assert counts(check(dest, code=0)) == {"chunk-empty": left_out}
    next((dest / "1_1_1").iterdir()).unlink()
    assert counts(check(dest, code=1)) == {"chunk-empty": left_out, "chunk-missing": 1}


def test_all_chunks_are_written_unless_told(tmp_path: Path) -> None:
    source, dest = write_planes(tmp_path / "in", np.zeros((9, 8, 8), "uint8")), tmp_path / "out"
    ingest(source, dest, "--chunk-size", "8", "--levels", "1")
    assert len(list((dest / "1_1_1").iterdir())) == 2
    assert not list((dest / ".ingest").glob("*.empty"))
    assert (
        "other options"
        in ingest(source, dest, "--chunk-size", "8", "--levels", "1", "--skip-empty", code=1).output
    )


def test_volume_of_only_the_value_has_no_chunks_and_nothing_is_missing(tmp_path: Path) -> None:
    source, dest = write_planes(tmp_path / "in", np.zeros((9, 8, 8), "uint8")), tmp_path / "out"
    ingest(source, dest, "--chunk-size", "8", "--levels", "2", "--skip-empty")
    assert not list(dest.glob("*_*_*/*"))
    assert counts(check(dest, code=0)) == {"chunk-empty": 3}


@pytest.mark.parametrize(("dtype", "value"), [("uint8", "256"), ("uint8", "0.5")])
def test_value_that_the_type_does_not_have_is_refused(
    tmp_path: Path, dtype: str, value: str
) -> None:
    source = write_planes(tmp_path / "in", noise((2, 3, 4), dtype))
    said = refused(source, tmp_path / "out", f"--skip-empty={value}")
    assert f"{dtype} has no such value" in said


def test_planes_that_change_move_chunks_in_and_out(tmp_path: Path) -> None:
    voxels = brain()
    source, dest = write_planes(tmp_path / "in", voxels), tmp_path / "out"
    options = ["--skip-empty", "--chunk-size", "8", "--levels", "3"]
    ingest(source, dest, *options)
    voxels[:16, :10, :10] = 0
    voxels[20, 12, 12] = 9
    write_planes(tmp_path / "in", voxels)
    ingest(source, dest, *options, "--again")
    left_out = assert_left_out(dest, expected_levels(voxels, HALVES[:2]), 0)
    assert counts(check(dest, code=0)) == {"chunk-empty": left_out}


class StoppedError(Exception):
    """Raised where a run is stopped."""


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), shards=st.integers(1, 3), stop_after=st.integers(1, 60))
def test_shards_and_interrupted_runs_leave_out_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shards: int, stop_after: int
) -> None:
    voxels = np.zeros((40, 9, 17), "uint8")
    for _ in range(data.draw(st.integers(0, 4))):
        at = tuple(data.draw(st.integers(0, n - 1)) for n in voxels.shape)
        voxels[at] = 200
    dest = tmp_path_factory.mktemp("skip") / "out"
    request = IngestRequest(
        "volume", dest, (1.0, 1.0, 1.0), levels=3, chunk_vx=(4, 4, 4), shards=shards, skip_empty=0
    )
    plan = plan_for(request, Volume(voxels))
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise StoppedError

    def ignore(done: int, total: int) -> None:
        pass

    for shard in range(1, shards + 1):
        try:
            run_shard(plan, shard, stop)
        except StoppedError:
            run_shard(plan, shard, ignore)
    run_finish(plan, ignore)
    left_out = assert_left_out(dest, expected_levels(voxels, HALVES[:2]), 0)
    assert counts(check(dest, code=0)) == ({"chunk-empty": left_out} if left_out else {})
