"""The output of commands: text for people, data for programs, logs, errors and progress."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import ParamSpec, TypeVar

import click
from tqdm import tqdm

from neurotrale import errors
from neurotrale.errors import printable, printable_json


def say(line: str, *, err: bool = False) -> None:
    """Print a line for people, with control characters escaped.

    Args:
        line: The line.
        err: Print it to standard error.
    """
    click.echo(printable(line), err=err)


def write_data(data: bytes) -> None:
    """Write data to standard output; control characters are escaped on a terminal only.

    Args:
        data: JSON, which stays equivalent, or other text.
    """
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(data)
        return
    sys.stdout.write(printable_json(data.decode("utf-8", "backslashreplace")))


# The lowest severities logged of some libraries.
QUIETER = {
    "filelock": logging.WARNING,
    "tifffile": logging.CRITICAL,  # our own errors about a damaged file say more
    "waitress": logging.WARNING,  # lower ones are about clients that disconnected
    "waitress.queue": logging.ERROR,  # lower ones are about requests that wait for a thread
}
_TIMED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PLAIN = "%(levelname)s: %(message)s"


class _Formatter(logging.Formatter):
    """Escapes control characters, so that a file name cannot forge a line or steer a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in logging
        record.message = printable(record.message)
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    """Writes an object a line; that of a request has its parts as members."""

    def format(self, record: logging.LogRecord) -> str:
        from neurotrale.server.access_log import ACCESS, FIELDS

        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.name == ACCESS and isinstance(record.args, tuple):
            line |= dict(zip(FIELDS, record.args, strict=True))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(level: str, *, timed: bool, is_json: bool = False) -> None:
    """Log to standard error.

    Args:
        level: The lowest severity that is logged.
        timed: Whether lines have the time and the logger's name, for a service.
        is_json: Whether each line is an object of JSON.
    """
    handler = _service_handler() if timed else logging.StreamHandler(sys.stderr)
    plain = _Formatter(_TIMED if timed else _PLAIN)
    handler.setFormatter(_JsonFormatter() if is_json else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name, lowest in QUIETER.items():
        logging.getLogger(name).setLevel(max(lowest, logging.root.level))


def _service_handler() -> logging.Handler:
    from neurotrale.server.log_writer import LogWriter

    try:
        return LogWriter(sys.stderr.fileno())
    except OSError:  # no file: replaced by a program that runs the command
        return logging.StreamHandler(sys.stderr)


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


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command so that expected errors print their message and exit with code 1."""

    @wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> R:
        try:
            return command(*args, **options)
        except _EXPECTED as error:
            raise click.ClickException(_message(error)) from error

    return run


def _message(error: Exception) -> str:
    text = str(error)
    return text if isinstance(error, errors.SourceError) else printable(text)


LINE_EVERY_S = 30.0
_BAR_EVERY_S = 0.1

OnProgress = Callable[[int, int], None]
"""Called with the amount that is done and the total."""


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A progress bar on a terminal.

    Args:
        label: The work, in a word or two.
        unit: The unit of the counts; ``B`` for bytes.
        total: The total amount.
        done: The amount done by an earlier run, which does not count for the speed.
    """

    # No monitor thread, which would refresh stalled bars: ours are updated at every step.
    monitor_interval = 0
    every_s = _BAR_EVERY_S

    def __init__(self, label: str, unit: str, total: int, done: int) -> None:
        super().__init__(
            desc=label,
            unit=unit,
            unit_scale=True,
            total=total,
            initial=done,
            mininterval=self.every_s,
            miniters=0,
            dynamic_ncols=True,
            file=sys.stderr,
        )


class ProgressLines(ProgressBar):
    """A line every half minute, for logs; none for shorter work."""

    every_s = LINE_EVERY_S

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, except at the beginning and at the end."""
        if self.initial < self.n < (self.total or 0):
            self.fp.write(f"{self.format_meter(**{**self.format_dict, 'ncols': 0})}\n")
            self.fp.flush()

    def close(self) -> None:
        """End without a last line: the command prints its own result."""
        self.disable = True


@contextmanager
def show_progress(label: str, unit: str) -> Iterator[OnProgress]:
    """Show progress on standard error: a bar on a terminal, otherwise a line every half minute.

    Args:
        label: The work, in a word or two.
        unit: The unit of the counts; ``B`` for bytes.

    Yields:
        The function to call at every step.
    """
    kind = ProgressBar if sys.stderr.isatty() else ProgressLines
    bar: ProgressBar | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = kind(label, unit, total, done)
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.refresh()

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()
