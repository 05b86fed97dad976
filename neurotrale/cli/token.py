"""``neurotrale token``: makes the line of a strong token."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import click

from neurotrale.cli.failing import failing_clearly
from neurotrale.errors import StartError
from neurotrale.faults import writing
from neurotrale.tokens.file import read_tokens
from neurotrale.tokens.lines import new_line, parse_tokens


def _name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        new_line(value, may_write=False)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error
    return value


@click.command()
@click.option(
    "--name",
    required=True,
    callback=_name,
    help="Who gets it; stands in the journal and in the access log.",
)
@click.option(
    "--rw/--ro",
    "may_write",
    default=False,
    show_default=True,
    help="Whether it allows changes, or looking only.",
)
@click.option(
    "--append",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add it to this token file, made if need be so that only you may read it.",
)
@failing_clearly
def token(name: str, may_write: bool, file: Path | None) -> None:
    """Make a new random token, as a line for the file of 'serve --token-file'.

    A running service notices within a second or two that its file has changed.
    """
    line = new_line(name, may_write=may_write)
    if file is None:
        click.echo(line, nl=False)
        _warn_if_readable()
    else:
        _append(file, line)
        click.echo(f"{name} ({'rw' if may_write else 'ro'}) is in the last line of {file}")


def _append(file: Path, line: str) -> None:
    with writing(str(file)):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b", buffering=0) as opened:
            read_tokens(file)  # it may be the wrong file, or open to others
            before = opened.read()
            if before and not before.endswith(b"\n"):
                line = f"\n{line}"
            try:
                parse_tokens(before.decode("utf-8-sig") + line, str(file))
            except StartError as error:
                raise StartError(f"Nothing was added: {error}") from error
            opened.write(line.encode())


def _warn_if_readable() -> None:
    try:
        status = os.fstat(sys.stdout.fileno())
    except OSError:  # closed, or no file at all
        return
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        click.echo("Other users may read this file: chmod 600 it before you serve.", err=True)
