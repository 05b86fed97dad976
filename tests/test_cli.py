"""The command line: every option, by flag and by variable; what is refused, what is said."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import requests
from click.testing import CliRunner

import neurotrale as package
from neurotrale.cli import main
from neurotrale.settings.service import SERVICE
from tests.datasets import write_dataset
from tests.processes import (
    REPOSITORY,
    environment,
    neurotrale,
    run,
    running,
    wait_for_workers,
)

ENTRYPOINT = REPOSITORY / "container" / "entrypoint.sh"


@dataclass(frozen=True)
class Option:
    """An option of the service: how it is written, what it is then, what is refused."""

    flag: str
    env: str
    default: object
    text: str
    value: object
    bad: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    def arguments(self, text: str) -> list[str]:
        return [self.flag] if isinstance(self.value, bool) else [self.flag, text]


OPTIONS = (
    Option("--host", "NEUROTRALE_HOST", "127.0.0.1", "::1", "::1"),
    Option("--port", "NEUROTRALE_PORT", 9000, "0", 0, ("-1", "65536", "http", "80.5")),
    Option("--unix-socket", "NEUROTRALE_UNIX_SOCKET", None, "u.sock", Path("u.sock")),
    Option("--workers", "NEUROTRALE_WORKERS", 10, "3", 3, ("0", "-2", "1025", "many", "1.5")),
    Option("--threads", "NEUROTRALE_THREADS", 4, "7", 7, ("0", "257", "x")),
    Option("--connections", "NEUROTRALE_CONNECTIONS", 500, "6", 6, ("0", "100001", "x")),
    Option("--queue", "NEUROTRALE_QUEUE", 64, "9", 9, ("0", "100001", "x")),
    Option("--read-only", "NEUROTRALE_READ_ONLY", False, "1", True, ("maybe",)),
    Option("--follow-symlinks", "NEUROTRALE_FOLLOW_SYMLINKS", False, "true", True, ("maybe",)),
    Option(
        "--token-file", "NEUROTRALE_TOKEN_FILE", None, "t.txt", Path("t.txt"), (os.sep,)
    ),
    Option("--ui", "NEUROTRALE_UI", None, "built", Path("built"), (str(ENTRYPOINT),)),
    Option(
        "--cors-origins",
        "NEUROTRALE_CORS_ORIGINS",
        None,
        "https://A.example, http://localhost:8080/",
        ("https://a.example", "http://localhost:8080"),
        ("a.example", "https://", "ftp://a.example", "https://a.example/page", "*,https://b", ","),
    ),
    Option(
        "--allowed-hosts", "NEUROTRALE_ALLOWED_HOSTS", (),
        "Brains.example.org., lab-server", ("brains.example.org", "lab-server"),
        ("a,", "http://a", "a:9000", "a/b", "a b", "10.0.0.256", f"{'a' * 64}.b"),
    ),
    Option(
        "--trusted-proxy", "NEUROTRALE_TRUSTED_PROXY", (),
        "127.0.0.1, 10.1.0.0/16,::1,Proxy", ("127.0.0.1", "10.1.0.0/16", "::1", "proxy"),
        ("*", "10.1", "10.0.0.0/33", "http://proxy", "proxy:8080", "a b"),
    ),
    Option(
        "--base-path", "NEUROTRALE_BASE_PATH", "", "/lab/brains/", "/lab/brains",
        ("lab", "/a//b", "/a/../b", "/./a", "/a b", "/a?b", "/a%20b", "http://a/b"),
    ),
    Option("--max-body-mb", "NEUROTRALE_MAX_BODY_MB", 1024, "1", 1, ("0", "-5", "1000001", "2G")),
    Option("--spool", "NEUROTRALE_SPOOL", None, "room", Path("room"), (str(ENTRYPOINT),)),
    Option(
        "--lock-timeout", "NEUROTRALE_LOCK_TIMEOUT", 10.0, "2.5", 2.5,
        ("-1", "601", "inf", "nan", "soon"),
    ),
    Option("--lock", "NEUROTRALE_LOCK", "auto", "strict", "strict", ("soft",)),
    Option("--share", "NEUROTRALE_SHARE", "auto", "off", "off", ("group",)),
    Option("--guard", "NEUROTRALE_GUARD", "browser", "all", "all", ("on",)),
    Option("--compress", "NEUROTRALE_COMPRESS", "auto", "gzip", "gzip", ("brotli",)),
    Option("--chunk-cache", "NEUROTRALE_CHUNK_CACHE", 0, "60", 60, ("-1", "31536001", "x")),
    Option(
        "--stall-timeout", "NEUROTRALE_STALL_TIMEOUT", 60.0, "5", 5.0,
        ("0.9", "3601", "inf", "nan", "soon"),
    ),
    Option(
        "--drain-timeout", "NEUROTRALE_DRAIN_TIMEOUT", 30.0, "0", 0.0,
        ("-1", "3601", "inf", "nan", "soon"),
    ),
    Option("--ready-file", "NEUROTRALE_READY_FILE", None, "r.json", Path("r.json"), (os.sep,)),
    Option("--log-level", "NEUROTRALE_LOG_LEVEL", "info", "ERROR", "error", ("loud", "10")),
    Option("--log-format", "NEUROTRALE_LOG_FORMAT", "text", "json", "json", ("xml",)),
    Option("--metrics-public", "NEUROTRALE_METRICS_PUBLIC", False, "1", True, ("maybe",)),
    Option("--access-log", "NEUROTRALE_ACCESS_LOG", True, "yes", True, ("maybe",)),
    Option("--no-access-log", "NEUROTRALE_ACCESS_LOG", True, "0", False),
)  # fmt: skip


def by_flag(option: Option) -> str:
    return option.flag


@pytest.fixture(autouse=True)
def _no_settings_of_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in os.environ.keys() - environment().keys():
        monkeypatch.delenv(key)


def parse(*arguments: str) -> dict[str, Any]:
    """Give what `neurotrale serve` understands; nothing is started."""
    above = click.Context(main, **main.context_settings)
    return main.commands["serve"].make_context("serve", list(arguments), parent=above).params


def refuse(*arguments: str, **env: str) -> str:
    """Run a command line that must be refused before anything starts; give what it says."""
    result = CliRunner().invoke(main, list(arguments), env=env)
    assert result.exit_code == 2, result.output
    return result.output


# --- options ---


def test_options_of_the_service_are_all_in_the_table_above() -> None:
    parameters = [p for p in main.commands["serve"].params if isinstance(p, click.Option)]
    assert len(parameters) == len(SERVICE)
    written = {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)}
    assert written == {option.flag for option in OPTIONS} | {"--log"}
    assert {p.envvar for p in parameters} == {option.env for option in OPTIONS}


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_option_variables_are_named_after_their_flags(command: str) -> None:
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            flag = parameter.opts[0].removeprefix("--")
            assert parameter.envvar == "NEUROTRALE_" + flag.replace("-", "_").upper()


@pytest.mark.parametrize("option", OPTIONS, ids=by_flag)
def test_option_given_neither_way_has_its_default(option: Option) -> None:
    assert parse()[option.name.removeprefix("no_")] == option.default


@pytest.mark.parametrize("option", OPTIONS, ids=by_flag)
def test_option_given_as_flag_is_taken(option: Option) -> None:
    assert parse(*option.arguments(option.text))[option.name.removeprefix("no_")] == option.value


@pytest.mark.parametrize("option", OPTIONS, ids=by_flag)
def test_option_given_as_variable_is_taken(option: Option, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(option.env, option.text)
    assert parse()[option.name.removeprefix("no_")] == option.value


@pytest.mark.parametrize("option", OPTIONS, ids=by_flag)
def test_option_whose_variable_is_empty_has_its_default(
    option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(option.env, "")
    assert parse()[option.name.removeprefix("no_")] == option.default


def test_option_given_both_ways_is_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRALE_PORT", "1234")
    monkeypatch.setenv("NEUROTRALE_ACCESS_LOG", "0")
    options = parse("--port", "4321", "--access-log")
    assert (options["port"], options["access_log"]) == (4321, True)


BAD = [
    pytest.param(option, text, id=f"{option.flag} {text}")
    for option in OPTIONS
    for text in option.bad
]


@pytest.mark.parametrize(("option", "text"), BAD)
@pytest.mark.parametrize("way", ["flag", "variable"])
def test_option_with_a_bad_value_is_refused_by_name(option: Option, text: str, way: str) -> None:
    if way == "variable":
        said = refuse("serve", os.devnull, **{option.env: text})
    elif isinstance(option.value, bool):
        said = refuse("serve", os.devnull, f"{option.flag}={text}")
    else:
        said = refuse("serve", os.devnull, option.flag, text)
    assert option.flag in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(["serve", "--prot", "1"], "--prot", id="unknown option"),
        pytest.param(["serve", "--port"], "--port", id="option without its value"),
        pytest.param(["serve", "a", "b"], "b", id="two data roots"),
        pytest.param(["sevre"], "sevre", id="unknown command"),
    ],
)
def test_command_line_that_makes_no_sense_is_refused_by_name(
    arguments: list[str], named: str
) -> None:
    assert named in refuse(*arguments)


# --- data root ---


@pytest.mark.parametrize(
    ("arguments", "variable", "root"),
    [
        pytest.param([], None, "/data", id="neither: /data"),
        pytest.param([], "", "/data", id="empty variable: /data"),
        pytest.param([], "/from/env", "/from/env", id="variable"),
        pytest.param(["/from/argument"], None, "/from/argument", id="argument"),
        pytest.param(["/from/argument"], "/from/env", "/from/argument", id="both: argument"),
    ],
)
def test_data_root_comes_from_argument_then_variable_then_default(
    arguments: list[str], variable: str | None, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("PRECOMPUTED_PATH", variable)
    assert parse(*arguments)["data"] == Path(root)


# --- workers in a Slurm job ---


@pytest.mark.parametrize(
    ("variables", "workers"),
    [
        pytest.param({}, 10, id="no job"),
        pytest.param({"SLURM_CPUS_PER_TASK": "3"}, 10, id="variables, but no job"),
        pytest.param({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"}, 3, id="CPUs of the task"),
        pytest.param({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "5"}, 5, id="CPUs of the node"),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"},
            3,
            id="both: the task's",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "12"},
            12,
            id="the task's empty",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "7"}, len(os.sched_getaffinity(0)), id="none named: those it may use"
        ),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "NEUROTRALE_WORKERS": "6"},
            6,
            id="the service's own variable wins",
        ),
    ],
)
def test_workers_default_to_ten_and_in_a_slurm_job_to_its_cpus(
    variables: dict[str, str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert parse()["workers"] == workers


def test_workers_given_as_option_win_over_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert parse("--workers", "1")["workers"] == 1


def test_service_in_a_slurm_job_starts_a_worker_for_each_cpu(dataset: Path) -> None:
    command = neurotrale("serve", dataset.parent, "--port", "0")
    with running(command, {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"}) as service:
        wait_for_workers(service.process.pid, 3)


# --- help and version ---


def test_help_names_every_command() -> None:
    said = run(neurotrale("--help"))
    assert said.returncode == 0
    assert re.search(r"^  demo  ", said.stdout, re.MULTILINE)
    assert re.search(r"^  serve  ", said.stdout, re.MULTILINE)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_of_a_command_names_every_option_with_its_variable(command: str, flag: str) -> None:
    result = CliRunner().invoke(main, [command, flag])
    assert result.exit_code == 0
    words = re.split(r"[\s,;\[\]]+", result.output)
    for option in OPTIONS:
        assert option.flag in words
        assert option.env in words


def test_help_of_serve_names_the_data_root_and_its_default() -> None:
    said = CliRunner().invoke(main, ["serve", "--help"]).output
    assert "[DATA]" in said
    assert "PRECOMPUTED_PATH" in said
    assert "/data" in said


def test_version_is_that_of_the_package() -> None:
    assert run(neurotrale("--version")).stdout == f"neurotrale, version {package.__version__}\n"


def test_command_without_arguments_shows_the_help() -> None:
    said = run(neurotrale())
    assert said.returncode == 2
    assert "Commands:" in said.stdout + said.stderr


def test_installed_command_is_the_same_as_the_module() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["neurotrale"].partition(":")
    assert getattr(import_module(module), function) is main


# --- what cannot start ---

# A root user may read and write everything; without these powers (CAP_DAC_OVERRIDE and
# CAP_DAC_READ_SEARCH, dropped by PR_CAPBSET_DROP) permissions count for it as for anybody.
_LIKE_ANYBODY = """\
import ctypes, os, sys
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def like_anybody(command: list[str]) -> list[str]:
    """Change a Python command so that file permissions hold for it even if root runs it."""
    return [command[0], "-c", _LIKE_ANYBODY, *command[1:]]


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    """A directory that may not be read, entered or written to; a child of it exists."""
    directory = tmp_path / "forbidden"
    (directory / "child").mkdir(parents=True)
    directory.chmod(0)
    try:
        look = [sys.executable, "-c", "import os, sys; os.listdir(sys.argv[1])", str(directory)]
        if run(like_anybody(look)).returncode == 0:
            pytest.skip("permissions do not hold for this user")
        yield directory
    finally:
        directory.chmod(0o700)


def assert_one_sentence(done: subprocess.CompletedProcess[str], *named: str) -> None:
    """Check that a start failed with exit code 1 and a single message that helps."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    for name in named:
        assert name in done.stderr


def test_start_with_a_missing_data_root_says_how_to_name_one(tmp_path: Path) -> None:
    done = run(neurotrale("serve", tmp_path / "nowhere", "--port", "0"))
    assert_one_sentence(done, str(tmp_path / "nowhere"), "neurotrale serve /data")


def test_start_with_a_missing_data_root_of_the_variable_says_how_to_name_one(
    tmp_path: Path,
) -> None:
    root = str(tmp_path / "nowhere")
    done = run(neurotrale("serve", "--port", "0"), {"PRECOMPUTED_PATH": root})
    assert_one_sentence(done, root, "neurotrale serve /data")


def test_start_with_a_file_as_data_root_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(neurotrale("serve", tmp_path / "file", "--port", "0"))
    assert_one_sentence(done, str(tmp_path / "file"), "not a directory")


@pytest.mark.quick(1)
@pytest.mark.parametrize("below", ["", "child"], ids=["itself", "a directory above it"])
def test_start_with_an_unreadable_data_root_says_which_permission_lacks(
    forbidden: Path, below: str
) -> None:
    root = str(forbidden / below)
    done = run(like_anybody(neurotrale("serve", root, "--port", "0")))
    assert_one_sentence(done, root.rstrip("/"), "permission")


def test_start_on_a_taken_port_says_how_to_choose_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(neurotrale("serve", tmp_path, "--port", port))
    assert_one_sentence(done, port, "--port", "--host")


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "host",
    [pytest.param("192.0.2.1", id="of another machine"), pytest.param("a..b", id="no name at all")],
)
def test_start_on_an_address_that_is_not_ours_says_how_to_choose_another(
    host: str, tmp_path: Path
) -> None:
    done = run(neurotrale("serve", tmp_path, "--host", host, "--port", "0"))
    assert_one_sentence(done, host, "--host")


@pytest.mark.quick(1)
@pytest.mark.parametrize("parent", ["nowhere", "file"], ids=["missing", "no directory"])
def test_start_with_a_ready_file_in_a_bad_place_says_how_to_name_another(
    parent: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ready = str(tmp_path / parent / "ready.json")
    done = run(neurotrale("serve", tmp_path, "--port", "0", "--ready-file", ready))
    assert_one_sentence(done, ready, "--ready-file")


def test_start_with_an_unwritable_ready_file_says_how_to_name_another(
    forbidden: Path, tmp_path: Path
) -> None:
    forbidden.chmod(0o500)
    ready = str(forbidden / "ready.json")
    command = neurotrale("serve", tmp_path, "--port", "0", "--ready-file", ready)
    assert_one_sentence(run(like_anybody(command)), ready, "--ready-file")


def test_start_that_fails_leaves_the_ready_file_of_the_running_service(dataset: Path) -> None:
    ready = dataset.parent.parent / "ready.json"
    options = ["--workers", "1", "--ready-file", str(ready)]
    with running(neurotrale("serve", dataset.parent, "--port", "0", *options)) as service:
        before = ready.read_bytes()
        port = str(json.loads(before)["port"])
        done = run(neurotrale("serve", dataset.parent, "--port", port, *options))
        assert_one_sentence(done, port)
        assert ready.read_bytes() == before
        assert requests.get(f"{service.url}/api/health").ok


# --- what is said at the start ---


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("names", "count"),
    [
        pytest.param([], "0 datasets", id="none"),
        pytest.param(["brain"], "1 dataset", id="one"),
        pytest.param(["brain", "lab/mouse-3"], "2 datasets", id="two, one nested"),
    ],
)
def test_start_prints_url_data_root_and_number_of_datasets(
    names: list[str], count: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name / "annotations").mkdir(parents=True)
    with running(neurotrale("serve", tmp_path, "--port", "0", "--workers", "1")) as service:
        assert service.said == [
            f"open  {service.url}/",
            f"data  {tmp_path} ({count})",
            f"docs  {service.url}/api/",
            "stop  Ctrl-C",
        ]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", service.url)
        assert requests.get(f"{service.url}/").ok


def test_start_with_the_variables_of_a_job_script_alone_serves(dataset: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ready = dataset.parent.parent / "ready.json"
    env = {
        "PRECOMPUTED_PATH": str(dataset.parent),
        "NEUROTRALE_HOST": "127.0.0.2",
        "NEUROTRALE_PORT": port,
        "NEUROTRALE_WORKERS": "2",
        "NEUROTRALE_READY_FILE": str(ready),
    }
    with running(neurotrale("serve"), env) as service:
        assert service.url == f"http://127.0.0.2:{port}"
        assert json.loads(ready.read_bytes())["url"] == f"{service.url}/"
        wait_for_workers(service.process.pid, 2)
        assert requests.get(f"{service.url}/brain/info").ok
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/")


# --- what the options do ---

FILE = "brain/annotations/x0y0z0/fibers.json"
OTHER_ORIGIN = "https://elsewhere.example"


@pytest.fixture(scope="module")
def linked_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a dataset, and with a link to a file outside."""
    place = tmp_path_factory.mktemp("cli")
    write_dataset(place / "data" / "brain")
    (place / "outside.txt").write_text("outside")
    (place / "data" / "link.txt").symlink_to(place / "outside.txt")
    return place / "data"


@pytest.fixture(scope="module", params=["flags", "variables"])
def told(request: pytest.FixtureRequest, linked_root: Path) -> Iterator[str]:
    """The URL of a service that was told of many things, one way or the other."""
    settings = {
        "port": "0",
        "workers": "1",
        "threads": "2",
        "cors-origins": "https://lab.example,http://localhost:8080",
        "max-body-mb": "1",
        "lock-timeout": "0",
    }
    if request.param == "flags":
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with running(neurotrale("serve", linked_root, "--follow-symlinks", *flags)) as service:
            yield service.url
    else:
        env = {
            f"NEUROTRALE_{name.upper().replace('-', '_')}": value
            for name, value in {**settings, "follow-symlinks": "1"}.items()
        }
        with running(neurotrale("serve", linked_root), env) as service:
            yield service.url


@pytest.mark.quick(1)
def test_follow_symlinks_serves_what_a_link_leads_to(told: str) -> None:
    assert requests.get(f"{told}/link.txt").text == "outside"


@pytest.mark.parametrize("origin", ["https://lab.example", "http://localhost:8080"])
def test_cors_origins_allow_each_origin_of_the_list(told: str, origin: str) -> None:
    answer = requests.get(f"{told}/brain/info", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_cors_origins_do_not_allow_others(told: str, method: str) -> None:
    headers = {"Origin": OTHER_ORIGIN, "Access-Control-Request-Method": "PUT"}
    answer = requests.request(method, f"{told}/{FILE}", headers=headers)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_max_body_takes_a_body_of_just_that_size_and_no_larger(told: str) -> None:
    url = f"{told}/brain/annotations/x0y0z0/large.json"
    largest = b"[]".ljust(2**20)
    assert requests.put(url, data=largest).ok
    assert requests.put(url, data=largest + b" ").status_code == 413
    assert len(requests.get(url).content) == 2**20


def test_lock_timeout_of_zero_gives_up_on_a_held_lock_at_once(told: str, linked_root: Path) -> None:
    lock = linked_root / FILE.replace("fibers", ".fibers").replace(".json", ".json.lock")
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = requests.put(f"{told}/{FILE}", data=b"[]")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


@pytest.fixture(scope="module", params=["flags", "variables"])
def quiet(request: pytest.FixtureRequest, linked_root: Path) -> Iterator[Any]:
    """A read-only service without access log, told one way or the other."""
    command = neurotrale("serve", linked_root, "--port", "0", "--workers", "1")
    if request.param == "flags":
        with running([*command, "--read-only", "--no-access-log"]) as service:
            yield service
    else:
        env = {"NEUROTRALE_READ_ONLY": "1", "NEUROTRALE_ACCESS_LOG": "0"}
        with running(command, env) as service:
            yield service


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_read_only_refuses_every_change(quiet: Any, method: str) -> None:
    before = requests.get(f"{quiet.url}/{FILE}").content
    url = f"{quiet.url}/{FILE}?id={'a' * 40}"
    assert requests.request(method, url, data=b"[]").status_code == 403
    assert requests.get(f"{quiet.url}/{FILE}").content == before
    assert requests.get(f"{quiet.url}/api/health").json()["read_only"] is True


def test_no_access_log_leaves_warnings_in_the_log(quiet: Any) -> None:
    assert requests.get(f"{quiet.url}/brain/info").ok
    assert requests.get(f"{quiet.url}/link.txt").status_code == 404
    log = quiet.log()
    assert "neurotrale.access" not in log
    assert "--follow-symlinks" in log


@pytest.mark.quick(1)
@pytest.mark.parametrize("way", ["flag", "variable"])
def test_log_level_leaves_out_what_is_less_severe(way: str, linked_root: Path) -> None:
    command = neurotrale("serve", linked_root, "--port", "0", "--workers", "1")
    flag = ["--log-level", "error"] if way == "flag" else []
    env = {} if way == "flag" else {"NEUROTRALE_LOG_LEVEL": "error"}
    with running([*command, *flag], env) as service:
        assert requests.get(f"{service.url}/link.txt").status_code == 404
        assert service.stop() == 0
        assert service.log() == ""


# --- demo ---


@pytest.mark.long
def test_demo_makes_a_dataset_and_serves_it(tmp_path: Path) -> None:
    with running(neurotrale("demo", "--port", "0", "--workers", "1"), cwd=tmp_path) as service:
        made = Path("demo-data") / "demo-brain"
        assert service.said[0] == f"demo  {made}"
        assert service.said[2] == f"data  {tmp_path / 'demo-data'} (1 dataset)"
        assert requests.get(f"{service.url}/demo-brain/info").json()["data_type"] == "uint16"
        chunk = requests.get(f"{service.url}/demo-brain/1_1_1/0-64_0-64_0-64")
        assert len(chunk.content) == 2 * 64**3
        fibers = f"{service.url}/demo-brain/annotations/x0y0z0/fibers.json"
        assert requests.put(fibers, data=b"[]").ok
    # Once more: what was edited stays.
    demo = tmp_path / "demo-data"
    with running(neurotrale("demo", demo, "--port", "0", "--workers", "1")) as service:
        fibers = f"{service.url}/demo-brain/annotations/x0y0z0/fibers.json"
        assert requests.get(fibers).json() == []


@pytest.mark.quick(1)
@pytest.mark.parametrize("blocked", ["demo", "demo/demo-brain"], ids=["directory", "dataset"])
def test_demo_that_cannot_be_made_says_so(blocked: str, tmp_path: Path) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).touch()
    done = run(neurotrale("demo", tmp_path / "demo", "--port", "0"))
    assert_one_sentence(done, str(tmp_path / "demo"), "neurotrale demo ")


# --- the container's entry point ---


@pytest.fixture
def path_with_neurotrale(tmp_path: Path) -> str:
    """A PATH on which `neurotrale` is the one under test."""
    place = tmp_path / "bin"
    place.mkdir()
    command = place / "neurotrale"
    program = f"PYTHONPATH={REPOSITORY} exec {sys.executable} -m neurotrale"
    command.write_text(f'#!/bin/sh\n{program} "$@"\n')
    command.chmod(0o755)
    return f"{place}:{os.environ['PATH']}"


def test_entrypoint_is_an_executable_posix_script() -> None:
    assert stat.S_IMODE(ENTRYPOINT.stat().st_mode) & 0o111 == 0o111
    assert ENTRYPOINT.read_text().startswith("#!/bin/sh\n")
    assert run(["sh", "-n", str(ENTRYPOINT)]).returncode == 0


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="options alone"),
        pytest.param(["serve"], id="serve"),
        pytest.param(["/apps/entrypoint.sh"], id="its place in the image"),
        pytest.param([str(ENTRYPOINT)], id="itself"),
        pytest.param(["/apps/entrypoint.sh", "serve"], id="its place in the image, and serve"),
    ],
)
def test_entrypoint_serves_with_the_options_it_is_given(
    before: list[str], dataset: Path, path_with_neurotrale: str
) -> None:
    command = [str(ENTRYPOINT), *before, "--port", "0", "--workers", "2"]
    env = {
        "PATH": path_with_neurotrale,
        "PRECOMPUTED_PATH": str(dataset.parent),
        "NEUROTRALE_HOST": "127.0.0.2",
    }
    with running(command, env) as service:
        assert re.fullmatch(r"http://127\.0\.0\.2:\d+", service.url)
        assert requests.get(f"{service.url}/brain/info").ok
        # exec: the process that was started is the supervisor itself.
        wait_for_workers(service.process.pid, 2)
        assert service.stop() == 0


def test_entrypoint_listens_on_every_interface_unless_told_otherwise(
    dataset: Path, path_with_neurotrale: str
) -> None:
    ready = dataset.parent.parent / "ready.json"
    command = ["sh", str(ENTRYPOINT), str(dataset.parent), "--port", "0", "--workers", "1"]
    with running([*command, "--ready-file", str(ready)], {"PATH": path_with_neurotrale}) as service:
        assert json.loads(ready.read_bytes())["host"] == "0.0.0.0"
        port = service.url.rpartition(":")[2]
        assert requests.get(f"http://127.0.0.2:{port}/brain/info").ok


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--help"], "[DATA]", id="help"),
        pytest.param(["--version"], package.__version__, id="version"),
    ],
)
def test_entrypoint_passes_questions_on(
    arguments: list[str], said: str, path_with_neurotrale: str
) -> None:
    done = run(["sh", str(ENTRYPOINT), *arguments], {"PATH": path_with_neurotrale})
    assert done.returncode == 0
    assert said in done.stdout


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", sorted(main.commands))
def test_entrypoint_passes_every_command_on(name: str, path_with_neurotrale: str) -> None:
    done = run(["sh", str(ENTRYPOINT), name, "--help"], {"PATH": path_with_neurotrale})
    assert re.match(rf"Usage: .* {name} ", done.stdout)


def test_entrypoint_takes_a_word_that_is_no_command_for_a_mistake(
    path_with_neurotrale: str, tmp_path: Path
) -> None:
    # A directory of that name does not make it one: it would hide the command of the same name.
    (tmp_path / "brain").mkdir()
    env = {"PATH": path_with_neurotrale}
    done = run(["sh", str(ENTRYPOINT), "brain"], env, cwd=tmp_path)
    assert done.returncode == 2
    assert "No such command 'brain'" in done.stderr


@pytest.mark.quick(1)
@pytest.mark.parametrize("directory", [".", "./brain", "../data/"])
def test_entrypoint_serves_a_directory_that_is_written_with_a_slash(
    directory: str, dataset: Path, path_with_neurotrale: str
) -> None:
    env = {"PATH": path_with_neurotrale, "NEUROTRALE_HOST": "127.0.0.1"}
    command = ["sh", str(ENTRYPOINT), directory, "--port", "0", "--workers", "1"]
    with running(command, env, cwd=dataset.parent) as service:
        assert requests.get(f"{service.url}/api/health").ok


@pytest.mark.quick(1)
@pytest.mark.parametrize("variable", ["APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"])
def test_entrypoint_in_apptainer_listens_on_this_machine_only(
    variable: str, dataset: Path, path_with_neurotrale: str
) -> None:
    # Its network is that of the host, unlike Docker's.
    command = ["sh", str(ENTRYPOINT), str(dataset.parent), "--port", "0", "--workers", "1"]
    env = {"PATH": path_with_neurotrale, variable: "/image.sif"}
    with running(command, env) as service:
        assert service.url.startswith("http://127.0.0.1:")


def test_entrypoint_leaves_the_python_settings_of_the_host_behind(
    path_with_neurotrale: str, tmp_path: Path
) -> None:
    place = tmp_path / "bin" / "neurotrale"
    place.write_text("#!/bin/sh\nenv\n")
    env = {"PATH": path_with_neurotrale, "PYTHONHOME": "/x", "PYTHONPATH": "/x"}
    done = run(["sh", str(ENTRYPOINT), "locks"], env)
    assert done.returncode == 0
    assert "PYTHONHOME" not in done.stdout
    assert "PYTHONPATH" not in done.stdout


def test_entrypoint_ends_with_the_exit_code_of_the_service(path_with_neurotrale: str) -> None:
    done = run(["sh", str(ENTRYPOINT), "--port", "none"], {"PATH": path_with_neurotrale})
    assert done.returncode == 2
    assert "--port" in done.stderr
