"""The command line of ingest: what it takes, what it refuses, what it says."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neurotrale.cli.output import ProgressLines, show_progress
from neurotrale.errors import BadInputError
from neurotrale.tools.ingest.budget import choose_budget
from neurotrale.tools.ingest.levels import make_levels
from neurotrale.tools.ingest.memory_limit import default_memory_bytes
from neurotrale.tools.ingest.report import size_text, time_text
from tests.datasets import gradient
from tests.processes import environment, neurotrale, run
from tests.stacks import ingest, read_levels, write_planes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_planes(tmp_path_factory.mktemp("planes"), gradient((70, 40, 50)))


# --- options ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--voxel-size", "1,2"], "expected three positive numbers"),
        (["--voxel-size", "1,2,0"], "expected three positive numbers"),
        (["--voxel-size", "1,2,nan"], "expected three positive numbers"),
        (["--voxel-size", "1,2,inf"], "expected three positive numbers"),
        (["--voxel-size", "1 2 3"], "expected three positive numbers"),
        (["--chunk-size", "64,64"], "expected three positive numbers, such as 64,64,64"),
        (["--chunk-size", "64,64,1.5"], "expected three positive numbers"),
        (["--chunk-size", "-64"], "expected three positive numbers"),
        (["--levels", "0"], "--levels"),
        (["--memory", "much"], "expected a size"),
        (["--memory", "-1G"], "expected a size"),
        (["--shard", "0/3"], "expected I/N"),
        (["--shard", "4/3"], "expected I/N"),
        (["--shard", "3"], "expected I/N"),
        (["--shard", "1/3", "--finish"], "--finish cannot be combined with"),
        (["--finish", "--plan"], "--finish cannot be combined with"),
        (["--layout", "blocks"], "--layout"),
        (["--format", "zarr"], "--format"),
        (["--n-cores", "0"], "--n-cores"),
        (["plane2.tif", "plane3.tif"], "The shell expands patterns without quotes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_option_that_makes_no_sense_is_refused(
    source: str, tmp_path: Path, options: list[str], said: str
) -> None:
    result = ingest(source, tmp_path / "out", *options, code=2)
    assert said in re.sub(r"\s+", " ", result.output)
    assert not (tmp_path / "out").exists()


def test_options_of_precomputed_tif_are_taken(source: str, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out", "--levels", "2", "--format", "tiff", "--n-cores", "1",
           "--voxel-size", "1.8,1.8,2.0", "--log", "WARNING")  # fmt: skip
    assert len(read_levels(tmp_path / "out")) == 2


# --- what is said ---


def test_plan_counts_what_the_run_then_writes(source: str, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    plan = ingest(source, dest, "--chunk-size", "16", "--plan").output
    assert not dest.exists()
    said = ingest(source, dest, "--chunk-size", "16").output
    planned = {m[1]: int(m[2]) for m in re.finditer(r"^ +(\d+_\d+_\d+) .*?  (\d+)  ", plan, re.M)}
    chunks = {path.name: len(list(path.iterdir())) for path in dest.iterdir() if "_" in path.name}
    assert planned == chunks
    assert f"files   {sum(chunks.values())} chunks" in plan
    inodes = 1 + sum(1 for _ in dest.rglob("*"))
    assert int(re.search(r"(\d+) inodes", plan)[1]) == inodes  # type: ignore[index]
    assert f"ingest: {sum(chunks.values())} chunks" in said
    assert f"done  {dest}" in said
    for word in ("source  70 planes of 50 x 40 uint16", "memory  ", "time    about "):
        assert word in plan


def test_plan_of_shards_names_disjoint_planes_that_are_all(source: str, tmp_path: Path) -> None:
    plan = ingest(source, tmp_path / "out", "--chunk-size", "8", "--shard", "2/3", "--plan").output
    spans = [(int(m[1]), int(m[2])) for m in re.finditer(r"planes (\d+) to (\d+)", plan)]
    assert len(spans) == 3
    assert [z for first, last in spans for z in range(first, last + 1)] == list(range(70))
    assert re.search(r"^finish  .*preview.png", plan, re.MULTILINE)


def test_plan_with_more_shards_than_slabs_says_so(source: str, tmp_path: Path) -> None:
    plan = ingest(source, tmp_path / "out", "--shard", "1/3", "--plan").output
    assert "none: too many shards" in plan


def test_output_that_is_no_terminal_has_no_bar(source: str, tmp_path: Path) -> None:
    done = run(neurotrale("ingest", "--source", source, "--dest", tmp_path / "out",
                          "--voxel-size", "1,1,1"))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_terminal_shows_rate_and_time_left(source: str, tmp_path: Path) -> None:
    arguments = neurotrale("ingest", "--source", source, "--dest", tmp_path / "out",
                           "--voxel-size", "1,1,1")  # fmt: skip
    pid, terminal = pty.fork()
    if not pid:
        termios.tcsetwinsize(0, (24, 80))
        os.execve(arguments[0], arguments, environment())
    shown = b"".join(_read(terminal)).decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    assert "100%|" in shown
    assert "280k/280k" in shown  # the size of the source, as in the plan
    assert "B/s" in shown


def _read(terminal: int) -> Iterator[bytes]:
    try:
        while piece := os.read(terminal, 4096):
            yield piece
    except OSError:  # the other side has ended
        return
    finally:
        os.close(terminal)


def test_lines_count_only_what_this_run_did_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgressLines, "every_s", 0.0)
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with show_progress("ingest", "B") as watch:
        watch(900_000, 1_000_000)
        time.sleep(0.1)
        watch(900_100, 1_000_000)
        watch(1_000_000, 1_000_000)
    (line,) = written.getvalue().splitlines()
    assert line.startswith("ingest:  90%")
    rate = float(re.search(r"([\d.]+)B/s", line)[1])  # type: ignore[index]
    assert 0 < rate <= 1000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (99, "99 s"), (120, "2 min"), (7500, "2 h 5 min")]
)
def test_time_text_is_short(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1536, "1.54 kB"), (2.5e12, "2.5 TB")]
)
def test_size_text_is_short(count: float, text: str) -> None:
    assert size_text(count) == text


# --- memory ---


def test_memory_by_default_is_a_part_of_what_the_slurm_job_has() -> None:
    assert default_memory_bytes({"SLURM_MEM_PER_NODE": "100"}, 4) == int(0.6 * 100 * 2**20)
    assert default_memory_bytes({"SLURM_MEM_PER_CPU": "50"}, 4) == int(0.6 * 200 * 2**20)
    whole = default_memory_bytes({}, 4)
    assert whole == pytest.approx(default_memory_bytes({"SLURM_MEM_PER_NODE": "0"}, 4), rel=0.2)
    assert whole > 100 * 2**20


@pytest.mark.parametrize("side", [100, 5_000, 50_000])
@pytest.mark.parametrize("limit_mb", [300, 2_000, 20_000, 200_000])
def test_means_stay_below_the_limit_or_are_refused(side: int, limit_mb: int) -> None:
    levels = make_levels((side, side, 10_000), (1, 1, 1), (64, 64, 64), None, False)
    limit = limit_mb * 2**20
    if side == 50_000 and limit_mb < 2_000:
        with pytest.raises(BadInputError, match="--memory is too small"):
            choose_budget(levels, "uint16", limit, 16, 0, first_is_chunks=False)
        return
    means = choose_budget(levels, "uint16", limit, 16, 0, first_is_chunks=False)
    assert means.bytes <= limit
    kept = list(means.in_memory)
    assert kept == sorted(kept)  # the coarsest first
    assert (means.scratch_bytes == 0) == all(kept)


def test_means_use_more_threads_where_memory_allows() -> None:
    levels = make_levels((5000, 5000, 1000), (1, 1, 1), (64, 64, 64), None, False)
    threads = [
        choose_budget(levels, "uint16", n * 2**20, 8, 0, first_is_chunks=False).threads
        for n in (400, 800, 4000)
    ]
    assert threads == sorted(set(threads))
    assert np.all(np.array(threads) <= 8)
