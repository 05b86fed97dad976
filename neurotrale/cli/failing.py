"""Errors of the command line: a sentence that says what to mend, no traceback, exit code 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from neurotrale import errors

P = ParamSpec("P")
R = TypeVar("R")

_EXPECTED = (
    errors.BadInputError,
    errors.RuleBrokenError,
    errors.MissingError,
    errors.NameTooLongError,
    errors.ConflictError,
    errors.ChangedError,
    errors.DamagedError,
    errors.BusyError,
    errors.ReadOnlyError,
    errors.DiskFullError,
    errors.StartError,
)


def failing_clearly(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with the message of an expected error."""

    @wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> R:
        try:
            return command(*args, **options)
        except _EXPECTED as error:
            raise click.ClickException(str(error)) from error

    return run
