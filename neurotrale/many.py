"""Many things: the same work on several of them at once, a few of them chosen by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event, Lock
from typing import TypeVar

T = TypeVar("T")


def each(items: Iterable[T], work: Callable[[T], object], jobs: int) -> None:
    """Do a work on every item, on several threads; items are made only when one is free.

    Args:
        items: Taken one at a time, never by two threads at once.
        work: What is done with each.
        jobs: Threads to use.

    Raises:
        Exception: The first that `work` or the making of an item raised; what was begun is done,
            nothing more is.
    """
    source = iter(items)
    taking, stopped = Lock(), Event()

    def run() -> None:
        try:
            while not stopped.is_set():
                with taking:
                    try:
                        item = next(source)
                    except StopIteration:
                        return
                work(item)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(jobs, thread_name_prefix="each") as pool:
        try:
            for future in [pool.submit(run) for _ in range(jobs)]:
                future.result()
        finally:  # an interruption, too
            stopped.set()


def sampled(items: Iterable[T], count: int, random: Random) -> list[T]:
    """Choose some of many items, each as likely as any other; all are taken from the source."""
    chosen: list[T] = []
    for number, item in enumerate(items):
        if number < count:
            chosen.append(item)
        elif (place := random.randrange(number + 1)) < count:
            chosen[place] = item
    return chosen
