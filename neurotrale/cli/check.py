"""``neurotrale check``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from neurotrale.checking.findings import PLACES
from neurotrale.checking.kinds import SEVERITIES
from neurotrale.checking.request import Request
from neurotrale.checking.words import as_json, describe, gravest
from neurotrale.cli.failing import failing_clearly
from neurotrale.cli.progress import shown

EXIT_FINDINGS = 1


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=None,
    metavar="N",
    help="Open N chunks of each scale only, chosen by chance; all names are looked at.",
)
@click.option("--sparse", is_flag=True, help="Chunks may be absent: they are empty on purpose.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=None,
    help="The data root that it is served from, for symbolic links; by "
    "default the directory that the data set is in.",
)
@click.option(
    "--follow-symlinks",
    is_flag=True,
    help="Links may leave the data root, as with this option of 'serve'.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    default=None,
    help="Threads to use; by default the cores that this process may use.",
)
@click.option(
    "--places",
    type=click.IntRange(1),
    default=PLACES,
    show_default=True,
    help="How many places of each kind of finding are named.",
)
@click.option(
    "--fail-on",
    type=click.Choice(SEVERITIES),
    default="warning",
    show_default=True,
    help="Least severity for which the exit code is 1.",
)
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
@failing_clearly
def check(
    dataset: Path,
    sample: int | None,
    sparse: bool,
    root: Path | None,
    follow_symlinks: bool,
    jobs: int | None,
    places: int,
    fail_on: str,
    is_json: bool,
) -> None:
    """Look for what is wrong with a DATASET, and say what viewers will show and how to mend it.

    Nothing is changed. Exit code 0: nothing is wrong, or there are notes only; 1: errors or
    warnings; 2: the check itself could not be made.
    """
    absolute = Path(os.path.abspath(dataset))
    request = Request(
        absolute,
        root or absolute.parent,
        follow_symlinks,
        sample,
        sparse,
        jobs or len(os.sched_getaffinity(0)),
        places,
    )
    from neurotrale.checking.dataset import check_dataset
    from neurotrale.ingest.describe import time_text

    with shown("check", lambda count: f"{count:.0f}", time_text) as watch:
        findings, tally = check_dataset(request, watch)
    if is_json:
        click.echo(json.dumps(as_json(request, findings, tally), indent=1))
    else:
        for line in describe(findings, tally):
            click.echo(line)
    found = gravest(findings)
    if found is not None and SEVERITIES.index(found) <= SEVERITIES.index(fail_on):
        sys.exit(EXIT_FINDINGS)
