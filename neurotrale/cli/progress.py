"""Shows how far a long command is: a bar on a terminal, else a line every so often."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LINE_EVERY_S = 30.0
_BAR_EVERY_S = 0.1

Watch = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are."""
SizeText = Callable[[float], str]
TimeText = Callable[[float], str]


class Pace:
    """How fast a work goes, and when it will be done.

    Args:
        clock: Seconds, of any start.
        size_text: Writes a number of bytes.
        time_text: Writes a number of seconds.
    """

    def __init__(
        self, clock: Callable[[], float], size_text: SizeText, time_text: TimeText
    ) -> None:
        self._clock = clock
        self._size_text = size_text
        self._time_text = time_text
        self._started: tuple[float, int] | None = None

    def text(self, done: int, total: int) -> str:
        """Say it; what an earlier run did counts as done, not as fast."""
        now = self._clock()
        if self._started is None:
            self._started = now, done
        since, first = self._started
        rate = (done - first) / (now - since) if now > since else 0.0
        share = done / total if total else 1.0
        words = [f"{share:4.0%}, {self._size_text(done)} of {self._size_text(total)}"]
        if rate > 0:
            words += [
                f"{self._size_text(rate)}/s",
                f"{self._time_text((total - done) / rate)} left",
            ]
        return ", ".join(words)


@contextmanager
def shown(what: str, size_text: SizeText, time_text: TimeText) -> Iterator[Watch]:
    """Give what to call at every step; it writes to standard error.

    Args:
        what: The work, in a word or two.
        size_text: Writes a number of bytes.
        time_text: Writes a number of seconds.
    """
    pace = Pace(time.monotonic, size_text, time_text)
    if not sys.stderr.isatty():
        yield _lines(what, pace)
        return
    with click.progressbar(
        length=1,
        label=what,
        file=sys.stderr,
        show_eta=False,
        show_percent=False,
        item_show_func=lambda text: text or "",
        fill_char="━",
        empty_char=" ",
    ) as bar:
        next_at = 0.0

        def watch(done: int, total: int) -> None:
            nonlocal next_at
            now = time.monotonic()
            text = pace.text(done, total)
            if now >= next_at or done == total:
                next_at = now + _BAR_EVERY_S
                bar.length = max(total, 1)
                bar.update(done - bar.pos if total else 1, text)

        yield watch


def _lines(what: str, pace: Pace) -> Watch:
    next_at = time.monotonic() + LINE_EVERY_S

    def watch(done: int, total: int) -> None:
        nonlocal next_at
        text = pace.text(done, total)  # the first call starts its clock
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + LINE_EVERY_S
            click.echo(f"{what}: {text.strip()}", err=True)

    return watch
