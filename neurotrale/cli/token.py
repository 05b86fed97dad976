"""``neurotrale token``: create a random token, as a line of a token file."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import click

from neurotrale.cli.declared import declared
from neurotrale.cli.output import say
from neurotrale.errors import DiskFullError, StartError, writing
from neurotrale.tokens.file import new_token_line, parse_list, read_token_file


@declared("token")
def token(name: str, rw: bool, append: Path | None) -> None:
    """Create a random token, as a line for the file of 'serve --token-file'.

    A running service notices the new line within two seconds.
    """
    try:
        line = new_token_line(name, may_write=rw)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--name") from error
    if append is None:
        click.echo(line, nl=False)
        _warn_if_readable()
    else:
        ended_line = _append(append, line)
        say(f"added {name} ({'rw' if rw else 'ro'}) as the last line of {append}")
        if ended_line:
            say("The line before it had no newline at its end, and was ignored; now it is valid.")


def _append(file: Path, line: str) -> bool:
    """Append a line; return whether the last line had no newline, and one was added."""
    with writing(str(file)):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b", buffering=0) as token_file:
            read_token_file(file)  # checks that it is a token file, and private
            before = token_file.read()
            unfinished = before != b"" and not before.endswith(b"\n")
            added = (b"\n" if unfinished else b"") + line.encode()
            try:
                parse_list(before + added, file)
            except StartError as error:
                raise StartError(f"Nothing was added: {error}") from error
            if token_file.write(added) < len(added):
                token_file.truncate(len(before))  # a part of a line must not stay
                raise DiskFullError(f"Nothing was added to {file}: the disk is full.")
            os.fsync(descriptor)
    return unfinished


def _warn_if_readable() -> None:
    try:
        status = os.fstat(sys.stdout.fileno())
    except OSError:  # closed, or not a file
        return
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        say(
            "Other users can read this file: make it private with chmod 600.",
            err=True,
        )
