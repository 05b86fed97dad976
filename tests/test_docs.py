"""The documents are true: what they name exists, what they show happens."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import falcon
import pytest
import requests
import tifffile
import yaml

import neurotrale as package
from neurotrale.annotations.documents.validation import GEOMETRY, NOT_NULL
from neurotrale.cli import main
from neurotrale.settings.service import SERVICE
from neurotrale.tools.check.rules import KINDS
from neurotrale.web.error_handlers import TABLE
from tests import options_page
from tests.conftest import CopyDemo
from tests.datasets import gradient, write_dataset
from tests.processes import ACCESS_LINE, PATIENCE_S, REPOSITORY, neurotrale, run, running
from tests.stacks import visible_files, write_planes
from tests.test_architecture import NAMES as MODULES
from tests.test_architecture import foreign_imports, own_imports, room_of

README = (REPOSITORY / "README.md").read_text()
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()
PAGES = sorted(REPOSITORY.glob("docs/*.md"))
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("[!.]*/README.md"), *PAGES])
SERVED_AT = "http://localhost:9000"

# Pages whose every command is run in `tests.deploy`.
RUN_AS_THEY_STAND = {"apptainer.md", "docker.md"}
FOLLOWED = ["docs/apptainer.md", "docs/docker.md", "slurm/README.md"]
# The others; what they show is run here.
OWN = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"),
    *(f"docs/{page.name}" for page in PAGES if page.name not in RUN_AS_THEY_STAND),
]


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text()


def section(document: str, title: str) -> str:
    """The text of a section of a document."""
    pattern = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    match = re.search(pattern, text_of(document), re.MULTILINE | re.DOTALL)
    assert match is not None, f"{document} has no section {title!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, its head left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def blocks(document: str, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, text_of(document), re.MULTILINE | re.DOTALL)


# --- commands ---


def commands(*documents: str) -> list[str]:
    """The commands that documents show, without comments, in order."""
    return [
        line.partition(" #")[0].strip()
        for document in documents
        for block in blocks(document, "sh")
        for line in block.splitlines()
    ]


def test_readme_begins_with_the_two_commands() -> None:
    assert commands("README.md")[:2] == ["make demo", "make test"]


def test_readme_goes_on_with_the_three_ways_that_it_is_packaged_for() -> None:
    ways = [shlex.split(block.splitlines()[-1])[:2] for block in blocks("README.md", "sh")[1:]]
    assert ways == [["apptainer", "run"], ["slurm/launch", "--login"], ["docker", "run"]]


def parsed(words: list[str]) -> click.Context:
    """Have the command line take the words of a command; its /data may be any directory."""
    name, *rest = [str(REPOSITORY) if word in ("/data", "/data/brain") else word for word in words]
    return main.commands[name].make_context(
        name, rest, parent=click.Context(main, **main.context_settings)
    )


@pytest.mark.parametrize("command", sorted(set(commands(*OWN))))
def test_command_is_one_that_exists(command: str) -> None:
    program, *arguments = shlex.split(command.partition(" > ")[0])
    if program == "srun":
        program, *arguments = arguments[1:]
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert targets
        for target in targets:
            assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)
        for word in set(arguments) - set(targets):
            assert re.search(rf"^{word.partition('=')[0]} *\?=", MAKEFILE, re.MULTILINE)
    elif program == "neurotrale":
        parsed(arguments)
    elif program in ("apptainer", "docker", "slurm/launch"):
        followed = [line for page in FOLLOWED for line in text_of(page).splitlines()]
        assert command in followed, "the page that the tests follow has it not"
    elif program.startswith(".venv/bin/"):
        assert (Path(sys.executable).parent / Path(program).name).exists()
    else:
        assert shutil.which(program) is not None


def test_commands_of_every_own_kind_are_shown() -> None:
    shown = commands(*OWN)
    assert {shlex.split(line)[1] for line in shown if line.startswith("neurotrale ")} >= {
        *main.commands
    }
    assert len([line for line in shown if line.startswith("make ")]) >= 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_names_only_make_targets_that_exist(document: Path) -> None:
    for target in re.findall(r"`make ([a-z-]+)", document.read_text()):
        assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), target


# --- examples ---


def examples(document: str, of_service: bool) -> list[tuple[str, str]]:
    """Commands with what they print: those that ask the service, or those on the files."""
    return [
        (match[1], match[2])
        for block in blocks(document, "console")
        if (SERVED_AT in block) == of_service
        for match in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]


EXAMPLES = {page: examples(page, of_service=True) for page in OWN}
FILE_EXAMPLES = {page: examples(page, of_service=False) for page in OWN}


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory, copy_demo: CopyDemo) -> Iterator[str]:
    root = tmp_path_factory.mktemp("demo")
    copy_demo(root)
    with running(neurotrale("serve", root, "--port", "0", "--workers", "1")) as service:
        yield service.url


def shown(pattern: str) -> re.Pattern[str]:
    """What an example shows, where ``...`` stands for anything."""
    return re.compile(".*".join(map(re.escape, pattern.strip().split("..."))), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in OWN if EXAMPLES[page]])
def test_examples_give_what_the_page_shows(page: str, demo_url: str) -> None:
    # One after the other, as a reader would: the later ones build on the earlier.
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for command, expected in EXAMPLES[page]:
        assert SERVED_AT in command
        done = subprocess.run(
            ["sh", "-c", command.replace(SERVED_AT, demo_url)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert shown(expected).fullmatch(done.stdout.strip()), f"{command}\n{done.stdout}"


@pytest.mark.parametrize("page", [page for page in OWN if FILE_EXAMPLES[page]])
def test_examples_on_files_give_what_the_page_shows(
    page: str, tmp_path: Path, copy_demo: CopyDemo
) -> None:
    copy_demo(tmp_path / "demo-data")
    command_line = shlex.join(neurotrale())
    for command, expected in FILE_EXAMPLES[page]:
        script = f'neurotrale() {{ {command_line} "$@"; }}; {command}'
        done = run(["sh", "-c", script], cwd=tmp_path)
        assert done.stdout.strip() == expected.strip(), f"{command}\n{done.stderr}"


def test_commands_of_check_and_repack_do_what_they_say(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "brain")
    shown = commands("docs/check.md", "docs/data-layout.md")
    both = [c for c in shown if c.startswith(("neurotrale check", "neurotrale repack"))]
    assert len(both) >= 5
    for command in both:
        done = run(neurotrale(*shlex.split(command.replace("/data/brain", str(dataset)))[1:]))
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_readme_examples_are_a_chunk_annotations_and_an_edit() -> None:
    chunk, annotations, edit = (command for command, _ in EXAMPLES["README.md"])
    assert re.search(r"/[\d-]+_[\d-]+_[\d-]+\b", chunk)
    assert annotations.endswith(".json")
    assert "-X PATCH " in edit


def test_examples_are_of_many_kinds_and_use_every_method() -> None:
    everywhere = [command for page in OWN for command, _ in EXAMPLES[page]]
    assert len(everywhere) >= 10
    assert sum(map(len, FILE_EXAMPLES.values())) >= 3
    shell = "\n".join(everywhere)
    for method in ("PUT", "PATCH", "DELETE"):
        assert f"-X {method} " in shell


# --- tables ---


def test_page_of_options_is_that_of_the_table_of_settings() -> None:
    assert options_page.PAGE.read_text() == options_page.page(), "make options writes it"
    assert options_page.SCRIPT.read_text() == options_page.script(), "make options writes it"


def test_page_of_check_has_every_kind_of_finding() -> None:
    page = (REPOSITORY / "docs" / "check.md").read_text()
    expected = [
        [f"`{kind.name}`", kind.severity, kind.summary, kind.viewer, kind.fix]
        for kind in KINDS.values()
    ]
    assert rows(page) == expected


def test_page_of_check_shows_json_as_it_is_printed(tmp_path: Path, copy_demo: CopyDemo) -> None:
    page = (REPOSITORY / "docs" / "check.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    dataset = copy_demo(tmp_path)
    (dataset / "2_2_2" / "0-64_0-64_0-64.tiff").unlink()
    printed = run(neurotrale("check", dataset, "--json")).stdout
    assert printed.replace(str(dataset), "/data/brain") == example


def test_commands_of_ingest_do_what_they_say(tmp_path: Path) -> None:
    voxels = gradient((140, 70, 80), "uint8")
    write_planes(tmp_path / "planes", voxels)
    tifffile.imwrite(tmp_path / "cells.tif", voxels, metadata={"axes": "ZYX"})
    ingests = [c for c in commands("docs/ingest.md") if c.startswith("neurotrale ingest")]
    assert [c for c in ingests if c.endswith(("--dry-run", "--segmentation", "--finish"))]
    for command in ingests:
        words = shlex.split(command.replace("/data/", f"{tmp_path}/data/"))
        done = run(neurotrale(*words[1:]), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        if words[-1] == "--dry-run":
            assert not (tmp_path / "data").exists()
    first, second, cells = (
        visible_files(tmp_path / "data" / name) for name in ("mouse-3", "mouse-4", "mouse-3-cells")
    )
    assert first == second
    assert b'"segmentation"' in cells["info"]


def test_urls_of_the_reference_are_those_of_the_service(demo_url: str) -> None:
    paths = requests.get(f"{demo_url}/api/openapi.json").json()["paths"]
    methods = ("get", "put", "patch", "delete", "post")
    served = {
        (" ".join(m.upper() for m in methods if m in operations), f"`{path}`")
        for path, operations in paths.items()
    }
    assert {(row[0], row[1]) for row in rows(section("docs/reference.md", "URLs"))} == served


def test_errors_of_the_reference_are_those_of_the_service() -> None:
    named = {int(row[0]) for row in rows(section("docs/reference.md", "Errors"))}
    by_falcon = {405, 415, 416}
    assert named == {falcon.http_status_to_code(status) for status, _ in TABLE.values()} | by_falcon


def test_page_of_annotations_names_their_rules() -> None:
    text = section("docs/annotations.md", "Rules")
    for kind, (single, several) in GEOMETRY.items():
        for word in (kind, *single, *several):
            assert f"`{word}`" in text
    for field in NOT_NULL:
        assert f"`{field}`" in text


def test_access_line_of_the_reference_has_the_form_of_the_log(demo_url: str) -> None:
    (line,) = re.findall(r"^    (\d{4}-.*)$", text_of("docs/reference.md"), re.MULTILINE)
    match = ACCESS_LINE.fullmatch(line)
    assert match is not None
    answer = requests.get(demo_url + match["path"])
    assert (answer.status_code, len(answer.content)) == (int(match["status"]), int(match["bytes"]))


def test_page_of_contributing_has_the_options_and_markers_of_the_tests(
    pytestconfig: pytest.Config,
) -> None:
    options, markers = (
        {row[0].strip("`") for row in rows(table)}
        for table in re.findall(
            r"^\| (?:option|marker) .*\n(?:\|.*\n)+", text_of("CONTRIBUTING.md"), re.MULTILINE
        )
    )
    added = set(re.findall(r'^        "(--[\w-]+)",$', text_of("tests/conftest.py"), re.MULTILINE))
    named = set(re.findall(r'addoption\(\s*"(--[\w-]+)"', text_of("tests/conftest.py")))
    assert options == added | named | {"--hypothesis-profile"}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = project["tool"]["pytest"]["ini_options"]["markers"]
    assert markers == {marker.partition(":")[0] for marker in listed}


# --- the map of the code ---

ROOMS = rows(section("ARCHITECTURE.md", "Rooms"))
EVERY_OTHER_ROOM = "every other room"


def names_in(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def is_there(name: str) -> bool:
    """Whether something of this dotted name is in the package, or this path in the repository."""
    if "/" in name or (REPOSITORY / name).is_file():
        return (REPOSITORY / name).exists()
    module: object = package
    path = package.__name__
    for part in name.split("."):
        path = f"{path}.{part}"
        # A command of the command line has the name of its module, which comes first.
        if hasattr(module, "__path__") and importlib.util.find_spec(path) is not None:
            module = importlib.import_module(path)
        elif hasattr(module, part):
            module = getattr(module, part)
        else:
            return False
    return True


def test_map_has_every_room_of_the_code() -> None:
    named = {room for row in ROOMS for room in re.findall(r"\w+", row[0])}
    rooms = {p.stem for p in (REPOSITORY / "neurotrale").iterdir() if p.suffix in ("", ".py")}
    assert named == {room for room in rooms if not room.startswith("_")}


def test_map_has_every_room_within_a_room() -> None:
    within = {
        ".".join(init.parent.relative_to(REPOSITORY / "neurotrale").parts)
        for init in (REPOSITORY / "neurotrale").glob("*/*/__init__.py")
    }
    assert within
    assert within <= set(names_in(section("ARCHITECTURE.md", "Rooms")))


def test_map_has_every_directory() -> None:
    listed = run(["git", "ls-files"], cwd=REPOSITORY).stdout.splitlines()
    here = {f"{name.partition('/')[0]}/" for name in listed if "/" in name and name[0] != "."}
    table = rows(section("ARCHITECTURE.md", "Directories"))
    assert {row[0].strip("`") for row in table} == here


@pytest.mark.parametrize("title", ["A chunk GET", "A PATCH", "An ingest"])
def test_walk_names_what_there_is(title: str) -> None:
    named = names_in(section("ARCHITECTURE.md", title))
    assert len([name for name in named if "." in name]) >= 10
    assert [name for name in named if name not in ("info", "If-Match") and not is_there(name)] == []


def test_map_names_what_there_is() -> None:
    own = " ".join(" ".join(row[:2]) for row in ROOMS)
    apart = {"info"}
    assert [name for name in names_in(own) if name not in apart and not is_there(name)] == []
    directories = section("ARCHITECTURE.md", "Directories")
    assert [name for name in names_in(directories) if not (REPOSITORY / name).exists()] == []


def test_rooms_never_import_what_the_map_says_nor_a_room_above_them() -> None:
    order = [row[0].strip("`") for row in ROOMS]
    for room, _, never in ((row[0].strip("`"), *row[1:]) for row in ROOMS):
        modules = [path for name, path in MODULES.items() if room_of(name) == room]
        assert modules
        rooms = {room_of(name) for path in modules for name in own_imports(path)} - {room, ""}
        used = rooms | {name for path in modules for name in foreign_imports(path)}
        assert rooms <= set(order[order.index(room) + 1 :]), room
        apart = set(order) - {room} if never == EVERY_OTHER_ROOM else set(names_in(never))
        assert apart, room
        assert used & apart == set(), room


# --- promises ---


@pytest.mark.parametrize(
    ("document", "title", "at_least"),
    [("docs/security.md", "Promises", 20), ("docs/sites.md", "What a site decides", 15)],
    ids=["security", "sites"],
)
def test_promise_is_held_by_a_test_that_there_is(document: str, title: str, at_least: int) -> None:
    promises = rows(section(document, title))
    assert len(promises) >= at_least
    for promise, *_, tests in promises:
        named = names_in(tests)
        assert named, promise
        for name in named:
            file, _, test = name.partition("::")
            assert re.search(rf"^def {test}\(", text_of(file), re.MULTILINE), name


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
    assert titles == ["Run it on your data", "Try it with curl", "What it does", "More"]


def test_readme_is_short() -> None:
    assert len(README.encode()) <= 9_000


def test_readme_leads_to_every_document() -> None:
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", README)}
    others = {str(path.relative_to(REPOSITORY)) for path in DOCUMENTS} - {"README.md"}
    assert others <= links


@pytest.mark.parametrize(
    ("document", "titles"),
    {
        "docs/reference.md": [
            *("Install and start", "Pages and viewer", "URLs", "Options"),
            *("Stopping and exit codes", "Logs", "Counts", "Errors", "Limits"),
        ],
        "docs/ingest.md": [
            *("The planes", "The source", "Types and channels", "Levels"),
            *("Stop and continue", "Planes that were rewritten", "In parts"),
        ],
        "docs/data-layout.md": [
            *("Chunks", "Layouts", "Other formats of precomputed-tif"),
            *("How annotation files are written", "Identity of a dataset"),
        ],
        "docs/annotations.md": [
            *("Read and change", "Select and export", "Blocks"),
            *("What two people can do at the same time", "Rules"),
        ],
        "docs/check.md": ["Findings", "What is checked", "For programs"],
        "docs/security.md": [
            *("Who can reach what", "Tokens", "Changes", "Uploads", "Files, links and locks"),
            *("Web pages", "Behind a proxy", "Content", "Promises"),
        ],
        "docs/sites.md": ["What a site decides"],
        "docs/performance.md": ["Measurements", "What helped", "What misses its target"],
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_page_has_its_sections(document: str, titles: list[str]) -> None:
    assert re.findall(r"^## (.*)$", text_of(document), re.MULTILINE) == titles


def test_changelog_has_what_is_unreleased_on_top() -> None:
    versions = re.findall(r"^## \[(.*?)\]", CHANGELOG, re.MULTILINE)
    assert versions[0] == "Unreleased"
    for version in versions[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)


def test_hooks_are_valid_and_run_the_checks_of_the_makefile() -> None:
    config = REPOSITORY / ".pre-commit-config.yaml"
    done = run([sys.executable, "-m", "pre_commit", "validate-config", str(config)])
    assert done.returncode == 0, done.stdout
    (local,) = yaml.safe_load(config.read_text())["repos"]
    for hook in local["hooks"]:
        tool = hook["entry"].removesuffix(" --force-exclude").removeprefix(".venv/bin/python ")
        assert tool in MAKEFILE, hook["id"]


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
    options = {setting.variable for setting in SERVICE}
    assert passed <= options
    # What compose itself decides.
    ours = {"HOST", "PORT", "UNIX_SOCKET", "READY_FILE", "TOKEN_FILE", "TRUSTED_PROXY", "UI"}
    assert options - passed <= {f"NEUROTRALE_{name}" for name in ours}
