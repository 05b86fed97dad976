"""``neurotrale locks``: show the lock that writers use here, and test it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from neurotrale import __version__
from neurotrale.cli.declared import declared
from neurotrale.cli.output import say
from neurotrale.errors import BadInputError, writing
from neurotrale.locking.filesystems import (
    FileSystem,
    LockChoice,
    LockKind,
    choose,
    file_systems_below,
    mounts,
)
from neurotrale.locking.participants import EditVerdict, ParticipantHistory, verdict_of
from neurotrale.locking.probe import (
    ProbeResult,
    break_stale_lock,
    lock_claims,
    probe_lock,
    prove_lock,
)
from neurotrale.storage.atomic import replace_file
from neurotrale.storage.regular import make_own_directory

TIMES = 100
TIMEOUT_S = 60.0
# A proof ends within a minute, with the check of what was recorded.
PROOF_TIMEOUT_S = 54.0
# The rows of the histories in the evidence file.
COLUMNS = ("key", "action", "value", "value before", "called after version", "returned at version")

T = TypeVar("T")


@declared("locks")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--rank", type=click.IntRange(0), envvar="SLURM_PROCID", hidden=True)
@click.option("--takers", type=click.IntRange(1), envvar="SLURM_STEP_NUM_TASKS", hidden=True)
@click.option("--probe", "probe_name", hidden=True)
def locks(
    directory: Path,
    lock: str,
    prove: bool,
    seconds: int,
    evidence: Path | None,
    break_: str | None,
    rank: int | None,
    takers: int | None,
    probe_name: str | None,
) -> None:
    """Show the file system of DIRECTORY and the kind of lock chosen for it, and test the lock.

    Two processes compete for the lock ('--lock none' shows how they collide without one). With
    'srun -N2 neurotrale locks DIRECTORY' two nodes do so, and each reports its result. With --prove
    they change and read a file as the service does, and every operation is recorded and checked.
    Claims of strict locks are listed. The claim of a writer that crashed blocks its file until you
    remove it with --break CLAIM; make sure that the writer is gone first.
    """
    if break_ is not None:
        file, names = break_stale_lock(directory, break_)
        for name in names:
            say(f"removed claim {name} of {file}")
        return
    systems = file_systems_below(directory, mounts())
    choices = [choose(lock, system) for system in systems]  # type: ignore[arg-type]
    if not rank:
        for system, choice in zip(systems, choices, strict=True):
            say(f"{system.mounted_at}: {system.kind}")
            say(f"  lock: {choice.kind or 'none is safe'}, {choice.reason}")
    kind = choices[0].kind
    if kind is None:
        say("nothing to test: no lock is safe here")
        sys.exit(1)
    step = f"{os.environ.get('SLURM_JOB_ID')}-{os.environ.get('SLURM_STEP_ID')}"
    if takers is not None and takers > 1 and rank is not None:
        competition = Competition(directory, kind, probe_name or step, rank, takers)
    else:
        competition = Competition(directory, kind, secrets.token_hex(4))
    if prove:
        excludes = _prove(competition, seconds, evidence, systems[0], choices[0])
    else:
        excludes = _probe(competition)
    if not rank:
        for file, claim in lock_claims(directory):
            say(
                f"claim {claim.name}: {claim.state} by process {claim.pid} on {claim.hostname},"
                f" for {file}"
            )
    sys.exit(0 if excludes else 1)


@dataclass(frozen=True, slots=True)
class Competition:
    """The participants of a probe.

    Attributes:
        directory: The directory to test.
        kind: The kind of lock.
        name: Name of the probe.
        rank: Number of this participant among those of a job step; None if there is no such step,
            and another process is to be started.
        participants: Number of participants.
    """

    directory: Path
    kind: LockKind
    name: str
    rank: int | None = None
    participants: int = 2

    @property
    def prefix(self) -> str:
        """The beginning of each line of a result: the node, where there are several."""
        return "" if self.rank is None else f"{os.uname().nodename}: "

    def run(self, part: Callable[[Path, int, int], T], *options: str) -> T:
        """Take part.

        Args:
            part: Called with the directory of the probe, the rank, the number of participants.
            options: Options for the other process, if one is to be started.
        """
        probe = self.directory / f".probe-{self.name}"
        with writing(str(self.directory)):
            if self.rank is not None:
                return part(probe, self.rank, self.participants)
            make_own_directory(probe)
        command = [sys.executable, "-m", "neurotrale", "locks", str(self.directory), *options]
        command += ["--lock", self.kind, "--takers", "2", "--rank", "1", "--probe", self.name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as other:
            try:
                with writing(str(self.directory)):
                    return part(probe, 0, 2)
            except BaseException:
                other.kill()
                shutil.rmtree(probe, ignore_errors=True)
                raise

    def probe(self) -> ProbeResult:
        """Compete for the lock; return what all participants saw."""

        def part(probe: Path, rank: int, participants: int) -> ProbeResult:
            return probe_lock(probe, self.kind, rank, participants, TIMES, TIMEOUT_S)

        return self.run(part)


def _probe(competition: Competition) -> bool:
    kind, prefix = competition.kind, competition.prefix
    result = competition.probe()
    for number, report in enumerate(result.reports):
        say(
            f"{prefix}participant {number} on {report.node} held the lock"
            f" {report.acquisitions} times, with {report.overlaps} overlaps"
        )
    conclusion = _conclusion(kind, result.excludes)
    say(f"{prefix}counted {result.counted} of {result.total}: {conclusion}")
    return result.excludes


def _prove(
    competition: Competition,
    seconds: int,
    evidence: Path | None,
    system: FileSystem,
    choice: LockChoice,
) -> bool:
    kind, prefix, started = competition.kind, competition.prefix, datetime.now(UTC)
    path = (evidence or Path(f"lock-proof-{started:%Y%m%dT%H%M%SZ}.json")).absolute()
    if not competition.rank and not os.access(path.parent, os.W_OK):
        raise BadInputError(
            f"{path.parent} is not a directory in which you may write: name another file for the"
            " evidence, with --evidence FILE."
        )

    def part(probe: Path, rank: int, participants: int) -> list[ParticipantHistory]:
        return prove_lock(probe, kind, rank, participants, seconds, PROOF_TIMEOUT_S)

    histories = competition.run(part, "--prove", "--seconds", str(seconds))
    verdict = verdict_of(histories)
    for number, history in enumerate(histories):
        changes = len(history.changed)
        say(
            f"{prefix}participant {number} on {history.node}: {changes} changes,"
            f" {len(history.rows) - changes} reads, {history.refused} times no lock"
        )
    say(
        f"{prefix}{verdict.handovers} changes followed another participant's. Violations:"
        f" {verdict.lost} changes lost, {verdict.backwards} older versions read,"
        f" {len(verdict.unexplained)} values that no order of the operations explains"
    )
    say(f"{prefix}{_proof_conclusion(kind, verdict)}")
    if not competition.rank:
        facts: dict[str, Any] = {
            "neurotrale": __version__,
            "started": f"{started:%Y-%m-%dT%H:%M:%SZ}",
            "ended": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "directory": str(competition.directory.absolute()),
            "file_system": {"type": system.kind, "mounted_at": str(system.mounted_at)},
            "lock": kind,
            "reason": choice.reason,
            "seconds": seconds,
            "nodes": sorted({history.node for history in histories}),
            "excludes": verdict.excludes,
            "verdict": _proof_conclusion(kind, verdict),
            **asdict(verdict),
            "columns": COLUMNS,
            "participants": [asdict(history) for history in histories],
        }
        with writing(str(path)):
            replace_file(path, [json.dumps(facts).encode()])
        say(f"evidence: {path}")
    return verdict.excludes


def _conclusion(kind: LockKind, excludes: bool) -> str:
    if excludes:
        return f"{kind} excludes other writers"
    return f"{kind} does NOT exclude other writers: never write from several nodes"


def _proof_conclusion(kind: LockKind, verdict: EditVerdict) -> str:
    if verdict.excludes or verdict.lost or verdict.backwards or verdict.unexplained:
        return _conclusion(kind, verdict.excludes)
    if not verdict.handovers:
        return "nothing is proved: the participants did not work at the same time"
    return "nothing is proved: too many orders of the operations are possible to check them all"
