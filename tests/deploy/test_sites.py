"""What sites do to the scripts of `slurm/`: each test imitates one of their habits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.datasets import write_dataset
from tests.deploy import cluster as real
from tests.deploy import machine
from tests.deploy.cluster import SMALL, Cluster, Connection
from tests.deploy.machine import User
from tests.deploy.samples import CHUNK, FIBERS, POINT


@pytest.fixture(scope="module")
def cluster(hpc: User, sources: Path, sif: Path) -> Iterator[Cluster]:
    found = real.cluster(hpc, sources, sif)
    yield found
    found.clean_up()


@dataclass(frozen=True)
class Site:
    """A session on a cluster whose site file is as site files are.

    Attributes:
        session: Its number.
        data: The data root, with a comma and a colon in its name.
        connection: Where it answers.
        token: Its token.
        environment: Set for whoever submits there.
    """

    session: str
    data: Path
    connection: Connection
    token: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def site(cluster: Cluster, hpc: User) -> Iterator[Site]:
    with machine.unmounted() as place:
        yield from _site(cluster, hpc, place)


def _site(cluster: Cluster, hpc: User, place: Path) -> Iterator[Site]:
    data = place / "served, or so: not"
    write_dataset(data / "brain")
    file = place / "site"
    # Variables that nobody has set, commands that fail, and a policy for jobs.
    file.write_text('MODULES="$LMOD_DIR:$MODULEPATH"\nfalse\nexport SBATCH_EXPORT=NONE\nfalse\n')
    (place / "image.sif").symlink_to(cluster.image)
    hpc.own(place)
    environment = {"NEUROTRALE_SITE": str(file)}
    settings = ["IMAGE=image.sif", "READ_ONLY=1", "WORKERS=1", "RESUBMIT=1"]
    said = hpc.run(
        [cluster.scripts / "launch", "submit", data.name, *settings, "--no-wait", "--", *SMALL],
        env=environment,
        cwd=place,
    )
    session = said.stdout.strip()
    cluster.submitted.append(session)
    yield Site(session, data, cluster.connection(session), cluster.token(session), environment)
    cluster.launch("stop", session, check=False)


def test_job_gets_its_settings_where_the_site_passes_nothing_on(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.token}"}
    health = requests.get(f"{site.connection.url}/api/health", headers=headers).json()
    assert health["read_only"] is True
    assert requests.get(f"{site.connection.url}/{CHUNK}", headers=headers).status_code == 200
    edit = requests.patch(f"{site.connection.url}/{FIBERS}?id=x", data=POINT, headers=headers)
    assert edit.status_code == 403


def test_job_that_follows_is_queued_where_the_site_passes_nothing_on(
    cluster: Cluster, site: Site
) -> None:
    successor = (cluster.place(site.session) / "next").read_text().strip()
    assert cluster.queue()[successor] == "PENDING"


@pytest.mark.parametrize(
    "habit",
    [
        {"SQUEUE_STATES": "PENDING"},
        {"SQUEUE_FORMAT": "%j %u"},
        {"SQUEUE_FORMAT2": "JobID"},
        {"SQUEUE_USERS": "nobody"},
        {"SQUEUE_PARTITION": "other"},
        {"SQUEUE_SORT": "nonsense"},
        {"SLURM_TIME_FORMAT": "%H"},
        {"SCONTROL_FUTURE": "1", "SCONTROL_ALL": "1"},
    ],
    ids=lambda habit: "+".join(habit),
)
def test_session_that_runs_is_listed_and_kept_whatever_its_user_likes_to_see(
    cluster: Cluster, site: Site, habit: dict[str, str]
) -> None:
    said = cluster.user.run([cluster.scripts / "launch", "status"], env=habit).stdout
    assert f"session {site.session}: job {site.session} RUNNING on " in said
    assert (cluster.place(site.session) / "tokens").read_text().strip().endswith(site.token)


def test_session_is_kept_while_squeue_lists_nothing(
    cluster: Cluster, site: Site, shared: Path
) -> None:
    # As with a squeue of the site's own that shows less, or a controller that has just started.
    squeue = shared / "squeue"
    squeue.write_text("#!/bin/sh\n")
    squeue.chmod(0o755)
    env = {"PATH": f"{shared}:{cluster.user.environment()['PATH']}"}
    cluster.user.run([cluster.scripts / "launch", "status"], env=env)
    assert (cluster.place(site.session) / "tokens").read_text().strip().endswith(site.token)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("RESUBMITS=3", "there is no setting RESUBMITS. Did you mean RESUBMIT?"),
        ("READONLY=1", "there is no setting READONLY. Did you mean READ_ONLY?"),
        ("NEUROTRALE_IMAGES=x", "there is no setting IMAGES. Did you mean IMAGE?"),
        ("XYZ=1", "there is no setting XYZ. README.md"),
    ],
    ids=lambda value: value.partition("=")[0],
)
def test_setting_that_does_not_exist_is_refused(
    cluster: Cluster, data: Path, word: str, said: str
) -> None:
    before = cluster.queue()
    done = cluster.launch("submit", data, word, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert cluster.queue().keys() <= before.keys()
