"""The command line: the only reader of arguments and environment."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

import neurotrale
from neurotrale.cli.declared import write_examples
from neurotrale.settings import COMMANDS

# The modules of the commands that are not in a module of their own name.
_MODULES = {"demo": "serve", "restore": "history", "held": "history", "corrections": "history"}


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name, each imported on demand, because most need few of the modules."""

    def __init__(self) -> None:
        self._added: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name in self._added:
            return self._added[name]
        if name not in COMMANDS:
            raise KeyError(name)
        command = getattr(import_module(f"neurotrale.cli.{_MODULES.get(name, name)}"), name)
        assert isinstance(command, click.Command)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter([*COMMANDS, *self._added])

    def __len__(self) -> int:
        return len(COMMANDS) + len(self._added)

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._added[name] = command

    def __delitem__(self, name: str) -> None:
        del self._added[name]


class _Main(click.Group):
    """The group of all commands; lists them without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the settings."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line per command."""
        with formatter.section("Commands"):
            formatter.write_dl([(command.name, command.summary) for command in COMMANDS.values()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first steps."""
        write_examples(formatter, EXAMPLES)


EXAMPLES = ("neurotrale demo", "neurotrale serve /data", "neurotrale serve --help")


@click.group(
    cls=_Main,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(neurotrale.__version__, prog_name="neurotrale")
def main() -> None:
    """Serve brain microscopy and its annotations straight from the file system."""
