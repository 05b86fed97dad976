"""``neurotrale doctor``: examine a data directory and this machine."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from neurotrale.cli.declared import declared
from neurotrale.cli.locks import Competition
from neurotrale.cli.output import say
from neurotrale.locking.filesystems import FileSystem, choose, file_systems_below, mounts
from neurotrale.settings.shared import LockSetting
from neurotrale.tools import doctor as examinations
from neurotrale.tools.doctor import MIB, Diagnosis


@declared("doctor")
@click.argument("data", type=click.Path(path_type=Path, file_okay=False, exists=True))
def doctor(
    data: Path, lock: LockSetting, max_body_mb: int, spool: Path | None, json_: bool
) -> None:
    """Examine whether DATA and this machine can do what the service promises.

    Run it as the user, on the node and in the container that the service will run in. It tries the
    lock with two processes, and creates and removes hidden files for that. Exit code 0: no problem;
    1: a promise of the service does not hold here.
    """
    root = Path(os.path.abspath(data))
    table = mounts()
    found = _locks(root, lock, table)
    found += examinations.examine(root, table, max_body_mb * MIB, spool)
    if json_:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        width = max(len(one.topic) for one in found)
        for one in found:
            say(f"{one.topic:{width}}  {one.state:7}  {one.fact}")
            if one.advice:
                say(f"{'':{width}}  {'':7}  -> {one.advice}")
    if any(one.state == "problem" for one in found):
        sys.exit(1)


def _locks(root: Path, setting: LockSetting, table: Sequence[FileSystem]) -> list[Diagnosis]:
    """Examine the lock of the data root, and of each file system mounted below it."""
    found = []
    for number, system in enumerate(file_systems_below(root, list(table))):
        choice = choose(setting, system)
        directory = root if number == 0 else system.mounted_at
        trial, excludes = None, None
        if choice.kind not in (None, "none") and os.access(directory, os.W_OK | os.X_OK):
            result = Competition(directory, choice.kind, secrets.token_hex(4)).probe()
            trial = f"two processes counted {result.counted} of {result.total}"
            excludes = result.excludes
        one = examinations.lock(choice, trial, excludes)
        found.append(one if number == 0 else replace(one, fact=f"in {directory}: {one.fact}"))
    return found
