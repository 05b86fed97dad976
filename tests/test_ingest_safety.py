"""Ingest in the world: killed, started twice, divided into shards, short of memory."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neurotrale.locking.filesystems import exclusive_lock
from tests.processes import environment, eventually, neurotrale, run
from tests.stacks import (
    HALVES,
    expected_levels,
    ingest,
    labels,
    noise,
    read_levels,
    visible_files,
    write_planes,
)
from tests.test_cli import like_anybody

SHAPE = (150, 60, 70)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_planes(tmp_path_factory.mktemp("planes"), noise(SHAPE, "uint16"))


@pytest.fixture(scope="module")
def finished(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that comes of a run that nothing disturbs. Tests that change it make a copy."""
    dest = tmp_path_factory.mktemp("finished") / "out"
    ingest(source, dest, *OPTIONS)
    return dest


@pytest.fixture(scope="module")
def whole(finished: Path) -> dict[str, bytes]:
    """All files of the dataset that comes of a run that nothing disturbs."""
    return visible_files(finished)


OPTIONS = ("--chunk-size", "8", "--levels", "5", "--n-cores", "2")


def command(source: str, dest: Path, *options: str) -> list[str]:
    return neurotrale(
        "ingest", "--source", source, "--dest", dest, "--voxel-size", "1,1,1", *OPTIONS, *options
    )


def chunks_of(dest: Path) -> int:
    return sum(1 for _ in dest.glob("*/*.tiff"))


def leftovers(dest: Path) -> set[str]:
    """What is in the hidden directory beside the state and the locks, which stay."""
    return {p.name for p in (dest / ".ingest").iterdir() if p.suffix not in (".json", ".lock")}


# --- crashes ---


def kill_after(arguments: list[str], condition: Callable[[], bool]) -> bool:
    """Start a process and kill it without warning; tell whether it was still at work."""
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        eventually(lambda: condition() or process.poll() is not None, "it makes no progress")
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.parametrize("run_number", [0, pytest.param(1, marks=pytest.mark.long)])
def test_killed_again_and_again_gives_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path, seed: int, run_number: int
) -> None:
    rng = np.random.default_rng([seed, run_number])
    dest, killed = tmp_path / "out", 0
    for _ in range(4):
        more = chunks_of(dest) + int(rng.integers(1, 400))
        killed += kill_after(command(source, dest), lambda more=more: chunks_of(dest) >= more)  # type: ignore[misc]
        there = visible_files(dest)
        others = [(n, len(c), len(whole[n])) for n, c in there.items() if c != whole[n]]
        assert others == [], "chunks that are not whole: name, bytes, bytes of an undisturbed run"
    assert killed >= 1
    done = run(command(source, dest))
    assert done.returncode == 0, done.stderr
    assert visible_files(dest) == whole
    assert leftovers(dest) == set()


def test_killed_before_any_chunk_is_begun_again(
    source: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    kill_after(command(source, dest), lambda: (dest / ".ingest").exists())
    ingest(source, dest, *OPTIONS)
    assert visible_files(dest) == whole


@pytest.mark.quick(1)
@pytest.mark.parametrize("made", [[".ingest/plan.json"], [".ingest"], []], ids=str)
def test_stopped_while_it_makes_its_directories_is_begun_again(
    source: str, finished: Path, whole: dict[str, bytes], tmp_path: Path, made: list[str]
) -> None:
    dest = tmp_path / "out"
    dest.mkdir()
    for name in made:
        (dest / name).parent.mkdir(exist_ok=True)
        if name.endswith(".json"):
            (dest / name).write_bytes((finished / name).read_bytes())
        else:
            (dest / name).mkdir()
    ingest(source, dest, *OPTIONS)
    assert visible_files(dest) == whole


@pytest.mark.quick(1)
@pytest.mark.parametrize("planes", range(8, 150, 24))
def test_resumed_at_any_slab_gives_the_same_files(
    source: str, finished: Path, whole: dict[str, bytes], tmp_path: Path, planes: int
) -> None:
    dest = Path(shutil.copytree(finished, tmp_path / "out"))
    # As if it had been killed just after these planes: later chunks are not there yet.
    (dest / ".ingest" / "1-of-1.json").write_text(json.dumps({"planes": planes, "done": False}))
    (dest / ".ingest" / "finish.json").unlink()
    (dest / "preview.png").unlink()
    for path in dest.glob("*/*.tiff"):
        factor = int(path.parent.name.partition("_")[0])
        end = int(path.stem.rpartition("-")[2])
        if -(-min(end * factor, SHAPE[0]) // 8) * 8 > planes:
            path.unlink()
    result = ingest(source, dest, *OPTIONS)
    assert "continuing an earlier run" in result.output
    assert visible_files(dest) == whole


def test_resumed_reads_only_planes_that_are_not_done(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    planes = write_planes(tmp_path / "in", noise((64, 20, 20), "uint8"))
    ingest(planes, dest, *OPTIONS)
    before = visible_files(dest)
    (dest / ".ingest" / "1-of-1.json").write_text(json.dumps({"planes": 40, "done": False}))
    for path in (tmp_path / "in").iterdir():  # looks whole, cannot be read
        if int(path.stem.removeprefix("plane")) < 40:
            content = path.read_bytes()
            path.write_bytes(content[:-400] + bytes(400))
    ingest(planes, dest, *OPTIONS)
    assert visible_files(dest) == before


def test_done_already_writes_nothing(source: str, finished: Path, tmp_path: Path) -> None:
    dest = Path(shutil.copytree(finished, tmp_path / "out"))
    (dest / "info").write_text(json.dumps({"edited": True}))
    stamps = {path: path.stat().st_mtime_ns for path in dest.glob("*/*.tiff")}
    result = ingest(source, dest, *OPTIONS)
    assert "done before" in result.output
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert json.loads((dest / "info").read_text()) == {"edited": True}


# --- what is in the way ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layout", "pages"), '--layout was "single", now "pages"'),
        (("--compression", "zstd"), '--compression was "deflate", now "zstd"'),
        (("--voxel-size", "1,1,2"), "--voxel-size (nm) was"),
        (("--levels", "4"), "--levels was"),
        (("--chunk-size", "16"), "--chunk-size was [8, 8, 8], now [16, 16, 16]"),
        (("--segmentation",), "--segmentation was false, now true"),
        (("--shard", "1/2"), "shards was 1, now 2"),
    ],
)
@pytest.mark.quick(2)
def test_other_options_than_begun_with_are_refused(
    source: str, finished: Path, whole: dict[str, bytes], options: tuple[str, ...], said: str
) -> None:
    result = ingest(source, finished, *OPTIONS, *options, code=1)
    assert "begun with other options" in result.output
    assert said in result.output
    assert visible_files(finished) == whole


def test_other_planes_than_begun_with_are_refused(tmp_path: Path) -> None:
    first = write_planes(tmp_path / "a", np.ones((4, 5, 6), "uint8"))
    second = write_planes(tmp_path / "b", np.ones((4, 5, 6), "uint8"), compression="zlib")
    ingest(first, tmp_path / "out")
    assert "stack has changed" in ingest(second, tmp_path / "out", code=1).output


def test_dataset_of_others_is_refused_and_kept(source: str, tmp_path: Path) -> None:
    (tmp_path / "info").write_text("{}")
    assert "already holds a dataset" in ingest(source, tmp_path, *OPTIONS, code=1).output
    assert visible_files(tmp_path) == {"info": b"{}"}


def test_annotations_that_were_there_first_are_no_hindrance(source: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    ingest(source, tmp_path, "--levels", "1")
    assert (tmp_path / "annotations").is_dir()


def test_second_run_at_the_same_time_is_refused(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    with subprocess.Popen(command(source, dest), env=environment()) as first:
        eventually(lambda: chunks_of(dest) > 0, "it does not begin")
        first.send_signal(signal.SIGSTOP)
        try:
            second = run(command(source, dest))
        finally:
            first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    assert second.returncode == 1
    assert "Another ingest is running" in second.stderr


def test_run_that_opened_the_lock_before_another_ended_keeps_a_third_away(
    source: str, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    with subprocess.Popen(command(source, dest), env=environment()) as first:
        eventually(lambda: chunks_of(dest) > 0, "it does not begin")
        first.send_signal(signal.SIGSTOP)
        with (dest / ".ingest" / "1-of-1.lock").open("r+") as opened:
            first.send_signal(signal.SIGCONT)
            assert first.wait() == 0
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            third = run(command(source, dest))
            assert third.returncode == 1
            assert "Another ingest is running" in third.stderr
    ingest(source, dest, *OPTIONS)


# Holds the lock of a part again and again; complains when it is not alone.
HOLDER = """
import os, sys
from pathlib import Path
from neurotrale.errors import BusyError
from neurotrale.locking.filesystems import exclusive_lock
directory = Path(sys.argv[1])
held = 0
while held < 300:
    try:
        with exclusive_lock(directory / "1-of-1.lock"):
            descriptor = os.open(directory / "witness", os.O_CREAT | os.O_EXCL)
            os.close(descriptor)
            os.unlink(directory / "witness")
            held += 1
    except BusyError:
        pass
"""


def test_never_two_of_many_processes_hold_the_lock_of_a_part(tmp_path: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], env=environment())
        for _ in range(3)
    ]
    assert [holder.wait() for holder in holders] == [0, 0, 0]


def test_lock_that_another_user_made_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "1-of-1.lock"
    with exclusive_lock(path):
        pass
    path.chmod(0o444)  # what is left of the mode for who does not own it
    taking = "import sys\nfrom pathlib import Path\n"
    taking += "from neurotrale.locking.filesystems import exclusive_lock\n"
    taking += "with exclusive_lock(Path(sys.argv[1])): print('taken')"
    assert run(like_anybody([sys.executable, "-c", taking, str(path)])).stdout == "taken\n"


def test_lock_that_is_a_link_is_refused_and_not_followed(source: str, tmp_path: Path) -> None:
    dest, target = tmp_path / "out", tmp_path / "target"
    (dest / ".ingest").mkdir(parents=True)
    (dest / ".ingest" / "1-of-1.lock").symlink_to(target)
    assert "found a symbolic link" in ingest(source, dest, *OPTIONS, code=1).output
    assert not target.exists()


def test_full_disk_is_said_and_gone_on_with(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    limit = "import resource, sys\nfrom neurotrale.cli import main\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\nmain(sys.argv[1:])"
    failed = run([sys.executable, "-c", limit, *command(source, dest)[3:]])
    assert failed.returncode == 1
    assert "the disk is full or a quota" in failed.stderr
    assert "Traceback" not in failed.stderr
    ingest(source, dest, *OPTIONS)


def test_forbidden_directory_is_said(source: str) -> None:
    result = ingest(source, Path("/sys/out"), *OPTIONS, code=1)  # not even root may write there
    assert "permission" in result.output


# --- shards ---


@pytest.mark.quick(1)
@pytest.mark.parametrize("shards", [3, 1, 2, 17])
def test_shards_in_any_order_and_finish_give_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path, shards: int
) -> None:
    dest = tmp_path / "out"
    order = np.random.default_rng(shards).permutation(shards) + 1
    for number in order:
        ingest(source, dest, *OPTIONS, "--shard", f"{number}/{shards}")
    ingest(source, dest, *OPTIONS, "--finish")
    assert visible_files(dest) == whole
    assert leftovers(dest) == set()


def test_shards_at_the_same_time_give_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    processes = [
        subprocess.Popen(command(source, dest, "--shard", f"{n}/3"), env=environment())
        for n in (1, 2, 3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    finished = run(command(source, dest, "--finish"))
    assert finished.returncode == 0, finished.stderr
    assert visible_files(dest) == whole


def test_shards_of_labels_with_long_axes_give_the_levels_of_one_run(tmp_path: Path) -> None:
    voxels = labels((45, 30, 26), "uint32")
    source = write_planes(tmp_path / "in", voxels)
    options = ["--segmentation", "--isotropic", "--voxel-size", "1,1,2", "--chunk-size", "4"]
    options += ["--levels", "4"]
    for number in (2, 3, 1):
        ingest(source, tmp_path / "out", *options, "--shard", f"{number}/3")
    ingest(source, tmp_path / "out", *options, "--finish")
    expected = expected_levels(voxels, [(1, 2, 2), *HALVES[:2]], segmentation=True)
    for mine, theirs in zip(read_levels(tmp_path / "out"), expected, strict=True):
        assert np.array_equal(mine, theirs)


def test_shards_do_not_write_the_same_chunk(source: str, tmp_path: Path) -> None:
    written = []
    for number in (1, 2, 3):
        before = {path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/*/*.tiff")}
        ingest(source, tmp_path / "out", *OPTIONS, "--shard", f"{number}/3")
        after = {path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/*/*.tiff")}
        stamps = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in before}
        written.append((after - before, stamps))
    assert all(new for new, _ in written)
    for path, stamp in written[-1][1].items():
        assert (tmp_path / "out" / path).stat().st_mtime_ns == stamp


def test_finish_before_all_shards_names_those_that_are_missing(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    ingest(source, dest, *OPTIONS, "--shard", "2/4")
    result = ingest(source, dest, *OPTIONS, "--finish", code=3)
    assert "3 of 4 shards are not complete" in result.output
    for number in (1, 3, 4):
        assert f"--shard {number}/4" in result.output
    assert "--shard 2/4" not in result.output


def test_finish_of_nothing_is_refused(source: str, tmp_path: Path) -> None:
    result = ingest(source, tmp_path / "out", *OPTIONS, "--finish", code=1)
    assert "not begun yet" in result.output


def test_shard_and_finish_killed_give_the_same_files(
    source: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    kill_after(command(source, dest, "--shard", "1/2"), lambda: chunks_of(dest) > 150)
    ingest(source, dest, *OPTIONS, "--shard", "2/2")
    assert ingest(source, dest, *OPTIONS, "--finish", code=3).exit_code == 3
    ingest(source, dest, *OPTIONS, "--shard", "1/2")
    before = chunks_of(dest)
    kill_after(command(source, dest, "--finish"), lambda: chunks_of(dest) > before)
    ingest(source, dest, *OPTIONS, "--finish")
    assert visible_files(dest) == whole


# --- memory ---

_MEASURED = r"""
import re, sys
from neurotrale.cli import main
try:
    main(sys.argv[1:])
finally:
    status = open("/proc/self/status").read()
    print("peak", int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "segmentation",
    [pytest.param(False, id="image"), pytest.param(True, id="labels", marks=pytest.mark.long)],
)
def test_stack_larger_than_the_memory_stays_under_the_limit(
    tmp_path: Path, segmentation: bool
) -> None:
    planes, side, limit = 84, 1600, 200 * 2**20
    plane = np.zeros((side, side), "uint16")
    source = write_planes(
        tmp_path / "in", (plane + np.uint16(z) for z in range(planes)), compression="zlib"
    )
    assert planes * plane.nbytes > 2 * limit
    arguments = neurotrale("ingest", "--source", source, "--dest", tmp_path / "out",
                           "--voxel-size", "1,1,1", "--memory", "200M", "--n-cores", "2",
                           *["--segmentation"] * segmentation)[3:]  # fmt: skip
    done = run([sys.executable, "-c", _MEASURED, *arguments])
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.rpartition("peak ")[2])
    assert peak < limit
    fine = read_levels(tmp_path / "out")[0]
    assert np.array_equal(fine[:, 5, 7], np.arange(planes))
    assert leftovers(tmp_path / "out") == set()


@pytest.mark.quick(1)
@pytest.mark.parametrize("memory", ["135M", "1G"])
def test_scratch_file_and_memory_give_the_same_files(tmp_path: Path, memory: str) -> None:
    voxels = noise((40, 300, 500), "uint32")
    source = write_planes(tmp_path / "in", voxels)
    ingest(source, tmp_path / "out", "--chunk-size", "16", "--memory", memory)
    plan = ingest(source, tmp_path / "x", "--chunk-size", "16", "--memory", memory, "--plan")
    assert ("\nscratch " in plan.output) == (memory == "135M")
    assert np.array_equal(read_levels(tmp_path / "out")[0], voxels)


def test_memory_for_not_even_a_plane_is_refused(source: str, tmp_path: Path) -> None:
    result = ingest(source, tmp_path / "out", *OPTIONS, "--memory", "20M", code=1)
    assert "--memory is too small" in result.output
    assert not (tmp_path / "out").exists()
