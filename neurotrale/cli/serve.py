"""``neurotrale serve`` and ``neurotrale demo``: start the service and print how to reach it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neurotrale.cli.declared import declared
from neurotrale.cli.output import say
from neurotrale.settings.service import DATA

if TYPE_CHECKING:
    from neurotrale.server.service import Started

LOCAL_PORT = 9000


@dataclass(frozen=True, slots=True)
class BatchJob:
    """The Slurm batch job that the service runs in.

    Attributes:
        job_id: The id of the job.
        user: The owner of the job.
        login: The login node for ssh, with the user's name if needed.
        is_only_service: False for one of several services of the job, behind a load balancer.
    """

    job_id: str
    user: str
    login: str
    is_only_service: bool


def batch_job(environment: Mapping[str, str]) -> BatchJob | None:
    """Return the batch job of an environment; None outside of a batch job."""
    if environment.get("ENVIRONMENT") != "BATCH" or "SLURM_JOB_ID" not in environment:
        return None
    user = environment.get("SLURM_JOB_USER") or environment.get("USER", "")
    host = environment.get("SLURM_SUBMIT_HOST", "")
    return BatchJob(
        job_id=environment["SLURM_JOB_ID"],
        user=user,
        login=environment.get("NEUROTRALE_LOGIN") or f"{user}@{host}",
        is_only_service="SLURM_STEP_ID" not in environment,
    )


def node_name(environment: Mapping[str, str]) -> str | None:
    """Return the name that a batch system has for this machine; None without one.

    Its host name may be one that other machines do not know.
    """
    return environment.get("NEUROTRALE_NODE_NAME") or environment.get("SLURMD_NODENAME") or None


def startup_message(
    started: Started, job: BatchJob | None, token_file: Path | None = None
) -> list[str]:
    """Return the lines that say how to reach the service and how to stop it.

    They never contain a token, because the output often ends up in a file that others can read.
    """
    port = started.facts.get("port")
    notes = [f"note  {note}" for note in started.notes]
    count = len(started.datasets)
    data = f"data  {started.root} ({count} dataset{'' if count == 1 else 's'})"
    if job is None or port is None:
        path = "" if token_file is None else "token/TOKEN/"
        hint = [] if token_file is None else [f"      where TOKEN is a token of {token_file}"]
        return [
            f"open  {started.url}{path}",
            *hint,
            *notes,
            data,
            f"docs  {started.url}{path}api/",
            "stop  Ctrl-C",
        ]
    if job.is_only_service:
        return [*notes, data, *_steps(started.facts, job, token_file)]
    return [f"The service answers on {started.facts['node']}, port {port}.", *notes]


def _print_startup_message(started: Started, job: BatchJob | None, token_file: Path | None) -> None:
    for line in startup_message(started, job, token_file):
        say(line)


def _steps(facts: Mapping[str, object], job: BatchJob, token_file: Path | None) -> list[str]:
    node, port = facts["node"], facts["port"]
    through_login = f"     ssh -N -L {LOCAL_PORT}:{node}:{port} {job.login}"
    through_node = f"     ssh -N -L {LOCAL_PORT}:localhost:{port} -J {job.login} {job.user}@{node}"
    if facts["host"] in ("localhost", "127.0.0.1", "::1"):
        ways = [through_node]
    else:
        ways = [through_login, "   or, if you can log in to the nodes with ssh:", through_node]
    path = "" if token_file is None else "token/TOKEN/"
    hint = [f"   TOKEN is the part after the last colon of a line in {token_file}"]
    return [
        f"The service answers: job {job.job_id} on {node}, port {port}.",
        "1. On your own computer, start this and leave it running:",
        *ways,
        f"2. Open  http://localhost:{LOCAL_PORT}/{path}",
        *(hint if token_file is not None else []),
        "3. To stop:",
        f"     scancel --signal=TERM --batch {job.job_id}",
    ]


@declared("serve")
@click.argument(
    "data",
    type=click.Path(path_type=Path, readable=False),  # the startup check has a better message
    envvar=DATA.variable,
    default=DATA.default,
)
def serve(data: Path, **options: Any) -> None:
    """Serve the datasets below DATA.

    DATA is the top-level directory of the datasets. It defaults to the environment variable
    PRECOMPUTED_PATH, or else to /data.
    """
    start(data, options)


@declared("demo")
@click.argument("directory", type=click.Path(path_type=Path), default=Path("demo-data"))
def demo(directory: Path, **options: Any) -> None:
    """Create a small synthetic brain with annotations below DIRECTORY, and serve it.

    Existing demo data is kept, with all edits. DIRECTORY defaults to ./demo-data.
    """
    from neurotrale.tools.demo import write_demo  # not needed by `serve`

    try:
        say(f"demo  {write_demo(directory)}")
    except OSError as error:
        raise click.ClickException(
            f"Cannot create the demo data below {directory}: {error}. Choose another directory, for"
            " example 'neurotrale demo ~/demo-data'."
        ) from error
    start(directory, options)


def start(root: Path, options: dict[str, Any]) -> None:
    """Serve a data root until a signal to stop, then exit.

    Args:
        root: The data root.
        options: The value of each option of the service, except for the log level.

    Raises:
        StartError: The service cannot start.
    """
    # Imported here, because --help does not need them.
    from neurotrale.server.service import ServeSettings
    from neurotrale.server.service import serve as run_service
    from neurotrale.server.worker import Limits
    from neurotrale.web.app_settings import AppSettings
    from neurotrale.web.webapps import viewer_directory

    logging.getLogger("neurotrale.access").disabled = not options["access_log"]
    settings = ServeSettings(
        app=AppSettings(
            root=root,
            read_only=options["read_only"],
            follow_symlinks=options["follow_symlinks"],
            cors_origins=options["cors_origins"],
            base_path=options["base_path"],
            max_body_bytes=options["max_body_mb"] * 2**20,
            lock=options["lock"],
            lock_timeout_s=options["lock_timeout"],
            share=options["share"],
            guard=options["guard"],
            compress=options["compress"],
            chunk_cache_s=options["chunk_cache"],
            metrics_public=options["metrics_public"],
            token_file=options["token_file"],
            viewer=viewer_directory(),
            ui=options["ui"],
        ),
        host=options["host"],
        port=options["port"],
        unix_socket=options["unix_socket"],
        allowed_hosts=options["allowed_hosts"],
        trusted_proxy=options["trusted_proxy"],
        workers=options["workers"],
        limits=Limits(
            threads=options["threads"],
            connections=options["connections"],
            queue=options["queue"],
            stall_s=options["stall_timeout"],
            drain_s=options["drain_timeout"],
        ),
        ready_file=options["ready_file"],
        spool=options["spool"],
        node_name=node_name(os.environ),
    )
    on_started = partial(
        _print_startup_message, job=batch_job(os.environ), token_file=options["token_file"]
    )
    sys.exit(run_service(settings, on_started))
