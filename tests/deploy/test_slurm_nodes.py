"""One job on two nodes: a service on each, HAProxy before them, one annotation file."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.deploy import cluster as real
from tests.deploy.cluster import SMALL, Cluster
from tests.deploy.machine import User, eventually, missing, need
from tests.deploy.samples import CHUNK
from tests.processes import children


@pytest.fixture(scope="module")
def cluster(hpc: User, sources: Path, sif: Path) -> Iterator[Cluster]:
    need("haproxy")
    found = real.cluster(hpc, sources, sif)
    if len(found.nodes) < 2:
        missing("the cluster has one node only")
    yield found
    found.clean_up()


def test_lock_excludes_writers_of_two_nodes(cluster: Cluster, data: Path) -> None:
    locks: list[str | Path] = ["apptainer", "run", "--bind", data, cluster.image, "locks", data]
    said = cluster.user.run(["srun", "-N2", *locks]).stdout
    for node in cluster.nodes[:2]:
        assert f"{node}: counted 200 of 200: " in said
    assert "does NOT exclude" not in said
    assert sorted(path.name for path in data.iterdir()) == ["brain"]


def test_two_nodes_lose_no_acknowledged_edit_when_one_of_them_dies(
    cluster: Cluster, data: Path
) -> None:
    session = cluster.submit(data, options=[*SMALL, "--nodes=2"])
    connection = cluster.connection(session)
    token = cluster.token(session)
    nodes = {
        path.stem: json.loads(path.read_text())
        for path in (cluster.place(session) / "nodes").glob("[!.]*.json")
    }
    assert len(nodes) == 2
    (dying,) = set(nodes) - {connection.node}

    # Every node writes the same file: each is written to without the balancer, too.
    urls = [connection.url, *(f"http://{node}:{facts['port']}" for node, facts in nodes.items())]
    with (
        real.writing(urls[0], token, ["front-0", "front-1"]) as through_front,
        real.writing(urls[1], token, ["first"]) as to_first,
        real.writing(urls[2], token, ["second"]) as to_second,
    ):
        writers = [*through_front, *to_first, *to_second]
        eventually(lambda: all(len(one.acknowledged) > 5 for one in writers), "edits")
        supervisor = nodes[dying]["pid"]
        for pid in (supervisor, *children(supervisor)):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: f"/{dying} is DOWN" in cluster.log(session), "the node taken out")
        before = [len(one.acknowledged) for one in through_front]
        eventually(
            lambda: all(
                len(one.acknowledged) > count + 5
                for one, count in zip(through_front, before, strict=True)
            ),
            "edits after the death of a node",
        )
        for number in range(20):  # whichever node these would be from
            chunk = requests.get(f"{connection.url}/token/{token}/{CHUNK}?{number}")
            assert chunk.status_code == 200
    assert {id_ for one in writers for id_ in one.acknowledged} <= real.ids_in(data)

    cluster.launch("stop", session)
    assert cluster.ended(session)["JobState"] == "COMPLETED"
    assert token not in cluster.log(session)
    assert not cluster.place(session).exists()


def test_two_nodes_stop_without_losing_an_edit(cluster: Cluster, data: Path) -> None:
    session = cluster.submit(data, options=[*SMALL, "--nodes=2"])
    connection = cluster.connection(session)
    with real.writing(connection.url, cluster.token(session), ["a", "b", "c"]) as writers:
        eventually(lambda: all(len(one.acknowledged) > 3 for one in writers), "edits")
        cluster.launch("stop", session)
    job = cluster.ended(session)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0")
    assert cluster.log(session).count("SIGTERM: finishing the requests in flight") == 2
    assert {id_ for one in writers for id_ in one.acknowledged} <= real.ids_in(data)


def test_job_on_two_nodes_refuses_an_address_that_only_one_of_them_reaches(
    cluster: Cluster, data: Path
) -> None:
    session = cluster.submit(data, "HOST=127.0.0.1", options=[*SMALL, "--nodes=2"])
    done = cluster.launch("show", session, check=False)
    assert done.returncode == 3
    assert "HOST must be 0.0.0.0, not 127.0.0.1" in done.stderr
