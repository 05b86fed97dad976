"""A dataset made by a job array: a shard for each task, and a job that finishes them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.deploy import cluster as real
from tests.deploy.cluster import Cluster
from tests.deploy.machine import User, run

SHAPE_ZYX = (100, 150, 140)


@pytest.fixture(scope="module")
def cluster(hpc: User, sources: Path, sif: Path) -> Cluster:
    return real.cluster(hpc, sources, sif)


def submitted(cluster: Cluster, data: Path, planes: Path, cwd: Path) -> tuple[str, str]:
    """Submit the command of the page with other names; give the array and the job after it."""
    page = (cluster.scripts / "README.md").read_text()
    (command,) = re.findall(r"^slurm/ingest .*$", page, re.MULTILINE)
    for name, value in {
        "slurm/": f"{cluster.scripts}/",
        " 8 ": " 2 ",
        "/lab/data": str(data),
        "/lab/planes": str(planes),
    }.items():
        command = command.replace(name, value)
    env = {"NEUROTRALE_IMAGE": str(cluster.image), "SBATCH_TIMELIMIT": "5"}
    said = cluster.user.run(shlex.split(command), env=env, cwd=cwd).stdout
    array, finish = re.findall(r"^job (\d+): ", said, re.MULTILINE)
    return array, finish


@pytest.mark.parametrize("options", [(), ("--array=1-2",)], ids=["finish", "array"])
def test_ingest_script_is_one_that_slurm_takes_as_it_stands(
    cluster: Cluster, options: tuple[str, ...]
) -> None:
    cluster.user.run(["sbatch", "--test-only", *options, cluster.scripts / "ingest.sbatch"])


def test_array_makes_the_dataset_that_its_planes_are(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    planes = shared / "planes"
    planes.mkdir()
    voxels = np.arange(np.prod(SHAPE_ZYX)).reshape(SHAPE_ZYX).astype("uint16")
    for z, plane in enumerate(voxels):
        tifffile.imwrite(planes / f"plane-{z:04}.tif", plane)
    cluster.user.own(shared)
    _, finish = submitted(cluster, data, planes, shared)
    job = cluster.ended(finish)
    logs = "\n".join(path.read_text() for path in shared.glob("neurotrale-ingest-*.log"))
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), logs
    info = json.loads((data / "mouse-4" / "info").read_text())
    assert info["scales"][0]["size"] == [140, 150, 100]
    chunk = tifffile.imread(data / "mouse-4" / info["scales"][0]["key"] / "64-128_0-64_64-100.tiff")
    assert np.array_equal(chunk.reshape(36, 64, 64), voxels[64:100, 0:64, 64:128])


def test_array_sees_what_its_options_name_however_they_are_written(
    cluster: Cluster, shared: Path, unmounted: Path
) -> None:
    planes, dest = unmounted / "planes, all: 1", unmounted / "new" / "lab" / "mouse-5"
    planes.mkdir()
    for z in range(2):
        tifffile.imwrite(planes / f"plane-{z:04}.tif", np.full((70, 70), z, "uint8"))
    (unmounted / "lists").mkdir()
    order = unmounted / "lists" / "order.txt"
    order.write_text("plane-0001.tif\nplane-0000.tif\n")
    cluster.user.own(unmounted)
    env = {"NEUROTRALE_IMAGE": str(cluster.image), "SBATCH_TIMELIMIT": "5", "SBATCH_EXPORT": "NONE"}
    words = [f"--source={planes}/*.tif", f"--dest={dest}", f"--order={order}", "--voxel-size=1,1,1"]
    said = cluster.user.run([cluster.scripts / "ingest", "1", *words], env=env, cwd=shared).stdout
    (finish,) = re.findall(r"^job (\d+): finishes", said, re.MULTILINE)
    job = cluster.ended(finish)
    logs = "\n".join(path.read_text() for path in shared.glob("neurotrale-ingest-*.log"))
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), logs
    assert json.loads((dest / "info").read_text())["scales"][0]["size"] == [70, 70, 2]


def test_array_that_fails_takes_the_job_after_it_along(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    (shared / "planes").mkdir()
    _, finish = submitted(cluster, data, shared / "planes", shared)
    assert cluster.ended(finish)["JobState"] == "CANCELLED"
    assert not (data / "mouse-4" / "info").exists()
    logs = [path.read_text() for path in shared.glob("neurotrale-ingest-*.log")]
    assert len(logs) == 2
    assert all("planes" in log for log in logs)


def test_ingest_without_options_tells_its_usage(cluster: Cluster) -> None:
    done = run([cluster.scripts / "ingest"], check=False)
    assert done.returncode == 2
    assert "slurm/ingest SHARDS --source" in done.stderr
