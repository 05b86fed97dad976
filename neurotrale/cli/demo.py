"""``neurotrale demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from neurotrale.cli.options import service_options, start


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("demo-data"))
@service_options
def demo(directory: Path, **options: Any) -> None:
    """Make a small synthetic brain with annotations below DIRECTORY, and serve it.

    What is there already stays as it is, edits included. DIRECTORY defaults to ./demo-data.
    """
    from neurotrale.demo import write_demo  # the service itself never needs it

    try:
        click.echo(f"demo  {write_demo(directory)}")
    except OSError as error:
        raise click.ClickException(
            f"The demo data cannot be made below {directory}: {error}. Name another directory, as"
            " in 'neurotrale demo ~/demo-data'."
        ) from error
    start(directory, options)
