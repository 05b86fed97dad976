"""The house: rooms in layers, imports that point one way, and nothing that happens on import."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, run

PACKAGE = REPOSITORY / "neurotrale"

# From the ground up. A room imports from lower layers and from itself, never from its own layer's
# other rooms or from above.
LAYERS = (
    {"errors"},
    {"names", "faults", "codings", "times", "kept", "many", "tokens"},
    {"tree"},
    {"files", "durable", "pages"},
    {"bundles", "chunks", "annotations"},
    {"ingest", "layers", "checking", "repacking", "datasets"},
    {"demo", "queries"},
    {"resources", "router", "gate"},
    {"routes", "problems", "openapi"},
    {"app"},
    {"server"},
    {"cli"},
    {"__main__"},
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

# What a room must not even know of, beside what the layers say.
HTTP = {"falcon", "falcon_apispec", "apispec", "waitress", "http", "socket", "wsgiref"}
FILES = {"os", "pathlib", "io", "shutil", "tempfile", "json", "msgspec", "filelock", "fcntl"}
IMAGES = {"numpy", "tifffile", "imagecodecs"}
FORBIDDEN = {
    "errors": HTTP | FILES | IMAGES,
    "names": HTTP | FILES | IMAGES,
    "faults": HTTP | FILES | IMAGES,
    "tree": HTTP | {"json", "msgspec", "filelock"} | IMAGES,
    "files": HTTP | {"json", "msgspec", "filelock", "numpy", "tifffile"},
    "durable": HTTP | IMAGES | {"filelock"},
    "chunks": HTTP | {"filelock"},
    "annotations": HTTP | (IMAGES - {"numpy"}),
    "layers": HTTP | (IMAGES - {"numpy"}) | {"filelock"},
    "queries": HTTP | (IMAGES - {"numpy"}) | {"filelock"},
    "codings": HTTP | (FILES - {"io"}) | (IMAGES - {"imagecodecs"}),
    "times": HTTP | FILES | IMAGES,
    "tokens": HTTP | IMAGES | {"json", "msgspec", "filelock"},
    "bundles": HTTP | {"json", "msgspec", "filelock"} | IMAGES,
    "datasets": HTTP | {"filelock", "tifffile"},
    "pages": HTTP | (FILES - {"json"}) | IMAGES,
    "gate": FILES | IMAGES | {"waitress", "socket", "threading"},
    "ingest": HTTP | {"click", "filelock"},
    "checking": HTTP | {"click", "filelock", "tifffile"},
    "repacking": HTTP | {"click", "filelock", "tifffile"},
    "many": HTTP | FILES | IMAGES,
    "demo": HTTP | {"click"},
    "resources": FILES | IMAGES | {"waitress", "socket", "threading", "signal", "subprocess"},
    "router": FILES | IMAGES | {"waitress", "socket"},
    "routes": FILES | IMAGES | {"waitress", "socket"},
    "app": IMAGES | {"os", "io", "json", "waitress", "socket", "threading", "signal", "logging"},
    "server": IMAGES | {"falcon", "tifffile", "filelock", "click"},
    "cli": IMAGES | {"falcon", "waitress", "socket", "filelock"},
}

ONLY_IN = {
    "click": {"cli"},
    "argparse": set[str](),
    "multiprocessing": set[str](),
    "signal": {"server"},
    "socket": {"server"},
    "subprocess": {"cli"},
    "waitress": {"server"},
    "tifffile": {"chunks", "ingest"},
    "filelock": {"annotations"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 300


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a module; "" for the package itself, which holds nothing but its version."""
    return module.partition(".")[2].partition(".")[0]


NAMES = {name_of(path): path for path in MODULES}
modules = pytest.mark.parametrize("path", MODULES, ids=name_of)


def imports(path: Path) -> Iterator[str]:
    """The modules that a module imports, at its top or anywhere else in it."""
    for node in ast.walk(ast.parse(path.read_text())):
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
    tree = ast.parse(path.read_text())
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
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_every_room_has_a_layer_and_every_layer_a_room() -> None:
    assert {room_of(name) for name in NAMES} - {""} == LAYER_OF.keys()


@modules
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(name_of(path))
    for imported in own_imports(path):
        other = room_of(imported)
        if other not in (room, ""):
            assert LAYER_OF[other] < LAYER_OF[room], f"{room} imports {imported}"


def test_imports_go_round_in_no_circle() -> None:
    graph = {name: own_imports(path) - {PACKAGE.name, name} for name, path in NAMES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_package_itself_holds_its_version_alone() -> None:
    assert list(imports(PACKAGE / "__init__.py")) == []


@modules
def test_rooms_do_not_know_of_what_is_not_their_business(path: Path) -> None:
    assert foreign_imports(path) & FORBIDDEN.get(room_of(name_of(path)), set()) == set()


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_is_used_in_its_rooms_only(library: str) -> None:
    users = {room_of(name) for name, path in NAMES.items() if library in foreign_imports(path)}
    assert users <= ONLY_IN[library]


def test_arguments_and_environment_are_read_by_the_command_line_only() -> None:
    read = {"sys.argv", "os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}
    assert {room_of(name) for name, path in NAMES.items() if attributes(path) & read} == {"cli"}


def test_logging_is_set_up_by_the_command_line_only() -> None:
    set_up = {"basicConfig", "dictConfig", "fileConfig", "addHandler", "setLevel", "disable"}
    assert {room_of(name) for name, path in NAMES.items() if calls(path) & set_up} == {"cli"}


def test_modules_are_small() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in NAMES.items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


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


@pytest.mark.parametrize("name", ["neurotrale.app", "neurotrale.cli", "neurotrale.demo"])
def test_import_does_nothing_but_import(name: str) -> None:
    done = run([sys.executable, "-W", "error", "-c", _LOOK_AROUND, name])
    assert done.returncode == 0, done.stderr
    before, after, loggers, loaded = json.loads(done.stdout)
    assert after == before
    ours = ("neurotrale", "falcon", "filelock", "tifffile", "waitress")
    assert {n: level for n, level in loggers.items() if n.startswith(ours) and level} == {}
    # One does not drag in what only the others need.
    above = {"neurotrale.app": "server", "neurotrale.cli": "demo", "neurotrale.demo": "app"}
    assert not any(module.startswith(f"neurotrale.{above[name]}.") for module in loaded)
