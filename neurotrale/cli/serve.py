"""``neurotrale serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from neurotrale.cli.options import service_options, start


@click.command()
@click.argument(
    "data",
    type=click.Path(path_type=Path, readable=False),  # the start-up check says more
    envvar="PRECOMPUTED_PATH",
    default=Path("/data"),
)
@service_options
def serve(data: Path, **options: Any) -> None:
    """Serve the data sets below DATA.

    DATA is the top-level directory of the data sets; when it is not given, the environment
    variable PRECOMPUTED_PATH names it, else it is /data.
    """
    start(data, options)
