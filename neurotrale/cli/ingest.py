"""``neurotrale ingest``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from neurotrale.cli.failing import failing_clearly


class Triple(click.ParamType[tuple[float, float, float]]):
    """Three numbers, x,y,z, or one for all."""

    name = "x,y,z"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Read the numbers; refuse what is no size."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [self.kind(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        numbers = numbers * 3 if len(numbers) == 1 else numbers
        if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
            self.fail(
                f"{value!r} is not three numbers above 0, x,y,z, such as"
                f" {'64,64,64' if self.kind is int else '1.8,1.8,2.0'}.", param, ctx
            )  # fmt: skip
        x, y, z = numbers
        return x, y, z


@click.command()
@click.option("--source", required=True, metavar="PATTERN", help="Planes.")
@click.option("--dest", required=True, type=click.Path(path_type=Path), help="Data set.")
@click.option("--levels", type=click.IntRange(1, 24), default=None)
@click.option("--voxel-size", type=Triple(float), required=True)
@click.option("--chunk-size", type=Triple(int), default="64,64,64")
@click.option("--n-cores", type=click.IntRange(1), default=lambda: len(os.sched_getaffinity(0)))
@failing_clearly
def ingest(source: str, dest: Path, **options: Any) -> None:
    """Make a data set from a stack of TIFF planes."""
    from neurotrale.ingest.plan import Request, make_plan
    from neurotrale.ingest.run import run_finish, run_shard

    x, y, z = (1000 * n for n in options["voxel_size"])
    plan = make_plan(
        Request(source, dest, (x, y, z), options["levels"], options["chunk_size"],
                options["n_cores"])
    )  # fmt: skip
    click.echo(run_shard(plan, 1, lambda done, total: None))
    click.echo(run_finish(plan, lambda done, total: None))
