"""``neurotrale locks``: which lock keeps writers apart here, and whether it really does."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import click

from neurotrale.annotations.claims import break_claim, claims_below
from neurotrale.annotations.filesystems import LockKind, choose, file_systems_below, mounts
from neurotrale.annotations.probe import Result, take
from neurotrale.cli.failing import failing_clearly
from neurotrale.faults import writing

TIMES = 100
TIMEOUT_S = 60.0


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--lock",
    envvar="NEUROTRALE_LOCK",
    type=click.Choice(("auto", "flock", "strict", "none")),
    default="auto",
    show_default=True,
    show_envvar=True,
    help="The kind to look at; auto chooses by file system.",
)
@click.option("--break", "broken", metavar="CLAIM", help="Remove the claim of a dead writer.")
@click.option("--rank", type=click.IntRange(0), envvar="SLURM_PROCID", hidden=True)
@click.option("--takers", type=click.IntRange(1), envvar="SLURM_STEP_NUM_TASKS", hidden=True)
@click.option("--probe", "probe_name", hidden=True)
@failing_clearly
def locks(
    directory: Path,
    lock: str,
    broken: str | None,
    rank: int | None,
    takers: int | None,
    probe_name: str | None,
) -> None:
    """Tell the file system of DIRECTORY, the lock chosen there and why, and try it.

    Two processes take the lock in turn ('--lock none' shows how they meet without one). Under
    'srun -N2 neurotrale locks DIRECTORY' two nodes do, and each tells what it saw. Claims of strict
    locks are listed; the claim of a writer that crashed blocks its file until it is removed with
    --break CLAIM, once you are sure that the writer is gone.
    """
    if broken is not None:
        for claim in break_claim(directory, broken):
            click.echo(f"removed claim {claim.name} of {claim.file}")
        return
    systems = file_systems_below(directory, mounts())
    choices = [choose(lock, system) for system in systems]  # type: ignore[arg-type]
    if not rank:
        for system, choice in zip(systems, choices, strict=True):
            click.echo(f"{system.mounted_at}: {system.kind}")
            click.echo(f"  lock: {choice.kind or 'none is safe'}, {choice.reason}")
    kind = choices[0].kind
    if kind is None:
        click.echo("nothing to try: no lock is safe here")
        sys.exit(1)
    together = False
    if takers is not None and takers > 1 and rank is not None:
        together = True
        name = probe_name or f"{os.environ.get('SLURM_JOB_ID')}-{os.environ.get('SLURM_STEP_ID')}"
        with writing(str(directory)):
            result = take(directory / f".probe-{name}", kind, rank, takers, TIMES, TIMEOUT_S)
    else:
        result = _two_processes(directory, kind)
    _tell(result, kind, who=os.uname().nodename if together else "")
    if not rank:
        for claim in claims_below(directory):
            click.echo(
                f"claim {claim.name}: {claim.state} by process {claim.pid} on {claim.node},"
                f" for {claim.file}"
            )
    sys.exit(0 if result.excludes else 1)


def _two_processes(directory: Path, kind: LockKind) -> Result:
    name = secrets.token_hex(4)
    command = [sys.executable, "-m", "neurotrale", "locks", str(directory), "--lock", kind]
    command += ["--takers", "2", "--rank", "1", "--probe", name]
    place = directory / f".probe-{name}"
    with writing(str(directory)):
        place.mkdir()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as other:
        try:
            with writing(str(directory)):
                return take(place, kind, 0, 2, TIMES, TIMEOUT_S)
        except BaseException:
            other.kill()
            shutil.rmtree(place, ignore_errors=True)
            raise


def _tell(result: Result, kind: LockKind, who: str) -> None:
    prefix = f"{who}: " if who else ""
    for number, one in enumerate(result.seen):
        click.echo(
            f"{prefix}taker {number} on {one.node} held the lock {one.taken} times,"
            f" met another inside {one.met} times"
        )
    total = sum(one.taken for one in result.seen)
    verdict = "excludes" if result.excludes else "does NOT exclude: do not write from several nodes"
    click.echo(f"{prefix}counted {result.counted} of {total}: {kind} {verdict}")
