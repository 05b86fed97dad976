"""Click commands and options, built from the declarations in `neurotrale.settings`."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from neurotrale.cli.output import report_errors, set_up_logging
from neurotrale.settings import COMMANDS
from neurotrale.settings.setting import (
    Command,
    FilePath,
    Flag,
    Integer,
    Kind,
    Number,
    OneOf,
    Parsed,
    Setting,
    Text,
    first_broken,
)


class _Parsed(click.ParamType[Any]):
    """A type whose values are parsed by a function of the settings."""

    def __init__(self, kind: Parsed) -> None:
        self.name = kind.metavar.lower()
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text; a default is not text and is returned as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Finite(click.FloatRange):
    """A number in a range, and not NaN, which `click.FloatRange` accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the number."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Option(click.Option):
    """An option of the settings; its aliases work, but appear only in the help text."""

    def __init__(self, setting: Setting[Any]) -> None:
        self.setting = setting
        super().__init__(
            _names(setting),
            type=_type_of(setting.kind),
            metavar=getattr(setting.kind, "metavar", None) or None,
            is_flag=isinstance(setting.kind, Flag),
            multiple=setting.repeated,
            required=setting.required,
            show_default=setting.default_text or setting.default not in (None, False),
            envvar=setting.variable,
            show_envvar=True,
            help=setting.text,
            **_default_of(setting),
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return its help line, without the aliases."""
        displayed = copy(self)
        displayed.opts = [name for name in self.opts if name not in self.setting.other_options]
        return click.Option.get_help_record(displayed, ctx)


# Names of Python's own, which get an underscore as parameters.
_RESERVED = {"all", "break", "format", "id", "json", "type"}


def _names(setting: Setting[Any]) -> list[str]:
    """Return the option's spellings, and the name of its parameter in Python."""
    letter = [f"-{setting.letter}"] if setting.letter else []
    parameter = f"{setting.key}_" if setting.key in _RESERVED else setting.key
    return [*letter, setting.option, *setting.other_options, parameter]


def _default_of(setting: Setting[Any]) -> dict[str, Any]:
    if setting.required:  # click would accept None as a value
        return {}
    if setting.bare is not None:
        return {"default": setting.default, "flag_value": setting.bare}
    if setting.computed is None:
        return {"default": setting.default}
    computed = setting.computed
    return {"default": lambda: computed(os.environ)}


def _type_of(kind: Kind) -> click.ParamType[Any] | None:
    match kind:
        case Integer(minimum, maximum):
            return click.IntRange(minimum, maximum)
        case Number(minimum, maximum):
            return _Finite(minimum, maximum)
        case OneOf(words):
            return click.Choice(words)
        case FilePath(of, exists, dash):
            return click.Path(
                exists=exists,
                file_okay=of != "directory",
                dir_okay=of != "file",
                allow_dash=dash,
                path_type=Path,
            )
        case Parsed():
            return _Parsed(kind)
        case Text() | Flag():
            return None


class Declared(click.Command):
    """A command of the settings: checks its rules, sets up logging, shows its examples."""

    declared: Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, and refuse those that conflict."""
        rest = super().parse_args(ctx, args)
        options = {p.name: p.setting.key for p in self.params if isinstance(p, Option)}
        values = {key: ctx.params.get(name or "") for name, key in options.items()}
        given = {
            key
            for name, key in options.items()
            if ctx.get_parameter_source(name or "") is ParameterSource.COMMANDLINE
        }
        message = first_broken(self.declared.rules, values, given)
        if message is not None and not ctx.resilient_parsing:
            raise click.UsageError(message, ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Set up logging, then run the command."""
        log_format = ctx.params.pop("log_format", "text")
        set_up_logging(
            ctx.params.pop("log_level"), timed=self.declared.serves, is_json=log_format == "json"
        )
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(formatter, self.declared.examples)


def write_examples(formatter: click.HelpFormatter, examples: tuple[str, ...]) -> None:
    """Write the examples of a help text; their lines are never wrapped, so they can be copied."""
    with formatter.section("Example" if len(examples) == 1 else "Examples"):
        for line in examples:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def declared(name: str) -> Callable[[Callable[..., None]], Declared]:
    """Decorate the function that runs the command of this name in the settings.

    The function is called with the value of each option but ``--log-level``, and of each argument
    that it declares itself with `click.argument`; its docstring is the help text.
    """
    command = COMMANDS[name]

    def decorate(function: Callable[..., None]) -> Declared:
        result = click.command(name, cls=Declared, short_help=command.summary)(
            report_errors(function)
        )
        result.declared = command
        result.params += [Option(setting) for setting in command.settings]
        return result

    return decorate
