"""How much memory there is for this process: the machine's, its cgroup's, its Slurm job's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

# The rest is for the file cache, and for who else is on the machine.
_SENSIBLE_PART = 0.6
_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of cgroups, version 2 and 1
_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))


def sensible_memory(variables: Mapping[str, str], cpus: int) -> int:
    """Give the part of the memory that a job may well use, in bytes.

    Args:
        variables: The environment; those of Slurm matter.
        cpus: That this process may use.
    """
    limits = [*_of_slurm(variables, cpus), *_of_cgroup(), *_of_machine()]
    return int(_SENSIBLE_PART * min(limits, default=2**32))


def _of_slurm(variables: Mapping[str, str], cpus: int) -> Iterator[int]:
    for name, times in (("SLURM_MEM_PER_NODE", 1), ("SLURM_MEM_PER_CPU", cpus)):
        if variables.get(name, "").isdecimal() and int(variables[name]):
            yield int(variables[name]) * 2**20 * times


def _of_cgroup() -> Iterator[int]:
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                yield from _limits_above(path.strip("/"))


def _limits_above(path: str) -> Iterator[int]:
    parts = path.split("/") if path else []
    for group in _GROUPS:
        for depth in range(len(parts) + 1):
            for name in _LIMITS:
                with suppress(OSError):
                    text = group.joinpath(*parts[:depth], name).read_text().strip()
                    if text.isdecimal():
                        yield int(text)


def _of_machine() -> Iterator[int]:
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if found:
            yield int(found[1]) * 1024
