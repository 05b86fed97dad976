"""The house: rooms in layers, imports that point one way, and nothing that happens on import."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, run

PACKAGE = REPOSITORY / "neurotrale"

# Where a library may be imported, at all. Nothing else is held by name: rooms come and go.
HOME_OF = {
    "argparse": set[str](),
    "click": {"cli"},
    "falcon": {"web"},
    "filelock": {"locking"},
    "http": set[str](),
    "multiprocessing": set[str](),
    "signal": {"server"},
    "socket": {"server"},
    "subprocess": {"cli"},
    "tifffile": {"chunks", "tools"},
    "waitress": {"server"},
    "wsgiref": set[str](),
}

# Two kinds of work that no module does both of: what speaks HTTP hands all of this on to others.
HTTP = {"apispec", "falcon", "falcon_apispec"}
DATA = {"fcntl", "imagecodecs", "io", "json", "numpy", "os", "shutil", "tempfile", "tifffile"}

MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 300
# All touches of waitress are in one module, however many they are.
MORE_LINES = {"neurotrale.server.waitress_adapter": 593}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a module; "" for the package itself, which holds nothing but its version."""
    return module.partition(".")[2].partition(".")[0]


NAMES = {name_of(path): path for path in MODULES}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """The modules that a module imports, at its top or anywhere else in it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in NAMES else node.module


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == PACKAGE.name}


def foreign_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {PACKAGE.name}


def attributes(path: Path) -> set[str]:
    """What a module uses as ``module.name`` or imports by name, as in ``os.environ``."""
    tree = parsed(path)
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return used | {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def calls(path: Path) -> set[str]:
    """The names of the methods and functions that a module calls on something."""
    return {
        node.func.attr
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def assert_goes_one_way(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round in a circle: {' <- '.join(error.args[1])}")


def test_imports_between_modules_go_round_in_no_circle() -> None:
    assert_goes_one_way(
        {name: own_imports(path) - {PACKAGE.name, name} for name, path in NAMES.items()}
    )


def test_imports_between_rooms_point_one_way() -> None:
    """Rooms lie in layers: where one imports from another, nothing leads back, by any way round."""
    graph: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        others = {room_of(imported) for imported in own_imports(path)} - {room_of(name), ""}
        graph.setdefault(room_of(name), set()).update(others)
    assert len(graph) > 10
    assert_goes_one_way(graph)


def test_package_itself_holds_its_version_alone() -> None:
    assert list(imports(PACKAGE / "__init__.py")) == []


def test_rooms_within_annotations_import_one_way() -> None:
    floors = (
        "documents",
        "journals",
        "files",
        "merging",
        "",
    )  # the upper ones import the lower ones

    def floor(name: str) -> int:
        parts = name.split(".")[2:]
        return floors.index(parts[0] if parts and parts[0] in floors else "")

    wrong = {
        f"{name} imports {other}"
        for name, path in NAMES.items()
        if name.startswith("neurotrale.annotations.")
        for other in imports(path)
        if other.startswith("neurotrale.annotations.") and floor(other) > floor(name)
    }
    assert wrong == set()


def test_libraries_are_used_where_they_are_at_home_only() -> None:
    strays = {
        f"{name} imports {library}"
        for name, path in NAMES.items()
        for library in foreign_imports(path) & HOME_OF.keys()
        if room_of(name) not in HOME_OF[library]
    }
    assert strays == set()


def test_nothing_that_speaks_http_works_on_data_too() -> None:
    both = {
        name
        for name, path in NAMES.items()
        if HTTP & foreign_imports(path) and DATA & foreign_imports(path)
    }
    assert both == set()


def test_arguments_and_environment_are_read_by_the_command_line_only() -> None:
    read = {"sys.argv", "os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}
    found = {room_of(name) for name, path in NAMES.items() if attributes(path) & read}
    # prometheus_client takes its directory from the environment only: it is set there.
    assert found == {"cli", "metrics"}


def test_logging_is_set_up_by_the_command_line_only() -> None:
    set_up = {"basicConfig", "dictConfig", "fileConfig", "addHandler", "setLevel", "disable"}
    assert {room_of(name) for name, path in NAMES.items() if calls(path) & set_up} == {"cli"}


def test_modules_are_small() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in NAMES.items()}
    assert {n: count for n, count in lines.items() if count > MORE_LINES.get(n, MOST_LINES)} == {}


def test_modules_are_named_after_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "common", "misc", "base", "core", "factory", "manager"}
    assert {path.stem for path in MODULES} & vague == set()


_LOOK_AROUND = """
import json, logging, os, signal, sys, threading

def look():
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "sockets": [name for name in map(link, os.listdir("/proc/self/fd")) if "socket:" in name],
        "handlers": [repr(handler) for handler in logging.root.handlers],
        "levels": [logging.root.level],
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "environment": dict(os.environ),
        "directory": os.getcwd(),
    }

def link(number):
    try:
        return os.readlink("/proc/self/fd/" + number)
    except FileNotFoundError:
        return ""

before = look()
__import__(sys.argv[1])
after = look()
loggers = {
    name: logger.level
    for name, logger in logging.root.manager.loggerDict.items()
    if isinstance(logger, logging.Logger)
}
print(json.dumps([before, after, loggers, sorted(sys.modules)]))
"""


@pytest.mark.parametrize("name", ["neurotrale.web.app", "neurotrale.cli", "neurotrale.tools.demo"])
def test_import_does_nothing_but_import(name: str) -> None:
    done = run([sys.executable, "-W", "error", "-c", _LOOK_AROUND, name])
    assert done.returncode == 0, done.stderr
    before, after, loggers, loaded = json.loads(done.stdout)
    assert after == before
    ours = ("neurotrale", "falcon", "filelock", "tifffile", "waitress")
    assert {n: level for n, level in loggers.items() if n.startswith(ours) and level} == {}
    # One does not drag in what only the others need.
    above = {
        "neurotrale.web.app": "server",
        "neurotrale.cli": "demo",
        "neurotrale.tools.demo": "app",
    }
    assert not any(module.startswith(f"neurotrale.{above[name]}.") for module in loaded)
