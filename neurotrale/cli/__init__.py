"""The command line: the only reader of arguments and environment."""

from __future__ import annotations

import click

import neurotrale
from neurotrale.cli.check import check
from neurotrale.cli.demo import demo
from neurotrale.cli.export import export
from neurotrale.cli.ingest import ingest
from neurotrale.cli.locks import locks
from neurotrale.cli.past import corrections, held, history, restore
from neurotrale.cli.repack import repack
from neurotrale.cli.serve import serve
from neurotrale.cli.token import token


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(neurotrale.__version__, prog_name="neurotrale")
def main() -> None:
    """Serve brain microscopy and its annotations straight from the file system."""


for command in (
    serve, demo, ingest, check, repack, history, restore, held, corrections, export, locks, token,
):  # fmt: skip
    main.add_command(command)
