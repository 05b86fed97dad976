"""The options of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from neurotrale.settings.setting import (
    FilePath,
    Flag,
    Given,
    Integer,
    Number,
    OneOf,
    Parsed,
    Rule,
    Setting,
    Values,
    different_files,
    excludes,
)
from neurotrale.settings.shared import (
    LOCK,
    LOG_LEVEL,
    SHARE,
    UNIX,
    parse_base_path,
    parse_host,
    parse_hosts,
    parse_origins,
    parse_proxies,
)

GuardMode = Literal["browser", "all", "off"]
CompressMode = Literal["auto", "none", "gzip", "zstd"]
LogFormat = Literal["text", "json"]

DEFAULT_WORKERS = 10


def _workers(environment: Mapping[str, str]) -> int:
    if "SLURM_JOB_ID" not in environment:
        return DEFAULT_WORKERS
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if environment.get(name, "").isdecimal():
            return max(1, int(environment[name]))
    return len(os.sched_getaffinity(0))


# fmt: off
DATA = Setting(
    "data", Path("/data"), FilePath(), "Directory that holds the datasets.",
    "The container images expect the data there.",
    variable="PRECOMPUTED_PATH",
)
HOST = Setting(
    "host", "127.0.0.1", Parsed("ADDRESS", parse_host),
    "Address to listen on; 0.0.0.0 for all interfaces.",
    "Without tokens, anyone who reaches the port can read and change the data.",
    variable="NEUROTRALE_HOST",
)
PORT = Setting(
    "port", 9000, Integer(0, 65535), "Port to listen on; 0 takes a free one.",
    "Use 0 on a machine that several people share; the ready file holds the chosen port.",
    variable="NEUROTRALE_PORT",
)
UNIX_SOCKET = Setting[Path | None](
    "unix-socket", None, FilePath(),
    "Listen on this Unix socket instead; only you can connect to it.",
    "For a proxy on the same machine, or a forwarded socket on a shared one.",
    variable="NEUROTRALE_UNIX_SOCKET",
)
WORKERS = Setting(
    "workers", DEFAULT_WORKERS, Integer(1, 1024), "Number of worker processes.",
    "About one per core; more help only with slow disks.",
    variable="NEUROTRALE_WORKERS",
    computed=_workers, default_text=f"{DEFAULT_WORKERS}; in a Slurm job the number of its CPUs",
)
THREADS = Setting(
    "threads", 4, Integer(1, 256), "Requests that each worker handles at once.",
    "A few, because chunks are CPU-bound; more help with slow disks.",
    variable="NEUROTRALE_THREADS",
)
CONNECTIONS = Setting(
    "connections", 500, Integer(1, 100_000), "Connections that each worker keeps open.",
    "A browser opens six.",
    variable="NEUROTRALE_CONNECTIONS",
)
QUEUE = Setting(
    "queue", 64, Integer(1, 100_000),
    "Requests that may wait in each worker, and writes for each file; further ones get 503.",
    "With a longer queue, viewers wait for chunks that they no longer show.",
    variable="NEUROTRALE_QUEUE",
)
READ_ONLY = Setting(
    "read-only", False, Flag(), "Refuse all changes.",
    "For finished data, and for file systems without safe locks.",
    variable="NEUROTRALE_READ_ONLY",
)
FOLLOW_SYMLINKS = Setting(
    "follow-symlinks", False, Flag(),
    "Also serve the targets of symbolic links that lie outside the data root or are hidden.",
    "Off, so that a link cannot expose other files by accident.",
    variable="NEUROTRALE_FOLLOW_SYMLINKS",
)
TOKEN_FILE = Setting[Path | None](
    "token-file", None, FilePath("file"),
    "Require one of the tokens in this file (see 'neurotrale token').",
    "Use it wherever others can reach the port, for example on a shared machine.",
    variable="NEUROTRALE_TOKEN_FILE",
)
UI = Setting[Path | None](
    "ui", None, FilePath("directory"),
    "Directory of a built NeuroTrALE UI, which is served at /ui/.",
    variable="NEUROTRALE_UI",
)
CORS_ORIGINS = Setting[tuple[str, ...] | None](
    "cors-origins", None, Parsed("ORIGINS", parse_origins),
    "Origins of web pages that may read and write: '*' for all, or a comma-separated list.",
    "Any page may show the data; without tokens, only those of the same host and of localhost may"
    " also change them.",
    variable="NEUROTRALE_CORS_ORIGINS", default_text="all read, those of the same host write",
)
ALLOWED_HOSTS = Setting[tuple[str, ...]](
    "allowed-hosts", (), Parsed("HOSTS", parse_hosts),
    "Host names, separated by commas, by which the service may be called without a token, besides"
    " localhost and that of this machine; except on loopback addresses any, if none is given.",
    "Any web page can have a name that leads to this machine.",
    variable="NEUROTRALE_ALLOWED_HOSTS", default_text="none",
)
TRUSTED_PROXY = Setting[tuple[str, ...]](
    "trusted-proxy", (), Parsed("ADDRESSES", parse_proxies),
    "Proxies, separated by commas, whose X-Forwarded or Forwarded headers name the client:"
    " addresses, networks or host names, or 'unix' for those on the Unix socket.",
    "With a proxy in front, so that history and log have the addresses of people.",
    variable="NEUROTRALE_TRUSTED_PROXY", default_text="none",
)
BASE_PATH = Setting(
    "base-path", "", Parsed("PATH", parse_base_path),
    "Path that a proxy in front keeps before all others, such as /lab/brains.",
    "Not needed for a proxy that removes the path: all links are relative.",
    variable="NEUROTRALE_BASE_PATH", default_text="none",
)
MAX_BODY_MB = Setting(
    "max-body-mb", 1024, Integer(1, 1_000_000), "Largest accepted annotation file, in MiB.",
    "A PUT is held in memory; the largest known files have a few hundred MiB.",
    variable="NEUROTRALE_MAX_BODY_MB",
)
SPOOL = Setting[Path | None](
    "spool", None, FilePath("directory"),
    "Directory in which bodies above 16 MiB wait until they are complete; without room there, they"
    " wait beside the file that they replace.",
    "When the temporary directory is small, as in a container.",
    variable="NEUROTRALE_SPOOL", default_text="the temporary directory (`TMPDIR`)",
)
LOCK_TIMEOUT = Setting(
    "lock-timeout", 10.0, Number(0.0, 600.0),
    "Seconds that a write waits while another service or command holds the lock of its file.",
    "Longer than any write takes, shorter than people are willing to wait.",
    variable="NEUROTRALE_LOCK_TIMEOUT",
)
GUARD = Setting[GuardMode](
    "guard", "browser", OneOf(get_args(GuardMode)),
    "Whose saves are merged, with doubtful removals held back: those of web pages (browser) or all;"
    " off merges those of web pages and holds nothing back.",
    "The viewer can lose annotations on its own; scripts mean what they write.",
    variable="NEUROTRALE_GUARD",
)
COMPRESS = Setting[CompressMode](
    "compress", "auto", OneOf(get_args(CompressMode)),
    "What to compress for clients that accept it: auto compresses label volumes and annotations,"
    " not images. Chunks that are stored compressed are always sent as they are.",
    "Labels and annotations compress very well; noisy images do not.",
    variable="NEUROTRALE_COMPRESS",
)
CHUNK_CACHE = Setting(
    "chunk-cache", 0, Integer(0, 31_536_000),
    "Seconds that browsers may reuse a cached chunk without revalidating it.",
    "0 makes them revalidate, which costs a short 304; raise it for data that no longer changes.",
    variable="NEUROTRALE_CHUNK_CACHE",
)
STALL_TIMEOUT = Setting(
    "stall-timeout", 60.0, Number(1.0, 3600.0),
    "Seconds after which a client that takes nothing of its response is cut off.",
    "Longer than a laptop is out of reach, shorter than anybody waits for an image.",
    variable="NEUROTRALE_STALL_TIMEOUT",
)
DRAIN_TIMEOUT = Setting(
    "drain-timeout", 30.0, Number(0.0, 3600.0),
    "Seconds that requests in flight have left after the signal to stop.",
    "Lower it if less time is left: Slurm kills after KillWait, Docker after 10 seconds.",
    variable="NEUROTRALE_DRAIN_TIMEOUT",
)
READY_FILE = Setting[Path | None](
    "ready-file", None, FilePath("file"),
    "JSON file with the URL, written once the service answers requests and removed when it stops.",
    "For scripts that start the service and need its URL.",
    variable="NEUROTRALE_READY_FILE",
)
SERVICE_LOG_LEVEL = replace(
    LOG_LEVEL, default="info", variable="NEUROTRALE_LOG_LEVEL",
    reason="Access log lines have the severity info.",
)
ACCESS_LOG = Setting(
    "access-log", True, Flag(off="no-access-log"),
    "Log every request: client, method, path, status, bytes, time.",
    "Turn it off if a proxy in front of the service logs requests.",
    variable="NEUROTRALE_ACCESS_LOG",
)

LOG_FORMAT = Setting[LogFormat](
    "log-format", "text", OneOf(get_args(LogFormat)),
    "How lines of the log are written: text for people, or json with an object a line.",
    "json for programs that collect logs.",
    variable="NEUROTRALE_LOG_FORMAT",
)
METRICS_PUBLIC = Setting(
    "metrics-public", False, Flag(), "Let /api/metrics be read without a token.",
    "For a Prometheus that cannot send one; it shows how much is done, but no names.",
    variable="NEUROTRALE_METRICS_PUBLIC",
)

SERVICE: tuple[Setting[Any], ...] = (
    HOST, PORT, UNIX_SOCKET, WORKERS, THREADS, CONNECTIONS, QUEUE, READ_ONLY, FOLLOW_SYMLINKS,
    TOKEN_FILE, UI, CORS_ORIGINS, ALLOWED_HOSTS, TRUSTED_PROXY, BASE_PATH, MAX_BODY_MB,
    SPOOL, LOCK_TIMEOUT, LOCK, SHARE, GUARD, COMPRESS, CHUNK_CACHE, STALL_TIMEOUT,
    DRAIN_TIMEOUT, READY_FILE, SERVICE_LOG_LEVEL, LOG_FORMAT, ACCESS_LOG,
    METRICS_PUBLIC,
)
# fmt: on


def _hides_access_log(values: Values, given: Given) -> bool:
    if not {"access_log", "log_level"} <= given:
        return False
    return values["log_level"] not in ("debug", "info") and bool(values["access_log"])


def _trusts_no_socket(values: Values, given: Given) -> bool:
    is_told = "trusted_proxy" in given and UNIX in values["trusted_proxy"]
    return is_told and values["unix_socket"] is None


SERVICE_RULES = (
    excludes(
        "unix_socket",
        ("host", "port"),
        "--unix-socket replaces the address to listen on: leave out --host and --port.",
    ),
    excludes(
        "allowed_hosts",
        ("unix_socket", "token_file"),
        "--allowed-hosts is for a service without tokens in a network: whoever connects to a Unix"
        " socket or has a token may use any name. Leave it out.",
    ),
    Rule(
        _trusts_no_socket,
        "--trusted-proxy unix is for a service with --unix-socket: name the address of the proxy,"
        " or add --unix-socket.",
    ),
    different_files(
        "ready_file",
        "token_file",
        "--ready-file and --token-file name the same file, which would be overwritten: choose"
        " another ready file.",
    ),
    different_files(
        "ready_file",
        "unix_socket",
        "--ready-file and --unix-socket name the same file: choose different ones.",
    ),
    different_files(
        "unix_socket",
        "token_file",
        "--unix-socket and --token-file name the same file: choose different ones.",
    ),
    Rule(
        _hides_access_log,
        "--access-log writes lines of the severity info, which --log-level hides: choose"
        " --log-level info, or leave out --access-log.",
    ),
)
