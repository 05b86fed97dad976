"""Options that several commands share, and the parsers of option values.

A parser raises ValueError with a message for the user.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Literal, get_args

from neurotrale.settings.setting import Flag, Integer, OneOf, Parsed, Setting, Text

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_POWERS = {"": 2, "K": 1, "M": 2, "G": 3, "T": 4}
_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)
MOST_SHARDS = 100_000

LEVELS = ("debug", "info", "warning", "error", "critical")
# Other names that Python's logging has for these levels.
_LEVEL_ALIASES = {"warn": "warning", "fatal": "critical", "notset": "debug"}


def parse_level(text: str) -> str:
    """Parse a log level, in any case, by any name that Python's logging has for it."""
    name = text.strip().lower()
    name = _LEVEL_ALIASES.get(name, name)
    if name not in LEVELS:
        raise ValueError(f"{text!r} is not one of {', '.join(LEVELS)}.")
    return name


def parse_host(text: str) -> str:
    """Check the address to listen on."""
    if not text.strip():  # the system would listen on all interfaces
        raise ValueError("the address is empty; use 0.0.0.0 for all interfaces.")
    return text


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.strip() for item in text.lower().split(",")))


def parse_origins(text: str) -> tuple[str, ...]:
    """Parse ``*`` or a comma-separated list of origins."""
    result = tuple(item.rstrip("/") for item in _list(text))
    if result == ("*",):
        return result
    for origin in result:
        scheme, separator, name = origin.partition("://")
        if not separator or scheme not in ("http", "https") or not name or "/" in name:
            raise ValueError(
                f"{origin!r} is not an origin; expected '*' or a list such as"
                " 'https://lab.example.org,http://localhost:8080'."
            )
    return result


UNIX = "unix"
"""In a list of trusted proxies, whoever connects through the Unix socket."""

# The last part is no number: that would be an address.
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_-]{1,63}\.)*(?!\d+$)[a-z0-9_-]{1,63}")
_BASE_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")


def is_network(text: str) -> bool:
    """Return whether a text is an IP address, or a network such as ``10.0.0.0/8``."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def parse_hosts(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of host names."""
    hosts = tuple(host.removesuffix(".") for host in _list(text))
    for host in hosts:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(
                f"{host!r} is not a host name; expected names without scheme and port, such as"
                " 'brains.example.org,lab-server'."
            )
    return hosts


def parse_proxies(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of addresses, networks and names of hosts, or ``unix``."""
    proxies = _list(text)
    for proxy in proxies:
        if not is_network(proxy) and not _HOST_NAME.fullmatch(proxy):
            raise ValueError(
                f"{proxy!r} is neither an IP address, a network nor a host name; expected a list"
                " such as '127.0.0.1,10.1.0.0/16,proxy', or 'unix' for the Unix socket."
            )
    return proxies


def parse_base_path(text: str) -> str:
    """Parse the path in front of all others; "" for ``/``."""
    path = text.strip().rstrip("/")
    if path and not _BASE_PATH.fullmatch(path):
        raise ValueError(
            f"{text!r} is not a path; expected one such as '/lab/brains', of letters, digits and"
            " any of -._~ between slashes."
        )
    return path


_SPAN = re.compile(r"(\d{1,6})\s*([hdw]?)", re.IGNORECASE | re.ASCII)
_HOURS = {"": 24, "h": 1, "d": 24, "w": 168}


def parse_span(text: str) -> timedelta:
    """Parse a span of time, such as ``90d``; a number alone is of days."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time; expected days, weeks or hours: 90d, 12w, 48h.")
    return timedelta(hours=int(match[1]) * _HOURS[match[2].lower()])


def triple_parser(kind: type[int] | type[float]) -> Callable[[str], tuple[float, float, float]]:
    """Return a parser of three positive numbers, ``x,y,z``; a single one stands for all three.

    Args:
        kind: The type of each number.
    """
    example = "64,64,64" if kind is int else "1.8,1.8,2.0"

    def parse(text: str) -> tuple[float, float, float]:
        try:
            numbers = [kind(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        numbers = numbers * 3 if len(numbers) == 1 else numbers
        if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
            raise ValueError(f"{text!r}: expected three positive numbers, such as {example}.")
        x, y, z = numbers
        return x, y, z

    return parse


def parse_size(text: str) -> int:
    """Parse a number of bytes, such as ``500M`` or ``8G``; without a unit in MB, as in Slurm."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r}: expected a size, such as 500M or 8G.")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].upper()])


def parse_shard(text: str) -> tuple[int, int]:
    """Parse one part of many, ``I/N`` with I from 1 to N."""
    match = _SHARD.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
        raise ValueError(f"{text!r}: expected I/N, such as 3/8, with I from 1 to N.")
    return int(match[1]), int(match[2])


LockSetting = Literal["auto", "flock", "strict", "none"]
ShareSetting = Literal["auto", "off"]
Layout = Literal["single", "pages"]
Compression = Literal["deflate", "zstd", "none"]


def _cores(environment: Mapping[str, str]) -> int:
    return len(os.sched_getaffinity(0))


JOBS = Setting[int](
    "jobs", 1, Integer(1, 1024), "Number of threads.",
    "Use fewer on a machine that you share with others.",
    aliases=("n-cores",), computed=_cores, default_text="the cores available to this process",
)  # fmt: skip
DRY_RUN = Setting[bool](
    "dry-run", False, Flag(), "Print what would be done, and do nothing.",
    aliases=("plan",),
)  # fmt: skip
LOG_LEVEL = Setting[str](
    "log-level", "warning", Parsed("LEVEL", parse_level),
    f"Lowest severity that is logged: {', '.join(LEVELS)}.",
    "Commands print their results; the log is for problems.",
    aliases=("log",),
)  # fmt: skip
LOCK = Setting[LockSetting](
    "lock", "auto", OneOf(get_args(LockSetting)),
    "How concurrent writers are locked out; auto chooses by file system (see 'neurotrale locks').",
    "Set it only if you know the file system better; all services and commands that write the"
    " same data must use the same kind.",
    variable="NEUROTRALE_LOCK",
)  # fmt: skip
SHARE = Setting[ShareSetting](
    "share", "auto", OneOf(get_args(ShareSetting)),
    "Permissions of new annotation files and blocks: with auto, the group of a directory may write"
    " them if it may write in the directory and that has set-group-id, whatever the umask.",
    "With off, the umask alone decides.",
    variable="NEUROTRALE_SHARE",
)  # fmt: skip
SINCE = Setting[str | None](
    "since", None, Text("TIME"),
    "Only changes at or after this time (ISO 8601; UTC unless it has an offset).",
)  # fmt: skip
LAYOUT = OneOf(get_args(Layout))
COMPRESSION = Setting[Compression](
    "compression", "deflate", OneOf(get_args(Compression)), "Compression of the chunks.",
    "Every client accepts deflate, so chunks are sent as they are stored.",
)  # fmt: skip
