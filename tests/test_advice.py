"""No message and no page advises to remove what could be somebody's data."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurotrale.tools.check.rules import KINDS
from tests.processes import REPOSITORY

_VERBS = r"remove|delete|erase|overwrite|discard|unlink|wipe|purge|throw away|get rid of"
# The verb as an order: at the beginning of a sentence, a clause or a cell of a table. DELETE, the
# method, is none.
_ORDER = re.compile(
    rf"(?:^|[.;:,!?(|'\"]\s*|\b(?:and|or|then|must|may|can|should|safe to|safely|simply|just)\s+)"
    rf"((?:{_VERBS}|{_VERBS.title()})\b.{{0,40}})"
    r"|\b((?:may|should|must) be (?:removed|deleted|erased|overwritten|discarded)\b.{0,40})"
    r"|(?<![-\w/])(rm\s.{0,40}|find\b.*\s-delete\b)"
)
# What commands and requests of our own do: they remove only what is named.
_OWN = {
    "Remove the claim of a writer that died.",
    "Delete archives whose records are all older; needs --confirm.",
    "remove them; with `id`, that one",
}
# Containers hold no data: these are in directories of the machine.
_CONTAINER = re.compile(r"docker (?:rm|run|compose)\b.*")

SOURCES = sorted((REPOSITORY / "neurotrale").rglob("*.py"))
PAGES = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
        *(REPOSITORY / "slurm/README.md", *REPOSITORY.glob("docs/*.md")),
    ]
)
SCRIPTS = sorted(path for path in (REPOSITORY / "slurm").iterdir() if path.suffix != ".md")


def advice_to_remove(text: str) -> list[str]:
    """The orders to remove something in a text."""
    text = _CONTAINER.sub("", text)
    for own in _OWN:
        text = text.replace(own, "")
    return [match[0] for match in _ORDER.finditer(text)]


def messages(path: Path) -> Iterator[str]:
    """The texts in a module but its docstrings: pieces that are put together are one."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield "".join(map(str, parts))
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings | inside
            and " " in node.value  # a word alone is no message
        ):
            yield node.value


@pytest.mark.parametrize(
    "text",
    [
        "Remove them, or keep them elsewhere.",
        "Give the same to go on, or remove that directory.",
        "X is damaged. Remove it.",
        "Once no other service writes it, remove X beside it.",
        "They are stray: delete them when no ingest runs",
        "find /data -name x -exec sh; rm -r x",
        "find /data -name '.*.lock*' -prune -exec rm -r {} +",
        "find /data -name '.*.lock*' -delete",
        "| `.fibers.json.lock` | Remove it. |",
        "It is safe to delete the directory.",
        "The journal may be deleted while nothing writes.",
    ],
)
def test_advice_to_remove_is_recognized(text: str) -> None:
    assert advice_to_remove(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_message_advises_to_remove_data(path: Path) -> None:
    found = [text for text in messages(path) if advice_to_remove(text)]
    assert found == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_no_finding_advises_to_remove_data(kind: object) -> None:
    text = " ".join(str(getattr(kind, name)) for name in ("summary", "viewer", "fix"))
    assert advice_to_remove(text) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_page_advises_to_remove_data(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if advice_to_remove(line)]
    assert found == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_advises_to_remove_data(path: Path) -> None:
    """What scripts remove themselves are the files of a session, which they made."""
    said = re.findall(
        r"""(?:echo|printf|die|say|fail)\b[^"'\n]*(?:"([^"]*)"|'([^']*)')""", path.read_text()
    )
    assert [text for both in said for text in both if advice_to_remove(text)] == []
