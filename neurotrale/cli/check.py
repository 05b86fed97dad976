"""``neurotrale check``: find the problems of a dataset."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from neurotrale.cli.declared import declared
from neurotrale.cli.output import say, show_progress
from neurotrale.tools.check.findings import CheckRequest, as_json, describe, worst_severity
from neurotrale.tools.check.rules import SEVERITIES

EXIT_FINDINGS = 1


@declared("check")
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False, exists=True))
def check(
    dataset: Path,
    sample: int | None,
    part: tuple[int, int] | None,
    sparse: bool,
    root: Path | None,
    follow_symlinks: bool,
    jobs: int,
    places: int,
    fail_on: str,
    json_: bool,
) -> None:
    """Check a DATASET for problems; print what viewers will show and how to fix it.

    Nothing is changed. Exit code 0: no problems, or notes only; 1: errors or warnings; 2: the check
    itself failed.
    """
    absolute = Path(os.path.abspath(dataset))
    request = CheckRequest(
        absolute,
        root or absolute.parent,
        follow_symlinks,
        sample,
        sparse,
        jobs,
        places,
        part or (1, 1),
    )
    from neurotrale.tools.check.dataset import check_dataset

    with show_progress("check", " files") as on_progress:
        findings, counts = check_dataset(request, on_progress)
    if json_:
        click.echo(json.dumps(as_json(request, findings, counts), indent=1))
    else:
        for line in describe(findings, counts):
            say(line)
    worst = worst_severity(findings)
    if worst is not None and SEVERITIES.index(worst) <= SEVERITIES.index(fail_on):
        sys.exit(EXIT_FINDINGS)
