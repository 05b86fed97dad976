"""A job of Slurm that serves: submitted, reached, written to, stopped and continued."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.datasets import write_dataset
from tests.deploy import cluster as real
from tests.deploy.cluster import SMALL, Cluster, Connection
from tests.deploy.login import SHARED, greeting, login_node
from tests.deploy.machine import User, eventually, free_port
from tests.deploy.samples import CHUNK, FIBERS, POINT
from tests.processes import children


@pytest.fixture(scope="module")
def cluster(hpc: User, sources: Path, sif: Path) -> Iterator[Cluster]:
    found = real.cluster(hpc, sources, sif)
    yield found
    found.clean_up()


@dataclass(frozen=True)
class Served:
    """A session that serves, on the last node."""

    session: str
    said: str
    data: Path
    connection: Connection
    token: str


@pytest.fixture(scope="module")
def served(cluster: Cluster, ground: Path, hpc: User) -> Iterator[Served]:
    data = ground / "served"
    write_dataset(data / "brain")
    hpc.own(data)
    options = ["--time=10", "--cpus-per-task=2", f"--nodelist={cluster.nodes[-1]}"]
    done = cluster.launch("submit", data, f"IMAGE={cluster.image}", "--", *options)
    (session,) = re.findall(r"^Session (\d+)", done.stdout, re.MULTILINE)
    yield Served(session, done.stdout, data, cluster.connection(session), cluster.token(session))
    cluster.launch("stop", session, check=False)


# --- the job script ---


@pytest.mark.parametrize("options", [(), ("--nodes=2",)], ids=["one node", "two nodes"])
def test_job_script_is_one_that_slurm_takes_as_it_stands(
    cluster: Cluster, options: tuple[str, ...]
) -> None:
    cluster.user.run(["sbatch", "--test-only", *options, cluster.scripts / "serve.sbatch"])


def test_job_script_without_data_says_what_to_set(cluster: Cluster) -> None:
    log = cluster.user.home / "neurotrale-test.log"
    script = cluster.scripts / "serve.sbatch"
    cluster.user.run(["sbatch", "--wait", f"--output={log}", script], check=False)
    try:
        assert "Set NEUROTRALE_DATA" in log.read_text()
    finally:
        log.unlink()


# --- a session ---


def test_session_tells_in_numbered_steps_how_to_reach_it(served: Served) -> None:
    node, port = served.connection.node, served.connection.port
    assert re.findall(r"^(\d)\.", served.said, re.MULTILINE) == ["1", "2", "3"]
    assert f"ssh -N -L 9000:{node}:{port} " in served.said
    assert re.search(rf"ssh -N -L 9000:localhost:{port} -J \S+ \S+@{node}\n", served.said)
    assert f"http://localhost:9000/token/{served.token}/\n" in served.said
    assert f"scancel --signal=TERM --batch {served.session}" in served.said


def test_log_of_the_job_tells_the_same_but_no_token(cluster: Cluster, served: Served) -> None:
    log = cluster.log(served.session)
    assert re.findall(r"^(\d)\.", log, re.MULTILINE) == ["1", "2", "3"]
    assert f"ssh -N -L 9000:{served.connection.node}:{served.connection.port} " in log
    assert str(cluster.place(served.session) / "tokens") in log
    assert served.token not in log


def test_files_of_a_session_are_for_its_user_alone(cluster: Cluster, served: Served) -> None:
    place = cluster.place(served.session)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (place, *place.iterdir())}
    assert modes.pop(place) == 0o700
    assert stat.S_IMODE(cluster.state.stat().st_mode) == 0o700
    assert modes[place / "tokens"] == modes[place / "connection.json"] == 0o600
    assert (place / "tokens").read_text() == f"{cluster.user.name}:rw:{served.token}\n"
    assert len(served.token) >= 32


def test_session_runs_where_it_was_asked_to_with_a_worker_for_each_cpu(
    cluster: Cluster, served: Served
) -> None:
    assert served.connection.node == cluster.nodes[-1]
    eventually(lambda: len(children(served.connection.pid)) == 2, "a worker for each CPU")


def test_tunnel_through_the_login_node_needs_the_token(
    cluster: Cluster, served: Served, shared: Path
) -> None:
    real.needs_login(cluster.user)
    with real.forwarded(cluster.user, served.said, shared) as url:
        assert requests.get(f"{url}/api/health").status_code == 200
        assert requests.get(f"{url}/{CHUNK}").status_code == 401
        assert requests.patch(f"{url}/{FIBERS}?id=mine", data=POINT).status_code == 401
        wrong = f"{url}/token/{served.token[:-1]}x"
        assert requests.get(f"{wrong}/{CHUNK}").status_code == 401
        chunk = requests.get(f"{url}/token/{served.token}/{CHUNK}")
        assert (chunk.status_code, len(chunk.content)) == (200, 64 * 64 * 64 * 2)


def test_annotation_edited_through_the_tunnel_is_in_the_file(
    cluster: Cluster, served: Served, shared: Path
) -> None:
    real.needs_login(cluster.user)
    with real.forwarded(cluster.user, served.said, shared) as url:
        edit = requests.patch(f"{url}/token/{served.token}/{FIBERS}?id=mine", data=POINT)
    assert edit.status_code == 201
    assert "mine" in real.ids_in(served.data)
    assert (served.data / FIBERS).stat().st_uid == cluster.user.uid


def test_status_lists_the_session(cluster: Cluster, served: Served) -> None:
    line = f"session {served.session}: job {served.session} RUNNING on {served.connection.node}"
    assert f"{line}, port {served.connection.port}, healthy, " in cluster.launch("status").stdout


def test_status_works_in_a_login_without_a_profile(cluster: Cluster, served: Served) -> None:
    real.needs_login(cluster.user)
    command = [*real.SSH, real.LOGIN, "env", "-i", f"HOME={cluster.user.home}",
               "PATH=/usr/bin:/bin", str(cluster.scripts / "launch"), "status"]  # fmt: skip
    assert f"session {served.session}: " in cluster.user.run(command).stdout


# --- its end ---


def test_stop_loses_no_edit_and_leaves_nothing_behind(cluster: Cluster, data: Path) -> None:
    session = cluster.submit(data, "RESUBMIT=2")
    connection = cluster.connection(session)
    successor = (cluster.place(session) / "next").read_text().strip()
    assert cluster.queue()[successor] == "PENDING"
    with real.writing(connection.url, cluster.token(session), ["a", "b", "c"]) as writers:
        eventually(lambda: all(len(w.acknowledged) > 3 for w in writers), "edits")
        cluster.launch("stop", session)
    job = cluster.ended(session)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0")
    assert cluster.ended(successor)["JobState"] == "CANCELLED"
    assert {id_ for writer in writers for id_ in writer.acknowledged} <= real.ids_in(data)
    assert not cluster.place(session).exists()


def test_stop_as_the_log_says_it_ends_what_would_go_on_too(cluster: Cluster, data: Path) -> None:
    session = cluster.submit(data, "RESUBMIT=2")
    cluster.connection(session)
    successor = (cluster.place(session) / "next").read_text().strip()
    (command,) = re.findall(r"scancel .*", cluster.log(session))
    cluster.user.run(command.split())
    job = cluster.ended(session)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0")
    assert not (cluster.place(session) / "connection.json").exists()
    assert cluster.ended(successor)["ExitCode"] == "0:0"
    assert f"job {session} was stopped or failed before its time limit" in cluster.log(successor)
    assert not re.search(rf"session {session}\b", cluster.launch("status").stdout)
    assert not cluster.place(session).exists()


def test_job_that_fails_at_once_is_told_and_not_repeated(cluster: Cluster, data: Path) -> None:
    words: list[str | Path] = [
        "submit",
        data,
        f"IMAGE={cluster.image}",
        "RESUBMIT=3",
        "LOCK=bogus",
        "--",
        *SMALL,
    ]
    before = set(cluster.queue())
    done = cluster.launch(*words, check=False)
    assert done.returncode == 3
    assert "'bogus' is not one of" in done.stderr
    eventually(lambda: set(cluster.queue()) <= before, "the end of the chain")


def test_job_that_is_pending_is_explained_and_can_be_stopped(cluster: Cluster, data: Path) -> None:
    session = cluster.submit(data, options=[*SMALL, "--begin=now+1hour"])
    line = f"session {session}: job {session} PENDING: its start time has not come yet (BeginTime)"
    # Until Slurm has looked at a new job, it tells no reason.
    eventually(lambda: line in cluster.launch("status").stdout, "why the job is pending")
    cluster.launch("stop", session)
    assert cluster.ended(session)["JobState"] == "CANCELLED"


def test_settings_of_the_site_file_are_those_of_launch_and_of_the_job(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    site = shared / "site"
    site.write_text(
        f': "${{NEUROTRALE_IMAGE:={cluster.image}}}" "${{NEUROTRALE_READ_ONLY:=1}}"\n'
        "export NEUROTRALE_READ_ONLY SBATCH_TIMELIMIT=7\n"
    )
    env = {"NEUROTRALE_SITE": str(site)}
    said = cluster.user.run(
        [cluster.scripts / "launch", "submit", data, "--", "--cpus-per-task=1"], env=env
    ).stdout
    (session,) = re.findall(r"^Session (\d+)", said, re.MULTILINE)
    try:
        connection = cluster.connection(session)
        headers = {"Authorization": f"Bearer {cluster.token(session)}"}
        edit = requests.patch(f"{connection.url}/{FIBERS}?id=x", data=POINT, headers=headers)
        assert edit.status_code == 403
        assert re.search(r", [67]:\d\d left", cluster.launch("status").stdout)
    finally:
        cluster.launch("stop", session)


def test_token_file_of_the_user_is_the_one_that_counts(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    tokens = shared / "tokens"
    tokens.write_text("anna:ro:0123456789abcdef0123456789abcdef\n")
    tokens.chmod(0o600)
    cluster.user.own(shared)
    session = cluster.submit(data, f"TOKEN_FILE={tokens}")
    connection = cluster.connection(session)
    url = f"{connection.url}/token/0123456789abcdef0123456789abcdef"
    assert requests.get(f"{url}/{CHUNK}").status_code == 200
    assert requests.patch(f"{url}/{FIBERS}?id=x", data=POINT).status_code == 403
    assert not (cluster.place(session) / "tokens").exists()
    cluster.launch("stop", session)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit",), "the directory is missing"),
        (("submit", "/no/such"), "/no/such is not a directory on this machine"),
        (("submit", "/", "lower=1"), "lower=1 is not a setting"),
        (("submit", "/", "--", "--partition=no-such"), "Slurm rejected the job"),
        (("stop",), "the session is missing"),
        (("stop", "0"), "you have no session or job 0"),
        (("tunnel", "1"), "a tunnel starts on your own computer"),
        (("nonsense",), "usage: launch"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_launch_given_something_wrong_says_what(
    cluster: Cluster, words: tuple[str, ...], said: str
) -> None:
    done = cluster.launch(*words, check=False)
    assert done.returncode != 0
    assert said in done.stderr


# --- its time limit ---


def test_session_with_a_tunnel_goes_on_after_the_time_limit(
    cluster: Cluster, data: Path, shared: Path
) -> None:
    # Slurm sends the signal to stop one to two minutes before the end: in this job at once. The
    # connection is shared, as guides recommend, and the login shell greets.
    with (
        greeting(cluster.user),
        login_node(cluster.user, shared / "ssh", client=SHARED) as login,
    ):
        goes_on_after_the_time_limit(cluster, data, shared, login.ssh)


def goes_on_after_the_time_limit(
    cluster: Cluster, data: Path, shared: Path, ssh: Sequence[str]
) -> None:
    port, log = free_port(), shared / "launch.log"
    command = cluster.launch_from_afar(
        "submit", data, f"IMAGE={cluster.image}", "RESUBMIT=1", "--tunnel", "--local-port",
        str(port), "--", "--time=2", "--cpus-per-task=1", ssh=ssh,
    )  # fmt: skip

    def said(pattern: str) -> str:
        def found() -> str:
            matches = re.findall(pattern, log.read_text(), re.MULTILINE)
            return str(matches[-1]) if matches else ""

        return eventually(found, f"{pattern} in what launch says", 240)

    with real.process(cluster.user, command, log):
        url = said(rf"^Open  (http://localhost:{port}/token/\w+/)$")
        first = said(r"^tunnel to job (\d+) ")
        eventually(lambda: real.is_open(port), "the tunnel")
        assert requests.patch(f"{url}{FIBERS}?id=one", data=POINT).status_code == 201
        second = said(rf"^tunnel to job (?!{first} )(\d+) ")
        eventually(lambda: real.is_open(port), "the second tunnel")
        # The same address, the same token, another job.
        assert requests.patch(f"{url}{FIBERS}?id=two", data=POINT).status_code == 201
        cluster.user.run(cluster.launch_from_afar("stop", first, ssh=ssh))
        said(rf"^launch: (session {first} is over)")
    job = cluster.ended(first)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0")
    assert cluster.ended(second)["ExitCode"] == "0:0"
    assert {"one", "two"} <= real.ids_in(data)
