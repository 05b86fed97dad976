"""The default memory limit: what Slurm, cgroups and the machine leave to this process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

# The rest is left to the page cache and to other users of the machine.
_DEFAULT_SHARE = 0.6
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")  # of cgroups, version 2 and 1
_CGROUP_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))


def default_memory_bytes(variables: Mapping[str, str], cpus: int) -> int:
    """Return the default memory limit: a share of what the process may use, in bytes.

    Args:
        variables: The environment, for the variables that Slurm sets.
        cpus: Number of CPUs that this process may use.
    """
    limits = [*_slurm_limits(variables, cpus), *_cgroup_limits(), *_available_memory()]
    return int(_DEFAULT_SHARE * min(limits, default=2**32))


def _slurm_limits(variables: Mapping[str, str], cpus: int) -> Iterator[int]:
    for name, factor in (("SLURM_MEM_PER_NODE", 1), ("SLURM_MEM_PER_CPU", cpus)):
        if variables.get(name, "").isdecimal() and int(variables[name]):
            yield int(variables[name]) * 2**20 * factor


def _cgroup_limits() -> Iterator[int]:
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                yield from _limits_along(path.strip("/"))


def _limits_along(path: str) -> Iterator[int]:
    parts = path.split("/") if path else []
    for root in _CGROUP_ROOTS:
        for depth in range(len(parts) + 1):
            for name in _LIMIT_FILES:
                with suppress(OSError):
                    text = root.joinpath(*parts[:depth], name).read_text().strip()
                    if text.isdecimal():
                        yield int(text)


def _available_memory() -> Iterator[int]:
    with suppress(OSError):
        match = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if match:
            yield int(match[1]) * 1024
