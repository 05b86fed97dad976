"""Run the same work on many items, on several threads, or on a random sample of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event, Lock
from typing import TypeVar

T = TypeVar("T")

ProgressCallback = Callable[[int, int], None]
"""Called with the amount of work done and the total, never by two threads at once."""


def parallel_for_each(items: Iterable[T], work: Callable[[T], object], jobs: int) -> None:
    """Call a function for every item, in parallel.

    Items are taken from the iterable only when a thread is free, so it may be very long.

    Args:
        items: Taken one at a time, never by two threads at once.
        work: Called with each item.
        jobs: Threads to use.

    Raises:
        Exception: The first one that `work` or the iterable raised. Calls in progress are
            finished; no further ones are started.
    """
    source = iter(items)
    next_lock, stopped = Lock(), Event()

    def run() -> None:
        try:
            while not stopped.is_set():
                with next_lock:
                    try:
                        item = next(source)
                    except StopIteration:
                        return
                work(item)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(jobs, thread_name_prefix="parallel") as pool:
        try:
            for future in [pool.submit(run) for _ in range(jobs)]:
                future.result()
        finally:  # on KeyboardInterrupt, too
            stopped.set()


def reservoir_sample(items: Iterable[T], count: int, random: Random) -> list[T]:
    """Return a random sample of an iterable, in which every item is equally likely.

    The iterable is read to its end; only the sample is held in memory.
    """
    sample: list[T] = []
    for number, item in enumerate(items):
        if number < count:
            sample.append(item)
        elif (slot := random.randrange(number + 1)) < count:
            sample[slot] = item
    return sample
