"""``neurotrale repack``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from neurotrale.cli.failing import failing_clearly
from neurotrale.cli.progress import shown

EXIT_LEFT = 1


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--layout",
    type=click.Choice(("single", "pages")),
    required=True,
    help="How a chunk is to be stored: in one piece, which is served fastest, or in a "
    "page for each plane, which Fiji and ImageJ can open.",
)
@click.option(
    "--compression",
    type=click.Choice(("deflate", "zstd", "none")),
    default="deflate",
    show_default=True,
    help="Of the chunks. Every client takes deflate as it is stored.",
)
@click.option(
    "--scale",
    "scales",
    multiple=True,
    metavar="KEY",
    help="Only this scale, such as 1_1_1; may be given several times.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    default=None,
    help="Threads to use; by default the cores that this process may use.",
)
@click.option(
    "--plan",
    "--dry-run",
    "is_plan",
    is_flag=True,
    help="Say what would be done, judged by some chunks, and do nothing.",
)
@failing_clearly
def repack(
    dataset: Path,
    layout: Any,
    compression: Any,
    scales: tuple[str, ...],
    jobs: int | None,
    is_plan: bool,
) -> None:
    """Rewrite the TIFF chunks of a DATASET in another layout, in place.

    The service may be running. The voxels of every chunk are compared before its file is replaced.
    Started again after an interruption, it goes on where it stopped. Exit code 1: some chunks
    could not be rewritten, and are as they were.
    """
    from neurotrale.repacking.plan import Request, make_plan

    jobs = jobs or len(os.sched_getaffinity(0))
    plan = make_plan(Request(dataset, layout, compression, scales, jobs))
    if is_plan:
        _tell_plan(plan)
    else:
        _run(plan)


def _tell_plan(plan: Any) -> None:
    from neurotrale.ingest.describe import size_text, time_text
    from neurotrale.repacking.plan import estimate

    for key in plan.keys:
        cost = estimate(plan, key)
        seconds = cost.seconds / plan.request.jobs
        click.echo(
            f"{key}: {cost.alike} of {cost.chunks} chunks as wanted already, about"
            f" {size_text(cost.bytes_before)} now, {size_text(cost.bytes_after)} then, in"
            f" {time_text(seconds)}"
        )


def _run(plan: Any) -> None:
    from neurotrale.ingest.describe import size_text, time_text
    from neurotrale.repacking.run import repack as run

    with shown("repack", lambda count: f"{count:.0f}", time_text) as watch:
        summaries = run(plan, watch)
    for one in summaries:
        click.echo(
            f"{one.key}: {one.rewritten} chunks rewritten, {one.alike} as wanted already;"
            f" {size_text(one.bytes_before)} before, {size_text(one.bytes_after)} now"
            if one.found
            else f"{one.key}: no TIFF chunks"
        )
        if one.links:
            click.echo(f"  symbolic links, left as they are: {one.links}", err=True)
        for problem in one.problems:
            click.echo(f"  left as it was: {problem}", err=True)
        if one.left > len(one.problems):
            click.echo(f"  left as they were: {one.left - len(one.problems)} more", err=True)
    before, after = (sum(sizes) for sizes in zip(*(one.sizes for one in summaries), strict=True))
    click.echo(f"total: {size_text(before)} before, {size_text(after)} now")
    if any(one.left for one in summaries):
        sys.exit(EXIT_LEFT)
