"""The command line: the only reader of arguments and environment."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

import neurotrale

_MODULES = {
    "serve": "serve",
    "demo": "demo",
    "ingest": "ingest",
    "check": "check",
    "repack": "repack",
    "history": "past",
    "restore": "past",
    "held": "past",
    "corrections": "past",
    "export": "export",
    "locks": "locks",
    "token": "token",
}


class _Commands(MutableMapping[str, click.Command]):
    """Commands by name, each imported when it is wanted: most need little of the whole."""

    def __init__(self) -> None:
        self._more: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name in self._more:
            return self._more[name]
        found = getattr(import_module(f"neurotrale.cli.{_MODULES[name]}"), name)
        assert isinstance(found, click.Command)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([*_MODULES, *self._more])

    def __len__(self) -> int:
        return len(_MODULES) + len(self._more)

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._more[name] = command

    def __delitem__(self, name: str) -> None:
        del self._more[name]


@click.group(
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(neurotrale.__version__, prog_name="neurotrale")
def main() -> None:
    """Serve brain microscopy and its annotations straight from the file system."""
