"""``neurotrale ingest``: create a dataset from TIFF planes."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from neurotrale.cli.declared import declared
from neurotrale.cli.output import say, show_progress
from neurotrale.errors import ConflictError, IncompleteError

if TYPE_CHECKING:
    from neurotrale.tools.ingest.checkpoint import Checkpoint
    from neurotrale.tools.ingest.plan import IngestPlan

EXIT_INCOMPLETE = 3


@declared("ingest")
@click.argument("expanded", nargs=-1, metavar="")
def ingest(expanded: tuple[str, ...], **options: Any) -> None:
    """Create a dataset from a stack of TIFF planes.

    Every plane is read once. After an interruption, the same command resumes where it stopped, and
    detects planes that have changed meanwhile. Exit code 3: --finish found incomplete shards.
    """
    if expanded:
        raise click.UsageError(
            f"Unexpected argument {expanded[0]!r}. The shell expands patterns without quotes, so"
            " write --source 'planes/*.tif'."
        )
    from neurotrale.tools.ingest.checkpoint import shard_count
    from neurotrale.tools.ingest.plan import make_plan
    from neurotrale.tools.ingest.report import describe

    options["dest"] = options["dest"].expanduser()
    shards = shard_count(options["dest"]) if options["finish"] else (options["shard"] or (1, 1))[1]
    plan = make_plan(_request(shards, **options))
    with closing(plan.source):
        if options["dry_run"]:
            shard = options["shard"][0] if options["shard"] else None
            earlier_run = describe_earlier_run(
                plan, shard, options["again"], options["force_check"]
            )
            for line in chain(describe(plan), earlier_run):
                say(line)
        else:
            _run(
                plan,
                options["shard"],
                finish=options["finish"],
                again=options["again"],
                force=options["force_check"],
            )


def _request(shards: int, **options: Any) -> Any:
    from neurotrale.tools.ingest.memory_limit import default_memory_bytes
    from neurotrale.tools.ingest.plan import IngestRequest

    resolution_nm = None
    if options["voxel_size"] is not None:
        x, y, z = (1000 * um for um in options["voxel_size"])
        resolution_nm = (x, y, z)
    return IngestRequest(
        source=options["source"][0],
        more_sources=options["source"][1:],
        dest=options["dest"],
        resolution_nm=resolution_nm,
        levels=options["levels"],
        chunk_vx=options["chunk_size"],
        cores=options["jobs"],
        memory_bytes=options["memory"]
        or default_memory_bytes(os.environ, len(os.sched_getaffinity(0))),
        segmentation=options["segmentation"],
        isotropic=options["isotropic"],
        channel=options["channel"],
        time=options["time"],
        order=options["order"],
        series=options["series"],
        layout=options["layout"],
        compression=options["compression"],
        shards=shards,
        dtype=options["to"],
        skip_empty=options["skip_empty"],
    )


def _run(
    plan: Any, shard: tuple[int, int] | None, *, finish: bool, again: bool, force: bool
) -> None:
    from neurotrale.tools.ingest.run import run_finish, run_shard

    try:
        if not finish:
            number = shard[0] if shard else 1
            name = f"shard {number}/{shard[1]}" if shard else "ingest"
            with show_progress(name, "B") as on_progress:
                summary = run_shard(plan, number, on_progress, again=again, force=force)
            _print_summary(name, summary)
        if finish or not shard:
            with show_progress("finish", "B") as on_progress:
                # Without shards, the planes have just been compared.
                summary = run_finish(plan, on_progress, force=force and finish)
            if finish:
                _print_summary("finish", summary)
            say(f"done  {plan.request.dest}")
            say(f"next  neurotrale serve {shlex.quote(str(plan.request.dest.absolute().parent))}")
        else:
            say(f"next  --finish with the same options, after all {shard[1]} shards")
    except IncompleteError as error:
        say(f"Error: {error}", err=True)
        sys.exit(EXIT_INCOMPLETE)


def _print_summary(name: str, summary: Any) -> None:
    from neurotrale.tools.ingest.report import summarize

    for note in summary.notes:
        say(f"note: {note}")
    say(summarize(name, summary))


def describe_earlier_run(
    plan: IngestPlan, shard: int | None, again: bool, force: bool
) -> Iterator[str]:
    """Describe what an earlier run did, and what this run would refuse or redo; write nothing.

    Args:
        plan: The plan.
        shard: The shard to run, from 1; None for all of them.
        again: Redo what comes from planes that have changed.
        force: Also compare the content of planes that have the recorded size and time.
    """
    # Imported here, because --help does not need them.
    from neurotrale.tools.ingest.checkpoint import Checkpoint
    from neurotrale.tools.ingest.compare import compare_sources, source_notes
    from neurotrale.tools.ingest.run import shard_part, shard_progress

    checkpoint = Checkpoint(plan.request.dest)
    try:
        if not checkpoint.is_begun(plan):
            return
        comparisons = compare_sources(plan, checkpoint, force)
        parts = {
            number: shard_part(plan, checkpoint, number)
            for number in range(1, plan.request.shards + 1)
            if shard in (None, number)
        }
        progress = {
            number: shard_progress(part, checkpoint.progress(part.name), comparisons, again)
            for number, part in parts.items()
        }
    except ConflictError as error:
        yield f"refused {error}"
        return
    for note in source_notes(plan, comparisons):
        yield f"note    {note}"
    yield f"resumed {_done(plan, checkpoint)} of {plan.source.shape_zyx[0]} planes are done"
    for number, part in parts.items():
        steps = part.rebuild_steps(progress[number])[progress[number].anew :]
        if steps:
            slabs = "1 slab" if len(steps) == 1 else f"{len(steps)} slabs"
            yield f"redone  {slabs} of shard {number}/{plan.request.shards}"


def _done(plan: IngestPlan, checkpoint: Checkpoint) -> int:
    from neurotrale.tools.ingest.checkpoint import PartProgress, part_names

    done = 0
    for number, name in enumerate(part_names(plan.request.shards), 1):
        start, _ = plan.planes_of(number)
        done += (checkpoint.progress(name) or PartProgress(start)).planes - start
    return done
