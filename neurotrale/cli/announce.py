"""What is said when the service answers: to who sits before it, or in the log of a Slurm job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from neurotrale.server.run import Started

LOCAL_PORT = 9000


@dataclass(frozen=True, slots=True)
class BatchJob:
    """The batch job of Slurm that the service runs in.

    Attributes:
        number: Its id.
        user: Whose it is.
        login: The login node as ssh calls it, with the user's name where it needs one.
        alone: False for one of the job's several services, which another program stands before.
    """

    number: str
    user: str
    login: str
    alone: bool


def batch_job(environment: Mapping[str, str]) -> BatchJob | None:
    """Tell the batch job by its environment; None outside of any, as in an interactive job."""
    if environment.get("ENVIRONMENT") != "BATCH" or "SLURM_JOB_ID" not in environment:
        return None
    user = environment.get("SLURM_JOB_USER") or environment.get("USER", "")
    host = environment.get("SLURM_SUBMIT_HOST", "")
    return BatchJob(
        number=environment["SLURM_JOB_ID"],
        user=user,
        login=environment.get("NEUROTRALE_LOGIN") or f"{user}@{host}",
        alone="SLURM_STEP_ID" not in environment,
    )


def announce(started: Started, job: BatchJob | None, token_file: Path | None = None) -> None:
    """Print how to reach the service and how to stop it.

    A token itself is never printed: what is said here often ends in a file that others may read.
    """
    port = started.facts.get("port")
    if job is None or port is None:
        path = "" if token_file is None else "token/TOKEN/"
        click.echo(f"open  {started.url}{path}")
        _tell_token(token_file)
        _tell_data(started)
        click.echo(f"docs  {started.url}{path}api/")
        click.echo("stop  Ctrl-C")
    elif job.alone:
        _tell_data(started)
        click.echo("\n".join(_steps(started.facts, job, token_file)))
    else:
        click.echo(f"answers on {started.facts['node']}, port {port}")


def _tell_token(token_file: Path | None) -> None:
    if token_file is not None:
        click.echo(f"      where TOKEN is a token of {token_file}")


def _tell_data(started: Started) -> None:
    count = len(started.datasets)
    click.echo(f"data  {started.root} ({count} data set{'' if count == 1 else 's'})")


def _steps(facts: Mapping[str, object], job: BatchJob, token_file: Path | None) -> list[str]:
    node, port = facts["node"], facts["port"]
    through_login = f"     ssh -N -L {LOCAL_PORT}:{node}:{port} {job.login}"
    through_node = f"     ssh -N -L {LOCAL_PORT}:localhost:{port} -J {job.login} {job.user}@{node}"
    if facts["host"] in ("localhost", "127.0.0.1", "::1"):
        ways = [through_node]
    else:
        ways = [through_login, "   or, where nodes take ssh:", through_node]
    path = "" if token_file is None else "token/TOKEN/"
    where = [f"   TOKEN is what follows the last colon of a line in {token_file}"]
    return [
        f"The service answers: job {job.number} on {node}, port {port}.",
        "1. On your own computer, leave this running:",
        *ways,
        f"2. Open  http://localhost:{LOCAL_PORT}/{path}",
        *(where if token_file is not None else []),
        "3. To stop:",
        f"     scancel --signal=TERM --batch {job.number}",
    ]
