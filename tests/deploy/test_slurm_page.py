"""The page about Slurm, followed as a reader would: every command of it, in order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.deploy import cluster as real
from tests.deploy.cluster import Cluster
from tests.deploy.machine import User, eventually, free_port
from tests.deploy.samples import CHUNK


@pytest.fixture(scope="module")
def cluster(hpc: User, sources: Path, sif: Path) -> Iterator[Cluster]:
    found = real.cluster(hpc, sources, sif)
    yield found
    found.clean_up()


def stop_if_there(cluster: Cluster, session: str) -> None:
    if session in cluster.queue():
        eventually(cluster.place(session).exists, "the start of the job")
        cluster.launch("stop", session)


def look_through_tunnel(cluster: Cluster, words: list[str], port: int, log: Path) -> str:
    """Run a command that opens a tunnel, fetch a chunk through it; give what was said."""

    def printed() -> list[str]:
        return re.findall(r"^Open  (\S+)", log.read_text(), re.MULTILINE)

    with real.process(cluster.user, words, log):
        (url,) = eventually(printed, "the URL")
        eventually(lambda: real.is_open(port), "the tunnel")
        assert requests.get(f"{url}{CHUNK}").status_code == 200
    eventually(lambda: not real.is_open(port), "the end of the tunnel")
    return log.read_text()


def test_page_is_right_about_every_command(cluster: Cluster, data: Path, shared: Path) -> None:
    real.needs_login(cluster.user)
    page = (cluster.scripts / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    commands = [line for line in commands if "slurm/ingest" not in line]  # see test_slurm_ingest
    assert len(commands) > 8
    port, session = free_port(), ""
    for command in commands:
        begins = " submit " in command or command.startswith("sbatch ")
        if begins or command.startswith("srun "):
            stop_if_there(cluster, session)
        for name, value in {
            "--login hpc.example.org": f"--login {real.LOGIN} --local-port {port}",
            "/lab/data": str(data),
            "/apps/neurotrale.sif": str(cluster.image),
            " 4711": f" {session}",
            "slurm/": f"{cluster.scripts}/",
        }.items():
            command = command.replace(name, value)
        words = ["env", f"NEUROTRALE_SSH={shlex.join(real.SSH)}", *shlex.split(command)]
        if "tunnel" in words or "--tunnel" in words:
            said = look_through_tunnel(cluster, words, port, shared / "log")
        else:
            done = cluster.user.run(words, cwd=shared)
            said = done.stdout + done.stderr
        if begins:
            session = re.findall(r"\bjob (\d+)", said)[0]
            cluster.submitted.append(session)
        if words[-1] == "status":
            assert f"session {session}: " in said
    stop_if_there(cluster, session)
