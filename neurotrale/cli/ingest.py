"""``neurotrale ingest``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import click

from neurotrale.cli.failing import failing_clearly
from neurotrale.cli.options import QUIETER
from neurotrale.cli.parameters import Shard, Size, Triple
from neurotrale.cli.progress import shown
from neurotrale.errors import IncompleteError

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INCOMPLETE = 3
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

OPTIONS = (
    click.option("--source", required=True, metavar="PATTERN",
                 help="The planes: a pattern in quotes, such as 'planes/*.tif', or one file of "
                 "many pages (BigTIFF, OME-TIFF and ImageJ hyperstacks, too)."),
    click.option("--dest", required=True, type=click.Path(path_type=Path),
                 help="Directory of the data set; it is made."),
    click.option("--voxel-size", required=True, type=Triple(float),
                 help="Size of a voxel in micrometres, such as 1.8,1.8,2.0."),
    click.option("--levels", type=click.IntRange(1, 24), default=None,
                 help="Resolutions to make; by default as many as bring the volume into one "
                 "chunk."),
    click.option("--chunk-size", type=Triple(int), default="64,64,64", show_default=True,
                 help="Voxels of a chunk."),
    click.option("--segmentation", is_flag=True,
                 help="The voxels are labels: coarser levels get the most frequent one, never a "
                 "mean."),
    click.option("--isotropic", is_flag=True,
                 help="Halve only the axes whose voxels are short, until all are alike."),
    click.option("--channel", type=click.IntRange(0), default=None,
                 help="Which channel of a file of many, from 0."),
    click.option("--time", type=click.IntRange(0), default=None,
                 help="Which time point of a file of many, from 0."),
    click.option("--layout", type=click.Choice(("single", "pages")), default="single",
                 show_default=True,
                 help="How a chunk is stored: in one piece, which is served fastest, or in a page "
                 "for each plane, which Fiji and ImageJ can open."),
    click.option("--compression", type=click.Choice(("deflate", "zstd", "none")),
                 default="deflate", show_default=True,
                 help="Of the chunks. Every client takes deflate as it is stored."),
    click.option("--format", type=click.Choice(("tiff",)), default="tiff", show_default=True,
                 help="Kind of chunk files; precomputed-tif had others."),
    click.option("--n-cores", type=click.IntRange(1, 1024), default=None,
                 help="Threads to use; by default the cores that this process may use."),
    click.option("--memory", type=Size(), default=None,
                 help="Memory to use at most, such as 8G; by default a little more than half of "
                 "what the machine, the cgroup or the Slurm job has."),
    click.option("--shard", type=Shard(), default=None,
                 help="Do one part of the work only, such as 3/8; --finish does the rest."),
    click.option("--finish", is_flag=True,
                 help="Make what shards share, when all of them are done."),
    click.option("--plan", is_flag=True, help="Say what would be done, and do nothing."),
    click.option("--log", type=click.Choice(_LOG_LEVELS, case_sensitive=False),
                 default="warning", show_default=True, help="Least severity that is logged."),
)  # fmt: skip


def _options(command: F) -> F:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("expanded", nargs=-1, metavar="")
@_options
@failing_clearly
def ingest(expanded: tuple[str, ...], **options: Any) -> None:
    """Make a data set from a stack of TIFF planes.

    Every plane is read once. Started again after an interruption, with the same options, it goes
    on where it stopped. Exit code 3: --finish found shards that are not complete.
    """
    _set_up_logging(options["log"])
    if expanded:
        raise click.UsageError(
            f"{expanded[0]!r} was not expected. Where a pattern stands without quotes the shell"
            " puts file names in its place: write --source 'planes/*.tif'."
        )
    if options["finish"] and (options["shard"] or options["plan"]):
        raise click.UsageError(
            "--finish goes alone, after the shards: leave --shard or --plan out."
        )
    from neurotrale.ingest.describe import describe
    from neurotrale.ingest.plan import make_plan
    from neurotrale.ingest.state import shards_of

    shards = shards_of(options["dest"]) if options["finish"] else (options["shard"] or (1, 1))[1]
    plan = make_plan(_request(shards, **options))
    with closing(plan.source):
        if options["plan"]:
            for line in describe(plan):
                click.echo(line)
        else:
            _run(plan, options["shard"], finish=options["finish"])


def _set_up_logging(level: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=level.upper())
    for name, least in QUIETER.items():
        logging.getLogger(name).setLevel(max(least, logging.root.level))


def _request(shards: int, **options: Any) -> Any:
    from neurotrale.ingest.machine import sensible_memory
    from neurotrale.ingest.plan import Request

    cpus = len(os.sched_getaffinity(0))
    x, y, z = (1000 * um for um in options["voxel_size"])
    return Request(
        source=options["source"],
        dest=options["dest"],
        resolution_nm=(x, y, z),
        levels=options["levels"],
        chunk_vx=options["chunk_size"],
        cores=options["n_cores"] or cpus,
        memory_bytes=options["memory"] or sensible_memory(os.environ, cpus),
        segmentation=options["segmentation"],
        isotropic=options["isotropic"],
        channel=options["channel"],
        time=options["time"],
        layout=options["layout"],
        compression=options["compression"],
        shards=shards,
    )


def _run(plan: Any, shard: tuple[int, int] | None, *, finish: bool) -> None:
    from neurotrale.ingest.describe import size_text, summarize, time_text
    from neurotrale.ingest.run import run_finish, run_shard

    try:
        if not finish:
            number = shard[0] if shard else 1
            name = f"shard {number}/{shard[1]}" if shard else "ingest"
            with shown(name, size_text, time_text) as watch:
                summary = run_shard(plan, number, watch)
            click.echo(summarize(name, summary))
        if finish or not shard:
            with shown("finish", size_text, time_text) as watch:
                summary = run_finish(plan, watch)
            if finish:
                click.echo(summarize("finish", summary))
            click.echo(f"done  {plan.request.dest}")
    except IncompleteError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_INCOMPLETE)
