"""The README and the changelog are true: what they name exists, what they show happens."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import falcon
import pytest
import requests
import tifffile

import neurotrale as package
from neurotrale.annotations.check import GEOMETRY, NOT_NULL
from neurotrale.checking.kinds import KINDS
from neurotrale.cli import main
from neurotrale.demo import write_demo
from neurotrale.problems import TABLE
from tests.datasets import gradient, write_dataset
from tests.processes import ACCESS_LINE, PATIENCE_S, REPOSITORY, neurotrale, run, running
from tests.stacks import visible_files, write_planes

README = (REPOSITORY / "README.md").read_text()
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()
PAGES = sorted(REPOSITORY.glob("docs/*.md"))
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/README.md"), *PAGES])
SERVED_AT = "http://localhost:9000"


def section(title: str) -> str:
    """The text of a section of the README."""
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match is not None, f"the README has no section {title!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, its head left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# --- commands ---

COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


def test_readme_begins_with_the_two_commands() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


def parsed(words: list[str]) -> click.Context:
    """Have the command line take the words of a command; its /data may be any directory."""
    name, *rest = [str(REPOSITORY) if word in ("/data", "/data/brain") else word for word in words]
    return main.commands[name].make_context(
        name, rest, parent=click.Context(main, **main.context_settings)
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_is_one_that_exists(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert targets
        for target in targets:
            assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)
        for word in set(arguments) - set(targets):
            assert re.search(rf"^{word.partition('=')[0]} *\?=", MAKEFILE, re.MULTILINE)
    else:
        assert program == "neurotrale"
        parsed(arguments)


# Pages whose every command is run in `tests.deploy`.
RUN_AS_THEY_STAND = {"apptainer.md", "docker.md"}
PAGE_COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for page in PAGES
        if page.name not in RUN_AS_THEY_STAND
        for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    }
)


@pytest.mark.parametrize("command", PAGE_COMMANDS)
def test_page_command_is_one_that_exists(command: str) -> None:
    words = shlex.split(command.partition(" > ")[0])
    if words[0] == "srun":
        words = words[2:]
    if words[0] == "neurotrale":
        parsed(words[1:])
    else:
        assert shutil.which(words[0]) is not None


def test_readme_names_only_make_targets_that_exist() -> None:
    for target in re.findall(r"`make ([a-z-]+)", README):
        assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), target


# --- examples ---


def examples(of_service: bool) -> list[tuple[str, str]]:
    """Commands with what they print: those that ask the service, or those on the files."""
    return [
        (match[1], match[2])
        for block in blocks("console")
        if (SERVED_AT in block) == of_service
        for match in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]


EXAMPLES = examples(of_service=True)


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("demo")
    write_demo(root)
    with running(neurotrale("serve", root, "--port", "0", "--workers", "1")) as service:
        yield service.url


def shown(pattern: str) -> re.Pattern[str]:
    """What an example shows, where ``...`` stands for anything."""
    return re.compile(".*".join(map(re.escape, pattern.strip().split("..."))), re.DOTALL)


def test_readme_examples_give_what_the_readme_shows(demo_url: str) -> None:
    # One after the other, as a reader would: the later ones build on the earlier.
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert len(EXAMPLES) >= 10
    for command, expected in EXAMPLES:
        assert SERVED_AT in command
        done = subprocess.run(
            ["sh", "-c", command.replace(SERVED_AT, demo_url)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert shown(expected).fullmatch(done.stdout.strip()), f"{command}\n{done.stdout}"


def test_readme_examples_on_files_give_what_the_readme_shows(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo-data")
    command_line = shlex.join(neurotrale())
    for command, expected in examples(of_service=False):
        script = f'neurotrale() {{ {command_line} "$@"; }}; {command}'
        done = run(["sh", "-c", script], cwd=tmp_path)
        assert done.stdout.strip() == expected.strip(), f"{command}\n{done.stderr}"


def test_readme_commands_of_check_and_repack_do_what_they_say(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "brain")
    commands = [c for c in COMMANDS if c.startswith(("neurotrale check", "neurotrale repack"))]
    assert len(commands) >= 5
    for command in commands:
        done = run(neurotrale(*shlex.split(command.replace("/data/brain", str(dataset)))[1:]))
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_readme_examples_use_every_method() -> None:
    shell = "\n".join(command for command, _ in EXAMPLES)
    for method in ("PUT", "PATCH", "DELETE"):
        assert f"-X {method} " in shell


# --- tables ---


def default_of(parameter: click.Parameter) -> str:
    default = parameter.default
    if callable(default):
        default = default()
    if parameter.default is True or parameter.default is False:
        return "on" if default else "off"
    return f"`{default}`" if isinstance(default, (str, int, float)) else "none"


def test_readme_options_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    options = [p for p in main.commands["serve"].params if isinstance(p, click.Option)]
    expected = [
        [
            f"`{'/'.join(option.opts + option.secondary_opts)}`",
            f"`{option.envvar}`",
            default_of(option),
            option.help,
        ]
        for option in options
    ]
    first, *others = rows(section("Options"))
    assert first[:3] == ["`DATA` (of `serve`)", "`PRECOMPUTED_PATH`", "`/data`"]
    assert others == expected


def test_readme_options_of_check_and_repack_are_those_of_the_command_line() -> None:
    expected = [
        [
            f"`{'/'.join(option.opts)}`",
            "required" if option.required else "none" if option.multiple else default_of(option),
            option.help,
        ]
        for name in ("check", "repack")
        for option in main.commands[name].params
        if isinstance(option, click.Option)
    ]
    first, second = section("Check a data set").split("`neurotrale repack` rewrites")
    assert rows(first) + rows(second) == expected


def test_page_of_check_has_every_kind_of_finding() -> None:
    page = (REPOSITORY / "docs" / "check.md").read_text()
    expected = [
        [f"`{kind.name}`", kind.severity, kind.what, kind.viewer, kind.mend]
        for kind in KINDS.values()
    ]
    assert rows(page) == expected


def test_page_of_check_shows_json_as_it_is_printed(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "check.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    dataset = write_demo(tmp_path)
    (dataset / "2_2_2" / "0-64_0-64_0-64.tiff").unlink()
    printed = run(neurotrale("check", dataset, "--json")).stdout
    assert printed.replace(str(dataset), "/data/brain") == example


def test_readme_options_hold_for_the_demo_too() -> None:
    serve, demo = (
        {p.name for p in main.commands[name].params if isinstance(p, click.Option)}
        for name in ("serve", "demo")
    )
    assert serve == demo


def test_readme_options_of_ingest_are_those_of_the_command_line() -> None:
    options = [p for p in main.commands["ingest"].params if isinstance(p, click.Option)]
    expected = [
        [f"`{o.opts[0]}`", "required" if o.required else default_of(o), o.help] for o in options
    ]
    assert rows(section("From a stack to a data set")) == expected


def test_readme_commands_of_ingest_do_what_they_say(tmp_path: Path) -> None:
    voxels = gradient((140, 70, 80), "uint8")
    write_planes(tmp_path / "planes", voxels)
    tifffile.imwrite(tmp_path / "cells.tif", voxels, metadata={"axes": "ZYX"})
    commands = [c for c in COMMANDS if c.startswith("neurotrale ingest")]
    assert [c for c in commands if c.endswith(("--plan", "--segmentation", "--finish"))]
    for command in commands:
        words = shlex.split(command.replace("/data/", f"{tmp_path}/data/"))
        done = run(neurotrale(*words[1:]), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        if words[-1] == "--plan":
            assert not (tmp_path / "data").exists()
    first, second, cells = (
        visible_files(tmp_path / "data" / name) for name in ("mouse-3", "mouse-4", "mouse-3-cells")
    )
    assert first == second
    assert b'"segmentation"' in cells["info"]


def test_readme_urls_are_those_of_the_service(demo_url: str) -> None:
    paths = requests.get(f"{demo_url}/api/openapi.json").json()["paths"]
    methods = ("get", "put", "patch", "delete", "post")
    served = {
        (" ".join(m.upper() for m in methods if m in operations), f"`{path}`")
        for path, operations in paths.items()
    }
    assert {(row[0], row[1]) for row in rows(section("URLs"))} == served


def test_readme_errors_are_those_of_the_service() -> None:
    named = {int(row[0]) for row in rows(section("Errors"))}
    by_falcon = {405, 416}
    assert named == {falcon.http_status_to_code(status) for status, _ in TABLE.values()} | by_falcon


def test_readme_names_the_rules_of_annotations() -> None:
    text = section("What is checked")
    for kind, (single, several) in GEOMETRY.items():
        for word in (kind, *single, *several):
            assert f"`{word}`" in text
    for field in NOT_NULL:
        assert f"`{field}`" in text


def test_readme_map_has_every_room_of_the_code() -> None:
    named = {room for row in rows(section("Development")) for room in re.findall(r"\w+", row[0])}
    rooms = {p.stem for p in (REPOSITORY / "neurotrale").iterdir() if p.suffix in ("", ".py")}
    assert named == {room for room in rooms if not room.startswith("_")}


def test_readme_access_line_has_the_form_of_the_log(demo_url: str) -> None:
    (line,) = re.findall(r"^    (\d{4}-.*)$", README, re.MULTILINE)
    match = ACCESS_LINE.fullmatch(line)
    assert match is not None
    answer = requests.get(demo_url + match["path"])
    assert (answer.status_code, len(answer.content)) == (int(match["status"]), int(match["bytes"]))


# --- documents ---


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert target.resolve().is_relative_to(REPOSITORY), link
        assert not anchor or anchor in anchors(target), link


def test_readme_starts_with_its_name_and_has_its_sections() -> None:
    assert README.startswith(f"# {package.__name__}\n")
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert titles == [
        "Use",
        "See it",
        "From a stack to a data set",
        "Check a data set",
        "Nothing is lost",
        "URLs",
        "Options",
        "Files on disk",
        "What is checked",
        "Errors",
        "Security",
        "Speed",
        "Limits known today",
        "Development",
    ]


def test_changelog_has_what_is_unreleased_on_top() -> None:
    versions = re.findall(r"^## \[(.*?)\]", CHANGELOG, re.MULTILINE)
    assert versions[0] == "Unreleased"
    for version in versions[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)


def test_version_is_the_same_everywhere(demo_url: str) -> None:
    version = package.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "neurotrale.__version__"}
    assert requests.get(f"{demo_url}/api/health").json()["version"] == version
    assert requests.get(f"{demo_url}/api/openapi.json").json()["info"]["version"] == version
    assert run(neurotrale("--version")).stdout.split()[-1] == version


def test_python_of_the_readme_is_that_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lowest = project["requires-python"].removeprefix(">=")
    assert f"Python {lowest} or newer" in README
    assert f"Python {lowest} or newer" in MAKEFILE


# --- pages about images, which `tests.deploy` follows word by word ---


@pytest.mark.parametrize("name", sorted(RUN_AS_THEY_STAND))
def test_page_of_an_image_is_followed_by_a_test(name: str) -> None:
    readers = [path.read_text() for path in (REPOSITORY / "tests" / "deploy").glob("test_*.py")]
    assert any(f'.follow("{name}")' in text for text in readers)
    page = (REPOSITORY / "docs" / name).read_text()
    # No block escapes the reader by its language, no command by its place in front of a section.
    languages = set(re.findall(r"^```(.+)$", page, re.MULTILINE))
    assert languages <= {"sh", "sh serves", "console"}
    assert "```" not in page.partition("\n## ")[0]


def test_page_of_compose_has_the_variables_of_compose() -> None:
    compose = (REPOSITORY / "compose.yaml").read_text()
    page = (REPOSITORY / "docs" / "docker.md").read_text()
    used = {
        (name, default[2:] if default.startswith(":-") else None)
        for name, default in re.findall(r"\$\{(\w+)(:[-?+][^}]*)\}", compose)
        if not default.startswith(":+")
    }
    shown = {(row[0].strip("`"), row[1].strip("`")) for row in rows(page)}
    plain = {None: "required", "/dev/null": "none"}
    assert shown == {(name, plain.get(default, default)) for name, default in used}


def test_compose_passes_on_settings_that_exist() -> None:
    compose = (REPOSITORY / "compose.yaml").read_text()
    passed = set(re.findall(r"^      (NEUROTRALE_\w+):$", compose, re.MULTILINE))
    options = {p.envvar for p in main.commands["serve"].params if isinstance(p, click.Option)}
    assert passed <= options
    # What compose itself decides.
    ours = {"HOST", "PORT", "UNIX_SOCKET", "READY_FILE", "TOKEN_FILE", "UI"}
    assert options - passed <= {f"NEUROTRALE_{name}" for name in ours}
