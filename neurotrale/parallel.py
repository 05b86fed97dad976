"""The same work on many things at once, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
