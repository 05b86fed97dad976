"""What sites do to the scripts of `slurm/`: each test imitates one of their habits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.datasets import write_dataset
from tests.deploy import cluster as real
from tests.deploy import machine
from tests.deploy.cluster import SMALL, Cluster, Connection
from tests.deploy.login import SHARED, Login, greeting, login_node
from tests.deploy.machine import User, eventually, free_port
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
        {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""},
    ],
    ids=lambda habit: "+".join(habit),
)
def test_session_that_runs_is_listed_and_kept_whatever_its_user_likes_to_see(
    cluster: Cluster, site: Site, habit: dict[str, str]
) -> None:
    said = cluster.user.run([cluster.scripts / "launch", "status"], env=habit).stdout
    assert f"session {site.session}: job {site.session} RUNNING on " in said
    assert (cluster.place(site.session) / "tokens").read_text().strip().endswith(site.token)


UNANSWERED = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


@pytest.mark.parametrize(
    "programs",
    [{"squeue": ""}, {"squeue": UNANSWERED, "scontrol": UNANSWERED}],
    ids=["it shows less", "Slurm does not answer"],
)
def test_session_is_kept_while_squeue_lists_nothing(
    cluster: Cluster, site: Site, shared: Path, programs: dict[str, str]
) -> None:
    for name, does in programs.items():
        (shared / name).write_text(f"#!/bin/sh\n{does}\n")
        (shared / name).chmod(0o755)
    env = {"PATH": f"{shared}:{cluster.user.environment()['PATH']}"}
    cluster.user.run([cluster.scripts / "launch", "status"], env=env, check=False)
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


# --- tunnels ---


@contextmanager
def tunnel(
    cluster: Cluster, login: Login, session: str, port: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `launch tunnel` on another computer while the block lasts."""
    words = cluster.launch_from_afar("--local-port", str(port), "tunnel", session, ssh=login.ssh)
    with real.process(cluster.user, words, log) as started:
        yield started


def opened(log: Path) -> str:
    """Wait until launch says that the tunnel is open; give the URL."""

    def found() -> str:
        said = log.read_text()
        assert "launch: " not in said or "trying to log in" in said, said
        match = re.search(r"^Open  (\S+)$", said, re.MULTILINE)
        return match[1] if match else ""

    return eventually(found, "an open tunnel", 60)


def refused(cluster: Cluster, login: Login, session: str) -> str:
    """Run `launch tunnel`, which finds no way; give what it says."""
    words = cluster.launch_from_afar(
        "--local-port", str(free_port()), "tunnel", session, ssh=login.ssh
    )
    done = cluster.user.run(words, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Open" not in done.stdout
    return done.stderr


def test_tunnel_ends_with_launch_however_that_ends_and_opens_again(
    cluster: Cluster, site: Site, shared: Path
) -> None:
    port = free_port()
    with login_node(cluster.user, shared / "ssh", client=SHARED) as login:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            log = shared / f"{number}.log"
            with tunnel(cluster, login, site.session, port, log) as launch:
                url = opened(log)
                assert requests.get(f"{url}{CHUNK}").status_code == 200
                launch.send_signal(number)
                launch.wait(60)
                eventually(lambda: not real.is_open(port), "the end of the tunnel", 30)


def test_submit_picks_the_session_out_of_what_the_login_shell_prints(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    words: list[str | Path] = ["submit", data, f"IMAGE={cluster.image}", "--tunnel"]
    with greeting(cluster.user), login_node(cluster.user, shared / "ssh") as login:
        log, port = shared / "log", str(free_port())
        command = cluster.launch_from_afar(
            "--local-port", port, *words, "--", *SMALL, ssh=login.ssh
        )
        with real.process(cluster.user, command, log):
            url = opened(log)
            assert requests.get(f"{url}{CHUNK}").status_code == 200
            session = re.findall(r"^Stop .* (\d+)$", log.read_text(), re.MULTILINE)[0]
            cluster.submitted.append(session)
    said = log.read_text()
    assert "Welcome to the cluster" in said
    assert cluster.token(session) in url


def test_tunnel_that_the_login_node_forbids_says_so(
    cluster: Cluster, site: Site, shared: Path
) -> None:
    server = ["AllowTcpForwarding no"]
    with login_node(cluster.user, shared / "ssh", server=server, nodes=cluster.nodes) as login:
        said = refused(cluster, login, site.session)
    assert "there is no tunnel: login forbids the forwarding of ports (AllowTcpForwarding" in said


def test_tunnel_goes_through_the_node_where_nothing_else_is_allowed(
    cluster: Cluster, site: Site, shared: Path
) -> None:
    log, port = shared / "log", free_port()
    server = ["PermitOpen *:{nodes}"]
    with (
        login_node(cluster.user, shared / "ssh", server=server, nodes=cluster.nodes) as login,
        tunnel(cluster, login, site.session, port, log),
    ):
        assert requests.get(f"{opened(log)}{CHUNK}").status_code == 200
    assert f"trying to log in to {site.connection.node}" in log.read_text()


def test_login_that_fails_is_not_tried_again(cluster: Cluster, site: Site, shared: Path) -> None:
    with login_node(cluster.user, shared / "ssh") as login:
        (shared / "ssh" / "authorized").write_text("")
        said = refused(cluster, login, site.session)
        log = (shared / "ssh" / "login.log").read_text()
    assert "Permission denied" in said
    assert f"'launch --login {real.LOGIN} tunnel {site.session}' tries again" in said
    assert log.count("Connection closed by authenticating user") == 1


# --- nodes that the login node does not reach ---


def test_session_on_the_loopback_address_is_reached_by_a_login_to_its_node(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    session = cluster.submit(data, "HOST=127.0.0.1")
    said = cluster.launch("show", session)
    assert "the service listens on the loopback address" in said.stderr
    assert re.findall(r"^ *ssh -N -L (\S+) (-?\w+)", said.stdout, re.MULTILINE) == [
        (f"9000:localhost:{cluster.connection(session).port}", "-J")
    ]
    log, port = shared / "log", free_port()
    with login_node(cluster.user, shared / "ssh", nodes=cluster.nodes) as login:
        with tunnel(cluster, login, session, port, log):
            assert requests.get(f"{opened(log)}{CHUNK}").status_code == 200
        # Nodes that take no logins.
        (shared / "ssh" / "ssh_config").write_text(
            login.config.read_text().replace(" ".join(cluster.nodes), "none")
        )
        said_then = refused(cluster, login, session)
    assert "does not take this login" in said_then
    assert "there is no tunnel: the service listens on the loopback address of node" in said_then
    cluster.launch("stop", session)


def test_session_on_a_node_whose_name_is_unknown_is_reached_by_its_address(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    session = cluster.submit(data, "NODE_NAME=cn-0042.invalid")
    said = cluster.launch("show", session).stdout
    assert f"job {session} on cn-0042.invalid" in said
    ((target, _, _),) = re.findall(r"^ *ssh -N -L 9000:(([\d.]+):(\d+)) \S+$", said, re.MULTILINE)
    assert requests.get(f"http://{target}/api/health").ok
    assert re.search(rf"session {session}: .* healthy, ", cluster.launch("status").stdout)
    log, port = shared / "log", free_port()
    with (
        login_node(cluster.user, shared / "ssh") as login,
        tunnel(cluster, login, session, port, log),
    ):
        assert requests.get(f"{opened(log)}{CHUNK}").status_code == 200
    cluster.launch("stop", session)


def test_port_that_the_login_node_does_not_reach_is_named(cluster: Cluster, site: Site) -> None:
    # Of this session only the port is another one, to which nobody listens.
    place = cluster.place("4000000000")
    place.mkdir()
    try:
        for name in ("job", "connection.json"):
            text = (cluster.place(site.session) / name).read_text()
            port = free_port()
            (place / name).write_text(text.replace(str(site.connection.port), str(port)))
        cluster.user.own(place)
        said = cluster.launch("show", "4000000000")
    finally:
        shutil.rmtree(place)
    assert f"{site.connection.node} refuses connections to port {port} from " in said.stderr
    assert not re.search(r"^ *ssh -N -L \S+ [^-]", said.stdout, re.MULTILINE)


# --- links ---


@dataclass(frozen=True)
class Scratch:
    """A scratch directory that is a link, as ``/scratch`` to ``/lustre/x``, and data in it.

    Attributes:
        given: The data root by the name that people use.
        elsewhere: A directory outside of it, with a dataset.
    """

    given: Path
    elsewhere: Path


@pytest.fixture
def scratch(unmounted: Path, hpc: User) -> Scratch:
    real = unmounted / "lustre" / "x"
    given, elsewhere = unmounted / "scratch" / "data", real / "elsewhere"
    write_dataset(real / "data" / "brain")
    write_dataset(elsewhere / "cortex")
    (unmounted / "scratch").symlink_to(real)
    (real / "data" / "by-name").symlink_to(given / "brain")
    (real / "data" / "by-real-name").symlink_to(real / "data" / "brain")
    (real / "data" / "away").symlink_to(unmounted / "scratch" / "elsewhere" / "cortex")
    hpc.own(unmounted)
    return Scratch(given, elsewhere)


STATUSES = {"brain": 200, "by-name": 200, "by-real-name": 200, "away": 404}


@pytest.mark.parametrize(
    ("setting", "statuses"),
    [("BIND_LINKS=0", STATUSES), ("BIND_LINKS=1", {**STATUSES, "away": 200})],
    ids=["the data root", "and what its links lead to"],
)
def test_links_in_scratch_work_in_both_of_their_forms(
    cluster: Cluster, scratch: Scratch, setting: str, statuses: dict[str, int]
) -> None:
    session = cluster.submit(scratch.given, setting)
    connection, token = cluster.connection(session), cluster.token(session)

    def status(dataset: str) -> int:
        url = f"{connection.url}/token/{token}/{CHUNK.replace('brain', dataset, 1)}"
        return requests.get(url).status_code

    assert {dataset: status(dataset) for dataset in statuses} == statuses
    log = cluster.log(session)
    missing = f"not in this container (bind it: --bind {scratch.given.parent}/elsewhere)"
    assert (missing in log) == (statuses["away"] == 404), log
    assert "already in the mount point list" not in log
    cluster.launch("stop", session)


def test_check_says_which_bind_is_missing(hpc: User, sif: Path, scratch: Scratch) -> None:
    brain = scratch.given / "brain"
    (brain / "annotations" / "x0y0z0" / "away.json").symlink_to(scratch.elsewhere / "cortex/info")
    words = ["apptainer", "run", "--bind", str(scratch.given), str(sif), "check", str(brain)]
    said = hpc.run(words, check=False).stdout
    assert "link-broken" in said
    assert f"not in this container (bind it: --bind {scratch.elsewhere}/cortex)" in said
    assert "--follow-symlinks" not in said


# --- containers ---

RUN_CONTAINER = """
set -euo pipefail
fail() { echo "$*" >&2; exit 2; }
. "$1/container.sh"
begin "$2"
bind "$3"
exec "${run[@]}" "$2" check "$3/brain"
"""
NEEDED = ("bash", "dirname", "find", "hostname", "realpath", "unsquashfs", "squashfuse", "env")


def test_container_is_run_by_singularity_where_that_is_its_name(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    programs = shared / "bin"
    programs.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        if found is not None:
            (programs / name).symlink_to(found)
    engine = shutil.which("apptainer")
    assert engine is not None
    (programs / "singularity").symlink_to(engine)
    script: list[str | Path] = [
        "/bin/bash",
        "-c",
        RUN_CONTAINER,
        "bash",
        cluster.scripts,
        cluster.image,
        data,
    ]
    assert "no problems found" in cluster.user.run(["env", f"PATH={programs}", *script]).stdout
    (programs / "singularity").unlink()
    done = cluster.user.run(["env", f"PATH={programs}", *script], check=False)
    assert done.returncode == 2
    assert "there is neither apptainer nor singularity on " in done.stderr


def test_container_is_unpacked_where_users_may_not_mount_it(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    if os.geteuid() != 0:
        machine.missing("only root can take /dev/fuse away")
    (shared / "no-fuse").touch(0o000)
    words: list[str | Path] = [
        "bash",
        "-c",
        RUN_CONTAINER,
        "bash",
        cluster.scripts,
        cluster.image,
        data,
    ]
    inside = f'mount --bind {shared}/no-fuse /dev/fuse && exec "$@"'
    done = machine.run(
        ["unshare", "--mount", "sh", "-c", inside, "sh", *cluster.user.command(words)],
        env=cluster.user.environment(),
        cwd=shared,
    )
    assert "so it is unpacked at each start" in done.stderr
    assert "no problems found" in done.stdout


# --- resources ---


def test_job_that_needs_more_memory_than_it_has_is_told_in_words(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    hog = shared / "hog"
    hog.write_text("#!/bin/sh\nexec python3 -c 'x = bytearray(2**29); print(len(x))'\n")
    hog.chmod(0o755)
    words: list[str | Path] = ["submit", data, f"COMMAND={hog}", "--", "--time=2", "--mem=50M"]
    done = cluster.launch(*words, check=False)
    assert done.returncode == 3
    assert "It used more memory than the job has: submit it with more" in done.stderr


@pytest.mark.parametrize(
    ("options", "environment", "memory"),
    [
        ((), {}, "MinMemoryCPU=1G"),
        (("--mem=300M",), {}, "MinMemoryNode=300M"),
        (("--mem", "300M"), {}, "MinMemoryNode=300M"),
        (("--mem-per-cpu=300M",), {}, "MinMemoryCPU=300M"),
        ((), {"SBATCH_MEM_PER_NODE": "300M"}, "MinMemoryNode=300M"),
        ((), {"SBATCH_MEM_PER_CPU": "300M"}, "MinMemoryCPU=300M"),
    ],
    ids=["none", "of the node", "two words", "of a CPU", "variable", "variable for a CPU"],
)
def test_memory_may_be_asked_for_in_every_way_that_slurm_has(
    cluster: Cluster,
    data: Path,
    options: tuple[str, ...],
    environment: dict[str, str],
    memory: str,
) -> None:
    words: list[str | Path] = [cluster.scripts / "launch", "submit", data, "--no-wait"]
    words += ["--", "--begin=now+1hour", *options]
    session = cluster.user.run(words, env=environment).stdout.strip()
    cluster.submitted.append(session)
    assert memory in machine.run(["scontrol", "show", "job", session]).stdout
    cluster.launch("stop", session)


def test_submit_with_a_full_home_cancels_the_job_and_says_so(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    if os.geteuid() != 0:
        machine.missing("only root can mount a file system that is full")
    (shared / "home").mkdir()
    before = cluster.queue().keys()
    # Seen by this process alone; two blocks, which a file takes.
    inside = 'mount -t tmpfs -o size=8k,mode=0777 none "$0" && head -c 8k /dev/zero >"$0/x"; "$@"'
    words: list[str | Path] = [cluster.scripts / "launch", "submit", data, "--no-wait"]
    words += [f"STATE={shared}/home", "--", "--begin=now+1hour"]
    done = machine.run(
        ["unshare", "--mount", "sh", "-c", inside, shared / "home", *cluster.user.command(words)],
        env=cluster.user.environment(),
        cwd=shared,
        check=False,
    )
    assert done.returncode == 1
    assert f"{shared}/home cannot be written to, so the job was cancelled" in done.stderr
    assert cluster.queue().keys() <= before


def test_setting_of_the_environment_that_does_not_exist_is_told(
    cluster: Cluster, data: Path
) -> None:
    words: list[str | Path] = [cluster.scripts / "launch", "submit", data]
    words += ["--", "--partition=no-such"]
    done = cluster.user.run(words, env={"NEUROTRALE_RESUBMITS": "3"}, check=False)
    assert "NEUROTRALE_RESUBMITS is not a setting, and has no effect." in done.stderr
    assert "Did you mean RESUBMIT?" in done.stderr
