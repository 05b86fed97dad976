"""``neurotrale repack``: rewrite the chunks of a dataset in another layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from neurotrale.cli.declared import declared
from neurotrale.cli.output import say, show_progress

EXIT_UNCHANGED = 1


@declared("repack")
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False, exists=True))
def repack(
    dataset: Path,
    layout: Any,
    compression: Any,
    scale: tuple[str, ...],
    jobs: int,
    dry_run: bool,
) -> None:
    """Rewrite the TIFF chunks of a DATASET in another layout, in place.

    The service may be running. The voxels of every chunk are compared before its file is replaced.
    After an interruption, the same command resumes where it stopped. Exit code 1: some chunks could
    not be rewritten, and are unchanged.
    """
    from neurotrale.tools.repack.plan import RepackRequest, make_plan

    plan = make_plan(RepackRequest(dataset, layout, compression, scale, jobs))
    if dry_run:
        _print_plan(plan)
    else:
        _run(plan)


def _print_plan(plan: Any) -> None:
    from neurotrale.tools.ingest.report import size_text, time_text
    from neurotrale.tools.repack.plan import estimate

    for key in plan.keys:
        cost = estimate(plan, key)
        seconds = cost.seconds / plan.request.jobs
        say(
            f"{key}: {cost.unchanged} of {cost.chunks} chunks need no change; about"
            f" {size_text(cost.bytes_before)} now, {size_text(cost.bytes_after)} afterwards, in"
            f" about {time_text(seconds)}"
        )


def _run(plan: Any) -> None:
    from neurotrale.tools.ingest.report import size_text
    from neurotrale.tools.repack.plan import repack as run

    with show_progress("repack", " chunks") as on_progress:
        summaries = run(plan, on_progress)
    for summary in summaries:
        say(
            f"{summary.key}: {summary.rewritten} chunks rewritten, {summary.unchanged} needed no"
            f" change; {size_text(summary.bytes_before)} before,"
            f" {size_text(summary.bytes_after)} now"
            if summary.chunks
            else f"{summary.key}: no TIFF chunks"
        )
        if summary.links:
            say(f"  symbolic links, left unchanged: {summary.links}", err=True)
        for problem in summary.problems:
            say(f"  unchanged: {problem}", err=True)
        if summary.skipped > len(summary.problems):
            say(f"  unchanged: {summary.skipped - len(summary.problems)} more", err=True)
    before, after = (sum(sizes) for sizes in zip(*(one.sizes for one in summaries), strict=True))
    say(f"total: {size_text(before)} before, {size_text(after)} now")
    if any(one.skipped for one in summaries):
        sys.exit(EXIT_UNCHANGED)
