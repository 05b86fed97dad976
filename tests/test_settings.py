"""The table of settings: command line, help and checks do what is declared there."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from neurotrale.cli import EXAMPLES, main
from neurotrale.cli.declared import Declared, Option
from neurotrale.queries.formats import FORMATS
from neurotrale.server.service import ServeSettings
from neurotrale.server.worker import Limits
from neurotrale.settings import COMMANDS, records, stacks
from neurotrale.settings.service import DEFAULT_WORKERS, SERVICE
from neurotrale.settings.setting import Command, Flag, Setting
from neurotrale.tools.check.rules import SEVERITIES
from neurotrale.web.app_settings import AppSettings
from tests.processes import REPOSITORY, environment, neurotrale, run

EACH = pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
ALIASES = [
    pytest.param(command, setting, alias, id=f"{command.name} {alias}")
    for command in COMMANDS.values()
    for setting in command.settings
    for alias in setting.other_options
]


@pytest.fixture(autouse=True)
def _no_settings_of_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in os.environ.keys() - environment().keys():
        monkeypatch.delenv(key)


def parsed(line: str, *more: str) -> dict[str, Any]:
    """What a command line of an example means; its /data may be any directory."""
    words = shlex.split(line)
    name, *rest = words[words.index("neurotrale") + 1 :]
    rest = [str(REPOSITORY) if word in ("/data", "/data/brain") else word for word in rest]
    above = click.Context(main, **main.context_settings)
    return main.commands[name].make_context(name, [*rest, *more], parent=above).params


# --- one table ---


def test_table_has_every_command_of_the_command_line_and_each_its_options() -> None:
    assert list(main.commands) == list(COMMANDS)
    for name, declared in COMMANDS.items():
        command = main.commands[name]
        assert isinstance(command, Declared)
        options = [one for one in command.params if isinstance(one, click.Option)]
        shown = [one for one in options if not one.hidden]
        assert [one.setting for one in shown if isinstance(one, Option)] == list(declared.settings)
        assert len(shown) == len(declared.settings)


def test_names_are_given_once_in_a_command() -> None:
    for command in COMMANDS.values():
        names = [name for one in command.settings for name in (one.name, *one.aliases)]
        assert len(set(names)) == len(names)


def test_defaults_in_code_are_those_of_the_table() -> None:
    default = {setting.key: setting.default for setting in SERVICE}
    app, limits = AppSettings(Path("/data")), Limits()
    serve = ServeSettings(app)
    in_code = {
        "host": serve.host,
        "port": serve.port,
        "unix_socket": serve.unix_socket,
        "workers": serve.workers,
        "threads": limits.threads,
        "connections": limits.connections,
        "queue": limits.queue,
        "read_only": app.read_only,
        "follow_symlinks": app.follow_symlinks,
        "token_file": app.token_file,
        "ui": app.ui,
        "cors_origins": app.cors_origins,
        "allowed_hosts": serve.allowed_hosts,
        "trusted_proxy": serve.trusted_proxy,
        "base_path": app.base_path,
        "max_body_mb": app.max_body_bytes / 2**20,
        "spool": serve.spool,
        "lock_timeout": app.lock_timeout_s,
        "lock": app.lock,
        "share": app.share,
        "guard": app.guard,
        "compress": app.compress,
        "chunk_cache": app.chunk_cache_s,
        "stall_timeout": limits.stall_s,
        "drain_timeout": limits.drain_s,
        "ready_file": serve.ready_file,
        "metrics_public": app.metrics_public,
    }
    assert in_code == {key: default[key] for key in in_code}
    assert default.keys() - in_code.keys() == {"log_level", "log_format", "access_log"}
    assert parsed("neurotrale serve")["workers"] == DEFAULT_WORKERS


def test_choices_are_those_of_the_code() -> None:
    assert tuple(FORMATS) == records.EXPORT_FORMATS
    assert SEVERITIES == stacks.SEVERITIES


def test_table_is_usable_without_the_libraries_of_service_and_command_line() -> None:
    script = "import neurotrale.settings, sys, json; print(json.dumps([*sys.modules]))"
    loaded = {name.split(".")[0] for name in json.loads(run([sys.executable, "-c", script]).stdout)}
    assert loaded & {"click", "falcon", "waitress", "numpy", "msgspec", "filelock"} == set()


def test_every_setting_is_told_in_sentences() -> None:
    for command in COMMANDS.values():
        for setting in command.settings:
            for text in filter(None, (setting.text, setting.reason)):
                assert text.endswith("."), text
                assert "|" not in text


# --- names ---


@pytest.mark.parametrize(("command", "setting", "alias"), ALIASES)
def test_other_name_of_an_option_means_the_same(
    command: Command, setting: Setting[Any], alias: str
) -> None:
    value = [] if isinstance(setting.kind, Flag) else ["error" if alias == "--log" else "3"]
    line = next(line for line in command.examples if setting.option not in line)
    before = parsed(line)
    by_name, by_alias = (parsed(line, name, *value) for name in (setting.option, alias))
    assert by_name == by_alias
    assert by_name != before


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("jobs", {"ingest", "check", "repack"}),
        ("dry-run", {"ingest", "repack", "compact"}),
        ("log-level", set(COMMANDS)),
    ],
)
def test_one_thing_has_one_name_in_all_commands(name: str, commands: set[str]) -> None:
    having = {
        command.name
        for command in COMMANDS.values()
        if any(setting.name == name for setting in command.settings)
    }
    assert having == commands


@EACH
@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("WARN", "warning"),
        ("WARNING", "warning"),
        ("warn", "warning"),
        ("Debug", "debug"),
        ("INFO", "info"),
        ("ERROR", "error"),
        ("CRITICAL", "critical"),
        ("FATAL", "critical"),
        ("NOTSET", "debug"),
    ],
)
@pytest.mark.parametrize("option", ["--log", "--log-level"])
def test_severity_is_taken_by_every_name_that_logging_has(
    command: Command, text: str, level: str, option: str
) -> None:
    assert parsed(command.examples[-1], option, text)["log_level"] == level


@EACH
@pytest.mark.parametrize("text", ["loud", "10", "", "warn ing"])
def test_severity_that_is_none_is_refused(command: Command, text: str) -> None:
    with pytest.raises(click.BadParameter, match="critical"):
        parsed(command.examples[-1], "--log", text)


# --- contradictions ---

CONTRADICTIONS = [
    (["serve", ".", "--unix-socket", "s", "--port", "0"], "--unix-socket"),
    (["serve", ".", "--unix-socket", "s", "--host", "::1"], "--unix-socket"),
    (["demo", "--unix-socket", "s", "--port", "0"], "--unix-socket"),
    (["serve", ".", "--ready-file", "f", "--token-file", "f"], "--ready-file"),
    (["serve", ".", "--ready-file", "./f", "--token-file", "f"], "--ready-file"),
    (["serve", ".", "--allowed-hosts", "a", "--unix-socket", "s"], "--allowed-hosts"),
    (["serve", ".", "--allowed-hosts", "a", "--token-file", "f"], "--allowed-hosts"),
    (["serve", ".", "--trusted-proxy", "10.0.0.1,unix"], "--trusted-proxy"),
    (["serve", ".", "--ready-file", "f", "--unix-socket", "f"], "--ready-file"),
    (["serve", ".", "--token-file", "f", "--unix-socket", "f"], "--unix-socket"),
    (["serve", ".", "--access-log", "--log-level", "warning"], "--access-log"),
    (["history", "f.json", "--all", "--limit", "3"], "--all"),
    (["history", "f.json", "--show", "3", "--since", "2026-01-01"], "--show"),
    (["history", "f.json", "--show", "3", "--all"], "--show"),
    (["locks", ".", "--break", "x", "--lock", "flock"], "--break"),
    (["locks", ".", "--break", "x", "--prove"], "--break"),
    (["locks", ".", "--seconds", "3"], "--seconds"),
    (["locks", ".", "--evidence", "e"], "--evidence"),
]


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("arguments", "said"), CONTRADICTIONS, ids=[" ".join(one) for one, _ in CONTRADICTIONS]
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_done(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("anna:rw:0123456789abcdef\n")
    (tmp_path / "f.json").write_text("[]")
    done = run(neurotrale(*arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Error: {said}" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.json"]


def test_ready_file_of_the_environment_may_not_be_the_token_file_either(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("anna:rw:0123456789abcdef\n")
    env = {"NEUROTRALE_READY_FILE": str(tokens), "NEUROTRALE_TOKEN_FILE": str(tokens)}
    assert run(neurotrale("serve", tmp_path), env).returncode == 2
    assert tokens.exists()


def test_option_makes_a_variable_meaningless_without_contradicting_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROTRALE_HOST", "0.0.0.0")
    assert parsed("neurotrale serve /data", "--unix-socket", "s")["unix_socket"] == Path("s")


# --- help ---


def test_help_lists_every_command_with_its_whole_summary() -> None:
    said = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in said.partition("Commands:")[2]
    for command in COMMANDS.values():
        assert re.search(rf"^  {command.name} +{re.escape(command.summary)}$", said, re.MULTILINE)
    for line in EXAMPLES:
        assert f"  {line}\n" in said


@EACH
def test_help_of_a_command_shows_its_options_by_one_name_and_examples(command: Command) -> None:
    said = CliRunner().invoke(main, [command.name, "--help"], terminal_width=80).output
    options, _, examples = said.partition("\nExample")
    assert command.examples
    for line in command.examples:
        assert f"  {line}\n" in examples
    for setting in command.settings:
        assert re.search(rf"^  (-\w, )?{setting.option.split('/')[0]}\b", options, re.MULTILINE)
        for alias in setting.other_options:
            assert not re.search(rf"^  {alias}[ ,\n]", options, re.MULTILINE)
            assert f" {alias}." in re.sub(r"\s+", " ", options)


@EACH
def test_examples_of_a_command_are_understood(command: Command) -> None:
    for line in command.examples:
        assert line.split("neurotrale ")[1].split()[0] == command.name
        assert parsed(line)


def test_examples_of_the_whole_are_understood() -> None:
    for line in EXAMPLES:
        result = CliRunner().invoke(main, [*line.split()[1:], "--help"])
        assert result.exit_code == 0
